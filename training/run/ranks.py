"""What the ranks of a run must agree on, or share; a run of one rank asks nobody."""

import torch
import torch.distributed as dist
from torch import Tensor


def from_first(value: float, device: torch.device) -> float:
    """The first rank's number, on every rank."""
    if not _several():
        return value
    shared = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(shared, 0)
    return float(shared)


def everywhere(fine: bool, device: torch.device) -> bool:
    """Whether it holds on every rank: they step together or not at all."""
    if not _several():
        return fine
    flag = torch.tensor([float(fine)], device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag > 0)


def part_of_all(count: Tensor) -> Tensor:
    """What a rank divides its sum by, so that the ranks' mean is the sum of all over the count of all, which is 1 at the least.

    DistributedDataParallel takes that mean of the gradients. The count has no gradient.
    """
    if not _several():
        return count.detach().clamp_min(1)
    shared = count.detach().to(torch.float32).clone()
    dist.all_reduce(shared)
    return shared.clamp_min(1) / dist.get_world_size()


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
