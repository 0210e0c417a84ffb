"""Second engines, started by Ray in environments of their own (`make env-mmpose env-detectron2`), see what the first ones see."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine.store import Store
from stages import boxes
from stages.detectors.mediapipe import models
from stages.detectors.vitpose.keypoints import CELLS_X, CELLS_Y, views_of
from stages.detectors.weights import find_weights
from stages.tables import HandDetections, Poses, Table
from tests.chain.conftest import ROOT, command, environment
from tests.stages.detectors import rcnn_reference
from tests.stages.detectors.checkpoints import random_state, save
from tests.vitpose_layouts import official

RECIPES = Path(__file__).parent / "engines.py"
See = Callable[[str, Path, type[Table], str], Any]

pytestmark = pytest.mark.heavy


def needs(engine: str) -> None:
    if not (Path(os.environ.get("WHIM_ENVIRONMENTS", ROOT)) / f".env-{engine}" / "bin" / "python").exists():
        pytest.skip(f"needs {engine}: make env-{engine}")


def smooth_vitpose() -> dict[str, torch.Tensor]:
    """ViTPose+ with random weights, but for heads that interpolate: their maps have peaks, as trained ones have, and below 1."""
    state = random_state(official(384, 2, 17, plus=True))
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    for name, weight in state.items():
        if ".deconv_layers." in name and weight.ndim == 4:
            state[name] = 4 * weight[:, :, :1, :1] * tent[:, None] * tent
        elif "final_layer" in name:
            state[name] = weight / 5
    return state


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of the published layouts."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "mediapipe").symlink_to(models.find("pose_detection").parent)
    for name, state in (("vitpose_wholebody_base", smooth_vitpose()), ("contacthands", rcnn_reference.tame_weights())):
        save(state, folder / find_weights(name).file)
    return folder


@pytest.fixture
def see(weights: Path, tmp_path: Path) -> See:
    """Runs one recipe on Ray, as a user does, and reads the table that it made."""

    def call(recipe: str, video: Path, kind: type[Table], name: str) -> Any:
        data = tmp_path / recipe
        words = command("run", "--recipe", f"{RECIPES}:{recipe}", "--videos", video, "--data", data)
        here = environment() | {"WHIM_WEIGHTS": str(weights)}
        done = subprocess.run(words, env=here, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        (part,) = (data / name).glob("*.parquet")
        return Store(data).read(kind, name, part.stem)

    return call


def in_cells(points: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Keypoints as places on the heatmaps of the people in these boxes."""
    view = views_of(box)[:, None]
    return (points[..., :2] - view[..., :2] + view[..., 2:] / 2) / view[..., 2:] * (CELLS_X - 1, CELLS_Y - 1)


def test_mmpose_sees_the_poses_that_transformers_sees(media: Path, see: See) -> None:
    """Where a map bends down about its highest cell; elsewhere mmpose extrapolates far out, and ours takes the cell itself."""
    needs("mmpose")
    ours, theirs = (
        see(f"vitpose_by_{name}", media / "videos/intel/asl_milk.mkv", Poses, "poses/vitpose") for name in ("transformers", "mmpose")
    )
    assert len(ours) == len(theirs) > 5
    assert np.array_equal(ours.frame, theirs.frame)
    assert np.array_equal(ours.box, theirs.box)
    our_points, their_points = (np.concatenate([p.body, p.left_hand, p.right_hand], 1).astype(np.float64) for p in (ours, theirs))
    assert not np.array_equal(our_points, their_points), "the same engine twice"
    assert np.abs(our_points - their_points)[..., 2].max() < 1e-3
    here, there = in_cells(our_points, ours.box), in_cells(their_points, ours.box)
    between = (np.abs(here - here.round()) > 1e-3).any(-1)
    assert between.mean() > 0.7
    assert np.quantile(np.abs(here - there).max(-1)[between], 0.95) < 0.05


def test_detectron2_sees_the_hands_that_our_faster_rcnn_sees(media: Path, see: See) -> None:
    needs("detectron2")
    name = "hand_detections/contacthands"
    ours, theirs = (
        see(f"contacthands_by_{engine}", media / "odd/oneframe_thanks.mp4", HandDetections, name) for engine in ("torch", "detectron2")
    )
    assert min(len(ours), len(theirs)) > 5
    overlap = boxes.iou(ours.box, theirs.box)
    assert (overlap.max(1) > 0.99).mean() > 0.95
    assert (overlap.max(0) > 0.99).mean() > 0.95
    same = overlap.max(1) > 0.99
    assert np.abs(ours.score - theirs.score[overlap.argmax(1)])[same].max() < 1e-3
    assert not np.array_equal(ours.box, theirs.box), "the same engine twice"
