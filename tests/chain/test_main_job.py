"""The main job on real video, by the command line: run, look again, change one thing, evaluate, report."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from stages.tables import Fits, Hands, Reviews
from tests.chain.conftest import ROOT, command, environment, plan

Whim = Callable[..., Any]


def test_every_file_ends_in_one_state_with_a_reason(undisturbed: Path, whim: Whim) -> None:
    status = json.loads(whim("status", "--json", "--data", undisturbed).stdout)
    assert status["stages"]["download"] == {"pending": 0, "done": 3, "failed": 1, "retry": 0, "blocked": 0}
    assert status["stages"]["review"]["done"] == 3
    assert [r["reason"] for r in status["reasons"] if r["state"] == "failed"] == ["empty_file"]


def test_hands_are_found_fitted_and_packed(undisturbed: Path) -> None:
    hands = Hands.concat([Hands.from_arrow(pq.read_table(p)) for p in sorted((undisturbed / "hands").glob("*.parquet"))])
    fits = Fits.concat([Fits.from_arrow(pq.read_table(p)) for p in sorted((undisturbed / "fits").glob("*.parquet"))])
    reviews = Reviews.concat([Reviews.from_arrow(pq.read_table(p)) for p in sorted((undisturbed / "reviews").glob("*.parquet"))])
    assert len(hands) == len(fits) == len(reviews) > 10
    assert not any(video.startswith("black") for video in hands.video)
    assert float(np.median(fits.error_share[reviews.keep])) < 0.04
    assert float(reviews.keep.mean()) > 0.6
    shards = [pq.read_table(path) for path in (undisturbed / "shards").rglob("*.parquet")]
    packed = sum(len(row) for shard in shards for row in shard["hands"].to_pylist())
    assert packed == int(reviews.keep.sum())


def test_a_second_run_has_nothing_to_do(undisturbed: Path, whim: Whim) -> None:
    assert plan(whim, "--data", undisturbed)["num_pending"] == 0
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")}
    said = whim("run", "--data", undisturbed, status=2).stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")} == before
    reviews = [pq.read_table(path)["keep"] for path in (undisturbed / "reviews").glob("*.parquet")]
    found, kept = (sum(count) for count in zip(*((len(keep), keep.to_numpy().sum()) for keep in reviews), strict=True))
    assert f"hands: {found} found, {kept} kept" in said


def test_one_deleted_part_costs_itself_and_what_depends_on_it(undisturbed: Path, whim: Whim, tmp_path: Path) -> None:
    data = shutil.copytree(undisturbed, tmp_path / "data")
    next((data / "hands").glob("asl_yes*.parquet")).unlink()
    assert plan(whim, "--data", data)["by_stage"] == {
        "fuse-hands": {"new": 1}, "fit": {"upstream changed": 1}, "review": {"upstream changed": 1}, "pack": {"upstream changed": 1},
    }  # fmt: skip


def test_one_changed_setting_of_fit_costs_fit_review_and_pack(undisturbed: Path, whim: Whim, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from fitting.settings import FitSettings\nfrom pipeline.recipes import whim\nfrom stages.fit import Fit\n\n\n"
        "def recipe(manifest, root):\n"
        "    return [Fit(settings=FitSettings(num_iterations=11)) if stage.name == 'fit' else stage for stage in whim(manifest, root)]\n"
    )
    assert set(plan(whim, "--data", undisturbed, "--recipe", f"{recipe}:recipe")["by_stage"]) == {"fit", "review", "pack"}


def test_every_file_that_a_run_and_its_report_wrote_is_checked(undisturbed: Path, whim: Whim, tmp_path: Path) -> None:
    data = shutil.copytree(undisturbed, tmp_path / "data")
    whim("report", "--data", data)
    found = json.loads(whim("verify", data, "--json").stdout)
    assert (found["corrupt"], found["foreign"], found["num_unsealed"]) == ({}, [], 0)
    assert found["num_sound"] == sum(path.is_file() and path.name != ".lock" for path in data.rglob("*"))


def test_a_report_of_the_run_is_one_page(undisturbed: Path, whim: Whim, tmp_path: Path) -> None:
    whim("report", "--data", undisturbed, "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "empty_file" in page
    assert page.count("data:image/jpeg;base64,") >= 4
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_mistakes_are_named(whim: Whim, few_videos: Path, tmp_path: Path) -> None:
    assert "is not there" in whim("status", "--data", tmp_path / "nothing", status=1).stderr
    assert "no *.truth.parquet" in whim("evaluate", "studio", "--data", tmp_path / "nothing", status=1).stderr
    bad = tmp_path / "list.txt"
    bad.write_text("dQw4w9WgXcQ\ndQw4w9WgXcQ fps=fast\n")
    assert "list.txt:2:" in whim("run", "--videos", bad, "--data", tmp_path / "data", status=1).stderr
    assert (
        "no recipe 'wim': did you mean 'whim'?"
        in whim("plan", "--videos", few_videos, "--recipe", "wim", "--data", tmp_path / "data", status=1).stderr
    )


def test_json_that_nobody_reads_to_its_end_is_told_by_the_exit_code_alone(undisturbed: Path) -> None:
    line = command("plan", "--json", "--data", undisturbed)
    with subprocess.Popen(line, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as whim:
        assert whim.stdout is not None
        assert whim.stderr is not None
        whim.stdout.close()
        assert (whim.wait(), whim.stderr.read().decode()) == (141, "")


def test_a_clip_is_decoded_once_for_people_and_hands(undisturbed: Path) -> None:
    receipts = [json.loads(line) for log in (undisturbed / "runs").iterdir() for line in log.read_text().splitlines()]
    decoded = [receipt for receipt in receipts if receipt["decode_s"] > 0]
    assert len({receipt["key"] for receipt in decoded}) == len(decoded) == 3
    assert {len(receipt["outcomes"]) for receipt in decoded} == {5}  # people, who is who, what is proposed, hands by two detectors
