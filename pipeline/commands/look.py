"""Commands that look at a dataset: report, browse, verdicts, verify, evaluate."""

import argparse
import json
import shlex
from pathlib import Path

from pipeline.commands.options import data_folder, load_run, store_that_is


def verify(arguments: argparse.Namespace) -> int:
    """Check that every file of a data folder is, bit for bit, what was written."""
    from dataclasses import asdict

    from rich.progress import track

    from pipeline.engine.durable import mirror_of
    from pipeline.engine.roots.opening import opened
    from pipeline.engine.verify import files_of, set_damaged_aside, verify_files

    named = arguments.folder or arguments.data
    root = opened(named, whole=True)
    files = files_of(root)
    verdict = verify_files(root, files if arguments.json else track(files, "checking", console=arguments.console))
    aside = set_damaged_aside(root, verdict) if arguments.repair else []
    if mirror := mirror_of(root):
        mirror.make_room()
    if arguments.json:
        print(json.dumps(asdict(verdict), indent=1))
    else:
        for name, why in (verdict.corrupt | verdict.unknown).items():
            arguments.console.print(f"{name}: {why}", style="red", markup=False)
        mend = (
            f"{len(aside)} set aside, whim run makes them again"
            if aside
            else f"whim verify {shlex.quote(str(named))} --repair, then whim run"
        )
        told = f"{len(verdict.corrupt)} files are damaged: {mend}" if verdict.corrupt else "all sound"
        unsealed = f", {verdict.num_unsealed} of an earlier version without a digest" if verdict.num_unsealed else ""
        foreign = f"; {len(verdict.foreign)} files are none of ours" if verdict.foreign else ""
        arguments.console.print(f"{verdict.num_sound} files as they were written{unsealed}{foreign}: {told}", markup=False)
    return 2 if verdict.corrupt or verdict.unknown else 0


def browse(arguments: argparse.Namespace) -> None:
    """Look through the hands of a data folder in a local web page, filter, judge and correct them."""
    from pipeline.browse.server import listen
    from pipeline.browse.session import Session
    from pipeline.engine.roots.opening import opened

    arguments.console.print(f"reading the tables of {arguments.folder or arguments.data}", markup=False)
    root = opened(arguments.folder or arguments.data)
    session = Session(root, arguments.who)
    for part in session.unreadable:
        arguments.console.print(f"{part} cannot be read: whim verify says more", style="red", markup=False)

    served = listen(session, arguments.port)
    arguments.console.print(f"open {served.address}", markup=False)
    arguments.console.print("Ctrl+C ends it; what is decided is kept, and taken up by the next whim run", markup=False)
    stopped = False
    try:
        served.run()
    except KeyboardInterrupt:  # how a person ends it
        stopped = True
    taken_up = (
        f"what was decided is kept; whim run --data {session.store.word()} takes it up" if session.num_changes else "nothing was decided"
    )
    if stopped:
        raise KeyboardInterrupt(f"whim browse has ended: {taken_up}")
    arguments.console.print(f"whim browse has ended: {taken_up}", markup=False)  # where Ctrl-C is ignored, the server alone heard it


def verdicts_export(arguments: argparse.Namespace) -> None:
    """Write people's decisions on hands as CSV, COCO or Label Studio."""
    from pipeline.browse.exchange import export_verdicts

    num = export_verdicts(store_that_is(arguments), arguments.format, arguments.out)
    arguments.console.print(f"{num:,} verdicts in {arguments.out}", markup=False)


def verdicts_import(arguments: argparse.Namespace) -> None:
    """Take up decisions on hands from a CSV, COCO or Label Studio file."""
    from pipeline.browse.exchange import import_verdicts

    new, known = import_verdicts(store_that_is(arguments), arguments.file, arguments.who)
    arguments.console.print(f"{new:,} verdicts are new, {known:,} were known; whim run takes them up", markup=False)


def report(arguments: argparse.Namespace) -> None:
    """Write one self-contained HTML page of a run."""
    from pipeline.engine.durable import StoreError
    from pipeline.report.overview import overview_of
    from pipeline.report.page import write_report

    graph = load_run(arguments).graph
    out = Path(arguments.out or graph.store.root / "report.html")
    try:
        write_report(graph.store.root, out, overview=overview_of(graph))
    except StoreError as error:
        raise error if arguments.out else StoreError(f"{error}; or write the page elsewhere: --out FILE") from error
    arguments.console.print(f"report: {graph.store.shown(out)}", markup=False)


def evaluate_annotators(arguments: argparse.Namespace) -> None:
    """Measure recall, precision and side of the detectors on labelled frames."""
    from dataclasses import replace

    from pipeline.evaluate.annotators import evaluate_hands, print_score, with_clips, write_score
    from pipeline.evaluate.folds import read_fold
    from pipeline.evaluate.landmarks import evaluate_landmarks
    from pipeline.recipes import find_recipe

    overlays, detections = (Path(given) if given else None for given in (arguments.overlays, arguments.detections))
    recipe = find_recipe(arguments.recipe)
    folds = [read_fold(name, Path(videos)) for name, videos in arguments.fold]
    labels, media = Path(arguments.labels), Path(arguments.media)
    shown = {"mirror": arguments.mirror, "alone": arguments.alone}
    score = evaluate_hands(labels, media, recipe=recipe, folds=folds, **shown, overlays=overlays, detections=detections)
    if arguments.landmarks:
        score = replace(score, landmarks=evaluate_landmarks(arguments.landmarks, media, arguments.pictures))
    if arguments.clips:
        score = with_clips(score, Path(arguments.clips), media, recipe, folds)
    print_score(score, arguments.console)
    if arguments.json:
        write_score(score, Path(arguments.json))


def evaluate_studio(arguments: argparse.Namespace) -> None:
    """Score a data folder against the studio's exact truth: boxes, sides, keypoints, joints in space."""
    from pipeline.demo import print_truth, score_folder
    from pipeline.engine.store import Store

    store = Store(data_folder(arguments))
    print_truth(score_folder(store, Path(arguments.truth or store.root / "studio")), arguments.console)
