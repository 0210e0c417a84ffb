"""Handlers of the pipeline's commands, from the options that `pipeline.cli` reads. Heavy imports lie inside: the help needs none."""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.engine.finish import Where
    from pipeline.engine.store import Store
    from pipeline.exports.formats import Format
    from pipeline.folder import Loaded


def data_folder(arguments: argparse.Namespace) -> Path:
    """`--data`, or a folder of `data/` by the name of the recipe or of the list; data/demo when nothing is said."""
    videos = getattr(arguments, "videos", None)
    name = (arguments.recipe or "").partition(":")[0] or (Path(videos[0]).stem if videos else "demo")
    return Path(arguments.data or Path("data") / Path(name).stem)


def load_run(arguments: argparse.Namespace, *, remember: bool = False) -> "Loaded":
    """The run that a command speaks of."""
    from pipeline.engine.nodes.parcel import adopt
    from pipeline.folder import Asked, load
    from stages.settings import read_assignments

    asked = Asked(
        recipe=arguments.recipe,
        videos=getattr(arguments, "videos", None),
        settings=read_assignments(_assignments(arguments), getattr(arguments, "config", None)),
        until=getattr(arguments, "until", None),
        leave=getattr(arguments, "leave", False),
    )
    adopt(data_folder(arguments))
    return load(data_folder(arguments), asked, remember=remember)


def _assignments(arguments: argparse.Namespace) -> list[str]:
    """What `--set` says, and the options that are settings under a name of their own."""
    max_pixels = getattr(arguments, "max_pixels", None)
    return [*getattr(arguments, "set", ()), *([f"download.max_pixels={max_pixels}"] if max_pixels else [])]


def where_of(arguments: argparse.Namespace) -> "Where":
    """Where the command's run works."""
    from pipeline.engine.finish import Where

    return Where(local=arguments.local, num_workers=arguments.workers, num_gpus=arguments.gpus)


def run(arguments: argparse.Namespace) -> int:
    """Bring every part of a dataset to its end; run again to go on where a run stopped."""
    from pipeline.dataset.index import renew_index
    from pipeline.engine.finish import finish, shard_files
    from pipeline.engine.stopping import stops_by_sigterm
    from pipeline.engine.store import Store
    from pipeline.report.ending import print_ending
    from pipeline.report.needs import print_needs
    from pipeline.report.progress import Bars
    from pipeline.report.status import (
        all_done,
        print_duplicates,
        print_left_out,
        print_settings,
        print_status,
        print_unlisted,
        print_withheld,
    )

    store = Store(data_folder(arguments))
    if not store.root.exists():
        load_run(arguments)  # a typing error leaves no folder behind
    with store.lock(), stops_by_sigterm() as stopping:
        loaded = load_run(arguments, remember=True)
        print_settings(loaded.settings, arguments.console)
        print_withheld(loaded.withheld, arguments.console)
        print_left_out(loaded.left_out, arguments.console)
        print_unlisted(loaded.unlisted, arguments.console, leave=arguments.leave)
        print_duplicates(loaded.graph.duplicates, arguments.console)
        print_needs(loaded.graph, arguments.console)
        with Bars(loaded.graph, arguments.console) as bars:
            summary = finish(loaded.graph, where_of(arguments), on_outcome=bars, stopping=stopping)
        damaged = renew_index(shard_files(loaded.graph))
    if stopping.asked and loaded.graph.pending:
        raise KeyboardInterrupt
    print_status(loaded.graph, arguments.console)
    arguments.console.print(f"{summary.wall_s:.1f} s; parts in {store.root}")
    print_ending(loaded.graph, arguments.console)
    for path in damaged:
        arguments.console.print(f"{path} is damaged and was set aside: run again, it is made anew", style="red", markup=False)
    return 0 if all_done(loaded.graph) and not damaged else 2


def import_whim(arguments: argparse.Namespace) -> int:
    """Lay the official WHIM labels on videos that are fetched here: checked against our detections, re-aligned or refused."""
    if not Path(arguments.annotations).is_dir():
        raise ValueError(f"--annotations {arguments.annotations} is no folder: unpack the labels (huggingface.co/rolpotamias/WHIM) there")
    arguments.recipe, arguments.until = "whim_labels", None
    arguments.set = [*arguments.set, f"hands_of_whim.annotations={Path(arguments.annotations).absolute()}"]
    return run(arguments)


def import_images(arguments: argparse.Namespace) -> int:
    """Make shards of labelled images; run again to go on where it stopped."""
    import cv2
    import torch

    from pipeline.images.formats import read_images
    from pipeline.images.shards import ImageShards, num_left_out, write_image_shards
    from pipeline.recipes import find_recipe
    from stages.tables import Manifest

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    images = read_images(arguments.folder, arguments.tier)
    images = [i for i in images if arguments.split in (None, i.split) and (i.labelled or not arguments.labelled)]
    if not images:
        raise ValueError(f"{arguments.folder} has images, but none that --split and --labelled leave")
    stages = find_recipe(arguments.recipe)(Manifest.empty(), Path())
    num_rows = write_image_shards(images, arguments.out, stages, ImageShards(), arguments.console, leave=arguments.leave)
    left_out = num_left_out(images, arguments.out)
    told = f"; {left_out} left out, as they are no images, too large or not there: mend them and run again" if left_out else ""
    arguments.console.print(f"{num_rows} images labelled; {len(images)} in all in {arguments.out}{told}", markup=False)
    return 2 if left_out else 0


def plan(arguments: argparse.Namespace) -> None:
    """Show what would run, and why."""
    from rich.table import Table as Grid

    from pipeline.dataset.oddities import odd_videos
    from pipeline.report.needs import print_needs
    from pipeline.report.status import print_duplicates, print_left_out, print_odd, print_settings, print_unlisted, print_withheld

    loaded = load_run(arguments)
    graph = loaded.graph
    by_why: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for task in graph.pending:
        by_why[graph.stages[task.stage].name][str(task.why)] += 1
    if graph.open_shards:
        by_why["pack"]["upstream changed"] += len(graph.open_shards)
    num_pending = sum(sum(whys.values()) for whys in by_why.values())
    if arguments.json:
        known = {"num_pending": num_pending, "by_stage": by_why, "num_videos_without_clips": len(graph.unknown_clips)}
        left_out = [{"name": one.name, "why": one.why} for one in loaded.left_out]
        more = {"unlisted": loaded.unlisted, "duplicates": graph.duplicates, "num_stale": len(graph.stale)}
        more |= {"odd": odd_videos(graph.clips), "cameras": graph.cameras}
        print(json.dumps(known | more | {"settings": loaded.settings, "left_out": left_out}, indent=1))
        return
    grid = Grid("stage", "why", "parts", title=f"plan for {graph.store.root}")
    for stage, whys in by_why.items():
        for why, count in whys.items():
            grid.add_row(stage, why, str(count))
    print_settings(loaded.settings, arguments.console)
    print_withheld(loaded.withheld, arguments.console)
    print_left_out(loaded.left_out, arguments.console)
    print_unlisted(loaded.unlisted, arguments.console, leave=arguments.leave)
    print_duplicates(graph.duplicates, arguments.console)
    print_needs(graph, arguments.console)
    print_odd(graph, arguments.console)
    arguments.console.print(grid if num_pending else f"nothing to do in {graph.store.root}")
    if graph.unknown_clips:
        arguments.console.print(f"clips not known yet of {len(graph.unknown_clips)} videos: they are listed once `split` has run")


def status(arguments: argparse.Namespace) -> None:
    """Count the parts by stage, state and reason, with what to do."""
    from pipeline.report.status import as_json, print_settings, print_status
    from pipeline.report.watch import watch

    if arguments.watch:
        watch(lambda: load_run(arguments).graph, arguments.console, arguments.watch)
        return
    loaded = load_run(arguments)
    if arguments.json:
        print(json.dumps(as_json(loaded.graph), indent=1))
        return
    print_settings(loaded.settings, arguments.console)
    print_status(loaded.graph, arguments.console)


def doctor(arguments: argparse.Namespace) -> int:
    """Look at what a run needs of this machine: ffmpeg, JavaScript, disk, Ray, GPU, weights, MANO, clock, limits."""
    from dataclasses import asdict

    from pipeline.report.doctor import Health, examine

    findings = []
    for finding in examine(data_folder(arguments).absolute()):
        findings.append(finding)
        if not arguments.json:
            style = {Health.GOOD: "green", Health.NOTE: "yellow", Health.BAD: "red"}[finding.health]
            mend = f": {finding.mend}" if finding.mend else ""
            arguments.console.print(
                f"{finding.health:<5}{finding.name:<11}{finding.told}{mend}", style=style, markup=False, highlight=False
            )
    if arguments.json:
        print(json.dumps([asdict(one) for one in findings], indent=1))
    return 1 if any(one.health is Health.BAD for one in findings) else 0


def retry(arguments: argparse.Namespace) -> None:
    """Forget failures, so that the next run tries them again."""
    from pipeline.engine.graph import table_of
    from pipeline.report.status import failures
    from stages.settings import unknown
    from stages.stage import Reason

    if arguments.reason and arguments.reason not in set(Reason):
        raise ValueError(unknown(arguments.reason, map(str, Reason), "reason"))
    graph, reopened = load_run(arguments).graph, 0
    with graph.store.lock():
        for task in failures(graph):
            if arguments.reason in (None, task.reason):
                graph.store.error_file(table_of(graph.stages[task.stage]), task.key).unlink(missing_ok=True)
                reopened += 1
    arguments.console.print(f"{reopened} parts will be tried again by the next run")


def verify(arguments: argparse.Namespace) -> int:
    """Check that every file of a data folder is, bit for bit, what was written."""
    from dataclasses import asdict

    from rich.progress import track

    from pipeline.engine.verify import files_of, set_damaged_aside, verify_files

    root = Path(arguments.folder or arguments.data)
    files = files_of(root)
    verdict = verify_files(root, files if arguments.json else track(files, "checking", console=arguments.console))
    aside = set_damaged_aside(root, verdict) if arguments.repair else []
    if arguments.json:
        print(json.dumps(asdict(verdict), indent=1))
    else:
        for name, why in (verdict.corrupt | verdict.unknown).items():
            arguments.console.print(f"{name}: {why}", style="red", markup=False)
        mend = f"{len(aside)} set aside, whim run makes them again" if aside else f"whim verify {root} --repair, then whim run"
        told = f"{len(verdict.corrupt)} files are damaged: {mend}" if verdict.corrupt else "all sound"
        unsealed = f", {verdict.num_unsealed} of an earlier version without a digest" if verdict.num_unsealed else ""
        foreign = f"; {len(verdict.foreign)} files are none of ours" if verdict.foreign else ""
        arguments.console.print(f"{verdict.num_sound} files as they were written{unsealed}{foreign}: {told}", markup=False)
    return 2 if verdict.corrupt or verdict.unknown else 0


def browse(arguments: argparse.Namespace) -> None:
    """Look through the hands of a data folder in a local web page, filter, judge and correct them."""
    from pipeline.browse.server import listen
    from pipeline.browse.session import Session

    root = Path(arguments.folder or arguments.data)
    arguments.console.print(f"reading the tables of {root}", markup=False)
    session = Session(root, arguments.who)
    for part in session.unreadable:
        arguments.console.print(f"{part} cannot be read: whim verify says more", style="red", markup=False)

    served = listen(session, arguments.port)
    arguments.console.print(f"open {served.address}", markup=False)
    arguments.console.print("Ctrl+C ends it; what is decided is kept, and taken up by the next whim run", markup=False)
    served.run()


def verdicts_export(arguments: argparse.Namespace) -> None:
    """Write people's decisions on hands as CSV, COCO or Label Studio."""
    from pipeline.browse.exchange import export_verdicts

    num = export_verdicts(_store_that_is(arguments), arguments.format, arguments.out)
    arguments.console.print(f"{num:,} verdicts in {arguments.out}", markup=False)


def verdicts_import(arguments: argparse.Namespace) -> None:
    """Take up decisions on hands from a CSV, COCO or Label Studio file."""
    from pipeline.browse.exchange import import_verdicts

    new, known = import_verdicts(_store_that_is(arguments), arguments.file, arguments.who)
    arguments.console.print(f"{new:,} verdicts are new, {known:,} were known; whim run takes them up", markup=False)


def _store_that_is(arguments: argparse.Namespace) -> "Store":
    """The data folder of `--data`. Raises ValueError where there is none: nothing would be found in it."""
    from pipeline.engine.store import Store

    if not Path(arguments.data).is_dir():
        raise ValueError(f"--data {arguments.data} is no folder: name the data folder of a run")
    return Store(Path(arguments.data))


def refresh(arguments: argparse.Namespace) -> int:
    """Ask the sites again for every video that is here, and list what was taken down or made private."""
    from dataclasses import asdict

    from pipeline.refresh import Offer, refresh
    from stages.download import Download

    graph = load_run(arguments).graph
    settings = next((stage for stage in graph.stages if isinstance(stage, Download)), None)
    if settings is None:
        raise ValueError("the recipe downloads nothing")
    looks = []
    for look in refresh(graph.store, settings):
        looks.append(look)
        if not arguments.json and look.offer is not Offer.OFFERED:
            arguments.console.print(f"{look.offer:<8}{look.video}: {look.reason}: {look.message}", markup=False)
    gone = [look.video for look in looks if look.offer is Offer.GONE]
    if arguments.json:
        print(json.dumps([asdict(look) for look in looks], indent=1))
        return 2 if gone else 0
    unknown = sum(look.offer is Offer.UNKNOWN for look in looks)
    arguments.console.print(f"{len(looks)} videos asked for: {len(gone)} are gone, of {unknown} the site did not say", markup=False)
    if gone:
        words = " ".join(gone[:5]) + (" ..." if len(gone) > 5 else "")
        arguments.console.print(f"to take them out: whim remove {words} --data {graph.store.root}", markup=False)
    return 2 if gone else 0


def remove(arguments: argparse.Namespace) -> None:
    """Take videos out of a data folder for good: files, tables, images, frames of the shards; list what went and what stays."""
    from pipeline.engine.store import Store
    from pipeline.remove import remove

    store = Store(data_folder(arguments))
    if not (store.root / "run.json").exists():
        raise ValueError(f"{store.root} is no data folder: it has no run.json")
    with store.lock():
        gone = remove(store, arguments.names)
    for file in gone.files:
        arguments.console.print(f"removed {file}", markup=False)
    for shard, frames in gone.shards.items():
        arguments.console.print(f"removed {frames:,} frames of {shard}", markup=False)
    elsewhere = "copies of the shards (uploads, caches of trainings: ~/.cache/whim), networks trained on them, files of `whim detect`"
    for one in [*gone.stays, elsewhere]:
        arguments.console.print(f"not removed: {one}", markup=False)
    arguments.console.print(f"withdrawn from every later run: {store.root / 'removed.txt'}", markup=False)


def report(arguments: argparse.Namespace) -> None:
    """Write one self-contained HTML page of a run."""
    from pipeline.report.overview import overview_of
    from pipeline.report.page import write_report

    graph = load_run(arguments).graph
    out = Path(arguments.out or graph.store.root / "report.html")
    write_report(graph.store.root, out, overview=overview_of(graph))
    arguments.console.print(f"report: {out}")


def demo(arguments: argparse.Namespace) -> int:
    """Render labelled videos, run the whole chain, score it against the truth, report; or run your own --videos."""
    from pipeline.demo import demo
    from pipeline.engine.stopping import stops_by_sigterm
    from stages.settings import read_assignments

    if arguments.videos:
        ended = run(arguments)
        arguments.out = None
        report(arguments)
        return ended
    settings = read_assignments(arguments.set, arguments.config)
    with stops_by_sigterm() as stopping:
        return demo(data_folder(arguments), arguments.console, settings=settings, where=where_of(arguments), stopping=stopping)


def settings(arguments: argparse.Namespace) -> None:
    """List every setting of every stage: name, type, default, and what it is with its unit and source."""
    from pipeline.stage_settings import settings_as_json, shown
    from stages.settings import print_settings

    if arguments.json:
        print(json.dumps(settings_as_json(arguments.recipe, arguments.stage), indent=1))
    else:
        print_settings(shown(arguments.recipe, arguments.stage), arguments.console)


def exporter(format: "Format") -> "Callable[[argparse.Namespace], None]":
    """The handler of the command that exports in a format, whose help is the format's line."""

    def write(arguments: argparse.Namespace) -> None:
        from pipeline.exports.export import export

        options = {name: getattr(arguments, name) for name in format.options if hasattr(arguments, name)}
        done = export(format, arguments.data, arguments.out, where=arguments.where, options=options, console=arguments.console)
        told = "was there already" if done.up_to_date else f"written to {done.folder}"
        arguments.console.print(f"{done.num_hands:,} hands on {done.num_frames:,} frames: {told}", markup=False)

    write.__doc__ = f"{format.about}."
    return write


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


def learn_prior(arguments: argparse.Namespace) -> None:
    """Learn the pose prior from ARCTIC, or from invented poses."""
    from fitting.priors.pca import train

    train(arguments)


def learn_offsets(arguments: argparse.Namespace) -> None:
    """Learn where detectors' landmarks lie beside the hand model's joints."""
    from fitting.landmarks.learn_offsets import update
    from fitting.landmarks.offsets import LANDMARK_OFFSETS

    update(arguments.labelled, arguments.out or LANDMARK_OFFSETS)


def learn_all(arguments: argparse.Namespace) -> None:
    """Learn calibrations and landmark offsets of every member of a recipe in one go."""
    from pipeline.evaluate.learn_all import learn_all
    from pipeline.recipes import find_recipe
    from stages.tables import Manifest

    stages = find_recipe(arguments.recipe)(Manifest.empty(), Path())
    learn_all(
        stages,
        arguments.console,
        num_albums=arguments.albums,
        labels=arguments.labels,
        media=arguments.media,
        out=arguments.out,
        again=arguments.again,
    )


def learn_calibration(arguments: argparse.Namespace) -> None:
    """Learn what each detector's scores and boxes are worth, from labelled frames."""
    from pipeline.evaluate.calibrate import write_calibration

    write_calibration(arguments.labels, arguments.detections, arguments.out, arguments.console, people_tables=arguments.people)


def render_videos(arguments: argparse.Namespace) -> None:
    """Render labelled videos of two hands, with exact truth."""
    from studio.video import Film, make_videos

    film = Film(seed=arguments.seed, seconds=arguments.seconds, frames_per_second=arguments.frames_per_second)
    make_videos(arguments.out, arguments.num_videos, film)


def render_shards(arguments: argparse.Namespace) -> None:
    """Render shards of hands with exact truth: what a regressor can learn from with no download."""
    from pipeline.dataset.studio_shards import StudioShards, write_on
    from studio.stills import Album

    given = StudioShards(num_albums=arguments.albums, seed=arguments.seed, album=Album(size=arguments.size))
    write_on(arguments.out, given, arguments.console, num_threads=arguments.threads)


def weights_list(arguments: argparse.Namespace) -> None:
    """List the larger networks: what each is, under which licence, and whether it is here."""
    from pipeline.weights import list_weights

    list_weights(arguments.console)


def weights_get(arguments: argparse.Namespace) -> int:
    """Fetch networks' files: the named ones, or all that bind nobody to anything."""
    from pipeline.weights import get_weights

    return 1 if get_weights(arguments.names, arguments.console, agree=arguments.agree) else 0


def weights_check(arguments: argparse.Namespace) -> int:
    """Compare the files that are here with their hashes."""
    from pipeline.weights import check_weights

    return 1 if check_weights(arguments.names, arguments.console) else 0


def detect(arguments: argparse.Namespace) -> None:
    """Find the hands of an image, a video, a folder or a camera by the whole chain: drawn, and as a table."""
    from pipeline.library.drawn import detect

    files, frames, hands = detect(
        arguments.source,
        arguments.out,
        table_format=arguments.table,
        max_frames=arguments.frames,
        console=None if arguments.quiet else arguments.console,
    )
    many = f" of {files} files" if files != 1 else ""
    arguments.console.print(f"{hands} hands in {frames} images{many}: {arguments.out}", markup=False)


def reconstruct(arguments: argparse.Namespace) -> None:
    """Reconstruct the hands of an image or a video in space by the fit: meshes, overlay, parameters."""
    from pipeline.library.drawn import reconstruct

    frames, hands = reconstruct(
        arguments.source,
        arguments.out,
        meshes=arguments.meshes,
        focal_px=arguments.focal,
        max_frames=arguments.frames,
        console=None if arguments.quiet else arguments.console,
    )
    arguments.console.print(f"{hands} hands in {frames} frames: {arguments.out}", markup=False)
