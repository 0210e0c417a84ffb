"""What `--videos` may be: lists, folders, images, globs, addresses; each bad line in one line, each file that is not taken named."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.manifest import read_listing, read_manifest, storable
from pipeline.video_files import safe_id
from stages.download import Download
from stages.media.frames import decode
from stages.media.probe import Probe, probe
from stages.stage import Failure, Reason
from tests.trust.conftest import line, make_video


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5-TyAsFwo40 frames=100000000000000000000", "frames=1000"),
        ("5-TyAsFwo40 size=99999999999x1", "size=9999"),
        ("5-TyAsFwo40 fps=" + "9" * 400, "fps=999"),
        ("5-TyAsFwo40 frames=٣", "frames="),
        ("~nosuchuser/x.mp4", "no user ~nosuchuser"),
        ("a\0b.mp4", "control character"),
        ("clips/" + "x" * 300 + ".mp4", "no disk has a path as long"),
        ("http://[::1/x.mp4", "no http or https address"),
        ("http://host:99999/x.mp4", "no http or https address"),
        ("https:///x.mp4", "no http or https address"),
    ],
)
def test_a_wild_value_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.txt").write_text(f"# mine\n-ChOGBEL5uE\n{text}\n")
    with pytest.raises(ValueError, match=r"list\.txt:3: ") as error:
        read_manifest(tmp_path / "list.txt")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=60), max_size=4))
def test_any_text_is_a_list_or_one_clear_line(tmp_path: Path, lines: list[str]) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes("\n".join(lines).encode())
    try:
        manifest = storable(read_manifest(file))
    except ValueError as error:
        said = str(error)
        manifest = None
    if manifest is None:
        assert str(file) in said
        assert "\n" not in said
        return
    manifest.to_arrow()
    assert all(video and "/" not in video and len(video.encode()) <= 110 for video in manifest.video)
    assert len({video.casefold() for video in manifest.video}) == len(manifest)


@pytest.mark.parametrize("content", [b"", b"# nothing yet\n\n", b"caf\xe9.mp4\n"])
def test_a_list_of_nothing_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"list\.txt.*(names no video|line 1 is no UTF-8)"):
        read_manifest(tmp_path / "list.txt")


def test_ids_keep_their_script_and_do_not_move(tmp_path: Path) -> None:
    touch(tmp_path, "手話.mkv", unicodedata.normalize("NFD", "été.mp4"))
    before = read_manifest(tmp_path).video.tolist()
    assert "手話" in before
    assert "été" in before
    touch(tmp_path, "否定.mkv")
    assert read_manifest(tmp_path).video.tolist() == sorted([*before, "否定"])
    assert safe_id("手" * 60) != safe_id("手" * 61)
    assert len(safe_id("手" * 60).encode()) <= 100


def test_an_id_that_a_file_is_known_by_stays(tmp_path: Path) -> None:
    touch(tmp_path, "b/clip.mp4")
    first = read_manifest(tmp_path)
    known = dict(zip(first.source, first.video, strict=True))
    touch(tmp_path, "a/clip.mp4", "b/clip.avi", "B/clip.mp4")
    again = read_manifest(tmp_path, known)
    assert dict(zip(again.source, again.video, strict=True))[first.source[0]] == first.video[0]
    assert len({video.casefold() for video in again.video}) == 4


def test_a_folder_is_walked_once_and_says_what_it_leaves(tmp_path: Path) -> None:
    videos, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    touch(videos, "good.mp4", "._good.mkv", ".Trash/old.mkv", "notes.txt", "thumb.jpg", "deep/more.MOV")
    touch(videos, "old run/run.json", "old run/.lock", "old run/media/x.mp4")
    touch(elsewhere, "linked.mp4")
    (videos / "there").symlink_to(elsewhere)
    (videos / "again").symlink_to(elsewhere)
    (videos / "deep/loop").symlink_to(videos)
    (videos / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    os.mkfifo(videos / "pipe.mp4")
    Path(os.fsdecode(bytes(videos) + b"/caf\xe9.mp4")).write_bytes(b"x")
    listing = read_listing(videos)
    assert sorted(Path(source).name for source in listing.manifest.source) == ["good.mp4", "linked.mp4", "more.MOV"]
    why = {Path(one.name).name: one.why for one in listing.left_out}
    assert why == {
        "._good.mkv": "hidden", ".Trash": "hidden", "notes.txt": "no video by its name and content", "thumb.jpg": "an image beside videos",
        "old run": "a data folder of whim", "gone.mp4": "a link that leads nowhere", "pipe.mp4": "no file of the disk",
        "caf\\xe9.mp4": "its name is no UTF-8; rename it",
    }  # fmt: skip
    listing.manifest.to_arrow()
    for one in listing.left_out:
        str(one).encode()


def test_images_paths_globs_and_addresses_simply_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.png", "one/x.mp4", "two/x.mp4", "two/y.mp4")
    (tmp_path / "list.txt").write_text("-ChOGBEL5uE\n")
    assert read_manifest(tmp_path / "images").video.tolist() == ["a", "b"]
    assert read_manifest(str(tmp_path / "*/x.mp4")).video[0] == "x"
    several = read_manifest([tmp_path / "one", tmp_path / "two", tmp_path / "list.txt", "https://example.org/v.mp4", "0ummhjbzT3w"])
    assert len(several) == 6
    assert len({video.casefold() for video in several.video}) == 6
    assert np.isin(["-ChOGBEL5uE", "0ummhjbzT3w", "https://example.org/v.mp4"], several.source).all()
    with pytest.raises(FileNotFoundError, match="no file matches"):
        read_manifest(str(tmp_path / "*.webm"))
    with pytest.raises(FileNotFoundError, match="neither a list"):
        read_manifest(str(tmp_path / "none"))
    touch(tmp_path, "empty/notes.txt")
    with pytest.raises(FileNotFoundError, match=r"no video below.*notes\.txt"):
        read_manifest(tmp_path / "empty")


def test_a_secret_of_an_address_is_not_written_down(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://me:s3kr3t@host/x.mp4?token=t0k3n\n")
    manifest = read_manifest(tmp_path / "list.txt")
    assert "s3kr3t" in manifest.source[0]
    assert "s3kr3t" not in str(storable(manifest).to_arrow().to_pylist())
    assert "t0k3n" not in str(storable(manifest).to_arrow().to_pylist())
    (tmp_path / "list.txt").write_text("http://me:other@host/x.mp4?token=t0k3n\n")
    assert read_manifest(tmp_path / "list.txt").video[0] == manifest.video[0], "a new password made another video of it"


def test_an_image_is_a_video_of_one_frame(tmp_path: Path) -> None:
    image = (np.random.default_rng(0).random((48, 64, 3)) * 255).astype(np.uint8)
    for name in ("a.jpg", "b.png", "img%03d.jpg"):
        cv2.imwrite(str(tmp_path / name), image)
    cv2.imwrite(str(tmp_path / "img001.jpg"), image[:24])
    for source in read_manifest(tmp_path).source:
        found = probe(Path(source), images=True)
        assert isinstance(found, Probe)
        assert (found.width, found.height) == (64, 24 if "001" in source else 48)
        assert len(list(decode(Path(source)))) == 1
    photo = cv2.imencode(".jpg", image)[1].tobytes()
    turned = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # EXIF: turn a quarter clockwise to see it
    exif = b"\xff\xe1" + (len(turned) + 8).to_bytes(2, "big") + b"Exif\0\0" + turned
    (tmp_path / "phone.jpg").write_bytes(photo[:2] + exif + photo[2:])
    upright = probe(tmp_path / "phone.jpg", images=True)
    assert isinstance(upright, Probe)
    assert (upright.width, upright.height, upright.rotation_deg) == (48, 64, 90)
    posing = tmp_path / "posing.mp4"
    posing.write_bytes((tmp_path / "a.jpg").read_bytes())
    assert isinstance(probe(posing, images=True), Failure)


GROWTH = """
import resource, sys
from pathlib import Path
from stages.media.probe import probe
import av
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(probe(Path(sys.argv[1]), 1 << 26).reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_huge_images_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    make_video(tmp_path / "wide.mkv", "color=size=320x240:rate=5", "-t", "1", "-aspect", "6000:1", "-c:v", "mpeg4")
    outcome = Download(max_pixels=1 << 20).build()(line(str(tmp_path / "wide.mkv")))
    assert isinstance(outcome, Failure)
    assert outcome.reason is Reason.TOO_LARGE
    assert "pixels, where 1,048,576 are allowed" in outcome.message
    make_video(tmp_path / "huge.avi", "color=size=16000x16000:rate=1", "-frames:v", "1", "-c:v", "mjpeg")
    said = subprocess.run([sys.executable, "-c", GROWTH, tmp_path / "huge.avi"], capture_output=True, text=True, check=True).stdout.split()
    assert said[0] == Reason.TOO_LARGE
    assert int(said[1]) < 100_000, "kB were taken for it"
