"""Splitting: clips end at the cuts, cover every frame once, and stay short."""

import dataclasses
import re
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.media.frames import decode, read_frames
from stages.media.probe import Probe, probe
from stages.split import Split, divide, scene_scores
from stages.stage import Failure, Reason
from stages.tables import Clips, Videos


def videos(path: Path, video: str = "v") -> Videos:
    """The row `download` writes, as far as `split` reads it."""
    found = probe(path)
    rate, duration_s = (found.frames_per_second, found.duration_s) if isinstance(found, Probe) else (0.0, 0.0)
    empty = Videos.empty()
    columns = {f.name: getattr(empty, f.name) for f in dataclasses.fields(Videos)}
    row = {n: np.array([""], object) if c.dtype == object else np.zeros(1, c.dtype) for n, c in columns.items()}
    row |= {"video": np.array([video], object), "path": np.array([str(path)], object)}
    return Videos(**row | {"frames_per_second": np.array([rate]), "duration_s": np.array([duration_s])})


def clips_of(path: Path, **settings: Any) -> Clips:
    clips = Split(**settings).build()(videos(path))
    assert isinstance(clips, Clips)
    first, num = clips.first_frame, clips.num_frames
    assert first[0] == 0
    assert (first[1:] == (first + num)[:-1]).all()
    assert (num > 0).all()
    assert (clips.start_s[1:] == clips.end_s[:-1]).all()
    assert (clips.end_s > clips.start_s).all()
    return clips


def test_cuts_are_found_to_the_frame(media: Path) -> None:
    clips = clips_of(media / "odd/fiveshots.mp4")
    assert clips.first_frame.tolist() == [0, 52, 129, 171, 231]
    assert int(clips.num_frames.sum()) == 283
    assert clips.clip.tolist() == [f"v-000{k}" for k in range(5)]
    assert clips.ends_with.tolist() == ["shot"] * 4 + ["end"]
    assert clips.end_s[-1] == pytest.approx(11.32)
    assert set(clips.frames_per_second) == {5.0}


def test_a_shot_is_not_shattered(media: Path) -> None:
    folders = ("intel", "mmhuman3d", "slp-pose", "slp-site", "tfjs", "torchcodec")  # fast motion, 5 to 30 frames/s, one real cut
    for path in sorted(path for folder in folders for path in (media / "videos" / folder).iterdir()):
        clips = clips_of(path)
        shots = int((clips.ends_with == "shot").sum())
        assert shots == (1 if path.stem == "nasa_13013" else 0), path  # frame 202 there is a real cut
        assert ((clips.end_s - clips.start_s) <= 20 + 1e-6).all()


def test_long_shots_are_divided_evenly(media: Path) -> None:
    clips = clips_of(media / "videos/intel/one-by-one-person-detection.mp4", max_clip_s=20)
    assert clips.num_frames.tolist() == [190, 190, 190, 191]
    assert clips.ends_with.tolist() == ["length"] * 3 + ["end"]
    assert len(clips_of(media / "videos/intel/one-by-one-person-detection.mp4", max_clip_s=5)) == 16


def test_the_clips_frames_are_the_videos_frames(media: Path) -> None:
    path = media / "odd/fiveshots.mp4"
    clips = clips_of(path, max_clip_s=1.5, frames_per_second=0)
    read = [int(i) for clip in clips.rows() for stretch in read_frames(path, clip) for i in stretch.frame]
    assert read == list(range(283))
    starts = [float(next(read_frames(path, clip)).time_s[0]) for clip in clips.rows()]
    assert starts == clips.start_s.tolist()


@pytest.mark.parametrize(
    ("name", "num_frames", "ends_with"),
    [("truncated_moov_first.mp4", 98, "damage"), ("truncated_again.mkv", 14, "damage"), ("bitrot_hand.mp4", 202, "end")],
)
def test_clips_count_what_was_decoded_not_what_is_claimed(media: Path, name: str, num_frames: int, ends_with: str) -> None:
    clips = clips_of(media / "broken" / name)
    assert int(clips.num_frames.sum()) == num_frames
    assert clips.ends_with[-1] == ends_with


def test_a_file_without_frames_is_a_failure(media: Path, tmp_path: Path) -> None:
    split = Split().build()
    for path, reason in (
        (media / "broken/audio_only_named.mp4", Reason.NO_FRAMES),
        (media / "broken/html_named.mp4", Reason.BROKEN_FILE),
        (tmp_path / "gone.mp4", Reason.FILE_MISSING),
    ):
        outcome = split(videos(path))
        assert isinstance(outcome, Failure)
        assert outcome.reason == reason


def test_one_frame_is_one_clip(media: Path) -> None:
    clips = clips_of(media / "odd/oneframe_thanks.mp4")
    assert clips.num_frames.tolist() == [1]
    assert clips.end_s[0] == pytest.approx(1 / 30)


@pytest.mark.parametrize("name", ["odd/fiveshots.mp4", "videos/sam2/05_default_juggle.mp4", "odd/oddsize_yuv444_no.mp4"])
def test_scores_are_those_of_ffmpegs_select_filter(media: Path, name: str) -> None:
    ours = [score for _, score, _ in scene_scores(decode(media / name))]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(media / name), "-an", "-fps_mode", "passthrough"]
    command += ["-vf", "select='gte(scene,0)',metadata=print:file=-", "-f", "null", "-"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    theirs = [float(score) for score in re.findall(r"scene_score=([\d.]+)", printed)]
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_a_flash_of_light_is_no_shot(media: Path, tmp_path: Path) -> None:
    flash = "eq=brightness=0.9:enable='between(n,60,61)',scale=160:-2"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(media / "videos/tfjs/pose_1.mp4"), "-vf", flash]
    subprocess.run([*command, "-y", str(tmp_path / "flash.mp4")], check=True)
    flashed = clips_of(tmp_path / "flash.mp4")
    assert len(flashed) <= 2
    assert len(clips_of(tmp_path / "flash.mp4", min_clip_s=0)) == len(flashed) + 1


@given(
    gaps=st.lists(st.floats(1 / 240, 3.0), min_size=1, max_size=300),
    max_s=st.floats(0.5, 30),
)
def test_parts_cover_the_shot_and_stay_short(gaps: list[float], max_s: float) -> None:
    edges = np.concatenate([[0.0], np.cumsum(gaps)])
    starts = divide(edges, 0, len(gaps), max_s)
    stops = [*starts[1:], len(gaps)]
    assert starts[0] == 0
    assert all(a < b for a, b in zip(starts, stops, strict=True))
    for a, b in zip(starts, stops, strict=True):
        assert edges[b] - edges[a] <= max_s + 1e-5 or b == a + 1


def test_bad_settings_are_named() -> None:
    for name, value in (("max_clip_s", 0.0), ("scene_threshold", 2.0), ("min_clip_s", 30.0), ("frames_per_second", -1.0)):
        with pytest.raises(ValueError, match=rf"split\.{name}"):
            Split(**{name: value})  # type: ignore[arg-type]
