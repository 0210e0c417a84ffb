"""How many workers of each kind a cluster holds, and what share of its GPUs each of them is given. Numbers only: Ray is asked elsewhere."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.engine.plan.seats import Seat
from stages.stage import Stage

CUDA_MB = 700
"""Memory of a GPU that a process takes before its first network: CUDA's context, cuDNN's and cuBLAS's workspaces. About; ours."""
SPARE = 0.1
"""Share of a GPU's memory that is left free: batches of odd sizes, and whoever else is there."""
UNKNOWN_GPU_MB = 16_000
"""Of a GPU whose kind Ray does not tell: the smallest that clouds rent."""
GPU_MB: Mapping[str, int] = {
    "T4": 16_000,
    "V100": 16_000,
    "P100": 16_000,
    "L4": 24_000,
    "A10G": 24_000,
    "A30": 24_000,
    "L40S": 48_000,
    "A100": 40_000,
    "A100-80G": 80_000,
    "H100": 80_000,
    "H200": 141_000,
    "B200": 180_000,
}
"""Memory by Ray's names of kinds of GPU (`ray.util.accelerators`)."""

_log = logging.getLogger(__name__)


def gpu_mb_of(nodes: Iterable[Mapping[str, Any]]) -> int:
    """Memory of the smallest GPU of a cluster."""
    kinds = [
        next((name.partition(":")[2] for name in node["Resources"] if name.startswith("accelerator_type:")), "")
        for node in nodes
        if node["Resources"].get("GPU", 0)
    ]
    return min((GPU_MB.get(kind, UNKNOWN_GPU_MB) for kind in kinds), default=UNKNOWN_GPU_MB)


def with_shares(seats: Sequence[Seat], groups: Sequence[Sequence[Stage]], *, num_gpus: int, gpu_mb: int) -> list[Seat]:
    """The seats of all groups, those whose networks nobody gave a GPU with the share that fits their memory.

    Those that find no room beside the others stay on the CPU, the smallest first; networks larger than a GPU have a whole one.
    """
    wanted: dict[Seat, int] = {}
    for seat, group in zip(seats, groups, strict=True):
        if not seat.gpus and (memory := sum(stage.resources.gpu_mb for stage in group)):
            wanted[seat] = wanted.get(seat, CUDA_MB) + memory  # groups of one seat are worked on by the same workers
    shares = {seat: share_of(wanted_mb, gpu_mb) for seat, wanted_mb in wanted.items()}
    for left_out in [None, *sorted(wanted, key=wanted.__getitem__)]:
        if left_out is not None:
            _log.warning("the cluster's GPUs have no room for all networks: those of %s stay on the CPU", left_out.environment or "our own")
            del shares[left_out]
        shared = [
            seat._replace(gpus=shares[seat]) if seat in shares and any(stage.resources.gpu_mb for stage in group) else seat
            for seat, group in zip(seats, groups, strict=True)
        ]
        if all(on_gpus([seat for seat in dict.fromkeys(shared) if seat.gpus], num_gpus).values()):
            break
    return shared


def share_of(wanted_mb: int, gpu_mb: int) -> float:
    """The share of a GPU that so much memory is, such that shares of its kind fill the GPU; in Ray's steps of 1/10,000."""
    at_once = max(1, math.floor(gpu_mb * (1 - SPARE) / wanted_mb))
    return math.floor(10_000 / at_once) / 10_000


def on_gpus(seats: Sequence[Seat], num_gpus: int) -> dict[Seat, int]:
    """Workers of each pool that fit on so many GPUs together: one of each first, then more of each in turn. A share lies on one GPU."""
    free, sizes = [1.0] * num_gpus, dict.fromkeys(seats, 0)

    def place(share: float) -> bool:
        whole, part = divmod(share, 1.0)
        empty = [g for g, left in enumerate(free) if left == 1.0][: int(whole)]
        fits = sorted((left, g) for g, left in enumerate(free) if left >= part - 1e-9 and g not in empty) if part else []
        if len(empty) < whole or (part and not fits):
            return False
        for g in empty:
            free[g] = 0.0
        if fits:
            free[fits[0][1]] -= part
        return True

    waiting = list(seats)
    while waiting:
        waiting = [seat for seat in waiting if place(seat.gpus)]
        for seat in waiting:
            sizes[seat] += 1
    return sizes


def pool_sizes(most: Mapping[Seat, int], cpus: float, wanted: Mapping[Seat, int] | None = None) -> dict[Seat, int]:
    """Workers of each pool that so many CPUs hold: one of each, then one more in turn where work waits, at most `most` of a pool.

    `wanted`: how many of each would have work; None where nobody knows yet.
    """
    seats = sorted(most, key=lambda seat: (-seat.gpus, -seat.cpus, seat.environment))
    limits = {seat: most[seat] if wanted is None else max(1, min(most[seat], wanted.get(seat, 0))) for seat in seats}
    sizes = {seat: min(1, most[seat]) for seat in seats}
    left = cpus - sum(size * seat.cpus for seat, size in sizes.items())
    while growing := [seat for seat in seats if sizes[seat] < limits[seat] and seat.cpus <= left + 1e-9]:
        for seat in growing:
            if seat.cpus <= left + 1e-9:
                sizes[seat] += 1
                left -= seat.cpus
    return sizes


def emptiest(seat: Seat, nodes: Sequence[Mapping[str, Any]], held: Sequence[tuple[Seat, str]]) -> str:
    """The node, of those that Ray names, with room for a worker beside those that are `held`, each with its node; one without GPUs before
    one with, for a worker that needs none; then the one of most free CPUs. Ray would let it wait at a full node."""

    def order(node: Mapping[str, Any]) -> tuple[bool, bool, float]:
        here = [one for one, place in held if place == node["NodeID"]]
        cpus = float(node["Resources"].get("CPU", 0)) - sum(one.cpus for one in here if not one.lane)
        gpus = float(node["Resources"].get("GPU", 0)) - sum(one.gpus for one in here)
        fits = cpus + 1e-9 >= (0 if seat.lane else seat.cpus) and gpus + 1e-9 >= seat.gpus
        return fits, bool(seat.gpus) or not node["Resources"].get("GPU", 0), cpus

    return str(max(nodes, key=order)["NodeID"])
