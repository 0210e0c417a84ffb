"""What a person decided reaches the shards: so much of the chain runs again, and so much of a shard changes, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.browse.decisions import lost_verdicts
from pipeline.engine.files.corrupt import set_corrupt_aside
from pipeline.engine.finish import Where, finish
from pipeline.engine.store import Store
from pipeline.engine.verdicts import change_verdicts, read_verdicts
from pipeline.engine.verify import set_damaged_aside, verify
from pipeline.folder import Asked, load
from stages.digest import CorruptFileError
from stages.tables import Fits, Hands, Reviews, Verdicts
from stages.verdicts import What
from tests.pipeline.browse.small_run import run_again

VIDEO, CLIP = "asl_bird", "asl_bird-0000"
DECIDED = ("side", "sources", "source_scores", "source_scores_raw", "source_boxes")
FITTED = set(Fits.schema().names) - {"video", "frame", "time_s", "hand", "side"}


def verdict(hands: Hands, row: int, what: What, **more: Any) -> Verdicts:
    one = hands.take(slice(row, row + 1))
    blank = {"to_box": np.full((1, 4), np.nan, np.float32), "to_side": np.array([-1], np.int8), "when_s": np.array([1e9])}
    texts = {"fingerprint": "f", "decision": f"{what}-{row}", "who": "ann", "what": str(what), "undoes": "", "audit": ""}
    columns = {name: getattr(one, name) for name in ("video", "frame", "time_s", "hand", "box", "side")}
    given = {n: np.array([v], object) if isinstance(v, str) else np.asarray(v) for n, v in (texts | more).items()}
    return Verdicts(**columns | blank | given)


def decide(store: Store, *new: Verdicts) -> None:
    change_verdicts(store, VIDEO, lambda known: Verdicts.concat([known, *new]))


def frames(root: Path) -> dict[str, dict[str, Any]]:
    """The rows of the one shard by sample."""
    (shard,) = (root / "shards").glob("*/*.parquet")
    return {row["sample"]: row for row in pq.read_table(shard).to_pylist()}


def differing(before: dict[str, Any], after: dict[str, Any]) -> dict[tuple[str, int], set[str]]:
    """Columns that differ, by sample and hand; whole columns of the frame under hand -1."""
    found: dict[tuple[str, int], set[str]] = {}
    for sample in before.keys() | after.keys():
        one, other = before.get(sample, {}), after.get(sample, {})
        for name in (one.keys() | other.keys()) - {"hands"}:
            if repr(one.get(name)) != repr(other.get(name)):
                found.setdefault((sample, -1), set()).add(name)
        hands = [{hand["hand"]: hand for hand in row.get("hands", [])} for row in (one, other)]
        for hand in hands[0].keys() | hands[1].keys():
            left, right = hands[0].get(hand, {}), hands[1].get(hand, {})
            if names := {name for name in left.keys() | right.keys() if repr(left.get(name)) != repr(right.get(name))}:
                found.setdefault((sample, hand), set()).update(names)
    return found


def sample_of(hands: Hands, row: int) -> tuple[str, int]:
    return f"{VIDEO}/{hands.frame[row]}", int(hands.hand[row])


def test_each_decision_changes_its_hand_and_nothing_else_and_undo_brings_back_the_bytes(data: Path) -> None:
    store, before = Store(data), frames(data)
    (shard,) = (data / "shards").glob("*/*.parquet")
    first_bytes = shard.read_bytes()
    hands = store.read(Hands, "hands", CLIP)
    assert run_again(data) == []
    one, two, three, four = range(4)
    assert store.read(Reviews, "reviews", CLIP).keep[:4].all()
    moved = hands.box[three] + np.float32(12)
    drawn = np.array([[5, 6, 60, 70]], np.float32)
    decisions = [
        verdict(hands, one, What.REJECT),
        verdict(hands, two, What.LANDMARKS),
        verdict(hands, three, What.BOX, to_box=moved[None]),
        verdict(hands, four, What.KEEP),
        verdict(hands, four, What.ADD, box=drawn, to_box=drawn, to_side=np.array([0], np.int8), hand=np.array([-1], np.int16)),
    ]
    decide(store, *decisions)
    made = run_again(data)
    assert made == [("review", CLIP), ("pack", "train/train-00000-of-00001")]
    after = frames(data)
    changed = differing(before, after)
    assert changed.pop(sample_of(hands, one)) == set(before[sample_of(hands, one)[0]]["hands"][0])  # it is gone
    assert after[sample_of(hands, one)[0]]["ignore_boxes"] == [hands.box[one].tolist()]
    assert changed.pop((sample_of(hands, one)[0], -1)) == {"ignore_boxes"}
    landmarks = changed.pop(sample_of(hands, two))
    assert {"keypoints", "hand_pose", "box_only"} <= landmarks
    assert not landmarks & {"box", "side", "sources", "quality", "keep"}
    assert changed.pop(sample_of(hands, three)) == {"box", *DECIDED} - {"side"}
    assert next(h for h in after[sample_of(hands, three)[0]]["hands"] if h["hand"] == hands.hand[three])["box"] == moved.tolist()
    assert changed.pop(sample_of(hands, four)) == set(DECIDED) - {"side"}
    ((sample, number), _) = changed.popitem()
    added = next(hand for hand in after[sample]["hands"] if hand["hand"] == number)
    assert (sample, added["box"], added["side"], added["sources"], added["keep"]) == (
        f"{VIDEO}/{hands.frame[four]}", drawn[0].tolist(), 0, ["person"], True,
    )  # fmt: skip
    assert np.isnan(added["keypoints"]).all()
    assert not changed
    assert not verify(data).corrupt
    decide(store, *(verdict(hands, 0, What.UNDO, decision=f"u{i}", undoes=str(d.decision[0])) for i, d in enumerate(decisions)))
    assert run_again(data) == [("review", CLIP), ("pack", "train/train-00000-of-00001")]
    assert shard.read_bytes() == first_bytes
    assert len(read_verdicts(store, VIDEO)) == 10  # nothing that anybody said is lost


def test_a_hand_on_its_other_side_is_fitted_anew_and_nothing_else_is(data: Path) -> None:
    store, before = Store(data), frames(data)
    hands = store.read(Hands, "hands", CLIP)
    alone = int(np.argmax(hands.track == hands.track[0]))
    track = np.flatnonzero(hands.track == hands.track[alone])
    other = 1 - hands.side[track]
    decide(store, *(verdict(hands, int(r), What.SIDE, to_side=np.array([s], np.int8)) for r, s in zip(track, other, strict=True)))
    assert run_again(data) == [("fit", CLIP), ("review", CLIP), ("pack", "train/train-00000-of-00001")]
    fits = store.read(Fits, "fits", CLIP)
    assert fits.side[track].tolist() == other.tolist()
    assert np.isin(fits.outcome[track].astype(str), ("converged", "stalled")).all()
    after = frames(data)
    changed = differing(before, after)
    touched = {sample_of(hands, int(row)) for row in track}
    assert {key for key in changed if key[1] >= 0} <= touched
    for row in track:
        sample, number = sample_of(hands, int(row))
        hand = next((hand for hand in after[sample]["hands"] if hand["hand"] == number), None)
        if hand is not None:  # the fit of a wrong side may be dropped by the review
            assert hand["side"] == 1 - hands.side[row]
            assert changed[sample, number] <= {*DECIDED, *FITTED, "box_mesh", "quality", "keep", "reason"}


def test_a_verdict_outlives_new_numbers_and_one_without_its_hand_is_named(data: Path) -> None:
    store = Store(data)
    hands = store.read(Hands, "hands", CLIP)
    shifted, gone = verdict(hands, 0, What.REJECT), verdict(hands, 1, What.REJECT)
    shifted = Verdicts(
        **vars(shifted) | {"hand": np.array([7], np.int16), "box": shifted.box + np.float32(3), "fingerprint": np.array(["older"], object)}
    )
    decide(store, shifted, Verdicts(**vars(gone) | {"box": gone.box + np.float32(4000)}))
    assert run_again(data) == [("review", CLIP), ("pack", "train/train-00000-of-00001")]
    reviews = store.read(Reviews, "reviews", CLIP)
    assert reviews.reason[:2].tolist() == ["rejected", ""]
    lost = lost_verdicts(store)
    assert lost.what.tolist() == ["reject"]
    assert lost.box[0, 0] == gone.box[0, 0] + 4000


def test_a_decision_while_its_clip_is_worked_on_is_not_half_taken(data: Path) -> None:
    """The recipe of a part says what was decided: another decision since is told, and the run takes it up at its end."""
    store = Store(data)
    hands = store.read(Hands, "hands", CLIP)
    decide(store, verdict(hands, 0, What.REJECT))
    graph = load(data, Asked()).graph
    decide(store, verdict(hands, 1, What.REJECT))
    ended: list[tuple[str, str]] = []
    finish(graph, Where(local=True), on_outcome=lambda task, outcome: ended.append((str(outcome.state), str(outcome.reason))))
    assert ended[0] == ("retry", "decided")
    assert ended[-1][0] == "done"
    assert run_again(data) == []
    assert (store.read(Reviews, "reviews", CLIP).reason[:2] == "rejected").all()


def test_damaged_verdicts_are_told_and_never_passed_over(data: Path) -> None:
    store = Store(data)
    decide(store, verdict(store.read(Hands, "hands", CLIP), 0, What.REJECT))
    part = store.part("verdicts", VIDEO)
    content = bytearray(part.read_bytes())
    content[content.index(VIDEO.encode())] ^= 4
    part.write_bytes(content)
    found = verify(data)
    assert list(found.corrupt) == [f"verdicts/{VIDEO}.parquet"]
    assert set_damaged_aside(data, found) == []  # no run would make it again
    set_corrupt_aside(store, part)
    assert part.read_bytes() == content
    with pytest.raises(CorruptFileError, match="put a copy in its place"):
        load(data, Asked())
