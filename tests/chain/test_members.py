"""Members of the ensemble in a run: one table each, from checkpoints of the official layouts; without a file just its table is absent."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.members import hand_detectors, with_weights
from stages.detect_hands_contacthands import DetectHandsContactHands
from stages.detect_hands_openpose import DetectHandsOpenPose
from stages.detect_people_blazepose import DetectPeople
from stages.detectors.mediapipe import models
from stages.download import Download
from stages.fuse_hands import FuseHands
from stages.fuse_people import FusePeople
from stages.split import Split
from stages.stage import Stage
from stages.tables import HandDetections
from tests.stages.detectors import rcnn_reference, test_openpose_hand
from tests.stages.detectors.checkpoints import random_state, save


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    save(random_state(test_openpose_hand.official_layout()), folder / "openpose" / "hand_pose_model.pth")
    save(rcnn_reference.tame_weights(), folder / "contacthands" / "combined_data_model.pth")
    (folder / "mediapipe").symlink_to(models.find("pose_detection").parent)
    monkeypatch.setenv("WHIM_WEIGHTS", str(folder))
    return folder


def recipe(root: Path) -> list[Stage]:
    """The networks at a size that one frame takes a second."""
    first: list[Stage] = [Download(folder=root / "media"), Split(), DetectPeople(), FusePeople()]
    members: list[tuple[Stage, ...]] = [
        (DetectHandsOpenPose(resolution=64, min_joints=0, min_score=0.0),),
        (DetectHandsContactHands(max_zoom=0.3, person_gain=9.0, min_score=0.0),),
    ]
    kept = with_weights(first, members)
    return [*first, *kept, FuseHands(detectors=hand_detectors(kept))]


def hands_of_run(data: Path, media: Path) -> dict[str, HandDetections]:
    """Each detector's table after one run on a video of one frame."""
    manifest = read_manifest(media / "odd" / "oneframe_thanks.mp4")
    stages = recipe(data)
    run(Graph(stages, manifest, Store(data)).load(), Local(data, stages))
    parts = sorted((data / "hand_detections").glob("*/*.parquet"))
    assert len(list((data / "hands").glob("*.parquet"))) == 1
    assert not list(data.rglob("*.error.json"))
    return {part.parent.name: Store(data).read(HandDetections, f"hand_detections/{part.parent.name}", part.stem) for part in parts}


@pytest.mark.long  # test_whim_full does as much in one run, but compares no two
def test_each_member_fills_its_own_table_and_a_missing_file_empties_just_its_own(weights: Path, media: Path, tmp_path: Path) -> None:
    found = hands_of_run(tmp_path / "both", media)
    assert sorted(found) == ["contacthands", "openpose"]
    assert np.isfinite(found["openpose"].keypoints).all()
    for name, hands in found.items():
        assert len(hands)
        assert set(hands.source) == {name}
        assert np.isfinite(hands.box).all()
        assert ((hands.score >= 0) & (hands.score <= 1)).all()
    (weights / "openpose" / "hand_pose_model.pth").unlink()
    alone = hands_of_run(tmp_path / "one", media)
    assert sorted(alone) == ["contacthands"]
    for column in ("box", "score"):
        np.testing.assert_array_equal(getattr(alone["contacthands"], column), getattr(found["contacthands"], column))
