"""ViTPose against mmpose's own network, crops and decoding, run side by side in an environment of its own (`make env-mmpose`)."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.detectors.vitpose import MEAN, STD, cut_person, peaks, views_of
from stages.detectors.vitpose_checkpoint import vitpose
from stages.detectors.weights import load_checkpoint
from tests.labelled_pictures import labelled

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".env-mmpose" / "bin" / "python"
BOX = np.array([120, 30, 420, 470], np.float32)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module", params=[(384, 133), (768, 17)], ids=["small-133", "base-17"])
def peer(request: pytest.FixtureRequest, media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Number of keypoints, and the folder that mmpose filled."""
    if not PYTHON.exists():
        pytest.skip("needs mmpose: make env-mmpose")
    folder = tmp_path_factory.mktemp("mmpose")
    np.save(folder / "image.npy", labelled(media, "A000")[0])
    np.save(folder / "box.npy", BOX)
    width, num_keypoints = request.param
    command = [str(PYTHON), str(Path(__file__).parent / "mmpose_peer.py"), str(width), str(num_keypoints), str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return num_keypoints, folder


def test_mmposes_checkpoint_gives_mmposes_heatmaps(peer: tuple[int, Path]) -> None:
    num_keypoints, folder = peer
    path = folder / "vitpose.pth"
    theirs = np.load(folder / "peer.npz")
    network = vitpose(load_checkpoint(path), num_keypoints, path).eval()
    with torch.inference_mode():
        ours = network(torch.from_numpy(theirs["crops"])).heatmaps.numpy()
    assert ours.shape == theirs["heatmaps"].shape
    assert np.abs(ours - theirs["heatmaps"]).max() < 1e-5 * np.abs(theirs["heatmaps"]).max()


def test_crops_are_mmposes_udp_crops(peer: tuple[int, Path], media: Path) -> None:
    theirs = np.load(peer[1] / "peer.npz")["crop"].astype(np.float32)
    ours = (cut_person(labelled(media, "A000")[0], views_of(BOX[None])[0]).transpose(1, 2, 0) * STD + MEAN) * 255
    assert np.abs(ours - theirs).max() < 2.5
    assert np.abs(ours - theirs).mean() < 0.1


def test_peaks_are_mmposes_udp_peaks(peer: tuple[int, Path]) -> None:
    theirs = np.load(peer[1] / "peer.npz")
    ours = peaks(torch.from_numpy(theirs["maps"])[None])[0].numpy()
    assert np.abs(ours[:, :2] - theirs["points"][:, :2]).max() < 1e-3
    assert np.abs(ours[:, 2] - theirs["points"][:, 2]).max() < 1e-6
