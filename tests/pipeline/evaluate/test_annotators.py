"""The labelled frames of the real clips are found again and scored."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from hands.metrics.labelled_clips import score_clips
from hands.metrics.labelled_frames import Score, score_hands
from hands.metrics.labels import load_labels, mirrored
from pipeline.evaluate.annotators import evaluate_hands, print_score, write_score
from pipeline.evaluate.cross_validate import THRESHOLDS
from pipeline.evaluate.folds import read_fold
from pipeline.evaluate.observe import _mirrored
from pipeline.recipes import find_recipe
from stages.media.frames import Frames
from stages.tables import HandDetections, Manifest


def test_scores_are_json_with_the_agreed_keys_and_no_nan(tmp_path: Path) -> None:
    write_score(score_hands([], []), tmp_path / "out" / "score.json")
    content = json.loads((tmp_path / "out" / "score.json").read_text())
    assert {"recall", "precision", "side_accuracy", "by_size", "num_hands"} <= set(content)
    assert content["recall"] is None


def test_the_labels_of_the_real_clips_are_read_whole(media: Path) -> None:
    frames = load_labels(media / "labels" / "bench_A.json")
    assert len(frames) == 64
    assert sum(len(f.box) for f in frames) == 100
    assert sum((f.side == -1).sum() for f in frames) == 2


@pytest.fixture(scope="module")
def few(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five labelled frames of five clips, one without a hand."""
    content = json.loads((media / "labels" / "bench_A.json").read_text())
    wanted = {"A000", "A004", "A014", "A023", "A057"}
    content["images"] = [i for i in content["images"] if i["id"] in wanted]
    path = tmp_path_factory.mktemp("labels") / "few.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def seen(media: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Score, Path]:
    """The score of the five frames, and the folder of what was drawn and found."""
    folder = tmp_path_factory.mktemp("seen")
    return evaluate_hands(few, media, overlays=folder, detections=folder / "found.parquet"), folder


def test_hands_of_real_frames_are_found_scored_and_drawn(seen: tuple[Score, Path]) -> None:
    score, folder = seen
    assert score.num_frames == 5
    assert score.recall >= 0.75
    assert score.precision >= 0.85
    assert len(list(folder.glob("A*.png"))) == 5
    console = Console(width=120, record=True)
    print_score(score, console)
    assert f"{score.recall:.3f}" in console.export_text()


def test_shares_of_nothing_are_left_blank() -> None:
    """Clips in which no hand is labelled or found ended the table in a traceback, or had all sides right."""
    score = replace(score_hands([], []), clips={"kept": score_clips([], [], []).to_dict()})
    console = Console(width=120, record=True)
    print_score(score, console)
    (row,) = (line for line in console.export_text().splitlines() if "clips, kept" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["clips, kept", "0", "", "", "0 equal pairs, 0 switches"]


def test_a_picture_stands_in_for_a_missing_video(media: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "frames").symlink_to(media / "frames")
    content = json.loads(few.read_text())
    content["images"] = content["images"][:2]
    stills = tmp_path / "stills.json"
    stills.write_text(json.dumps(content))
    score = evaluate_hands(stills, tmp_path)
    assert score.num_hands == 4
    assert score.recall > 0


def test_a_label_beyond_the_end_or_of_another_size_is_refused(media: Path, few: Path, tmp_path: Path) -> None:
    content = json.loads(few.read_text())
    for change, message in (({"frame": 10**6}, "can be decoded"), ({"width": 641}, "641x480")):
        path = tmp_path / "bad.json"
        path.write_text(json.dumps(content | {"images": [content["images"][0] | change]}))
        with pytest.raises(ValueError, match=message):
            evaluate_hands(path, media)


def test_mirrored_frames_are_scored_against_mirrored_labels(media: Path, few: Path, tmp_path: Path) -> None:
    plain = load_labels(few)[0]
    twice = mirrored(mirrored(plain))
    np.testing.assert_allclose(twice.box, plain.box)
    assert twice.side.tolist() == plain.side.tolist() != mirrored(plain).side.tolist()
    score = evaluate_hands(few, media, mirror=True, alone=True, detections=tmp_path / "found.parquet")
    assert score.recall >= 0.75
    assert score.side_accuracy >= 0.85
    found_there = HandDetections.from_arrow(pq.read_table(tmp_path / "found.parquet"))
    assert set(found_there.video) <= {f"mirrored/{label.video}" for label in load_labels(few)}


def test_neighbours_are_mirrored_as_well() -> None:
    images = [np.arange(k, k + 24, dtype=np.uint8).reshape(2, 4, 3) for k in range(3)]
    shown = _mirrored(Frames(video="v", frame=np.arange(3), time_s=np.zeros(3), images=images))
    assert [image[:, ::-1].tolist() for image in shown.images] == [image.tolist() for image in images]


def test_the_fast_recipe_is_mediapipe_alone_without_fine_tiles() -> None:
    zooms = {name: {stage.detector: getattr(stage, "tile_zooms", ()) for stage in stages if stage.name == "detect-hands"}
             for name in ("fast", "whim") for stages in [find_recipe(name)(Manifest.empty(), Path())]}  # fmt: skip
    assert zooms == {"fast": {"mediapipe": (1.0,)}, "whim": {"mediapipe": (1.0, 2.0), "whim": ()}}


def test_a_frame_is_judged_by_what_other_videos_taught(seen: tuple[Score, Path], few: Path) -> None:
    score, _ = seen
    assert score.cross_validated["num_hands"] == score.num_hands
    assert len(score.cross_validated["thresholds"]) == len({label.video for label in load_labels(few)})
    assert set(score.cross_validated["thresholds"]) <= set(THRESHOLDS.tolist())
    assert score.after_review["recall"] <= score.recall


def test_what_each_part_adds_is_what_is_lost_without_it(seen: tuple[Score, Path]) -> None:
    score, folder = seen
    without = score.leave_one_out
    assert all(without[name]["recall"] <= score.recall for name in ("mediapipe", "whim"))
    assert {"people", "mediapipe", "whim"} <= set(without)
    assert {f"mediapipe/{route}" for route in score.routes} <= set(without)
    assert all(without[name]["recall"] <= score.recall for name in ("people", *(n for n in without if "/" in n)))
    found_there = HandDetections.from_arrow(pq.read_table(folder / "found.parquet"))
    assert len(found_there) == sum(route["num"] for route in score.routes.values())


BLIND = """
from dataclasses import replace

from pipeline.recipes import fast
from stages.detect_hands_mediapipe import DetectHands


def blind(manifest, root):
    return [replace(stage, min_score=1.0) if isinstance(stage, DetectHands) else stage for stage in fast(manifest, root)]
"""


def test_the_frames_of_a_video_are_judged_by_the_fold_that_lists_it(media: Path, few: Path, tmp_path: Path) -> None:
    """Three videos fall to a recipe that sees hands, two to one that sees none."""
    (tmp_path / "blind.py").write_text(BLIND)
    videos = sorted({label.video for label in load_labels(few)})
    (tmp_path / "seen.txt").write_text("\n".join(videos[:3]))
    (tmp_path / "unseen.txt").write_text("\n".join(videos[3:]))
    folds = [read_fold("fast", tmp_path / "seen.txt"), read_fold(f"{tmp_path}/blind.py:blind", tmp_path / "unseen.txt")]
    found = tmp_path / "found.parquet"
    evaluate_hands(few, media, recipe=find_recipe("fast"), folds=folds, alone=True, detections=found)
    assert {str(name) for name in pq.read_table(found)["video"].to_pylist()} <= set(videos[:3])
    assert len(pq.read_table(found)) >= 2
    (tmp_path / "unseen.txt").write_text("\n".join(videos[4:]))
    folds[1] = read_fold("fast", tmp_path / "unseen.txt")
    with pytest.raises(ValueError, match="is listed by 0 folds"):
        evaluate_hands(few, media, recipe=find_recipe("fast"), folds=folds, alone=True)
