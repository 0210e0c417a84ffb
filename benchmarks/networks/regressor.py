"""`make bench-regressor`: hands/s of the regressor, forward and in training, beside the same network in the plain style of the release.

Forward is from crops as bytes to hands in the frame. A training step is forward, backward and AdamW on coarse and refined hands. Both
sides have the same weights, crops, batch size and cores; each is timed after a first call, in turns.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table as Grid
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.networks.regressor_release import flops_of_hand, hand_by_hand, normalised, release_style
from hands.drawing.space import frame_focal
from stages.detectors.networks import computes_bfloat16
from training.regressor.camera import frame_translation, mirrored_camera, mirrored_points
from training.regressor.network import HandEstimate, Regressor, RegressorSettings

RESULTS = Path(__file__).parents[1] / "results"
SIZE = (1920, 1080)
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Of dense products in bfloat16, by the maker's data sheets."""


class Bench:
    """One size on one device."""

    def __init__(self, size: str, device: str, batch_size: int, *, compiled: bool = False) -> None:
        rng = np.random.default_rng(0)
        self.device, self.batch_size = torch.device(device), batch_size
        self.crops: UInt8[np.ndarray, "n 256 256 3"] = rng.integers(0, 256, (batch_size, 256, 256, 3), np.uint8)
        self.box = np.column_stack([rng.uniform(0, 1080, (batch_size, 2)), rng.uniform(60, 400, batch_size)]).astype(np.float32)
        self.right = rng.integers(0, 2, batch_size).astype(np.float32)
        settings = RegressorSettings(size=size, drop_path=0.0)  # type: ignore[arg-type]
        torch.manual_seed(0)
        self.network = Regressor(settings).to(self.device)
        self.peer = Regressor(settings).to(self.device)
        self.peer.load_state_dict(self.network.state_dict())
        release_style(self.peer)
        self.flops = flops_of_hand(self.peer)
        self.call: Callable[[Tensor], tuple[HandEstimate, ...]] = torch.compile(self.network) if compiled else self.network

    def narrow(self) -> AbstractContextManager[Any]:
        """Bfloat16 where the device computes in it; imitated, it is no rate of anybody's."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=computes_bfloat16(self.device))

    def pictures(self) -> Tensor:
        """Bytes to the device, floats there."""
        return torch.from_numpy(self.crops).to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255

    @torch.inference_mode()
    def forward(self) -> tuple[np.ndarray, ...]:
        with self.narrow():
            hands = self.call(self.pictures())[-1]
        box, left = torch.from_numpy(self.box).to(self.device), torch.from_numpy(self.right == 0).to(self.device)
        shift = frame_translation(mirrored_camera(hands.camera, left), box, SIZE, frame_focal(SIZE))
        return tuple(values.cpu().numpy() for values in (mirrored_points(hands.vertices, left), mirrored_points(hands.joints, left), shift))

    @torch.no_grad()
    def forward_release(self) -> list[tuple[np.ndarray, ...]]:
        hands = self.peer(normalised(list(self.crops)).to(self.device))[-1]
        return list(hand_by_hand(hands, self.box, self.right, SIZE, frame_focal(SIZE)))

    def rates(self, num_forward: int = 4, num_train: int = 3) -> dict[str, float]:
        """Hands/s of both sides, forward and in training, of so many timed calls each."""
        self.network.eval()
        self.peer.eval()
        ours, theirs = self.timed([self.forward, self.forward_release], num_forward)
        self.network.train()
        self.peer.train()
        step, step_release = self.step(self.network, fused=True), self.step(self.peer, fused=False)

        def train() -> None:
            with self.narrow():
                hands = self.call(self.pictures())
            step(hands)

        def train_release() -> None:
            step_release(self.peer(normalised(list(self.crops)).to(self.device)))

        trained, trained_release = self.timed([train, train_release], num_train)
        return {
            "forward_hands_per_s": ours,
            "forward_hands_per_s_release_style": theirs,
            "forward_vs_release_style": ours / theirs,
            "train_hands_per_s": trained,
            "train_hands_per_s_release_style": trained_release,
            "train_vs_release_style": trained / trained_release,
        }

    @staticmethod
    def step(network: Regressor, *, fused: bool) -> Callable[[tuple[HandEstimate, ...]], None]:
        """Backward and AdamW from what a network said."""
        optimizer = torch.optim.AdamW(network.parameters(), 1e-6, fused=fused)

        def take(hands: tuple[HandEstimate, ...]) -> None:
            loss = torch.stack([hand.vertices.abs().mean() + hand.points.square().mean() + hand.rotations.mean() for hand in hands]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return take

    def timed(self, runs: list[Callable[[], Any]], num_timed: int) -> list[float]:
        """Hands/s of each by the median call, called in turns."""
        seconds: list[list[float]] = [[] for _ in runs]
        for _ in range(1 + num_timed):
            for run, spent in zip(runs, seconds, strict=True):
                start = time.perf_counter()
                run()
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                spent.append(time.perf_counter() - start)
        return [self.batch_size / float(np.median(spent[1:])) for spent in seconds]


def peak_flops(device: str) -> float | None:
    """Peak operations a second of the device in bfloat16; None where it is not known."""
    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


def measure(size: str, device: str, batch_size: int) -> dict[str, float | None]:
    """The rates of one size and what share of the device's peak training reaches (backward counted as twice forward)."""
    bench = Bench(size, device, batch_size, compiled=device == "cuda")
    row: dict[str, float | None] = dict(bench.rates())
    peak = peak_flops(device)
    row["gflops_per_hand_forward"] = bench.flops / 1e9
    row["mfu"] = 3 * bench.flops * float(row["train_hands_per_s"] or 0) / peak if peak else None
    return row


def main() -> None:
    """Measure, print, and write benchmarks/results/regressor.json (regressor_cuda.json on a GPU)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", nargs="+", help="of xs s b l h; s and b, or all of the paper's on a GPU")
    parser.add_argument("--batch-size", type=int, help="16, or 128 on a GPU")
    args = parser.parse_args()
    machine = describe()
    cpu = args.device == "cpu"
    batch_size = args.batch_size or (16 if cpu else 128)
    rows = {size: measure(size, args.device, batch_size) for size in args.sizes or (["s", "b"] if cpu else ["s", "b", "l", "h"])}
    grid = Grid("size", "", "ours", "release's style", "ratio", "MFU", title=f"hands/s, batches of {batch_size}")
    for size, row in rows.items():
        for kind in ("forward", "train"):
            values = (row[f"{kind}_hands_per_s"], row[f"{kind}_hands_per_s_release_style"], row[f"{kind}_vs_release_style"])
            mfu = f"{row['mfu']:.2f}" if kind == "train" and row["mfu"] is not None else ""
            grid.add_row(size, kind, *(f"{value:.3g}" for value in values), mfu)
    Console(width=100).print(grid)
    result = {
        "device": torch.cuda.get_device_name() if not cpu else machine["processor"],
        "machine": machine,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "ours": ("bfloat16 autocast" if computes_bfloat16(torch.device(args.device)) else "float32")
        + ", fused attention, bytes to the device"
        + ("" if cpu else ", torch.compile"),
        "release_style": "float32, eager attention, pictures normalised one by one, hands taken apart one by one",
        "drop_path": 0.0,
        "sizes": rows,
    }
    out = RESULTS / ("regressor.json" if cpu else f"regressor_{args.device}.json")
    out.write_text(json.dumps(result, indent=1, default=float) + "\n")
    print(out)


if __name__ == "__main__":
    main()
