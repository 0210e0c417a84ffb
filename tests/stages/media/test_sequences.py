"""Numbered images are one film, with the rate that a list says; what is no film stays images."""

import json
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.dataset.oddities import image_lines
from pipeline.engine.graph import Graph
from pipeline.engine.store import Store
from pipeline.manifest import read_listing, read_manifest
from stages.cameras.path import poses_at, poses_said
from stages.download import Download
from stages.media.frames import images_of, read_frames
from stages.media.sequence import films_among, numbered, write_film
from stages.split import Split
from stages.stage import Failure
from stages.tables import Clips, Manifest, Videos

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
KINDS = {"png": "", "jpg": "", "bmp": "", "tiff": "", "webp": "-c:v libwebp -lossless 1"}


def frames(folder: Path, name: str, *, size: str = "64x48", count: int = 12, words: str = "") -> Path:
    """Images of a moving pattern, numbered from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=10:duration={count / 10}"]
    subprocess.run([FFMPEG, "-loglevel", "error", "-y", *source, *words.split(), folder / name], check=True)
    return folder / name


def fetched(manifest: Manifest, folder: Path) -> Videos | Failure:
    return Download(folder=folder).build()(manifest)


def clips_of(videos: Videos) -> Clips:
    clips = Split(frames_per_second=0, scene_threshold=1).build()(videos)
    assert isinstance(clips, Clips)
    return clips


@pytest.mark.parametrize("suffix", KINDS)
def test_a_folder_of_numbered_images_is_one_film(tmp_path: Path, suffix: str) -> None:
    pattern = frames(tmp_path / "walk", f"f_%03d.{suffix}", words=KINDS[suffix])
    listing = read_listing(tmp_path / "walk")
    assert (listing.manifest.video.tolist(), listing.manifest.source.tolist()) == (["walk--f"], [str(pattern)])
    videos = fetched(listing.manifest, tmp_path / "media")
    assert isinstance(videos, Videos)
    (clip,) = clips_of(videos).rows()
    (found,) = read_frames(Path(videos.path[0]), clip)
    assert found.time_s == pytest.approx(np.arange(12) / 25, abs=1e-4)
    for image, one in zip(found.images, numbered(pattern), strict=True):
        np.testing.assert_array_equal(image, next(images_of(one.path))[1])


def test_a_list_says_the_rate_and_a_missing_number_is_a_gap(tmp_path: Path) -> None:
    pattern = frames(tmp_path / "walk", "%02d.png")
    (tmp_path / "walk" / "07.png").unlink()
    (tmp_path / "list.txt").write_text("walk/%02d.png fps=10 signer=ann\n")
    manifest = read_manifest(tmp_path / "list.txt")
    assert (manifest.video.tolist(), manifest.source.tolist()) == (["walk"], [str(pattern)])
    videos = fetched(manifest, tmp_path / "media")
    assert isinstance(videos, Videos)
    assert videos.frames_per_second[0] == 10
    times = [time_s for time_s, _ in images_of(Path(videos.path[0]))]
    assert times == pytest.approx([k / 10 for k in range(12) if k != 6], abs=1e-4)
    assert image_lines(manifest) == ["1 videos are numbered images (walk)"]


def test_words_and_lists_name_films_of_images(tmp_path: Path) -> None:
    pattern = frames(tmp_path / "walk", "frame_%04d.jpg")
    (tmp_path / "list.txt").write_text("./walk fps=12\n./walk/ fps=12\n")
    for word in (f"{pattern} fps=12", tmp_path / "list.txt"):
        manifest = read_manifest([word])
        assert (manifest.source.tolist(), manifest.frames_per_second.tolist()) == ([str(pattern)], [12.0])
    manifest = read_manifest([str(pattern)])
    assert manifest.video.tolist() == ["walk--frame"]
    assert image_lines(manifest) == [
        "1 videos are numbered images (walk--frame); 1 of them at 25 images a second, since nobody says fps= (walk--frame)"
    ]
    assert len(read_manifest([str(tmp_path / "walk" / "*.jpg")])) == 12
    assert len(read_manifest([str(tmp_path / "walk" / "frame_0003.jpg")])) == 1
    both = read_manifest([str(pattern), str(frames(tmp_path / "run", "%d.png")), str(tmp_path / "walk" / "frame_0003.jpg")])
    assert sorted(both.video) == ["frame_0003", "run", "walk--frame"]


def test_what_is_no_film_stays_images(tmp_path: Path) -> None:
    frames(tmp_path / "few", "%d.png", count=4)
    frames(tmp_path / "gap", "%d.png")
    (tmp_path / "gap" / "5.png").unlink()
    frames(tmp_path / "sizes", "%d.png", count=6)
    shutil.copy(frames(tmp_path / "other", "7.png", size="32x32", count=1), tmp_path / "sizes")
    for folder in ("few", "gap", "sizes", "other"):
        assert films_among(sorted((tmp_path / folder).iterdir())) == {}
    assert len(read_listing(tmp_path).manifest) == 4 + 11 + 7 + 1
    shutil.copy(frames(tmp_path / "videos", "a.mp4"), tmp_path)
    assert read_listing(tmp_path).manifest.video.tolist() == ["a", "videos--a"]


def test_a_line_that_names_no_images_fails_alone(tmp_path: Path) -> None:
    frames(tmp_path / "walk", "f_%03d.png")
    (tmp_path / "list.txt").write_text("walk/g_%03d.png fps=10\nnone/%d.png\n")
    for row, told in zip(read_manifest(tmp_path / "list.txt").rows(), ("no image is named so", "No such file"), strict=True):
        found = fetched(row, tmp_path / "media")
        assert isinstance(found, Failure)
        assert (told in found.message, found.reason) == (True, "file_missing")


@pytest.mark.parametrize(("line", "told"), [("empty/", "is a folder, and not"), ("walk/g_%d.png camera=c.json", "pose_first= must say")])
def test_a_line_that_cannot_be_says_so(tmp_path: Path, line: str, told: str) -> None:
    frames(tmp_path / "walk", "f_%03d.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text(f"{line} fps=10\n")
    with pytest.raises(ValueError, match=r"list\.txt:1: ") as error:
        read_manifest(tmp_path / "list.txt")
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_that_is_none_is_named_and_nothing_half_is_left(tmp_path: Path) -> None:
    pattern = frames(tmp_path / "walk", "%03d.png")
    (tmp_path / "walk" / "005.png").write_bytes(b"no image")
    found = fetched(read_manifest([str(pattern)]), tmp_path / "media")
    assert isinstance(found, Failure)
    assert "005.png cannot be read as an image" in found.message
    assert [path.name for path in (tmp_path / "media").iterdir()] == ["incoming"]
    shutil.copy(frames(tmp_path / "other", "1.jpg", count=1), tmp_path / "walk" / "005.png")
    with pytest.raises(ValueError, match=r"005\.png is mjpeg, where the first of these images is png"):
        write_film(numbered(pattern), 25.0, tmp_path / "film.nut")


def test_changed_images_are_planned_anew_and_lost_ones_leave_what_was_made(tmp_path: Path) -> None:
    pattern = frames(tmp_path / "walk", "%03d.png")
    manifest, stage = read_manifest([str(pattern)]), Download(folder=tmp_path / "data" / "media")

    def fingerprint() -> str:
        return Graph([stage], manifest, Store(tmp_path / "data")).load().tasks[0].fingerprint

    before = fingerprint()
    assert before == fingerprint()
    videos = fetched(manifest, stage.folder)
    assert isinstance(videos, Videos)
    first = Path(videos.path[0]).read_bytes()
    frames(tmp_path / "walk", "%03d.png", count=14)
    assert fingerprint() != before
    videos = fetched(manifest, stage.folder)
    assert isinstance(videos, Videos)
    assert Path(videos.path[0]).read_bytes() != first
    assert clips_of(videos).num_frames.tolist() == [14]


def test_what_is_no_file_is_no_image_and_one_that_goes_stops_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = frames(tmp_path / "walk", "%03d.png")
    (tmp_path / "walk" / "013.png").symlink_to("nowhere.png")
    (tmp_path / "walk" / "014.png").mkdir()
    (manifest, stage), store = (read_manifest([str(pattern)]), Download(folder=tmp_path / "media")), Store(tmp_path / "data")
    images = numbered(pattern)
    assert [one.number for one in images] == list(range(1, 13))
    assert len(Graph([stage], manifest, store).load().pending) == 1
    (tmp_path / "walk" / "005.png").unlink()
    monkeypatch.setattr("pipeline.engine.plan.inputs.images_of_pattern", lambda _: images)  # as if it went after they were listed
    assert len(Graph([stage], manifest, store).load().pending) == 1


def test_poses_of_numbered_images_are_those_of_their_names(tmp_path: Path) -> None:
    pattern = frames(tmp_path / "walk", "%03d.png")
    (tmp_path / "walk" / "004.png").unlink()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "cameras.txt").write_text("1 SIMPLE_PINHOLE 64 48 60 32 24\n")
    (tmp_path / "model" / "images.txt").write_text("".join(f"{n} 1 0 0 0 0 0 {n} 1 {n:03d}.png\n\n" for n in (1, 3, 5, 9)))
    (tmp_path / "list.txt").write_text(f"{pattern} fps=29.97 camera=model\n")
    manifest = read_manifest(tmp_path / "list.txt")
    videos = fetched(manifest, tmp_path / "media")
    assert isinstance(videos, Videos)
    (found,) = read_frames(Path(videos.path[0]), clips_of(videos))
    pose = poses_at(poses_said(str(manifest.camera[0])), found.frame, found.time_s)
    numbers = [n for n in range(1, 13) if n != 4]
    assert {numbers[row]: -pose[row, 2, 3] for row in np.flatnonzero(np.isfinite(pose).all((1, 2)))} == {1: 1.0, 3: 3.0, 5: 5.0, 9: 9.0}
    assert json.loads(str(manifest.camera[0]))["poses"]["count"] == 4
