"""What people decided is found again on its hand, folded as it was meant, and never lost."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.pack import Pack
from stages.shards import Shards
from stages.tables import Clips, Hands, Verdicts
from stages.verdicts import LOST, ON_HANDS, ON_SIDES, What, decided, digest, in_clip, same_hands, standing
from tests.small_tables import clip_row, columns, render_video, source_of, video_row


def verdicts(*rows: dict[str, Any]) -> Verdicts:
    blank = {"video": "v", "to_side": -1, "side": 1, "to_box": [np.nan] * 4}
    known = [blank | {"decision": str(i)} | row for i, row in enumerate(rows)]
    found = columns(
        Verdicts, len(rows), **{name: [row[name] for row in known] for name in set().union(*known) if all(name in row for row in known)}
    )
    assert isinstance(found, Verdicts)
    return found


def hands(*boxes: tuple[float, ...], side: tuple[int, ...] = ()) -> Hands:
    found = columns(
        Hands, len(boxes), video="v", frame=3, hand=np.arange(len(boxes)), box=np.array(boxes), side=np.array(side or [1] * len(boxes))
    )
    assert isinstance(found, Hands)
    return found


def on(box: tuple[float, ...], what: What, **more: Any) -> dict[str, Any]:
    return {"frame": 3, "box": list(box), "what": str(what), "undoes": "", "hand": 0} | more


def test_what_is_undone_stands_again_when_the_undo_is_undone() -> None:
    box = (0, 0, 10, 10)
    said = [on(box, What.REJECT), on(box, What.UNDO, undoes="0"), on(box, What.UNDO, undoes="1")]
    assert [len(standing(verdicts(*said[:n]))) for n in (1, 2, 3)] == [1, 0, 1]


def test_a_hand_is_found_again_by_its_box_then_its_side_then_its_number() -> None:
    found = hands((0, 0, 10, 10), (1, 0, 11, 10), (1, 0, 11, 10), (50, 50, 60, 60), side=(1, 0, 1, 1))
    said = verdicts(
        on((0, 0, 10, 10), What.KEEP, hand=3),
        on((1, 0, 11, 10), What.KEEP, hand=1, side=0),
        on((1, 0, 11, 10), What.KEEP, hand=1, side=1),
        on((50, 50, 67, 60), What.KEEP),
        on((50, 50, 90, 60), What.KEEP),  # overlaps by a quarter: another hand
        on((0, 0, 10, 10), What.KEEP, frame=4),
    )
    assert same_hands(found, said).tolist() == [0, 1, 2, 3, LOST, LOST]


def test_a_hand_that_was_added_and_is_found_by_a_later_run_is_not_there_twice() -> None:
    drawn = on((0, 0, 10, 10), What.ADD, to_box=[0, 0, 10, 10], to_side=0, side=0, hand=-1)
    found = decided(hands((1, 1, 11, 11), side=(-1,)), verdicts(drawn))
    assert (found.keep.tolist(), found.side.tolist(), found.rows.tolist()) == ([1], [0], [0])


def test_the_digest_knows_what_was_decided_and_not_who_or_when() -> None:
    one, other = (verdicts(on((0, 0, 9, 9), What.SIDE, to_side=0, who=who)) for who in ("ann", "bob"))
    assert digest(one, ON_HANDS) == digest(other, ON_HANDS) != ""
    assert digest(one, ON_HANDS) != digest(verdicts(on((0, 0, 9, 9), What.SIDE, to_side=1)), ON_HANDS)
    assert digest(verdicts(on((0, 0, 9, 9), What.KEEP)), ON_SIDES) == ""
    assert digest(verdicts(on((0, 0, 9, 9), What.KEEP), on((0, 0, 9, 9), What.UNDO, undoes="0")), ON_HANDS) == ""


def test_a_clip_has_the_verdicts_of_its_frames() -> None:
    said = verdicts(*(on((0, 0, 9, 9), What.KEEP, frame=frame) for frame in (2, 3, 5, 6)))
    clip = columns(Clips, 1, first_frame=3, num_frames=3)
    assert isinstance(clip, Clips)
    assert in_clip(said, clip).frame.tolist() == [3, 5]


def test_hands_are_added_to_frames_that_had_none_and_one_where_nobody_looks_stops_nothing(tmp_path: Path) -> None:
    source = source_of(video_row(render_video(tmp_path / "a.mp4"), "a"), clip_row("a"))
    stage = Pack(negatives=0.0)
    before = pa.Table.from_batches(list(stage.build()([source])), schema=Shards.schema())
    bare = next(frame for frame in range(0, 40, 2) if frame not in source.hands.frame)
    drawn = {"to_box": [4, 5, 60, 70], "to_side": 1, "hand": -1, "video": "a"}
    said = verdicts(*(on((4, 5, 60, 70), What.ADD, frame=frame, **drawn) for frame in (bare, 1)))
    left_out: list[str] = []
    batches = list(stage.build()([dataclasses.replace(source, verdicts=said)], left_out))
    after = pa.Table.from_batches(batches, schema=Shards.schema())
    assert left_out[0].startswith("1 frames left out, the first a/1: ")  # every second frame is looked at
    new = after.filter(pc.equal(after["frame"], bare)).to_pylist()
    assert [(hand["box"], hand["side"], hand["sources"]) for hand in new[0]["hands"]] == [([4, 5, 60, 70], 1, ["person"])]
    rest = after.filter(pc.not_equal(after["frame"], bare))
    assert repr(rest.to_pylist()) == repr(before.to_pylist())
