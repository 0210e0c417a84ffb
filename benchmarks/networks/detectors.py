"""`make bench-detectors`: milliseconds a frame or crop of every network at batches of 1, 8 and 32, beside the peer that users would pick.

Weights are random (speed does not hang on them), pictures rendered. Both sides get the same inputs, in turns, in one process: ours in
one call, the peer one by one, on every core; the mediapipe package has one thread only, so ours is timed on one core too. Times are
whole: cutting, network, decoding.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.fit.cost import sgemm_gflops
from benchmarks.machine import describe
from benchmarks.networks.detectors_networks import LARGEST_BATCH, MEDIAPIPE, TORCH, Contest, Work, best_engine, num_cores
from stages.detectors.networks import computes_bfloat16

RESULTS = Path(__file__).parents[1] / "results"
BATCHES = (1, 8, LARGEST_BATCH)
PUBLISHED_CONTACT_HANDS_FPS = 3.0
"""On a GPU (Narasimhaswamy et al., NeurIPS 2020)."""


def measure(contest: Contest, batches: Sequence[int], seconds: float) -> dict[str, float]:
    """Milliseconds an input of each way, the median of the rounds that fit into the time; at least one. Other settings at `batches[1]`."""
    ways: dict[str, tuple[Work, int]] = {f"ms_batch_{n}": (contest.ours, n) for n in batches}
    ways |= {f"ms_batch_{batches[1]}_{name}": (work, batches[1]) for name, work in contest.also.items()}
    ways |= {"ms_peer": (contest.peer, 4)}
    for work in (contest.ours, *contest.also.values(), contest.peer):
        for count in (1, 2):
            work(count)  # loads and compiles what is left to the first calls
    spent: dict[str, list[float]] = {name: [] for name in ways}
    begin = time.perf_counter()
    while not spent["ms_peer"] or time.perf_counter() - begin < seconds:
        for name, (work, count) in ways.items():
            start = time.perf_counter()
            work(count)
            spent[name].append((time.perf_counter() - start) / count * 1e3)
    return {name: float(np.median(rounds)) for name, rounds in spent.items()} | {"rounds": len(spent["ms_peer"])}


def gflop_of(work: Work) -> float:
    """Operations of one input, in 10^9, as torch counts its matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work(1)
    return counter.get_total_flops() / 1e9


def product_gflops(device: str, side: int = 2048) -> float:
    """The faster of a float32 and, where the device computes in it, a bfloat16 matrix product on every core: what it gives at most."""
    best, matrix = sgemm_gflops(num_cores(), device), torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for _ in range(10 if computes_bfloat16(torch.device(device)) else 0):
        start = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # waits for a GPU
        best = max(best, 2 * side**3 / (time.perf_counter() - start) / 1e9)
    return best


def row_of(contest: Contest, batches: Sequence[int], seconds: float, gflops: float) -> dict[str, Any]:
    """Times, ratios and the limit of one network."""
    times = measure(contest, batches, seconds)
    batched = f"ms_batch_{batches[1]}"
    ratios = {f"vs_peer_{name}": times["ms_peer"] / times[f"{batched}_{name}"] for name in contest.also}
    gflop = contest.gflop or gflop_of(contest.peer)
    fastest = min((name for name in times if name.startswith("ms_batch")), key=times.__getitem__)
    return {
        **times,
        "per": contest.per,
        "fastest": fastest,
        "vs_peer": times["ms_peer"] / times[fastest],
        **ratios,
        "peer": contest.peer_is,
        "gflop": gflop,
        "limit_ms": gflop / gflops * 1e3,
        "share_of_limit": gflop / gflops * 1e3 / times[fastest],
    }


def run(
    names: Sequence[str] = (), *, device: str = "cpu", batches: Sequence[int] = BATCHES, seconds: float = 10.0
) -> dict[str, dict[str, Any]]:
    """The rows of the named networks, of all when none is named; MediaPipe's run on the CPU only."""
    contests = {**(MEDIAPIPE if device == "cpu" else {}), **TORCH}
    cv2.setNumThreads(1)
    torch.set_num_threads(num_cores())
    gflops, rows = product_gflops(device), {}
    for name in names or contests:
        torch.manual_seed(0)
        with contests[name](device) as contest:
            rows[name] = row_of(contest, batches, seconds, gflops)
        if name in MEDIAPIPE:
            rows[name]["engine"] = best_engine()
        if name == "contact_hands":
            rows[name]["vs_published_3_frames_per_s"] = 1e3 / PUBLISHED_CONTACT_HANDS_FPS / rows[name]["ms_batch_1"]
        print(name, *(f"{key} {value:.3g}" for key, value in rows[name].items() if isinstance(value, float)), flush=True)
    return rows


def show(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The table of networks."""
    columns = ("ms_batch_1", "ms_batch_8", "ms_batch_32", "ms_peer", "limit_ms", "vs_peer")
    grid = Grid("network", *columns, title="milliseconds a frame or crop")
    for name, row in rows.items():
        grid.add_row(name, *(f"{row[key]:,.4g}" for key in columns))
    Console(width=140).print(grid)


def main() -> None:
    """Measure, print, and write benchmarks/results/detectors.json (detectors_cuda.json on a GPU)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="networks, all when none is named")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    given = parser.parse_args()
    machine = describe()
    rows = run(given.names, device=given.device)
    show(rows)
    result = {
        "device": torch.cuda.get_device_name() if given.device == "cuda" else f"{machine['processor']}, {machine['cores']} cores",
        "machine": machine,
        "definitions": {
            "ms_batch_N": "ours on every core, N inputs in one call, per input, with cutting and decoding; networks of torch in bfloat16",
            "_float32": "the same in float32, the default of all stages but ViTPose's",
            "_one_core, _litert": "MediaPipe's networks on one thread, and by LiteRT, the default engine, in place of OpenVINO",
            "ms_peer": "the peer, one input after the other, per input; on every core but for the mediapipe package, which has one thread",
            "vs_peer": "ms_peer / the fastest of ours, named by `fastest`; vs_peer_X: ms_peer / ms_batch_8_X",
            "limit_ms": "gflop at the faster of a float32 and a bfloat16 matrix product of 2048 x 2048 on every core, measured in this run",
        },
        "networks": rows,
    }
    out = RESULTS / ("detectors.json" if given.device == "cpu" else f"detectors_{given.device}.json")
    if not given.names:
        out.write_text(json.dumps(result, indent=1, default=float) + "\n")
        print(out)


if __name__ == "__main__":
    main()
