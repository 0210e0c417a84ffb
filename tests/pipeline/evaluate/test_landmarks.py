"""Judged hands are read or refused by line, looked at again in their frames, and the score that ships tells wrong from right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluate.landmarks import Looked, cross_validated, evaluate, figures, learn, load_judged, look, main, write
from stages.fusion.landmark_score import load_landmark_score
from stages.tables import HAND_KEYPOINTS

SHIPPED = Path(__file__).parents[2] / "data" / "landmarks" / "landmarks.jsonl"


def line(**changes: object) -> dict[str, object]:
    known = json.loads(SHIPPED.read_text().splitlines()[1])
    return known | changes


def judged_file(folder: Path, *lines: object) -> Path:
    path = folder / "judged.jsonl"
    path.write_text("\n".join(json.dumps(one) for one in ({"format": "whim-landmarks/1"}, *lines)))
    return path


def rows_of(*files: str) -> list[dict[str, object]]:
    shipped = [json.loads(text) for text in SHIPPED.read_text().splitlines()[1:]]
    return [one for one in shipped if one["root"] == "media" and str(one["file"]).endswith(files)]


@pytest.fixture(scope="module")
def looked(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Looked:
    """Fifty hands of three short clips, looked at again."""
    folder = tmp_path_factory.mktemp("judged")
    path = judged_file(folder, *rows_of("pose_squats.mp4", "asl_book.mkv", "single_person_demo.mp4"))
    return look(load_judged(path, {"media": media, "pictures": None}))


def test_the_shipped_labels_are_those_of_the_media_and_say_what_they_should(media: Path) -> None:
    hands = load_judged(SHIPPED, {"media": media, "pictures": None})
    everything = [json.loads(text) for text in SHIPPED.read_text().splitlines()[1:]]
    assert len(everything) >= 500
    assert {one["verdict"] for one in everything} == {"right", "partly", "wrong"}
    assert len(hands) == sum(one["root"] == "media" for one in everything), "pictures are left out where they are not here"
    by_split = {split: {hand.group for hand in hands if hand.split == split} for split in ("learn", "report")}
    assert not by_split["learn"] & by_split["report"], "no video is learned on and reported on"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdict": "fine"}, r"jsonl:2: unknown verdict, split or keypoint: fine"),
        ({"split": "test"}, r"jsonl:2: unknown verdict, split or keypoint: test"),
        ({"verdict": "partly", "wrong": ["elbow"]}, r"jsonl:2: unknown verdict, split or keypoint: elbow"),
        ({"verdict": "right", "wrong": ["wrist"]}, r"jsonl:2: a hand that is right cannot have 1 wrong keypoints"),
        ({"verdict": "partly", "wrong": []}, r"jsonl:2: a hand that is partly cannot have 0 wrong keypoints"),
        ({"sha256": "0" * 64}, r"jsonl:2: .* is another file than the one that was labelled"),
        ({"file": "videos/nothing.mp4"}, r"jsonl:2: .*nothing.mp4 is not there"),
        ({"root": "attic"}, r"jsonl:2: KeyError\('attic'\)"),
    ],
)
def test_a_bad_line_is_named_in_one_line(media: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        load_judged(judged_file(tmp_path, line(**changes)), {"media": media, "pictures": None})
    assert len(str(raised.value).splitlines()) == 1


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    for content in (b'{"format": "whim-clips/1"}', b"[1]", b"\xff", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'other.jsonl:1: wanted {"format": "whim-landmarks/1"} first'):
            load_judged(path, {"media": None, "pictures": None})


def test_the_score_tells_wrong_landmarks_on_videos_that_it_was_not_learned_on(looked: Looked) -> None:
    shipped = load_landmark_score()
    of_hand = shipped.of_hands(looked.features)
    wrong = looked.column("verdict") == "wrong"
    everything = np.ones(len(wrong), bool)
    told = figures(looked, of_hand, shipped.of_keypoints(looked.spread, looked.features), everything, least=0.85)
    assert told["num_wrong"] >= 10
    assert told["auc"] > 0.9
    assert told["keypoint_auc"] > 0.85
    assert told["grossly_wrong_kept"] < told["grossly_wrong"] / 2
    assert told["right_kept"] > 0.8
    blind = figures(looked, np.full(len(wrong), 0.9), np.full((len(wrong), 21), 0.9), everything, least=0.85)
    assert blind["auc"] == 0.5
    assert blind["grossly_wrong_kept"] == blind["grossly_wrong"]


def test_what_is_learned_on_one_video_holds_on_another(looked: Looked) -> None:
    squats = looked.column("group") == "squats"
    assert squats.any()
    learned = learn(looked, squats)
    assert learned.hand[1] < 0, "a wider spread is a worse hand"
    of_hand, of_keypoint = cross_validated(looked)
    held_out = figures(looked, of_hand, of_keypoint, np.ones(len(squats), bool), least=0.5)
    assert held_out["auc"] > 0.7


def test_learning_writes_weights_that_load_and_their_figures(looked: Looked, tmp_path: Path) -> None:
    halves = replace(looked, hands=[replace(hand, split="learn" if k % 2 else "report") for k, hand in enumerate(looked.hands)])
    out = tmp_path / "landmark_score.json"
    score = write(halves, out, SHIPPED)
    np.testing.assert_allclose(load_landmark_score(out).hand, score.hand)
    written = json.loads(out.read_text())["report"]
    assert written == evaluate(halves, score)
    assert written["num_hands"] == sum(hand.split == "report" for hand in halves.hands)


def test_the_command_prints_json(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [one | {"split": "report"} for one in rows_of("asl_school.mkv")]
    main(["evaluate", "--json", "--labels", str(judged_file(tmp_path, *rows)), "--media", str(media)])
    told = json.loads(capsys.readouterr().out)
    assert told["num_hands"] == len(rows)
    assert told["num_wrong"] >= 2
    assert told["auc"] > 0.7
    assert told["grossly_wrong_kept"] < told["grossly_wrong"]


def test_landmarks_are_named_as_the_tables_name_them() -> None:
    named = {name for text in SHIPPED.read_text().splitlines()[1:] for name in json.loads(text)["wrong"]}
    assert named
    assert named <= set(HAND_KEYPOINTS)
