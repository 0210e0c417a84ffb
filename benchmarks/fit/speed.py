"""`make bench-fit`: hands/s, objective and error of the fit and of its peers, on the same hands and the same losses, in one process.

The hands are those of `problems`, the peers those of `peers`. Compiling and a first call are not timed. Our rate on two cores is
measured, with one `Fitter` a core; a peer's is the better of two threads, measured, and of twice the rate of one.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as Grid

from benchmarks.fit import peers, refit
from benchmarks.fit.cost import flops_of_hand, multiply_adds_of_iteration, sgemm_gflops
from benchmarks.fit.problems import Judged, Problems, invent, judge, state_of
from benchmarks.machine import describe
from fitting.fit import Fitter, HandFits
from fitting.hand.mano import HandModel, load_hand_model
from fitting.initial import two_tilts
from fitting.objective import Objective
from fitting.settings import FitSettings

RESULTS = Path(__file__).parents[1] / "results"
NUM_HANDS = 8192
NUM_CORES = 2
GPU_BATCH = 1 << 16

Row = tuple[float, Judged]
"""Hands/s, and how good the first so many hands became."""


def ours(model: HandModel, problems: Problems, num_workers: int) -> tuple[float, list[HandFits]]:
    """Hands/s of the whole fit as the stage calls it (both tilts, the mesh, all columns), with one `Fitter` a core as the pipeline has."""
    torch.set_num_threads(1)
    settings = FitSettings() if model.v_template.device.type == "cpu" else FitSettings(batch_size=GPU_BATCH)
    fitters = [Fitter(model, settings) for _ in range(num_workers)]
    shares = np.array_split(problems.keypoints, num_workers)
    seconds = []
    with ThreadPoolExecutor(num_workers) as pool:
        for _ in range(4):
            start = time.perf_counter()
            fits = list(pool.map(Fitter.fit, fitters, shares))
            seconds.append(time.perf_counter() - start)
    return len(problems.keypoints) / float(np.median(seconds[1:])), fits


def best_rate(run: Callable[[int], peers.Timed], num_hands: int, num_timed: int) -> float:
    """Hands/s of a peer from a few of its iterations: on all cores at once, or as if it ran once on each."""
    rates = []
    for num_threads in (1, NUM_CORES):
        torch.set_num_threads(num_threads)
        run(2)
        end, seconds = run(num_timed)
        on_cpu = end.betas.device.type == "cpu"
        rates.append(num_hands / seconds * (NUM_CORES / num_threads if on_cpu else 1))
    return max(rates)


def smplx_peers(model: HandModel, objective: Objective, exact: Objective, problems: Problems) -> dict[str, Row]:
    """Adam through the mesh. A hand's end does not depend on the others in its batch, so one batch of 64 is run to its end for all."""

    def timed(n: int, num_timed: int) -> float:
        seen = problems.take(n).landmarks(objective)
        begin = peers.better_tilt(objective, seen)
        return best_rate(lambda k: peers.by_smplx(objective, model, begin, seen, num_timed=k), n, num_timed)

    torch.set_num_threads(1)
    seen = problems.take(64).landmarks(objective)
    end, _ = peers.by_smplx(objective, model, peers.better_tilt(objective, seen), seen)
    judged = judge(exact, end, problems.take(64))
    return {"smplx_adam_per_hand": (timed(1, 60), judged), "smplx_adam": (max(timed(64, 30), timed(512, 8)), judged)}


def joints_peers(objective: Objective, exact: Objective, problems: Problems) -> dict[str, Row]:
    """Adam through the joints alone, from the tilt that begins better, and at half the rate from both."""

    def timed(n: int, num_timed: int) -> float:
        seen = problems.take(n).landmarks(objective)
        begin = peers.better_tilt(objective, seen)
        return best_rate(lambda k: peers.by_joints(objective, begin, seen, num_timed=k), n, num_timed)

    torch.set_num_threads(1)
    few = problems.take(256)
    seen = few.landmarks(objective)
    starts = two_tilts(objective, seen)
    begun, ended = [judge(exact, s, few) for s in starts], [judge(exact, peers.by_joints(objective, s, seen)[0], few) for s in starts]
    rate = max(timed(256, 60), timed(1024, 20))
    return {"joints_adam": (rate, _better(begun, ended)), "joints_adam_both_tilts": (rate / 2, _better(ended, ended))}


def _better(of: list[Judged], pair: list[Judged]) -> Judged:
    """Hand by hand the member of a pair whose counterpart in `of` has the lower objective."""
    second = of[1]["objective"] < of[0]["objective"]
    return {name: np.where(second, pair[1][name], pair[0][name]) for name in pair[0]}


def main() -> None:
    """Measure, print, and write benchmarks/results/fit.json (fit_cuda.json on a GPU)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--hands", type=int, default=NUM_HANDS, help="fitted by our solver")
    parser.add_argument("--only-refit", action="store_true", help="measure that anew, and leave the rest of fit.json as it was")
    device, num_hands, only_refit = vars(parser.parse_args()).values()
    machine = describe()
    model = load_hand_model(device=device)
    objective, exact = Fitter(model).objective, Fitter(load_hand_model(dtype=torch.float64)).objective
    if only_refit:
        result = json.loads((RESULTS / "fit.json").read_text()) | {"refit": refit.measure(exact) | {"on": machine}}
        show_refit(result["refit"])
        write(result, RESULTS / "fit.json")
        return
    problems = invent(exact, num_hands)
    rate, _ = ours(model, problems, NUM_CORES if device == "cpu" else 1)
    one_core, (fits,) = ours(model, problems, 1)
    judged, iterations = judge(exact, state_of(fits, problems), problems), float(fits.num_iterations.double().mean())
    rows = smplx_peers(model, objective, exact, problems) | joints_peers(objective, exact, problems)
    gflops, flops = sgemm_gflops(NUM_CORES, device), flops_of_hand(iterations)
    ratios = {name: float(judged["objective"][: len(j["objective"])].mean() / j["objective"].mean()) for name, (_, j) in rows.items()}
    methods = {"ours": (rate, judged), "ours_one_core": (one_core, judged)} | rows
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{machine['processor']}, {NUM_CORES} cores",
        "machine": machine,
        "hand_model": model.source,
        "threads": "ours: one Fitter a core; peers: the better of two threads and of twice the rate of one; float32; compiling not timed",
        "num_hands": num_hands,
        "hands_per_s": rate,
        "hands_per_s_one_core": one_core,
        "vs_smplx_adam": rate / rows["smplx_adam"][0],
        "vs_smplx_adam_per_hand": rate / rows["smplx_adam_per_hand"][0],
        "vs_joints_adam": rate / rows["joints_adam"][0],
        "objective_ratio": max(ratios.values()),
        "objective_ratios": ratios,
        "methods": {
            name: {"hands_per_s": r, "num_judged": len(j["objective"]), **{k: v.mean() for k, v in j.items()}}
            for name, (r, j) in methods.items()
        },
        "iterations": iterations,
        "multiply_adds_of_iteration": multiply_adds_of_iteration(),
        "flops_per_hand": flops,
        "sgemm_gflops": gflops,
        "limit_hands_per_s": gflops * 1e9 / flops,
    }
    if device == "cpu":
        result["refit"] = refit.measure(exact) | {"on": machine}
    show(methods, result)
    show_refit(result.get("refit", {}))
    write(result, RESULTS / ("fit.json" if device == "cpu" else f"fit_{device}.json"))


def write(result: Mapping[str, Any], out: Path) -> None:
    out.write_text(json.dumps(result, indent=1, default=rounded) + "\n")
    print(out)


def show(methods: Mapping[str, Row], result: Mapping[str, Any]) -> None:
    """The table of methods, and what the machine allows."""
    console = Console(width=120)
    grid = Grid("method", "hands/s", "hands judged", "objective", "px to landmarks", "px to truth", "PA-MPJPE mm", title=result["device"])
    for name, (rate, judged) in methods.items():
        means = (judged[k].mean() for k in ("objective", "error_px", "truth_px", "pa_mpjpe_mm"))
        grid.add_row(name, f"{rate:,.4g}", str(len(judged["objective"])), *(f"{mean:.4g}" for mean in means))
    console.print(grid)
    console.print(f"{result['iterations']:.1f} iterations and {result['flops_per_hand'] / 1e6:.2f} MFLOP a hand")
    console.print(
        f"{result['limit_hands_per_s']:,.0f} hands/s at the {result['sgemm_gflops']:.0f} GFLOP/s that a matrix product reaches here"
    )
    console.print(f"objective {result['objective_ratio']:.3f} of the best peer's")


def show_refit(refitted: Mapping[str, Any]) -> None:
    """The rates of the command, and what a hand takes of the processors."""
    console = Console(width=120)
    for size, run in ((size, run) for size, run in refitted.items() if size.isdigit()):
        console.print(f"{size} hands refit by one command: {run['hands_per_s']:,.0f}/s, {run['peak_mb_worker']:.0f} MB a worker")
    if refitted:
        every, alone, solver = (refitted[f"cpu_us_per_hand{part}"] for part in ("_beyond_start", "", "_solver"))
        console.print(f"beyond the command's start {refitted['hands_per_s_beyond_start']:,.0f} hands/s")
        console.print(f"of the processors a hand takes {every:.0f} us in all processes: {2e6 / every:,.0f}/s if two cores did nothing else")
        console.print(f"in one process {alone:.0f} us, of which the solver's are {solver:.0f}")


def rounded(value: Any) -> float:
    return float(f"{float(value):.5g}")


if __name__ == "__main__":
    main()
