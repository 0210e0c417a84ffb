"""Images of the media folder become shards: people's boxes joined with the ensemble's hands, and what is unsure ignored."""

import json
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

import whim
from hands.images import read_image
from pipeline.images.formats import LabelledImage, read_images
from pipeline.images.labelling import PEOPLE, Candidates, Trust, joined, seen_alone
from pipeline.images.shards import ImageShards, is_plain_jpeg, num_left_out, write_image_shards
from pipeline.recipes import whim as recipe
from stages.detectors.mediapipe.hand_search import ELBOWS, WRISTS
from stages.tables import Manifest, People
from tests.small_tables import columns
from training.data.dataset import Dataset
from training.data.samples import Frames


@pytest.fixture(scope="module")
def folder(media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """Three labelled frames: all boxes of one, one of two of another, none of the third, and a file that is no image."""
    told = json.loads((media / "labels" / "bench_A.json").read_text())["images"]
    two = next(row for row in told if len(row["hands"]) == 2)
    here, rows = tmp_path_factory.mktemp("images"), []
    for name, hands, exhaustive in (
        ("all", two["hands"], True),
        ("one", two["hands"][:1], False),
        ("none", None, False),
        ("broken", [], True),
    ):
        if name == "broken":
            (here / "broken.jpg").write_bytes(b"no image")
        else:
            shutil.copy(media / two["jpeg"], here / f"{name}.jpg")
        boxes = hands and [{"box": hand["box"], "side": None} for hand in hands]
        row = {"path": f"{name}.jpg", "width": two["width"], "height": two["height"], "hands": boxes, "exhaustive": exhaustive}
        rows.append(row | {"group": name, "split": "train", "licence": "MIT", "tier": "a", "source": "media"})
    (here / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return here, [["left", "right"].index(hand["side"]) for hand in two["hands"]]


def test_images_become_shards_once(folder: tuple[Path, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images_folder, sides = folder
    console, stages = Console(force_terminal=False, soft_wrap=True), recipe(Manifest.empty(), tmp_path)
    images = read_images(images_folder)
    assert write_image_shards(images, tmp_path / "out", stages, ImageShards(), console) == 3
    assert "broken.jpg is no image, too large, or not there: left out" in capsys.readouterr().out.replace("\n", "")
    (path,) = (tmp_path / "out" / "train").glob("*.parquet")
    rows = {row["title"]: row for row in pq.read_table(path).to_pylist()}
    assert [hand["side"] for hand in rows["all.jpg"]["hands"]] == sides
    assert all(np.isfinite(hand["keypoints"]).all() and hand["sources"][0] == PEOPLE for hand in rows["all.jpg"]["hands"])
    assert len(rows["one.jpg"]["hands"]) == 1
    assert len(rows["one.jpg"]["ignore_boxes"]) >= 1
    assert len(rows["none.jpg"]["hands"]) == 2
    assert rows["one.jpg"]["licence"] == "MIT"
    assert rows["one.jpg"]["channel"] == "media, tier a"
    before = path.stat().st_mtime_ns
    assert write_image_shards(images, tmp_path / "out", stages, ImageShards(), console) == 0
    assert path.stat().st_mtime_ns == before
    frames = Frames(dataset=Dataset.open(tmp_path / "out", "train", tmp_path / "cache"), size=64)
    assert len(frames) == 3
    assert set(frames.labels([0, 1, 2])["side"]) == {0, 1}


def test_only_shards_that_were_written_here_and_hold_nothing_any_more_are_removed(folder: tuple[Path, list[int]], tmp_path: Path) -> None:
    console, stages = Console(quiet=True), recipe(Manifest.empty(), tmp_path)
    (one,) = (image for image in read_images(folder[0]) if image.name == "all.jpg")
    out, train = tmp_path / "out", tmp_path / "out" / "train"
    write_image_shards([one], out, stages, ImageShards(), console)
    (path,) = train.glob("*.parquet")
    write_image_shards([replace(one, group="other", split="val")], out, stages, ImageShards(), console)
    assert path.exists(), "of a split that was not asked for"
    with pytest.raises(ValueError, match=r"group all lies in test now and in .*/out/train by an earlier import"):
        write_image_shards([replace(one, split="test")], out, stages, ImageShards(), console)
    assert not (out / "test").exists()
    both = [replace(one, name=f"{number}.jpg") for number in range(2)]
    foreign = train / "mine-00000-of-00002.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata({"fingerprint": "-", "split": "train"}), foreign)
    with pytest.raises(ValueError, match=r"1 images of .*/out are not among those named, the first all\.jpg"):
        write_image_shards(both, out, stages, ImageShards(images_a_shard=1), console)
    assert path.exists(), "a disk may be half mounted"
    write_image_shards(both, out, stages, ImageShards(images_a_shard=1), console, leave=True)
    assert not path.exists()
    assert foreign.exists()


def test_an_image_that_declares_too_much_is_left_out_and_counted_in_a_folder_named_from_here(
    folder: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    os.mkfifo(tmp_path / "pipe.png")
    (one,) = (image for image in read_images(folder[0]) if image.name == "all.jpg")
    odd = [replace(one, name=name, path=tmp_path / name) for name in ("bomb.png", "pipe.png")]
    stages = recipe(Manifest.empty(), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert write_image_shards([one, *odd], Path("out"), stages, ImageShards(), Console(quiet=True)) == 1
    assert (tmp_path / "out" / "index.json").exists()
    assert num_left_out([one, *odd], Path("out")) == 2
    assert all(read_image(image.path, cv2.IMREAD_COLOR) is None for image in odd)


def test_labels_of_another_size_than_the_image_has_are_left_out(
    folder: tuple[Path, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Drawn on a photograph that EXIF turns, or on a smaller copy: their boxes lay elsewhere, and nobody was told."""
    (one,) = (image for image in read_images(folder[0]) if image.name == "all.jpg")
    assert one.size is not None
    turned = replace(one, name="turned", size=one.size[::-1])
    stages = recipe(Manifest.empty(), tmp_path)
    assert write_image_shards([one, turned], tmp_path / "out", stages, ImageShards(), Console(soft_wrap=True)) == 1
    wide, high = map(int, one.size)
    assert f"all.jpg is {wide}x{high} as it is stored, its labels are of {high}x{wide}: left out" in capsys.readouterr().out
    assert num_left_out([one, turned], tmp_path / "out") == 1


def test_the_command_names_what_it_cannot_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images.jsonl").write_text("{}\n")
    assert whim.main(["import", "images", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "images.jsonl, line 1 is no label of an image" in capsys.readouterr().err.replace("\n", "")
    assert not (tmp_path / "out").exists()


def label(box: list[list[float]], *, exhaustive: bool, labelled: bool = True) -> LabelledImage:
    return LabelledImage(
        path=Path("i.jpg"),
        name="i",
        group="g",
        split="train",
        box=np.array(box, np.float64).reshape(-1, 4),
        side=np.full(len(box), -1),
        ignore=np.zeros((0, 4)),
        labelled=labelled,
        exhaustive=exhaustive,
    )


def seen(*hands: tuple[list[float], float, bool]) -> Candidates:
    """Right hands of box, score and whether the fusion took them for hands."""
    box, score, is_hand = zip(*hands, strict=True)
    return Candidates(
        box=np.array(box),
        score=np.array(score),
        side=np.ones(len(box), np.int64),
        keypoints=np.zeros((len(box), 21, 3)),
        sources=[["mediapipe"]] * len(box),
        is_hand=np.array(is_hand),
    )


HERE, THERE, ELSEWHERE = [0.0, 0, 20, 20], [40.0, 40, 60, 60], [80.0, 0, 99, 20]


def test_what_nobody_drew_is_ignored_where_somebody_is_unsure() -> None:
    found = seen((HERE, 0.9, True), (THERE, 0.9, True), (ELSEWHERE, 0.1, False))
    drawn = joined(label([HERE], exhaustive=True), found, {}, People.empty(), Trust())
    assert drawn.side.tolist() == [1]
    assert drawn.ignore.tolist() == [THERE]  # all are drawn: what was refused is background, what was taken for a hand may be one
    some = joined(label([HERE], exhaustive=False), found, {}, People.empty(), Trust())
    assert some.ignore.tolist() == [THERE, ELSEWHERE]


def somebody(*wrists: tuple[float, float], seen: float = 0.9) -> People:
    """A person of score .9 whose forearms of 20 pixels hang down to wrists; a hand is some 15 pixels long."""
    person = columns(People, 1, score=0.9)
    assert isinstance(person, People)
    keypoints = np.zeros((1, 17, 3), np.float32)
    for elbow, wrist, (x, y) in zip(ELBOWS, WRISTS, wrists, strict=True):
        keypoints[0, [elbow, wrist]] = [[x, y - 20, seen], [x, y, seen]]
    return replace(person, keypoints=keypoints)


def test_a_wrist_at_which_nobody_saw_a_hand_is_ignored() -> None:
    """The hand below one wrist was seen; below the other one there may be one, unless all hands are drawn or the wrist is a guess."""
    both = somebody((10.0, 5.0), (70.0, 5.0))
    (ignored,) = seen_alone(label([], exhaustive=False, labelled=False), seen((HERE, 0.9, True)), both, Trust()).ignore
    assert ignored[0] < 70 < ignored[2]
    assert ignored[1] < 12 < ignored[3]
    assert 10 < ignored[2] - ignored[0] < 60
    some = joined(label([HERE], exhaustive=False), seen((HERE, 0.9, True)), {}, both, Trust())
    assert some.ignore.tolist() == [ignored.tolist()]
    assert len(joined(label([HERE], exhaustive=True), seen((HERE, 0.9, True)), {}, both, Trust()).ignore) == 0
    guessed = somebody((10.0, 5.0), (70.0, 5.0), seen=0.4)
    assert len(seen_alone(label([], exhaustive=False, labelled=False), seen((HERE, 0.9, True)), guessed, Trust()).ignore) == 0


def test_keypoints_that_people_marked_are_taken_before_those_that_anybody_saw() -> None:
    """The ensemble fills what they left out, and the side where they said none."""
    marked = np.full((1, 21, 3), np.nan)
    marked[0, :20] = [7, 8, 1]
    drawn = replace(label([HERE], exhaustive=True), keypoints=marked)
    taught = joined(drawn, seen((HERE, 0.9, True)), {}, People.empty(), Trust())
    assert taught.keypoints[0, :20].tolist() == [[7, 8, 1]] * 20
    assert taught.keypoints[0, 20].tolist() == [0, 0, 0]
    assert taught.side.tolist() == [1]


def test_the_ensemble_alone_teaches_what_it_is_sure_of() -> None:
    found = seen((HERE, 0.9, True), (THERE, 0.4, True), (ELSEWHERE, 0.1, False))
    taught = seen_alone(label([], exhaustive=False, labelled=False), found, People.empty(), Trust())
    assert taught.box.tolist() == [HERE]
    assert taught.ignore.tolist() == [THERE, ELSEWHERE]
    with pytest.raises(ValueError, match=r"import_images.sure_score must lie in \[0, 1\], got 2"):
        Trust(sure_score=2)


def test_a_file_is_stored_as_it_is_only_where_it_is_a_plain_jpeg() -> None:
    """A PNG called .jpg was put into the shard as it is, and training found a corrupt sample; a turned photo was shown turned elsewhere."""
    image = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    encoded = {ending: cv2.imencode(ending, image)[1].tobytes() for ending in (".jpg", ".png")}
    grey = cv2.imencode(".jpg", image[..., 0])[1].tobytes()
    exif = b"\xff\xe1" + struct.pack(">H", 8) + b"Exif\0\0"
    assert is_plain_jpeg(encoded[".jpg"])
    assert is_plain_jpeg(grey)
    assert not is_plain_jpeg(encoded[".png"])
    assert not is_plain_jpeg(encoded[".jpg"][:2] + exif + encoded[".jpg"][2:])
    assert not is_plain_jpeg(b"")
