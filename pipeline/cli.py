"""The command `whim`: where and how many. What runs is a recipe."""

import argparse
import dataclasses
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from pipeline.dataset.index import renew_index
from pipeline.engine.finish import finish, shard_files
from pipeline.engine.graph import Graph, State, table_of
from pipeline.engine.run import NoWorkers, stop_on_sigterm
from pipeline.engine.store import Store, StoreError
from pipeline.manifest import read_manifest
from pipeline.recipes import find_recipe
from pipeline.report.progress import Bars
from pipeline.report.status import failures, print_status, status_rows
from stages.media.address import without_secrets
from stages.stage import Reason
from stages.tables import Manifest

console = Console(soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; exits 0 when done, 1 on a user's error, 2 when clips failed in this run, 130 when stopped."""
    arguments = build_parser().parse_args(argv)
    try:
        status = arguments.command(arguments) or 0
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # whoever read us has seen enough: whim plan --json | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, FileNotFoundError, StoreError, NoWorkers) as error:
        console.print(f"whim: {error}", style="red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped: what was committed stays; run again to go on")
        sys.exit(130)


def load_graph(arguments: argparse.Namespace, *, remember: bool = False) -> Graph:
    """The graph of a data folder: recipe and manifest as given, else as its last run had them.

    A list or folder of videos that is gone is known from the last run.
    """
    store = Store(data_folder(arguments))
    last = store.read_json("run.json") or {}
    recipe = arguments.recipe or last.get("recipe") or "whim"
    given = getattr(arguments, "videos", None)
    videos = given or last.get("videos")
    if not videos:
        raise ValueError(f"{store.root} has no run yet: whim run --videos FOLDER_OR_LIST --data {store.root}")
    try:
        manifest = read_manifest(Path(videos))
    except FileNotFoundError:
        if given or not store.part("", "manifest").exists():
            raise
        manifest = store.read(Manifest, "", "manifest")  # the videos were put away; what was made of them is here
    if remember:
        store.write_json("run.json", {"recipe": recipe, "videos": str(Path(videos).absolute())})
        known = store.part("", "manifest").exists() and store.read(Manifest, "", "manifest").to_arrow()
        shown = dataclasses.replace(manifest, source=np.array([without_secrets(str(one)) for one in manifest.source], object))
        if not known or not known.equals(shown.to_arrow()):
            store.commit("", "manifest", shown, {})
    stages = find_recipe(recipe)(manifest, store.root)
    until = getattr(arguments, "until", None)
    if until:
        names = [stage.name for stage in stages]
        if until not in names:
            raise ValueError(f"no stage {until!r} in recipe {recipe}: {', '.join(dict.fromkeys(names))}")
        stages = stages[: len(names) - names[::-1].index(until)]
    return Graph(stages, manifest, store).load()


def data_folder(arguments: argparse.Namespace) -> Path:
    """`--data`, or a folder of `data/` by the name of the recipe or of the list; data/demo when nothing is said."""
    videos = getattr(arguments, "videos", None)
    name = arguments.recipe or (Path(videos).stem if videos else "demo")
    return Path(arguments.data or Path("data") / Path(name).stem)


def cmd_plan(arguments: argparse.Namespace) -> None:
    """What would run, and why."""
    graph = load_graph(arguments)
    by_why: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for task in graph.pending:
        by_why[graph.stages[task.stage].name][str(task.why)] += 1
    if graph.open_shards:
        by_why["pack"]["upstream changed"] += len(graph.open_shards)
    num_pending = sum(sum(whys.values()) for whys in by_why.values())
    if arguments.json:
        unknown = len(graph.unknown_clips)
        print(json.dumps({"num_pending": num_pending, "by_stage": by_why, "num_videos_without_clips": unknown}, indent=1))
        return
    grid = Grid("stage", "why", "parts", title=f"plan for {graph.store.root}")
    for stage, whys in by_why.items():
        for why, count in whys.items():
            grid.add_row(stage, why, str(count))
    console.print(grid if num_pending else f"nothing to do in {graph.store.root}")
    if graph.unknown_clips:
        console.print(f"clips not known yet of {len(graph.unknown_clips)} videos: they are listed once `split` has run")


def cmd_run(arguments: argparse.Namespace) -> int:
    """Bring every part of the recipe to an end; run again to go on where a run stopped."""
    stop_on_sigterm()
    store = Store(data_folder(arguments))
    with store.lock():
        graph = load_graph(arguments, remember=True)
        with Bars(graph, console) as bars:
            summary = finish(graph, local=arguments.local, num_workers=arguments.workers, on_outcome=bars)
        renew_index(shard_files(graph))
    print_status(graph, console)
    console.print(f"{summary.wall_s:.1f} s; parts in {store.root}")
    return 2 if any(task.state is State.RETRY for task in graph.tasks) else 0


def cmd_status(arguments: argparse.Namespace) -> None:
    """Parts by stage, state and reason."""
    graph = load_graph(arguments)
    if arguments.json:
        by_stage: dict[str, dict[str, int]] = {stage.name: dict.fromkeys(State, 0) for stage in graph.stages}
        for (stage, state, _), count in graph.counts().items():
            by_stage[stage][state] += count
        reasons = [row for row in status_rows(graph) if row["reason"]]
        print(json.dumps({"stages": by_stage, "reasons": reasons, "num_videos_without_clips": len(graph.unknown_clips)}, indent=1))
    else:
        print_status(graph, console)


def cmd_retry(arguments: argparse.Namespace) -> None:
    """Forget failures, so that the next run tries them again."""
    graph, reopened = load_graph(arguments), 0
    with graph.store.lock():
        for task in failures(graph):
            if arguments.reason in (None, task.reason):
                graph.store.error_file(table_of(graph.stages[task.stage]), task.key).unlink(missing_ok=True)
                reopened += 1
    console.print(f"{reopened} parts will be tried again by the next run")


def cmd_report(arguments: argparse.Namespace) -> None:
    """One self-contained HTML page of a run."""
    from pipeline.report.page import write_report

    graph = load_graph(arguments)
    out = Path(arguments.out or graph.store.root / "report.html")
    write_report(graph.store.root, out, status=status_rows(graph))
    console.print(f"report: {out}")


def cmd_evaluate_hands(arguments: argparse.Namespace) -> None:
    """Recall, precision and side accuracy of the detectors on labelled frames."""
    from pipeline.evaluate.annotators import evaluate_hands, print_score, write_score

    overlays, detections = (Path(given) if given else None for given in (arguments.overlays, arguments.detections))
    stages = find_recipe(arguments.recipe)(Manifest.empty(), Path())
    labels, media = Path(arguments.labels), Path(arguments.media)
    shown = {"mirror": arguments.mirror, "alone": arguments.alone}
    score = evaluate_hands(labels, media, stages=stages, **shown, overlays=overlays, detections=detections)
    print_score(score, console)
    if arguments.json:
        write_score(score, Path(arguments.json))


def cmd_evaluate_truth(arguments: argparse.Namespace) -> None:
    """Score a data folder against the studio's exact truth: boxes, sides, keypoints, joints in space."""
    from pipeline.demo import print_truth, score_folder

    store = Store(data_folder(arguments))
    print_truth(score_folder(store, Path(arguments.truth or store.root / "studio")), console)


def cmd_weights_list(arguments: argparse.Namespace) -> None:
    """The larger networks: what each is, under which licence, and whether it is here."""
    from pipeline.weights import list_weights

    list_weights(console)


def cmd_weights_get(arguments: argparse.Namespace) -> int:
    """Fetch networks' files: the named ones, or all that bind nobody to anything."""
    from pipeline.weights import get_weights

    return 1 if get_weights(arguments.names, console, agree=arguments.agree) else 0


def cmd_weights_check(arguments: argparse.Namespace) -> int:
    """Compare the files that are here with their hashes."""
    from pipeline.weights import check_weights

    return 1 if check_weights(arguments.names, console) else 0


def cmd_demo(arguments: argparse.Namespace) -> int:
    """Render labelled videos, serve them, run the whole chain, score it against the truth, report; or run your own --videos."""
    stop_on_sigterm()
    if arguments.videos:
        status = cmd_run(arguments)
        arguments.out = None
        cmd_report(arguments)
        return status
    from pipeline.demo import demo

    return demo(data_folder(arguments), console, local=arguments.local, num_workers=arguments.workers)


def build_parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    parser = argparse.ArgumentParser(prog="whim", description="From a list of videos to a training-ready dataset of 3D hands.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], Any], group: Any = commands) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = group.add_parser(name, help=(function.__doc__ or "").splitlines()[0], description=function.__doc__)
        sub.set_defaults(command=function)
        return sub

    def on_data(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--data", help="data folder (default: data/ and the name of the recipe or of the list, else data/demo)")
        sub.add_argument("--recipe", help="whim, whim_full, demo, or path/to/file.py:function (default: as the folder's last run)")
        return sub

    def on_run(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument("--videos", help="manifest, folder of videos, or one video")
        sub.add_argument("--local", action="store_true", help="in this process, without Ray")
        sub.add_argument("--workers", type=int, help="at most so many workers of each kind (default: what the cluster holds)")
        return sub

    plan = on_data(command("plan", cmd_plan))
    plan.add_argument("--videos", help="manifest, folder of videos, or one video")
    plan.add_argument("--json", action="store_true")
    on_run(on_data(command("run", cmd_run))).add_argument("--until", metavar="STAGE", help="stop after this stage")
    on_data(command("status", cmd_status)).add_argument("--json", action="store_true")
    on_data(command("retry", cmd_retry)).add_argument("--reason", choices=[r.value for r in Reason], help="only failures of this reason")
    on_data(command("report", cmd_report)).add_argument("--out", help="where to write the page (default: <data>/report.html)")
    on_run(on_data(command("demo", cmd_demo)))
    evaluate = commands.add_parser("evaluate", help="Score against labels.").add_subparsers(required=True, metavar="WHAT")
    hands = command("hands", cmd_evaluate_hands, evaluate)
    hands.add_argument("--labels", required=True, help="a file of the format handmedia-bench/1")
    hands.add_argument("--media", default=os.environ.get("WHIM_MEDIA", "."), help="folder of the labelled videos and pictures")
    hands.add_argument("--recipe", default="whim", help="whose detectors: whim, whim_full, or path/to/file.py:function")
    hands.add_argument("--mirror", action="store_true", help="show all frames mirrored: nothing was tuned on those")
    hands.add_argument("--alone", action="store_true", help="show each frame without its neighbours: no track helps")
    hands.add_argument("--json", metavar="FILE", help="write the figures there too")
    hands.add_argument("--overlays", metavar="FOLDER", help="draw every labelled frame there")
    hands.add_argument("--detections", metavar="FILE", help="write what was found there, for python -m pipeline.evaluate.calibrate")
    truth = on_data(command("truth", cmd_evaluate_truth, evaluate))
    truth.add_argument("--truth", help="folder of *.truth.parquet (default: <data>/studio)")
    weights = commands.add_parser("weights", help="The larger networks' files.").add_subparsers(required=True, metavar="WHAT")
    command("list", cmd_weights_list, weights)
    get = command("get", cmd_weights_get, weights)
    get.add_argument("names", nargs="*", metavar="NAME", help="of manifests/weights.toml (default: all that are free)")
    get.add_argument("--agree", action="store_true", help="you agree to the terms that `whim weights list` names")
    command("check", cmd_weights_check, weights).add_argument("names", nargs="*", metavar="NAME")
    return parser
