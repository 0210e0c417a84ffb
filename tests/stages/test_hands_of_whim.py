"""The official layout of labels, laid on rendered video: as told, 3 frames off, at another rate and size, and scrambled."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.fusion.synchrony import RATES, synchrony
from stages.hands_of_whim import HandsOfWhim, labelled, read_label
from stages.media.frames import Frames
from stages.stage import Failure, Reason
from stages.tables import HandDetections, Hands
from tests.engine.toy import filled

RATE, WIDTH, HEIGHT = 30.0, 640, 480
FOCAL = 800.0


def hand_at(time_s: float) -> np.ndarray:
    """A hand's box that moves through the frame, pixels of 640 x 480."""
    x, y = 300 + 200 * np.sin(2.1 * time_s), 240 + 100 * np.cos(3.3 * time_s)
    return np.array([x - 40, y - 40, x + 40, y + 40])


def label(time_s: float) -> dict[str, Any]:
    """The hand as WHIM's files have it: joints about the box's centre, a metre before the camera."""
    box = hand_at(time_s)
    centre = (box[:2] + box[2:]) / 2
    joints = np.random.default_rng(0).uniform(-0.04, 0.04, (21, 3))
    trans = np.array([*((centre - [WIDTH / 2, HEIGHT / 2]) / FOCAL), 1.0])
    camera = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return {"bbox": box, "joints_3d": joints, "trans": trans, "K": camera, "side": np.float64(0.0), "mano": {"betas": np.zeros(10)}}


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text(f"v split=train fps={RATE:g} frames=300 size={WIDTH}x{HEIGHT}\n")
    return path


def write(folder: Path, times: dict[int, float]) -> Path:
    """Label files by number, of the moment that each shows."""
    place = folder / "train" / "anno" / "v"
    place.mkdir(parents=True)
    for number, time_s in times.items():
        hands = np.empty(1, object)
        hands[0] = label(time_s)
        np.save(place / f"{number:06d}.npy", hands, allow_pickle=True)
    return folder


def shown(scale: float = 1.0, *, at: float = 0.0) -> tuple[Frames, HandDetections]:
    """Five frames a second of the film, and where our detector sees its hand: a little larger than labelled."""
    times = at + np.arange(20) / 5
    image = np.zeros((round(HEIGHT * scale), round(WIDTH * scale), 3), np.uint8)
    frames = Frames(video="v", frame=np.arange(20) * 6, time_s=times, images=[image] * 20)
    box = (np.array([hand_at(t) for t in times]) + np.array([-5, -5, 5, 5])) * scale
    return frames, replace(filled(HandDetections, 20), frame=frames.frame, box=box.astype(np.float32))


def laid(folder: Path, listed: Path, scale: float = 1.0, *, at: float = 0.0) -> Hands | Failure:
    return HandsOfWhim(annotations=str(folder), listed=str(listed)).build()(*shown(scale, at=at))


def check(hands: Hands | Failure, scale: float = 1.0) -> None:
    """Every label lies on the moment that it shows."""
    assert isinstance(hands, Hands)
    assert len(hands) >= 15
    for time_s, box, keypoints in zip(hands.time_s, hands.box, hands.keypoints, strict=True):
        np.testing.assert_allclose(box, hand_at(time_s) * scale, atol=12 * scale)
        assert (keypoints[:, :2] >= box[:2] - 5).all()
        assert (keypoints[:, :2] <= box[2:] + 5).all()
    assert set(hands.side) == {0}
    np.testing.assert_allclose(hands.world[:, 0], 0, atol=1e-6)


def test_labels_lie_on_the_frames_of_their_time_in_the_size_that_is_here(tmp_path: Path, listed: Path) -> None:
    folder = write(tmp_path, {n: n / RATE for n in range(150)})
    check(laid(folder, listed))
    check(laid(folder, listed, 1.5), 1.5)


def test_labels_that_are_three_frames_off_are_put_right(tmp_path: Path, listed: Path) -> None:
    folder = write(tmp_path, {n + 3: n / RATE for n in range(150)})
    hands = laid(folder, listed)
    check(hands)
    assert isinstance(hands, Hands)
    np.testing.assert_allclose(hands.box, [hand_at(t) for t in hands.time_s], atol=1e-3)


def test_labels_of_another_rate_are_put_right_late_in_the_film_too(tmp_path: Path, listed: Path) -> None:
    folder = write(tmp_path, {n: n / 25 for n in range(1400, 1700)})
    check(laid(folder, listed, at=58.0))


def test_scrambled_labels_are_refused_with_figures(tmp_path: Path, listed: Path) -> None:
    order = np.random.default_rng(1).permutation(150)
    refused = laid(write(tmp_path, {n: order[n] / RATE for n in range(150)}), listed)
    assert isinstance(refused, Failure)
    assert (refused.reason, refused.permanent) == (Reason.OUT_OF_STEP, True)
    told = re.search(r"overlap (\S+) as told .*, at best (\S+) \(\S+ frames/s, \S+ s\), of 20 and", refused.message)
    assert told, refused.message
    assert float(told[1]) < 0.3
    assert float(told[2]) < 0.5


def test_another_shape_an_unknown_video_and_a_damaged_label_are_named(tmp_path: Path, listed: Path) -> None:
    folder = write(tmp_path, {n: n / RATE for n in range(10)})
    frames, seen = shown()
    wide = Frames(video="v", frame=frames.frame, time_s=frames.time_s, images=[np.zeros((480, 900, 3), np.uint8)] * 20)
    refused = HandsOfWhim(annotations=str(folder), listed=str(listed)).build()(wide, seen)
    assert isinstance(refused, Failure)
    assert "900 x 480, its labels are of 640 x 480" in refused.message
    listed.write_text("other split=train\n")
    unknown = HandsOfWhim(annotations=str(folder), listed=str(listed)).build()(frames, seen)
    assert isinstance(unknown, Failure)
    assert "tells neither rate nor size of v" in unknown.message
    with pytest.raises(FileNotFoundError, match=r"hands_of_whim\.annotations"):
        HandsOfWhim().build()
    bad = folder / "train" / "anno" / "v" / "000003.npy"
    whole = bad.read_bytes()
    for damaged in (whole[:200], whole.replace(b"}", b" ", 1)):  # a header that does not end is no ValueError of numpy's
        bad.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"000003.npy is no label of WHIM"):
            read_label(bad)


def test_label_files_are_found_however_their_numbers_are_written(tmp_path: Path, listed: Path) -> None:
    folder = write(tmp_path, {n: n / RATE for n in range(150)})
    for path in (folder / "train" / "anno" / "v").iterdir():
        path.rename(path.with_name(f"{int(path.stem)}.npy"))
    check(laid(folder, listed))


@pytest.mark.parametrize("change", [{"bbox": np.zeros(8)}, {"side": 10**400}, {"trans": np.zeros(6)}, {"K": np.zeros((3, 3))}, {}])
def test_a_label_file_with_a_fault_is_named_and_its_clip_tried_again(tmp_path: Path, listed: Path, change: dict[str, Any]) -> None:
    folder = write(tmp_path, {n: n / RATE for n in range(150)})
    hands = np.empty(1, object)
    hands[0] = label(0.1) | change if change else "no dictionary"
    np.save(folder / "train" / "anno" / "v" / "000003.npy", hands, allow_pickle=True)
    refused = laid(folder, listed)
    assert isinstance(refused, Failure), "part of it would be missing"
    assert (refused.reason, refused.permanent) == (Reason.BROKEN_FILE, False)
    assert "000003.npy" in refused.message
    assert "unpack the labels again" in refused.message


def test_a_split_that_is_unpacked_later_is_laid_then(tmp_path: Path, listed: Path) -> None:
    folder = write(tmp_path / "labels", {0: 0.0})
    stage = HandsOfWhim(annotations=str(folder), listed=str(listed))
    before = stage.weights
    assert stage.weights == before
    (folder / "test" / "anno" / "w").mkdir(parents=True)
    assert stage.weights != before
    assert set(labelled(str(folder))) >= {"v", "w"}


def test_a_still_hand_leaves_labels_as_they_are_told() -> None:
    box = np.array([[10.0, 10, 50, 50]])
    found = synchrony(dict.fromkeys(range(100), box), [(k / 5, box) for k in range(10)], 30.0, 1.0)
    assert found.told.overlap == found.best.overlap == pytest.approx(1.0)


def test_labels_are_compared_with_what_is_seen_by_hand() -> None:
    """Numbers 3, 4 ... of labels at 10 a second that lie on what is seen three labels later, one of them half covered."""
    place = {number: np.array([[10.0 * number, 0, 10.0 * number + 8, 8]]) for number in range(40)}
    labels = {number: box for number, box in place.items() if number != 5} | {1: np.zeros((0, 4))}
    seen = [(k / 10, place[k + 3]) for k in range(12)]
    seen[6] = (0.6, np.concatenate([place[9], place[30]]))
    seen[7] = (0.7, np.zeros((0, 4)))
    found = synchrony(labels, seen, 10.0, 0.4)
    assert (found.told.rate, found.told.offset_s, found.told.overlap, found.told.num_frames) == (10.0, 0.0, 0.0, 9)
    assert (found.best.rate, found.best.offset_s, found.best.num_frames) == (10.0, -0.3, 10)
    assert found.best.overlap == pytest.approx(9.5 / 10)
    assert found.best.number_at(0.2) == 5
    assert str(found) == "overlap 0.00 as told (10.00 frames/s), at best 0.95 (10.00 frames/s, -0.30 s), of 9 and 10 frames"
    assert synchrony(labels, seen, 10.0, 0.2).best.overlap < 0.5, "beyond the window"
    later = [(k / 10, place[k - 3]) for k in range(3, 15)]
    assert synchrony(place, later, 10.0, 0.3).best.offset_s == pytest.approx(0.3)
    assert synchrony(place, later, 10.0, 0.2).best.overlap < 0.5, "beyond the window"
    two_fifths = synchrony({k: place[k - 6] if k > 5 else place[30] for k in range(10)}, [(k / 10, place[k]) for k in range(10)], 10.0, 0.6)
    assert two_fifths.best.num_frames >= 5, "fewer than half are not"
    few = synchrony({0: place[0], **{k: place[k + 1] for k in range(10, 20)}}, [(k / 10, place[k]) for k in range(20)], 10.0, 0.1)
    assert few.best.num_frames > 2, "one label that fits is no proof"
    half = synchrony({0: place[30], 1: place[30], 2: place[0], 3: place[1]}, [(k / 10, place[k]) for k in range(4)], 10.0, 0.2)
    assert (half.best.offset_s, half.best.overlap, half.best.num_frames) == (-0.2, 1.0, 2), "half of the frames are enough"
    np.testing.assert_allclose(RATES, [15, 23.976024, 24, 25, 29.970030, 30, 50, 59.940060, 60], atol=1e-5)
    nothing = synchrony({}, seen, 10.0, 0.1)
    assert (nothing.best.overlap, nothing.best.num_frames) == (0, 0)
