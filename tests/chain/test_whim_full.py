"""The whole ensemble in one Ray run: five detectors in stages of their own, a table each, from checkpoints of the published layouts."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.engine.store import Store
from pipeline.manifest import read_manifest
from pipeline.recipes import whim_full
from stages.detectors.mediapipe import models
from stages.detectors.person_boxes import person_detector, person_finder
from stages.detectors.weights import find_weights
from stages.fuse_hands import Refusal
from stages.media.frames import decode
from stages.tables import HandDetections, Hands, People, PersonBoxes, PersonDetections, Poses, RefusedHands, Table
from tests.chain.conftest import Whim, plan
from tests.detr_layouts import rtdetr_r50
from tests.stages.detectors import rcnn_reference, test_alphapose, test_openpose_hand
from tests.stages.detectors.checkpoints import random_state, save
from tests.vitpose_layouts import official

VIDEO = "odd/oneframe_thanks.mp4"
HAND_SOURCES = ("alphapose", "contacthands", "mediapipe", "openpose", "vitpose", "whim")


def few_people(image: np.ndarray) -> dict[str, torch.Tensor]:
    """RT-DETR with random weights, and a bias that lets three of its 300 boxes on this picture through the gate."""
    state = random_state(rtdetr_r50())
    scores = person_finder(person_detector("rtdetr_r50", dict(state), Path("a")), device="cpu", bf16=False, batch_size=1)([image], 1e-6)[0][
        :, 4
    ]
    third = torch.tensor(float(scores[2])).logit()
    state["model.decoder.class_embed.5.bias"][0] += torch.tensor(0.66).logit() - third
    return state


@pytest.fixture(scope="module")
def weights(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    (folder / "mediapipe").symlink_to(models.find("pose_detection").parent)
    image = next(frame for _, frame in decode(media / VIDEO)).to_ndarray(format="rgb24")
    (folder / "rtdetr").mkdir()
    save_file(few_people(image), folder / find_weights("rtdetr_r50").file)
    save(random_state(official(384, 2, 17, plus=True)), folder / find_weights("vitpose_wholebody_huge").file)
    save(random_state(test_alphapose.official_layout(136)), folder / find_weights("alphapose_136").file)
    save(random_state(test_openpose_hand.official_layout()), folder / find_weights("openpose_hand").file)
    save(rcnn_reference.tame_weights(), folder / find_weights("contacthands").file)
    return folder


@pytest.fixture(scope="module")
def data(weights: Path, media: Path, whim_apart: Whim, whim: Whim, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one run on Ray."""
    folder = tmp_path_factory.mktemp("full") / "data"
    before = os.environ.get("WHIM_WEIGHTS")
    os.environ["WHIM_WEIGHTS"] = str(weights)
    try:
        smaller = ("--set", "detect_hands_openpose.resolution=64", "--set", "detect_hands_contacthands.max_zoom=0.3")  # 35 s a frame else
        whim_apart("run", "--recipe", "whim_full", "--videos", media / VIDEO, "--data", folder, *smaller)
        assert plan(whim, "--data", folder)["num_pending"] == 0
    finally:
        os.environ.pop("WHIM_WEIGHTS") if before is None else os.environ.update(WHIM_WEIGHTS=before)
    return folder


def table(data: Path, kind: type[Table], name: str) -> Any:
    (part,) = (data / name).glob("*.parquet")
    return Store(data).read(kind, name, part.stem)


def test_every_detector_writes_its_own_table(data: Path) -> None:
    assert not list(data.rglob("*.error.json"))
    assert sorted(p.name for p in (data / "hand_detections").iterdir()) == list(HAND_SOURCES)
    assert sorted(p.name for p in (data / "person_detections").iterdir()) == ["alphapose", "movenet", "vitpose"]
    assert sorted(p.name for p in (data / "poses").iterdir()) == ["alphapose", "vitpose"]
    persons = table(data, PersonBoxes, "person_boxes/rtdetr_r50")
    assert len(persons) >= 3
    assert (persons.score > 0.65).all()
    for source in ("alphapose", "vitpose"):
        poses, people = table(data, Poses, f"poses/{source}"), table(data, PersonDetections, f"person_detections/{source}")
        assert len(poses) == len(people) >= 1
        assert set(poses.source) == {source}
        assert np.array_equal(people.keypoints, poses.body)
        assert np.isfinite(poses.left_hand).all()
    for source in HAND_SOURCES:
        hands = table(data, HandDetections, f"hand_detections/{source}")
        assert set(hands.source) <= {source}
        assert ((hands.score >= 0) & (hands.score <= 1)).all()
        assert np.isfinite(hands.box).all()


def test_the_sources_are_fused(data: Path) -> None:
    hands = table(data, Hands, "hands")
    assert set(hands.num_run) <= set(range(1, len(HAND_SOURCES) + 1))  # those that read arms are silent where nobody is
    refused = table(data, RefusedHands, "refused_hands")
    assert len(hands) + len(refused) > 0
    assert set(refused.reason) <= set(Refusal)


def test_persons_of_hands_are_rows_of_people(data: Path) -> None:
    people = table(data, People, "people")
    known = set(zip(people.frame.tolist(), people.person.tolist(), strict=True))
    assert len(known) == len(people)
    named = [table(data, HandDetections, f"hand_detections/{source}") for source in HAND_SOURCES]
    named += [table(data, Hands, "hands"), table(data, RefusedHands, "refused_hands")]
    for hands in named:
        owned = hands.take(hands.person >= 0)
        assert set(zip(owned.frame.tolist(), owned.person.tolist(), strict=True)) <= known
    for source in ("alphapose", "vitpose"):
        found, hands = (
            table(data, PersonDetections, f"person_detections/{source}"),
            table(data, HandDetections, f"hand_detections/{source}"),
        )
        assert (hands.person >= 0).all()
        assert len(set(hands.person)) <= len(found)


def test_removing_one_members_weights_removes_just_its_column(weights: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_WEIGHTS", str(weights))
    manifest = read_manifest(media / VIDEO)

    def by_source() -> dict[tuple[str, str], Any]:
        return {(stage.name, stage.detector): stage for stage in whim_full(manifest, Path("data"))}

    everything = by_source()
    path = find_weights("vitpose_wholebody_huge").path
    aside = path.rename(path.with_suffix(".away"))
    try:
        without = by_source()
    finally:
        aside.rename(path)
    assert everything.keys() - without.keys() == {
        ("estimate-poses", "vitpose"),
        ("people-of-poses", "vitpose"),
        ("hands-of-poses", "vitpose"),
    }
    assert without.keys() <= everything.keys()
    assert without[("fuse-hands", "")].detectors == tuple(d for d in everything[("fuse-hands", "")].detectors if d != "vitpose")
