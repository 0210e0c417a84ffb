"""Whole labelled clips: what is read, what is refused, and that every figure counts what it says."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hands.metrics.clip_labels import LabelledClip, load_clips
from hands.metrics.labelled_clips import ClipCounts, count_clip, score_clips
from stages.tables import LEFT, RIGHT, Hands

SHIPPED = Path(__file__).parents[1] / "data" / "clips" / "clips.jsonl"
A, B, FAR = (100, 100, 200, 200), (300, 100, 400, 200), (600, 300, 700, 400)
CLIP = {"video": "v.mp4", "sha256": "0" * 64, "width": 1000, "height": 500, "duration_s": 4.0, "persons": ["a", "b"]}


def hand(
    name: str = "a-left", person: str = "a", side: str | None = "left", start_s: float = 0.0, end_s: float = 4.0, boxes: Any = ((0.0, *A),)
) -> Mapping[str, object]:
    return {"video": "v.mp4", "hand": name, "person": person, "side": side, "start_s": start_s, "end_s": end_s, "boxes": boxes}


def ignore(start_s: float = 0.0, end_s: float = 4.0, boxes: Any = ()) -> Mapping[str, object]:
    return {"video": "v.mp4", "ignore": "because", "start_s": start_s, "end_s": end_s, "boxes": boxes}


def write(folder: Path, *lines: Mapping[str, object] | str, header: object = None) -> Path:
    items = [{"format": "whim-clips/1"} if header is None else header, CLIP, *lines]
    path = folder / "clips.jsonl"
    path.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in items), errors="surrogateescape")
    return path


def clip(folder: Path, *lines: Mapping[str, object]) -> LabelledClip:
    return load_clips(write(folder, *lines))[0]


def found(*rows: tuple[int, tuple[float, ...], int, int], person: int = -1) -> Hands:
    """Hands as (frame, box, side, track)."""
    known = {"frame": [f for f, _, _, _ in rows], "box": [b for _, b, _, _ in rows], "side": [s for _, _, s, _ in rows],
             "track": [t for _, _, _, t in rows], "person": [person] * len(rows), "score": [0.9] * len(rows)}  # fmt: skip
    columns = {}
    for name, column in vars(Hands.empty()).items():
        blank = np.full((len(rows), *column.shape[1:]), "" if column.dtype == object else 0, column.dtype)
        columns[name] = np.array(known[name], column.dtype).reshape(blank.shape) if name in known else blank
    return Hands(**columns)


def count(labels: LabelledClip, hands: Hands, num_frames: int = 4, rate: float = 5.0) -> ClipCounts:
    frame = np.arange(num_frames)
    return count_clip(labels, frame, frame / rate, hands)


def test_boxes_are_linear_between_keys_and_still_beyond(tmp_path: Path) -> None:
    labels = clip(tmp_path, hand(start_s=1.0, end_s=3.0, boxes=[(1.5, *A), (2.5, *B)]))
    assert len(labels.at(0, 0.9)[0].box) == len(labels.at(0, 3.0)[0].box) == 0, "outside the stretch nothing is labelled"
    assert labels.at(0, 1.0)[0].box.tolist() == [list(A)]
    assert labels.at(0, 2.0)[0].box.tolist() == [[200, 100, 300, 200]]
    assert labels.at(0, 2.9)[0].box.tolist() == [list(B)]
    assert labels.at(0, 2.0)[1][0].hand == "a-left"


def test_what_is_ignored_begins_with_its_first_frame_and_ends_before_its_last(tmp_path: Path) -> None:
    labels = clip(tmp_path, ignore(1.0, 2.0, [(1.0, *A), (2.0, *B)]), ignore(3.0, 4.0))
    assert [len(labels.at(0, time_s)[0].ignore) for time_s in (0.9, 1.0, 1.9, 2.0, 3.0, 4.0)] == [0, 1, 1, 0, 1, 0]
    assert labels.at(0, 1.5)[0].ignore.tolist() == [[200, 100, 300, 200]]
    assert labels.at(0, 3.5)[0].ignore.tolist() == [[-1000, -500, 2000, 1000]], "the frame, and what lies across its border"
    label = labels.at(7, 1.5)[0]
    assert (label.name, label.frame, label.width, label.height, label.num_persons) == ("v.mp4#7", 7, 1000, 500, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (hand(start_s=3.0, boxes=[(3.0, *A)]), r":4: hand 'a-left' overlaps its own stretch of .*:3"),
        (hand("other", person="c"), r":4: unknown person 'c': v.mp4 has a, b"),
        (hand("other", person="b", side="both"), r":4: side must be left, right or null, got 'both'"),
        (hand("other"), r":4: person 'a' has two hands of one side: 'a-left' and 'other'"),
        ({**hand("other", person="b"), "video": "w.mp4"}, r":4: unknown video 'w.mp4'"),
        (hand(person="b", start_s=5.0, end_s=6.0, boxes=[(5.0, *A)]), r":4: hand 'a-left' has another person or side than in .*:3"),
        (hand("other", person="b", start_s=2.0, end_s=1.0), r":4: a stretch must start before it ends"),
        (hand("other", person="b", boxes=[(0.0, 5, 5, 5, 9)]), r":4: a box must be"),
        (hand("other", person="b", boxes=[(1.0, *A), (0.5, *A)]), r":4: the key times of the boxes must rise"),
        (hand("other", person="b", boxes=[(1.0, *A), (1.0, *B)]), r":4: the key times of the boxes must rise"),
        (hand("other", person="b", start_s=1.0, boxes=[(0.0, *A)]), r":4: the boxes lie at 0.0 to 0.0 s, outside"),
        (
            hand("other", person="b", start_s=1.0, end_s=2.0, boxes=[(1.5, *A), (3.0, *A)]),
            r":4: the boxes lie at 1.5 to 3.0 s, outside the stretch 1.0 to 2.0",
        ),
        (hand("other", person="b", boxes=[]), r":4: a hand needs a box"),
        ({k: v for k, v in hand().items() if k != "end_s"}, r":4: 'end_s' is missing"),
        (CLIP, r":4: v.mp4 is described twice, first in .*:2"),
        ("{", r":4: not JSON"),
        ("\udcff", r":4: not JSON"),
        ("[" * 100_000, r":4: not JSON"),
        ({**CLIP, "video": "w.mp4", "width": float("inf")}, r":4: OverflowError"),
        (hand("other", person="b", boxes=[(0.0, 5, 5, 10**400, 9)]), r":4: int too large"),
        ("[1]", r":4: not a JSON object"),
    ],
)
def test_a_bad_line_is_named_in_one_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, hand(end_s=3.5), line)
    with pytest.raises(ValueError, match=message) as raised:
        load_clips(path)
    assert len(str(raised.value).splitlines()) == 1


def test_an_empty_line_says_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, hand())
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert [one.video for one in load_clips(path)] == ["v.mp4"]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, hand("x", person="c"), hand("y", person="d"))
    with pytest.raises(ValueError, match="'c'") as raised:
        load_clips(path)
    assert [line.split(":")[1] for line in str(raised.value).splitlines()] == ["3", "4"]


def test_another_file_or_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, hand())
    with pytest.raises(ValueError, match=r"v.mp4 is not there"):
        load_clips(path, tmp_path)
    (tmp_path / "v.mp4").write_bytes(b"another film")
    with pytest.raises(ValueError, match=r"another file than the one that was labelled: its sha256 is not 0{12}\.\.\."):
        load_clips(path, tmp_path)
    digest = hashlib.sha256(b"another film").hexdigest()
    two = write(tmp_path, hand(), CLIP | {"video": "w.mp4"}, header=None)
    two.write_text(two.read_text().replace("0" * 64, digest))
    with pytest.raises(ValueError, match=r"^[^\n]*:4: [^\n]*w\.mp4 is not there$"):
        load_clips(two, tmp_path)
    with pytest.raises(ValueError, match=r"whim-clips/1.* found \{'format': 'handmedia-bench/1'\}"):
        load_clips(write(tmp_path, header={"format": "handmedia-bench/1"}))


def test_found_false_and_missed_hands_are_counted_by_frame(tmp_path: Path) -> None:
    labels = clip(tmp_path, hand(), ignore(0.0, 4.0, [(0.0, *FAR)]), ignore(0.55, 0.7))
    counts = count(labels, found((0, A, LEFT, 0), (0, B, LEFT, 1), (1, FAR, LEFT, 2), (3, B, LEFT, 3)))
    assert (counts.num_frames, counts.num_hands, counts.num_found, counts.num_false) == (3, 3, 1, 1), "frame 3 is ignored"
    figures = counts.figures()
    assert figures["recall"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["false_per_100"] == pytest.approx(100 / 3, abs=1e-3)


def test_a_wrong_side_is_one_and_an_open_side_is_none(tmp_path: Path) -> None:
    labels = clip(tmp_path, hand(), hand("b-right", person="b", side="right", boxes=[(0.0, *B)]))
    counts = count(labels, found((0, A, LEFT, 0), (0, B, LEFT, 1), (1, A, -1, 0), (1, B, RIGHT, 1)))
    assert (counts.num_judged, counts.num_wrong_side, counts.num_unknown_side) == (4, 1, 1)


def test_clasped_hands_are_found_and_not_judged(tmp_path: Path) -> None:
    both = hand("a-right", side="right", boxes=[(0.0, 105, 100, 205, 200)])
    counts = count(clip(tmp_path, hand(), both), found((0, (103, 100, 203, 200), RIGHT, 0)), 1)
    assert (counts.num_found, counts.num_judged, counts.num_wrong_side) == (1, 0, 0)


def test_two_equal_sides_of_one_person_are_a_pair(tmp_path: Path) -> None:
    mine = hand("a-right", side="right", boxes=[(0.0, *B)])
    theirs = hand("b-left", person="b", boxes=[(0.0, *B)])
    two = found((0, A, LEFT, 0), (0, B, LEFT, 1))
    assert count(clip(tmp_path, hand(), mine), two, 1).same_side_pairs == 1
    assert count(clip(tmp_path, hand(), theirs), two, 1).same_side_pairs == 0
    told = found((0, A, LEFT, 0), (0, FAR, LEFT, 1), person=3)
    assert count(clip(tmp_path, hand()), told, 1).same_side_pairs == 1, "a false hand that a person is given counts too"
    assert count(clip(tmp_path, hand(), mine), found((0, A, LEFT, 0), (0, B, -1, 1)), 1).same_side_pairs == 0


def test_a_swap_is_two_switches_and_a_jump_is_one(tmp_path: Path) -> None:
    right = hand("a-right", side="right", boxes=[(0.0, *B)])
    swap = found((0, A, LEFT, 0), (0, B, RIGHT, 1), (1, A, LEFT, 1), (1, B, RIGHT, 0), (2, A, LEFT, 1), (2, B, RIGHT, 0))
    assert count(clip(tmp_path, hand(), right), swap).identity_switches == 2
    jump = found((0, A, LEFT, 0), (1, B, LEFT, 0), (2, B, LEFT, 0))
    assert count(clip(tmp_path, hand(), right), jump).identity_switches == 1
    renamed = found((0, A, LEFT, 0), (1, A, LEFT, 1))
    assert count(clip(tmp_path, hand()), renamed).identity_switches == 1


def test_a_hand_that_was_lost_or_away_may_come_back_as_another_track(tmp_path: Path) -> None:
    lost = found((0, A, LEFT, 0), (9, A, LEFT, 1))
    counts = count(clip(tmp_path, hand()), lost, 10)
    assert (counts.identity_switches, counts.track_breaks) == (0, 1)
    away = clip(tmp_path, hand(end_s=0.3), hand(start_s=0.35, boxes=[(0.35, *A)]))
    counts = count(away, found((0, A, LEFT, 0), (2, A, LEFT, 1)))
    assert (counts.identity_switches, counts.track_breaks) == (0, 0)


def test_a_hand_is_lost_after_more_than_0_6_s(tmp_path: Path) -> None:
    labels = clip(tmp_path, hand())
    for first, then, told in ((0, 3, (1, 0)), (0, 4, (0, 1)), (2, 4, (1, 0))):
        counts = count(labels, found((first, A, LEFT, 0), (then, A, LEFT, 1)), 6)
        assert (counts.identity_switches, counts.track_breaks) == told, then


def test_a_hand_of_no_known_side_is_found_and_its_side_not_judged(tmp_path: Path) -> None:
    counts = count(clip(tmp_path, hand(side=None)), found((0, A, LEFT, 0), (1, A, -1, 0)), 2)
    assert (counts.num_found, counts.num_judged, counts.num_wrong_side, counts.num_unknown_side) == (2, 0, 0, 0)


def test_hands_are_dealt_by_the_sum_of_their_overlaps_of_0_3_or_more(tmp_path: Path) -> None:
    assert count(clip(tmp_path, hand()), found((0, (100, 100, 130, 200), LEFT, 0)), 1).num_found == 1
    two = clip(tmp_path, hand(boxes=[(0.0, 0, 0, 100, 100)]), hand("b-left", person="b", boxes=[(0.0, 0, 0, 31, 90)]))
    counts = count(two, found((0, (0, 0, 100, 90), LEFT, 0), (0, (0, 68, 100, 100), LEFT, 1)), 1)  # .9 and .31; .32 and .13
    assert (counts.num_found, counts.num_false) == (1, 1)


def test_figures_by_hand() -> None:
    nothing = ClipCounts()
    assert set(asdict(nothing).values()) == {0}
    assert set(nothing.figures().values()) == {None}
    counts = ClipCounts(
        num_frames=7, num_hands=5, num_found=3, num_false=1, num_judged=3, num_wrong_side=1, num_unknown_side=2, identity_switches=3
    )
    assert counts.figures() == {
        "recall": 0.6,
        "precision": 0.75,
        "wrong_side": 0.3333,
        "unknown_side": 0.6667,
        "false_per_100": 14.2857,
        "identity_switches_per_1000": 428.5714,
    }


def test_clips_add_up_and_each_stands_by_itself(tmp_path: Path) -> None:
    labels = clip(tmp_path, hand())
    frames = (np.arange(2), np.arange(2) / 5)
    score = score_clips([labels, labels], [frames, frames], [found((0, A, LEFT, 0)), found((0, A, RIGHT, 0), (0, FAR, LEFT, 1))])
    assert (score.total.num_frames, score.total.num_found, score.total.num_false) == (4, 2, 1)
    written = json.loads(score.to_json())
    assert written["wrong_side"] == 0.5
    assert written["by_video"]["v.mp4"]["false_per_100"] == 25
    assert json.loads(score_clips([], [], []).to_json())["recall"] is None


def test_the_shipped_clips_are_those_of_the_media(media: Path) -> None:
    clips = load_clips(SHIPPED, media)
    two = [c for c in clips if len({s.hand for s in c.hands}) > 1]
    assert len(two) >= 8
    assert any(len(c.persons) > 1 for c in clips)
    assert all(s.box[:, 0].min() > -c.width / 10 and s.box[:, 2].max() < 1.1 * c.width for c in clips for s in c.hands)
    assert all(s.end_s < c.duration_s + 0.2 for c in clips for s in c.hands)
