"""Bad and odd videos and lists, by the command line: each gets a clear outcome, and the rest goes on."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.tables import Clips, Videos
from tests.chain.conftest import ffmpeg, plan, status

Whim = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def mixed(media: Path, served: str, whim_apart: Whim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `list.txt` of all sorts of videos, and `data`, where it was run."""
    folder = tmp_path_factory.mktemp("mixed")
    signer = media / "videos/intel/asl_yes.mkv"
    ffmpeg(signer, folder / "yes.mkv", "-t", "0.3", "-c", "copy")
    ffmpeg(media / "odd/black_3s.mp4", folder / "nobody.mp4", "-t", "0.3", "-c", "copy")
    ffmpeg(signer, folder / "eight_k.mp4", "-vf", "fps=5,scale=7680:4320", "-frames:v", "5", "-preset", "ultrafast")
    ffmpeg(signer, folder / "one_fps.mp4", "-vf", "fps=1", "-preset", "ultrafast")
    ffmpeg(signer, folder / "head.mp4", "-vf", "crop=200:130:220:0", "-t", "0.3", "-preset", "ultrafast")
    lines = [
        f"{served}/broken/html_named.mp4 id=html", f"{served}/broken/audio_only_named.mp4 id=sound",
        f"{served}/broken/zero_bytes.mp4 id=zero", f"{served}/broken/truncated_no_moov.mp4 id=no_index",
        f"{served}/nothing.mp4 id=http_404", "missing.mp4", "nobody.mp4",
        f"{media}/odd/oneframe_thanks.mp4 id=one_frame",
        "eight_k.mp4 split=test", "one_fps.mp4 split=val", "head.mp4", "yes.mkv split=train",
    ]  # fmt: skip
    (folder / "list.txt").write_text("\n".join(lines))
    whim_apart("run", "--local", "--videos", folder / "list.txt", "--data", folder / "data", status=2)
    return folder


def test_every_bad_video_has_its_reason(mixed: Path, whim: Whim) -> None:
    found = status(whim, mixed / "data")
    assert {row["reason"]: row["count"] for row in found["reasons"] if row["stage"] == "download" and row["state"] == "failed"} == {
        "not_a_video": 1, "no_video_stream": 1, "broken_file": 1, "file_missing": 1, "gone": 1,
    }  # fmt: skip
    assert {p.name: json.loads(p.read_text())["reason"] for p in (mixed / "data").rglob("*.error.json")} == {
        "html.error.json": "not_a_video", "sound.error.json": "no_video_stream", "no_index.error.json": "broken_file",
        "missing.error.json": "file_missing", "http_404.error.json": "gone", "zero.error.json": "empty_file",
    }  # fmt: skip
    assert found["stages"]["download"]["pending"] == 1  # the empty answer: the server may have the file by the next run
    assert all(row["advice"] for row in found["reasons"] if row["state"] == "failed")


def test_odd_videos_are_annotated(mixed: Path, whim: Whim) -> None:
    data = mixed / "data"
    rows = {
        table: {p.stem.rpartition("-")[0]: pq.read_metadata(p).num_rows for p in (data / table).rglob("*.parquet")}
        for table in ("people", "hands", "reviews")
    }
    assert rows["people"]["nobody"] == rows["hands"]["nobody"] == rows["hands"]["head"] == 0
    assert rows["people"]["head"] > 0
    assert rows["hands"]["one_frame"] == 2
    assert rows["hands"]["one_fps"] == 4  # two hands on each of its two frames: a slow video is not filled up
    assert rows["hands"]["eight_k"] == 10
    assert rows["reviews"] == rows["hands"]
    assert status(whim, data)["stages"]["review"]["done"] == 6


def test_memory_stays_bounded_on_8k_video(mixed: Path) -> None:
    receipts = [json.loads(line) for journal in (mixed / "data/runs").glob("*.jsonl") for line in journal.read_text().splitlines()]
    peak_mb = {receipt["key"]: receipt["peak_mb"] for receipt in receipts}
    assert peak_mb["eight_k-0000"] > 500  # it was measured: five frames alone are 475 MiB
    assert max(peak_mb.values()) < 2500


def shards(data: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (data / "shards").rglob("*.parquet")}


def packed(data: Path) -> dict[str, set[str]]:
    return {p.name: set(pq.read_table(p, columns=["video"])["video"].to_pylist()) for p in (data / "shards").rglob("*.parquet")}


@pytest.fixture(scope="module")
def changed(mixed: Path, media: Path, whim: Whim) -> tuple[dict[str, int], dict[str, int], Path]:
    """The mixed folder run again: a file replaced, a video off the list, one withdrawn, one part written by another version."""
    data = mixed / "data"
    before = shards(data)
    ffmpeg(media / "videos/intel/asl_bird.mkv", mixed / "one_fps.mp4", "-y", "-t", "0.3", "-c", "copy", "-f", "matroska")
    listed = (mixed / "list.txt").read_text()
    (mixed / "list.txt").write_text(listed.replace("head.mp4\n", ""))
    (mixed / "removed.txt").write_text("one_frame  # its owner wrote on 3 May\n")
    old = data / "reviews/eight_k-0000.parquet"
    table = pq.read_table(old)
    pq.write_table(table.drop_columns(["quality"]), old)
    whys = plan(whim, "--data", data)["by_stage"]
    assert whys["download"] == {"input changed": 1, "retry": 1}
    assert whys["review"] == {"code version changed": 1}  # the replaced file's clips are listed again first
    whim("run", "--local", "--leave", "--data", data, status=2)
    return before, shards(data), data


def test_a_replaced_file_rewrites_its_own_shard_only(changed: tuple[dict[str, int], dict[str, int], Path]) -> None:
    before, after, data = changed
    of = {video: name for name, videos in packed(data).items() for video in videos}
    assert after[of["one_fps"]] > before[of["one_fps"]]
    assert after[of["nobody"]] == before[of["nobody"]]
    assert pq.read_metadata(data / "videos/one_fps.parquet").num_rows == 1
    assert Videos.from_arrow(pq.read_table(data / "videos/one_fps.parquet")).width[0] == 640
    assert Clips.from_arrow(pq.read_table(data / "clips/one_fps.parquet")).num_frames[0] > 2


def test_removed_and_withdrawn_videos_leave_the_shards(changed: tuple[dict[str, int], dict[str, int], Path]) -> None:
    *_, data = changed
    assert set().union(*packed(data).values()) == {"nobody", "eight_k", "one_fps", "yes"}
    for name in ("index.json", "stats.json", "README.md"):
        assert "one_frame" not in (data / "shards" / name).read_text()


def test_a_part_of_another_version_is_made_again(changed: tuple[dict[str, int], dict[str, int], Path]) -> None:
    *_, data = changed
    assert "quality" in pq.read_schema(data / "reviews/eight_k-0000.parquet").names


def test_a_malformed_line_is_named_by_its_number(whim: Whim, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# mine\nyes.mkv\nyes.mkv split=training\n")
    said = whim("run", "--videos", tmp_path / "list.txt", "--data", tmp_path / "data", status=1).stderr
    assert "list.txt:3:" in said
    assert "Traceback" not in said
