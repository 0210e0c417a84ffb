"""Lists of videos: what they say, and what is said when they are wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.manifest import parse_line, read_listing, read_manifest
from stages.tables import Manifest

ROOT = Path(__file__).resolve().parents[2]


def listed(tmp_path: Path, text: str) -> Manifest:
    (tmp_path / "list.txt").write_text(text)
    return read_manifest(tmp_path / "list.txt")


def test_every_kind_of_line_is_understood(tmp_path: Path) -> None:
    manifest = listed(
        tmp_path,
        "\ufeff# a comment\n\n"
        "5-TyAsFwo40 split=train fps=29.97 frames=3185 size=960x720  # after it\n"
        "-ChOGBEL5uE\n"
        "https://youtu.be/0ummhjbzT3w?t=3 split=val\n"
        "https://example.org/a/hands%20up.mp4?x=1#here id=hands_a split=test\n"
        "https://example.org/b/hands.mp4\r\n"
        "mine/my kitchen.mp4 split=train\n",
    )
    assert manifest.video[:4].tolist() == ["5-TyAsFwo40", "-ChOGBEL5uE", "0ummhjbzT3w", "hands_a"]
    assert manifest.video[4].startswith("hands-")
    assert manifest.video[5] == "my_kitchen"
    assert manifest.source[3:].tolist() == [
        "https://example.org/a/hands%20up.mp4?x=1#here",
        "https://example.org/b/hands.mp4",
        str(tmp_path / "mine/my kitchen.mp4"),
    ]
    assert manifest.split.tolist() == ["train", "", "val", "test", "", "train"]
    assert (manifest.frames_per_second[0], manifest.num_frames[0], manifest.width[0], manifest.height[0]) == (29.97, 3185, 960, 720)
    assert manifest.num_frames[1] == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("5-TyAsFwo40 fps=fast", "'fps=fast': fps= is written as 29.97"),
        ("5-TyAsFwo40 fps=0.0005", "fps=0.0005 is less than 0.01, a frame in 100 seconds"),
        ("5-TyAsFwo40 spilt=train", "'spilt=train' is a column of yours or split="),
        ("5-TyAsFwo40 start=soon", "'start=soon': start= is written as 1:30"),
        ("5-TyAsFwo40 start=2:00 end=90", "end=90 is not after start=2:00"),
        ("5-TyAsFwo40 size=960", "'size=960': size= is written as 1280x720"),
        ("5-TyAsFwo40 projection=mercator", "projection= is written as rectilinear|fisheye|equirectangular"),
        ("5-TyAsFwo40 split=dev", "'split=dev': split= is written as train|val|test"),
        ("5-TyAsFwo40 id=../../etc", "id= is written as name"),
        ("5-TyAsFwo40 split=val split=test", "split is given twice"),
        ("ftp://example.org/a.mp4", "no http or https address"),
        ("what is this", "no YouTube id, http address or path"),
        ("-ChOGBEL5uE split=val", "list.txt:2"),
        ("https://example.org/a.mp4 id=-ChOGBEL5uE", "another video of the same id"),
    ],
)
def test_a_malformed_line_is_named_with_its_number(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"list\.txt:3: ") as error:
        listed(tmp_path, f"# ids\n-ChOGBEL5uE\n{line}\n")
    assert said in str(error.value)


def test_a_line_may_want_a_stretch_and_have_columns_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("./talk.mp4 start=1:30 end=0:01:35.5 signer=ann gloss=手\n./other.mp4\n")
    found = read_manifest(tmp_path / "list.txt")
    assert found.start_s.tolist() == [90.0, 0.0]
    assert found.end_s.tolist() == [95.5, 0.0]
    assert found.extra.tolist() == ['{"gloss": "手", "signer": "ann"}', ""]


def test_the_scheme_of_an_address_may_be_in_capitals() -> None:
    """HTTP:// was taken for an address by the list, and for none by the download."""
    capitals, plain = (parse_line(f"{scheme}://Example.org/A.mp4", "list:1", Path()) for scheme in ("HTTP", "http"))
    assert capitals == plain
    assert capitals.source == "http://Example.org/A.mp4"


def test_a_repeated_line_counts_once(tmp_path: Path) -> None:
    assert len(listed(tmp_path, "-ChOGBEL5uE\n5-TyAsFwo40\n-ChOGBEL5uE # again\n")) == 2


def test_malformed_ids_stay_listed(tmp_path: Path) -> None:
    assert listed(tmp_path, "4x8XQAPC4Vk3cugR5eQA5s\nlook_and_see\n").source.tolist() == ["4x8XQAPC4Vk3cugR5eQA5s", "look_and_see"]


def test_withdrawn_videos_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "removed.txt").write_text("# asked on 3 May\n-ChOGBEL5uE  # the owner\n")
    assert listed(tmp_path, "-ChOGBEL5uE\n5-TyAsFwo40\n").video.tolist() == ["5-TyAsFwo40"]
    (told,) = read_listing(tmp_path / "list.txt").left_out
    assert str(told) == "-ChOGBEL5uE (withdrawn)"


def test_a_folder_names_its_files_apart(tmp_path: Path) -> None:
    for name in ("a/clip.mp4", "b/clip.MKV", "b/clip.webm", "b/notes.txt", "über uns.mp4"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).touch()
    manifest = read_manifest(tmp_path / "in")
    assert manifest.video[:2].tolist() == ["a--clip", "b--clip"]
    assert len({v.lower() for v in manifest.video}) == 4
    assert manifest.video[3] == "über_uns"
    assert not any("/" in v for v in manifest.video)
    assert manifest.source[0] == str(tmp_path / "in/a/clip.mp4")
    assert read_manifest(tmp_path / "in/a/clip.mp4").video.tolist() == ["clip"]
    assert read_manifest(tmp_path / "in").to_arrow().equals(manifest.to_arrow())


def test_what_is_no_list_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a list"):
        read_manifest(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match="no video below"):
        read_manifest(tmp_path)
    (tmp_path / "video").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="is no text"):
        read_manifest(tmp_path / "video")


def test_whim_is_listed_whole() -> None:
    manifest = read_manifest(ROOT / "manifests/whim.txt")
    train = manifest.split == "train"
    assert (int(train.sum()), int((manifest.split == "test").sum())) == (1431, 26)
    assert (int(manifest.num_frames[train].sum()), int(manifest.num_frames[~train].sum())) == (12_401_157, 311_418)
    assert [v for v in manifest.video if len(v) != 11] == ["4x8XQAPC4Vk3cugR5eQA5s", "look_and_see"]
    assert sum(v.startswith("-") for v in manifest.video) == 100
    assert int((manifest.height > manifest.width).sum()) == 29


def test_a_list_is_made_from_the_two_json_files(tmp_path: Path) -> None:
    known = {"-b": {"res": [720, 960], "length": 3185, "fps": 29.97002997002997}, "-a": {"res": [454, 808], "length": 7, "fps": 30.0}}
    (tmp_path / "train.json").write_text(json.dumps(known))
    (tmp_path / "test.json").write_text(json.dumps({"c": {"res": [1080, 1920], "length": 9, "fps": 23.976023976023978}}))
    made = subprocess.run(
        [sys.executable, "-m", "pipeline.manifest", "--from-json", tmp_path / "train.json", tmp_path / "test.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.splitlines()[1:] == [
        "-a split=train fps=30 frames=7 size=808x454",
        "-b split=train fps=29.97003 frames=3185 size=960x720",
        "c split=test fps=23.976024 frames=9 size=1920x1080",
    ]


def test_a_link_that_leads_nowhere_is_told_as_one(tmp_path: Path) -> None:
    for name, target in (("gone", "nothing"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(ValueError, match=f"{name} is no list of videos: a link that leads nowhere"):
            read_manifest(tmp_path / name)
