"""Hands are fitted anew from their tables alone: the videos may be long gone, no detector runs, and the shards keep their pictures."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.plan.tasks import State, tables_of
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import whim as whim_recipe
from stages.shards import Shards
from stages.tables import Clips, Fits, Hands, Table, Videos
from tests.chain.conftest import plan, shard_bytes
from tests.small_tables import render_video, source_of

Whim = Callable[..., "subprocess.CompletedProcess[str]"]
VIDEOS = ("a", "b", "c")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, whim: Whim) -> Path:
    """Three rendered videos of 40 s, their list, and `data`: a whole run but for the detectors, whose tables are invented."""
    folder = tmp_path_factory.mktemp("refit")
    for seed, name in enumerate(VIDEOS):
        render_video(folder / "videos" / f"{name}.mp4", num_frames=400, width=160, height=120, seed=seed)
    (folder / "list.txt").write_text("".join(f"videos/{name}.mp4 split=train\n" for name in VIDEOS))
    store, manifest = Store(folder / "data"), read_manifest(folder / "list.txt")
    stages = whim_recipe(manifest, store.root)
    run(Graph(stages[:2], manifest, store).load(), Local(store.root, stages[:2]))
    detecting = stages[: [stage.name for stage in stages].index("fit")]
    graph = Graph(detecting, manifest, store).load()
    while items := list(graph.ready()):
        for task in (task for item in items for task in item.tasks):
            stage = graph.stages[task.stage]
            tables = tables_of(stage).items()
            contents = {folder: invented(store, task.row) if kind is Hands else kind.empty() for kind, folder in tables}
            store.commit_together(contents, task.key, task.recipe)
            graph.settle(task, State.DONE)
    whim("run", "--local", "--videos", folder / "list.txt", "--data", folder / "data")
    return folder


def invented(store: Store, clip: Table | None) -> Hands:
    """Two hands on three of four sampled frames."""
    assert isinstance(clip, Clips)
    videos = store.read(Videos, "videos", clip.video[0])
    return source_of(videos, clip, seed=int(clip.first_frame[0])).hands


@contextmanager
def away(home: Path) -> Iterator[None]:
    """The videos are gone within the block."""
    (home / "videos").rename(home / "elsewhere")
    try:
        yield
    finally:
        (home / "elsewhere").rename(home / "videos")


@pytest.fixture
def put_away(home: Path) -> Iterator[None]:
    with away(home):
        yield


@pytest.fixture
def data(home: Path, tmp_path: Path) -> Path:
    return shutil.copytree(home / "data", tmp_path / "data")


SHORT_FIT = "Fit(settings=FitSettings(num_iterations=7))"


def recipe(folder: Path, *changed: str) -> str:
    """A recipe in which some stages are others, such as `Fit(settings=FitSettings(num_iterations=7))`."""
    file = folder / "recipe.py"
    file.write_text(
        "from fitting.settings import FitSettings\nfrom pipeline.recipes import whim\n"
        "from stages.fit import Fit\nfrom stages.pack import Pack\nfrom stages.review import Review\n\n\n"
        "def recipe(manifest, root):\n"
        f"    changed = {{stage.name: stage for stage in ({', '.join(changed)},)}}\n"
        "    return [changed.get(stage.name, stage) for stage in whim(manifest, root)]\n"
    )
    return f"{file}:recipe"


def rows(data: Path) -> dict[str, dict[str, Any]]:
    """Every frame of the shards by its name."""
    parts = [Shards.from_arrow(pq.read_table(path)).to_arrow().to_pylist() for path in sorted((data / "shards").rglob("*.parquet"))]
    return {row["sample"]: row for part in parts for row in part}


def fits_of(data: Path) -> Fits:
    return Fits.concat([Fits.from_arrow(pq.read_table(path)) for path in sorted((data / "fits").glob("*.parquet"))])


@pytest.mark.usefixtures("put_away")
def test_nothing_is_stale_because_its_video_was_put_away(data: Path, whim: Whim) -> None:
    before = shard_bytes(data)
    assert plan(whim, "--data", data)["num_pending"] == 0
    whim("run", "--local", "--data", data)
    assert shard_bytes(data) == before


@pytest.mark.usefixtures("put_away")
def test_a_changed_fit_runs_fit_and_review_alone(data: Path, whim: Whim, tmp_path: Path) -> None:
    changed = recipe(tmp_path, "Fit(settings=FitSettings(num_iterations=7, prior_weight=40.0))")
    wanted = plan(whim, "--data", data, "--recipe", changed)["by_stage"]
    clips = len(list((data / "hands").iterdir()))
    assert wanted == {"fit": {"settings changed": clips}, "review": {"upstream changed": clips}, "pack": {"upstream changed": 1}}
    before, upstream, shards = fits_of(data), modified(data, "videos", "clips", "people", "hand_detections", "hands"), shard_bytes(data)
    (data / "runs").rename(tmp_path / "earlier_runs")
    shown = whim("run", "--local", "--data", data, "--recipe", changed, "--until", "review").stdout
    after = fits_of(data)
    assert len(after) == len(before) > 500
    assert np.isin(after.outcome, ["converged", "stalled"]).mean() > 0.95
    assert (np.abs(after.hand_pose - before.hand_pose).max(1) > 1e-3).mean() > 0.9
    assert modified(data, "videos", "clips", "people", "hand_detections", "hands") == upstream
    assert shard_bytes(data) == shards
    receipts = [json.loads(line) for log in (data / "runs").iterdir() for line in log.read_text().splitlines()]
    names = [stage.name for stage in whim_recipe(read_manifest_of(data), data)]
    assert {names[outcome["stage"]] for receipt in receipts for outcome in receipt["outcomes"]} == {"fit", "review"}
    for stage in ("fit", "review"):  # the bars
        assert any(line.startswith(stage) and f"{clips}/{clips}" in line for line in shown.splitlines()), shown


def modified(data: Path, *tables: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for table in tables for path in (data / table).rglob("*.parquet")}


def read_manifest_of(data: Path) -> Any:
    return read_manifest(Path(json.loads((data / "run.json").read_text())["videos"]))


@pytest.mark.usefixtures("put_away")
def test_shards_follow_with_the_pictures_they_had(data: Path, whim: Whim, tmp_path: Path) -> None:
    before = rows(data)
    whim("run", "--local", "--data", data, "--recipe", recipe(tmp_path, SHORT_FIT, "Review(max_error_share=0.5)"))
    after = rows(data)
    assert len(after) > 100
    assert set(after) <= set(before)
    for sample, row in after.items():
        assert row["image"] == before[sample]["image"]
        assert (row["time_s"], row["width"], row["scale"]) == tuple(before[sample][name] for name in ("time_s", "width", "scale"))
    poses = [(hand["hand_pose"], old["hand_pose"]) for s in after for hand, old in zip(after[s]["hands"], before[s]["hands"], strict=False)]
    assert np.mean([new != old for new, old in poses]) > 0.9


def test_frames_without_a_picture_are_left_out_and_counted(home: Path, data: Path, whim: Whim, tmp_path: Path) -> None:
    """Hands that an earlier review dropped left no picture behind."""
    whim("run", "--local", "--data", data, "--recipe", recipe(tmp_path, "Review(min_side_px=32)"))
    strict = rows(data)
    with away(home):
        shown = whim("run", "--local", "--data", data, "--recipe", recipe(tmp_path, "Review()")).stdout
    lenient, whole = rows(data), rows(home / "data")
    assert set(lenient) == set(strict) & set(whole) < set(whole)
    lost = set(whole) - set(strict)
    assert f"{len(lost)} frames left out, the first {min(lost, key=lambda s: (s[0], int(s[2:])))}" in " ".join(shown.split())


def test_pictures_of_the_earlier_shard_give_the_bytes_that_the_videos_give(home: Path, data: Path, whim: Whim, tmp_path: Path) -> None:
    changed = recipe(tmp_path, "Pack(num_shards=1, row_group_size=17)")
    with_videos = shutil.copytree(data, tmp_path / "with_videos")
    whim("run", "--local", "--data", with_videos, "--recipe", changed)
    with away(home):
        whim("run", "--local", "--data", data, "--recipe", changed)
    assert shard_bytes(data) == shard_bytes(with_videos) != shard_bytes(home / "data")


@pytest.mark.usefixtures("put_away")
def test_a_withdrawn_video_leaves_the_shards_though_no_video_is_left(home: Path, data: Path, whim: Whim) -> None:
    before = rows(data)
    (home / "removed.txt").write_text("b\n")
    try:
        whim("run", "--local", "--data", data)
    finally:
        (home / "removed.txt").unlink()
    after = rows(data)
    assert set(after) == {sample for sample in before if not sample.startswith("b/")}
    assert all(row["image"] == before[sample]["image"] for sample, row in after.items())


def test_a_folder_of_videos_that_is_gone_is_known_from_the_last_run(home: Path, data: Path, whim: Whim, tmp_path: Path) -> None:
    whim("run", "--local", "--videos", home / "videos", "--data", data, "--until", "download")
    with away(home):
        whim("run", "--local", "--data", data, "--recipe", recipe(tmp_path, SHORT_FIT), "--until", "review")
        assert "no such file or folder" in whim("plan", "--videos", home / "videos", "--data", data, "--recipe", "whim", status=1).stderr
    assert len(fits_of(data)) > 500


def test_a_better_focal_length_runs_the_fit_and_no_detector(home: Path, data: Path, whim: Whim, tmp_path: Path) -> None:
    upstream = modified(data, "videos", "clips", "people", "person_detections", "hand_detections", "hands")
    before = fits_of(data)
    assert set(before.camera_from) == {"assumed"}
    clips = len(list((data / "hands").glob("b-*")))
    refit = {"fit": {"input changed": clips}, "review": {"upstream changed": clips}, "pack": {"upstream changed": 1}}

    def told(focal: int) -> Path:
        listed = "".join(f"{home}/videos/{name}.mp4 split=train{f' focal={focal}' if name == 'b' else ''}\n" for name in VIDEOS)
        (tmp_path / f"{focal}.txt").write_text(listed)
        return tmp_path / f"{focal}.txt"

    found = plan(whim, "--data", data, "--videos", told(150))
    assert (found["by_stage"], found["cameras"]) == (refit, {"assumed": ["a", "c"], "manifest": ["b"]})
    whim("run", "--local", "--data", data, "--videos", told(150))
    after = fits_of(data)
    assert set(after.focal_px[after.video == "b"].tolist()) == {150.0}
    assert modified(data, "videos", "clips", "people", "person_detections", "hand_detections", "hands") == upstream
    np.testing.assert_array_equal(after.joints_3d[after.video != "b"], before.joints_3d[before.video != "b"])
    place, assumed = (np.nanmedian(one.transl[one.video == "b", 2]) for one in (after, before))
    assert place < 0.2 * assumed
    frames = [row for row in rows(data).values() if row["video"] == "b"]
    assert {(row["camera_from"], *row["focal_px"]) for row in frames} == {("manifest", 150.0, 150.0)}
    assert "1 video by the list of videos" in (data / "shards" / "README.md").read_text()
    assert plan(whim, "--data", data, "--videos", told(140))["by_stage"] == refit
