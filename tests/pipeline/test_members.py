"""A member of the ensemble without its weights is left out, by name, with the way to mend it; the others stay."""

import logging
import re
from pathlib import Path

import pytest
import torch

from pipeline.members import hand_detectors, say_uncalibrated, with_detector, with_weights
from pipeline.recipes import whim, whim_paper
from pipeline.stage_settings import canonical
from stages.detect_hands_contacthands import DetectHandsContactHands
from stages.detect_hands_mediapipe import DetectHands
from stages.detect_hands_openpose import DetectHandsOpenPose
from stages.detect_hands_whim import DetectHandsWhim
from stages.detect_people_blazepose import DetectPeople
from stages.detect_person_boxes import DetectPersonBoxes
from stages.estimate_poses_alphapose import EstimatePosesAlphaPose
from stages.fit import Fit
from stages.fuse_hands import FuseHands
from stages.fuse_people import FusePeople
from stages.hands_of_poses import HandsOfPoses
from stages.propose_hands_whim import ProposeHands
from stages.review import Review
from stages.stage import Stage
from stages.tables import Manifest

BEFORE: list[Stage] = [DetectPeople(), FusePeople(), DetectHands()]
MEMBERS: list[tuple[Stage, ...]] = [
    (DetectPersonBoxes(),),
    (EstimatePosesAlphaPose(), HandsOfPoses(detector="alphapose", min_keypoint=0.05)),
    (DetectHandsOpenPose(),),
    (DetectHandsContactHands(),),
]
FILES = {
    "rtdetr_r50": "rtdetr/rtdetr_r50vd_coco_o365.safetensors",
    "alphapose": "alphapose/multi_domain_fast50_regression_256x192.pth",
    "openpose": "openpose/hand_pose_model.pth",
    "contacthands": "contacthands/combined_data_model.pth",
}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in FILES.values():
        (tmp_path / file).parent.mkdir(parents=True)
        torch.save({"weight": torch.zeros(1)}, tmp_path / file)
    monkeypatch.setenv("WHIM_WEIGHTS", str(tmp_path))
    return tmp_path


def test_all_members_run_where_all_weights_are(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = with_weights(BEFORE, MEMBERS)
    assert kept == [stage for member in MEMBERS for stage in member]
    assert hand_detectors([*BEFORE, *kept]) == ("mediapipe", "alphapose", "openpose", "contacthands")
    assert not caplog.records


@pytest.mark.parametrize("gone", ["openpose", "contacthands", "alphapose"])
def test_missing_weights_take_their_member_along_and_no_other(weights: Path, gone: str, caplog: pytest.LogCaptureFixture) -> None:
    (weights / FILES[gone]).unlink()
    with caplog.at_level(logging.WARNING):
        detectors = hand_detectors(with_weights(BEFORE, MEMBERS))
    assert detectors == tuple(name for name in ("alphapose", "openpose", "contacthands") if name != gone)
    (record,) = caplog.records
    assert gone in record.getMessage()
    assert "licence" in record.getMessage()
    assert str(weights / FILES[gone]) in record.getMessage()


def test_without_person_boxes_there_are_no_poses(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    (weights / FILES["rtdetr_r50"]).unlink()
    with caplog.at_level(logging.WARNING):
        assert hand_detectors(with_weights(BEFORE, MEMBERS)) == ("openpose", "contacthands")
    assert "nothing here writes the PersonBoxes" in caplog.records[1].getMessage()


def test_one_more_detector_comes_after_the_others_and_fusion_is_told() -> None:
    fuse = FuseHands(min_score=0.3)
    stages = with_detector([*BEFORE, fuse, Review()], DetectHandsContactHands())
    told = FuseHands(detectors=("mediapipe", "contacthands"), min_score=0.3)
    assert stages == [*BEFORE, DetectHandsContactHands(), told, Review()]


def test_who_is_taken_at_their_word_is_said(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    say_uncalibrated(FuseHands())
    say_uncalibrated(FuseHands(detectors=("mediapipe", "openpose"), mode="raw"))
    assert not caplog.records
    say_uncalibrated(FuseHands(detectors=("mediapipe", "openpose", "vitpose")))
    (record,) = caplog.records
    assert "openpose, vitpose" in record.getMessage()
    assert "whim learn all" in record.getMessage()
    assert re.search(r"squared error of scores of 0\.\d\d in place of 0\.\d\d, and landmarks \d\.\d% of a hand off", record.getMessage())


def test_the_papers_ensemble_is_the_three_that_it_names_averaged_as_they_are(weights: Path) -> None:
    """WiLoR, section 3: MediaPipe, OpenPose and ContactHands, people above 0.65, eq. 1 as printed, and eq. 2 to 4 without further terms."""
    stages = {stage.name: stage for stage in whim_paper(Manifest.empty(), weights)}
    fuse, fit, people = stages["fuse-hands"], stages["fit"], stages["detect-people"]
    assert isinstance(fuse, FuseHands)
    assert isinstance(fit, Fit)
    assert isinstance(people, DetectPeople)
    assert set(fuse.detectors) == {"mediapipe", "openpose", "contacthands"}
    assert (fuse.mode, fuse.person_score, people.min_score, fuse.uncalibrated) == ("raw", 0.65, 0.65, ())
    assert not fit.landmark_offsets
    assert (fit.camera, fit.pairs) == ("weak", "apart"), "each hand by itself before a weak perspective camera"
    told = fit.settings
    assert (told.prior_noise, told.shape_weight, told.depth_weight, told.world_weight, told.smooth_weight) == (0, 0, 0, 0, 0)
    assert not told.share_shape
    assert min(told.bone_weight, told.angle_weight, told.prior_weight) > 0, "eq. 3 and 4 take part"


def test_a_member_that_may_lack_a_table_is_not_left_out_for_it() -> None:
    member = (ProposeHands(), DetectHandsWhim())
    assert with_weights([DetectPeople(), FusePeople()], [member]) == list(member)


def test_settings_by_names_of_before_are_those_of_today() -> None:
    stages = whim(Manifest.empty(), Path())
    for name in ("file", "min_score", "max_iou", "batch_size"):
        assert canonical(stages, {f"detect_hands_whim.{name}": 1}) == {f"propose_hands_whim.{name}": 1}
