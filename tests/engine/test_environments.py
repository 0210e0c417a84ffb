"""Stages in environments of their own: Ray starts their workers by those Pythons, and an environment that cannot work is named."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.nodes.on_ray import NoWorkers, OnRay
from pipeline.engine.plan.seats import seat_of
from pipeline.engine.plan.tasks import State
from pipeline.engine.run import run
from pipeline.engine.store import Store
from stages.stage import Resources
from tests.engine import toy


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """A recipe whose stage `count` works in .env-other."""
    monkeypatch.setenv("WHIM_ENVIRONMENTS", str(tmp_path))
    monkeypatch.setattr(toy.Count, "resources", Resources(environment="other"))
    return toy.recipe()


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def make_environment(folder: Path, script: str) -> None:
    """An environment whose Python is a shell script; $PYTHON is ours."""
    python = folder / ".env-other" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nPYTHON={sys.executable}\n{script}\n")
    python.chmod(0o755)


def on_ray(root: Path, stages: list) -> OnRay:
    return OnRay(root, stages, [seat_of(stage) for stage in stages])


@pytest.mark.usefixtures("ray_here")
def test_a_stage_of_another_environment_works_by_its_python_beside_the_others(tmp_path: Path, stages: list) -> None:
    make_environment(tmp_path, f'echo "$@" >> {tmp_path}/started\nexec $PYTHON "$@"')
    graph = Graph(stages, toy.manifest("a", "b"), Store(tmp_path / "data")).load()
    run(graph, on_ray(tmp_path / "data", stages))
    assert all(task.state is State.DONE for task in graph.tasks)
    probe, *workers = (tmp_path / "started").read_text().splitlines()
    assert probe.startswith("-P -c "), "no module of the current folder is run"
    assert [Path(line.split()[0]).name for line in workers] == ["default_worker.py"]


def test_a_missing_environment_is_named_with_what_makes_it(tmp_path: Path, stages: list) -> None:
    with pytest.raises(ValueError, match=rf"^count needs \.env-other, which is not in {tmp_path}: make env-other$"):
        on_ray(tmp_path, stages)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo 3.11.0 1.13.0", r"has Python 3\.11\.0 and Ray 1\.13\.0, not"),
        (
            "exec $PYTHON -S -c 'import ray'",
            r"cannot run this code \(ModuleNotFoundError: No module named 'ray'\): remove it, then make env-other",
        ),
        ("exit 3", r"cannot run this code \(it does not say why\)"),
    ],
    ids=["another Ray", "no Ray", "broken"],
)
def test_an_environment_that_cannot_work_with_ours_says_why(tmp_path: Path, stages: list, script: str, complaint: str) -> None:
    make_environment(tmp_path, script)
    with pytest.raises(ValueError, match=complaint):
        on_ray(tmp_path, stages)


def test_a_run_in_one_process_enters_no_environment(tmp_path: Path, stages: list) -> None:
    with pytest.raises(ValueError, match=r"needs \.env-other, which a run in one process cannot enter: leave --local out"):
        Local(tmp_path, stages)


@pytest.mark.usefixtures("ray_here")
def test_workers_that_die_as_they_start_end_the_run_with_their_last_words(tmp_path: Path, stages: list) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jaxtyping.py").write_text("raise ImportError('half an environment')")
    make_environment(tmp_path, f'[ "$1" = -P ] || export PYTHONPATH={tmp_path}/broken\nexec $PYTHON "$@"')
    graph = Graph(stages, toy.manifest("a"), Store(tmp_path / "data")).load()
    with pytest.raises(NoWorkers, match=r"(?s)three workers in \.env-other died as they started.*half an environment"):
        run(graph, on_ray(tmp_path / "data", stages))


@pytest.mark.usefixtures("ray_here")
def test_too_few_cpus_for_every_kind_of_worker_is_an_error(tmp_path: Path, stages: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy.Count, "resources", Resources(cpus=2, environment="other"))
    make_environment(tmp_path, 'exec $PYTHON "$@"')
    with pytest.raises(ValueError, match="takes 3 CPUs, and the cluster has 2"):
        on_ray(tmp_path, stages)
