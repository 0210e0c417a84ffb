"""`whim evaluate regressor`: the figures of a checkpoint on FreiHAND, HO3D and shards, on a page and as files for the official scripts."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from training.regressor.evaluate import Benchmark

SHOWN = ("pa_mpjpe_mm", "pa_mpvpe_mm", "pa_f5", "pa_f15", "pa_auc_j", "pa_auc_v", "proper_pa_mpjpe_mm", "root_mpjpe_mm", "camera_mpjpe_mm")
"""On the terminal; the page has them all."""


def add_command(commands: Any) -> None:
    """`evaluate-regressor`."""
    measure = commands.add_parser("evaluate-regressor", help="figures of a checkpoint on hands that are known")
    measure.add_argument("checkpoint", type=Path)
    measure.add_argument("--freihand", type=Path, metavar="DIR", help="official files of FreiHAND, with evaluation_xyz.json")
    measure.add_argument("--ho3d", type=Path, metavar="DIR", help="official files of HO3D, with evaluation_xyz.json")
    measure.add_argument("--every", type=int, default=1, help="of HO3D's images")
    measure.add_argument("--data", type=Path, help="folder of shards")
    measure.add_argument("--split", default="test", help="of the shards")
    measure.add_argument("--hands", type=int, help="of the shards, the most")
    measure.add_argument("--report", type=Path, metavar="DIR", help="add the figures to a page with tables, curves, best and worst hands")
    measure.add_argument("--predictions", type=Path, metavar="DIR", help="write SET/pred.json for the official scripts")
    measure.add_argument("--batch", type=int, default=64)
    measure.add_argument("--gpu", action="store_true")
    measure.add_argument("--json", action="store_true")
    measure.set_defaults(command=evaluate_regressor)


def evaluate_regressor(arguments: argparse.Namespace) -> None:
    """Measure on every set that is named. Raises ValueError when none is."""
    from training.data.readers.hand_crops import write_predictions
    from training.regressor.evaluate import evaluate, placed
    from training.regressor.inference import read
    from training.regressor.report import write_report

    if not (arguments.freihand or arguments.ho3d or arguments.data):
        raise ValueError("nothing to measure on: name --freihand DIR, --ho3d DIR or --data DIR")
    network = read(arguments.checkpoint).to("cuda" if arguments.gpu else "cpu")
    found = {}
    for benchmark in _benchmarks(arguments):
        result = evaluate(network, benchmark, batch_size=arguments.batch)
        found[benchmark.name] = {name: dict(evaluation.metrics) for name, evaluation in result.evaluations.items()}
        if arguments.report:
            write_report(arguments.report, benchmark, result, arguments.checkpoint, network)
        if arguments.predictions and benchmark.submitted:
            hands = benchmark.submitted(placed(list(result.predictions.values())[-1], benchmark))
            write_predictions(arguments.predictions / benchmark.name / "pred.json", hands)
        if not arguments.json:
            _print(benchmark, found[benchmark.name])
    if arguments.json:
        print(json.dumps(found))


def _benchmarks(arguments: argparse.Namespace) -> Iterator[Benchmark]:
    from training.regressor.evaluate import freihand_benchmark, ho3d_benchmark, shards_benchmark

    if arguments.freihand:
        yield freihand_benchmark(arguments.freihand)
    if arguments.ho3d:
        yield ho3d_benchmark(arguments.ho3d, every=arguments.every)
    if arguments.data:
        yield shards_benchmark(arguments.data, arguments.split, max_hands=arguments.hands)


def _print(benchmark: Benchmark, metrics: dict[str, dict[str, float]]) -> None:
    grid = Table("figure", *metrics, title=f"{len(benchmark.crops)} hands: {benchmark.protocol}")
    for name in SHOWN:
        if name in next(iter(metrics.values())):
            grid.add_row(name, *(f"{of[name]:.4f}" for of in metrics.values()))
    Console(soft_wrap=True).print(grid)
