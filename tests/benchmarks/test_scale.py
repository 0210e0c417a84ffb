"""What a clip costs is measured on a run that made every part, and on a second look that makes none."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.scale.__main__ import summary
from benchmarks.scale.objects import rates


def test_a_run_and_a_second_look_are_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.scale", "--steps", str(tmp_path), "20"]
    first, second = (json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) for _ in range(2))
    assert len(list((tmp_path / "reviews").iterdir())) == 20
    assert len(pq.read_table(tmp_path / "ledger.parquet")) == 2 * 2 + 2 * 20
    assert second["wall_s"]["run"] < first["wall_s"]["run"] / 5


def test_growth_is_of_seconds_a_clip_from_a_thousand_clips_up() -> None:
    seconds = {100: 9.0, 1000: 2.0, 10_000: 30.0}
    sizes = {
        n: {"cpu_s": dict.fromkeys(("run", "plan", "status", "report"), s), "wall_s": dict.fromkeys(("run", "plan", "status", "report"), s)}
        | {"peak_mb": 200, "files": 2 * n, "bytes": 9 * n}
        for n, s in seconds.items()
    }
    told = summary(sizes)
    assert told["cost_growth"]["plan"] == 1.5
    assert (told["files_per_clip"][10_000], told["bytes_per_clip"][100]) == (1.0, 9)


def test_objects_and_requests_of_a_folder_on_s3_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHIM_CACHE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    told = rates(16)
    assert 2.0 < told["objects_per_clip"] < 3.0, "a small folder has an object for each part of its two tables of clips"
    assert told["objects_per_clip"] <= told["requests_per_clip"]["plan_elsewhere"] < told["requests_per_clip"]["run"]
