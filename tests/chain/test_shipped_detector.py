"""The trained detector that comes with the project is a member of the ensemble: the chain runs with it."""

from pathlib import Path

import numpy as np
import pytest

from fitting.files import sha256_of
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.executor import Local
from pipeline.engine.run import run
from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import whim
from stages.detectors.mediapipe.box_looks import look_at_boxes
from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks
from stages.detectors.weights import find_weights
from stages.fuse_hands import FuseHands
from stages.propose_hands_whim import SHIPPED, ProposeHands
from stages.tables import HandDetections, Hands, Manifest
from tests.labelled_pictures import labelled


def test_the_shipped_detector_is_the_one_unless_another_lies_among_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    (shipped,) = (stage for stage in whim(Manifest.empty(), tmp_path) if isinstance(stage, ProposeHands))
    before = dict(shipped.weights)
    assert before["whim_detector"] == sha256_of(SHIPPED)
    path = find_weights("whim_detector").path
    path.parent.mkdir()
    path.write_bytes(b"another")
    assert shipped.weights["whim_detector"] == sha256_of(path)


def test_the_chain_runs_with_the_shipped_detector(media: Path, tmp_path: Path) -> None:
    data, manifest = tmp_path / "data", read_manifest(media / "odd" / "oneframe_thanks.mp4")
    stages = whim(manifest, data)
    (fuse,) = (stage for stage in stages if isinstance(stage, FuseHands))
    assert fuse.detectors == ("mediapipe", "whim")
    assert not fuse.uncalibrated
    stages = stages[: stages.index(fuse) + 1]
    run(Graph(stages, manifest, Store(data)).load(), Local(data, stages))
    assert not list(data.rglob("*.error.json"))
    (part,) = (data / "hand_detections" / "whim").glob("*.parquet")
    found = Store(data).read(HandDetections, "hand_detections/whim", part.stem)
    assert len(found)
    for column in (found.keypoints, found.world, found.palm_score, found.presence, found.p_right):
        assert np.isfinite(column).all()
    hands = Store(data).read(Hands, "hands", part.stem)
    assert 2 in hands.num_agree


def test_a_second_look_tells_side_and_landmarks_from_the_box_alone(media: Path) -> None:
    find_landmarks = load_hand_landmarks()
    for name in ("A000", "A001"):
        image, label = labelled(media, name)
        box = np.array([hand["box"] for hand in label["hands"]], np.float32)
        for hand, look in zip(label["hands"], look_at_boxes(image, box, find_landmarks), strict=True):
            assert look is not None
            assert (look.p_right >= 0.5) == (hand["side"] == "right")
            inside = (look.points > np.array(hand["box"][:2]) - 15) & (look.points < np.array(hand["box"][2:]) + 15)
            assert inside.all(1).mean() > 0.9
