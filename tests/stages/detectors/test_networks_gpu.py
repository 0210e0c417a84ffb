"""The members' networks on a GPU: what they give on the CPU, and half the batch when its memory runs out."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stages.detectors.alphapose.keypoints import mean_points
from stages.detectors.alphapose.network import fastpose
from stages.detectors.contacthands.boxes import contact_hands
from stages.detectors.networks import Batches, ready
from stages.detectors.openpose_hand import hand_network, peaks
from tests.stages.detectors import rcnn_reference, test_alphapose, test_openpose_hand
from tests.stages.detectors.checkpoints import random_state

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TensorFloat-32, whose ten bits are fine in a run but not in a comparison."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def crops(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5


def test_hands_and_poses_are_those_of_the_cpu() -> None:
    hands = random_state(test_openpose_hand.official_layout())
    poses = random_state(test_alphapose.official_layout(136))
    for build, state, batch, points_of in (
        (hand_network, hands, crops(2, 3, 96, 96), peaks),
        (fastpose, poses, crops(2, 3, 256, 192), mean_points),
    ):
        cpu, gpu = (ready(build(state, Path("a.pth")), device=device, bf16=False)(batch) for device in ("cpu", "cuda"))
        assert gpu.is_cuda
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-3, atol=1e-3 * float(cpu.abs().max()))
        assert points_of(gpu).cpu().isfinite().all()


def test_boxes_are_those_of_the_cpu() -> None:
    state, sizes = rcnn_reference.tame_weights(), torch.tensor([[64, 96], [60, 90]])
    networks = {device: contact_hands(state, Path("a.pth"), min_score=0.05, max_iou=0.3) for device in ("cpu", "cuda")}
    cpu, gpu = (ready(network, device=device, bf16=False)(120 * crops(2, 3, 64, 96), sizes).cpu() for device, network in networks.items())
    torch.testing.assert_close(gpu[:, :3], cpu[:, :3], rtol=1e-3, atol=0.05)


def test_a_batch_too_large_for_the_gpu_is_halved_until_it_fits() -> None:
    free, _ = torch.cuda.mem_get_info()

    def work(some: Sequence[int]) -> list[int]:
        torch.empty(len(some) * free // 3, dtype=torch.uint8, device="cuda")
        return list(some)

    assert Batches(work, 8, "crops")(range(8)) == list(range(8))
