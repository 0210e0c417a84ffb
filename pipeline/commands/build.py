"""Commands that build a dataset: from a list of videos to shards."""

import argparse
import json
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.look import report
from pipeline.commands.options import data_folder, load_run, where_of

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.engine.graph import Graph


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

    where, store = where_of(arguments), Store(data_folder(arguments))
    if store.is_new:
        load_run(arguments)  # a typing error leaves no folder behind
    with store.lock(), stops_by_sigterm() as stopping:
        loaded = load_run(arguments, remember=True)
        print_settings(loaded.settings, arguments.console)
        print_withheld(loaded.withheld, arguments.console)
        print_left_out(loaded.left_out, arguments.console)
        print_unlisted(loaded.unlisted, arguments.console, leave=arguments.leave)
        print_duplicates(loaded.graph.duplicates, arguments.console)
        print_needs(loaded.graph, arguments.console)
        if getattr(arguments, "drop_media", False):
            arguments.console.print(f"--drop-media: {_DROP_MEDIA}", markup=False)
        with Bars(loaded.graph, arguments.console) as bars:
            summary = finish(loaded.graph, where, on_outcome=bars, stopping=stopping)
        damaged = renew_index(shard_files(loaded.graph))
        if getattr(arguments, "drop_media", False) and not damaged:
            _drop_media(loaded.graph, arguments.console)
    if stopping.asked and loaded.graph.pending:
        raise KeyboardInterrupt
    print_status(loaded.graph, arguments.console)
    arguments.console.print(f"{summary.wall_s:.1f} s; parts in {store.name}", markup=False)
    print_ending(loaded.graph, arguments.console)
    for path in damaged:
        arguments.console.print(f"{store.shown(path)} is damaged and was set aside: run again, it is made anew", style="red", markup=False)
    return 0 if all_done(loaded.graph) and not damaged else 2


_DROP_MEDIA = (
    "fetched videos go once their shards are packed. Hands can be fitted and reviewed again without them, and packed as far as the shards "
    "hold their images; to find hands anew, by another detector or setting of one, and for images that no shard holds so (another "
    "jpeg_quality or max_side, more negatives, frames left out before) they have to be fetched again, and some may be gone by then"
)


def _drop_media(graph: "Graph", console: "Console") -> None:
    """Remove the videos that nothing reads any more, and say how much that was."""
    from pipeline.engine.durable import remove
    from pipeline.engine.finish import packed_videos

    files = packed_videos(graph)
    size = sum(graph.store.size_of(path) or 0 for path in files)
    for path in files:
        remove(path)
    console.print(f"{len(files)} videos dropped, {size / 1e9:.1f} GB: their hands and frames are in tables and shards", markup=False)


def import_whim(arguments: argparse.Namespace) -> int:
    """Lay the official WHIM labels on videos that are fetched here: checked against our detections, re-aligned or refused."""
    from stages.hands_of_whim import labelled

    if not Path(arguments.annotations).is_dir():
        raise ValueError(f"--annotations {arguments.annotations} is no folder: unpack the labels (huggingface.co/rolpotamias/WHIM) there")
    arguments.recipe, arguments.until = "whim_labels", None
    arguments.set = [*arguments.set, f"hands_of_whim.annotations={Path(arguments.annotations).absolute()}"]
    listed, here = list(map(str, load_run(arguments).graph.manifest.video)), labelled(arguments.annotations)
    known = sum(video in here for video in listed)
    if not known:
        raise ValueError(
            f"--annotations {arguments.annotations} has labels of none of the {len(listed)} videos: a folder a video, in train/anno"
        )
    arguments.console.print(f"{known} of {len(listed)} videos have labels in {arguments.annotations}", markup=False)
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
    told = (
        f"; {left_out} left out, as they are no images, too large, not there or of another size than said: mend them and run again"
        if left_out
        else ""
    )
    arguments.console.print(f"{num_rows} images labelled; {len(images)} in all in {arguments.out}{told}", markup=False)
    return 2 if left_out else 0


def plan(arguments: argparse.Namespace) -> None:
    """Show what would run, and why."""
    from rich.markup import escape
    from rich.table import Table as Grid

    from pipeline.dataset.oddities import odd_videos
    from pipeline.report.needs import print_needs
    from pipeline.report.status import (
        print_duplicates,
        print_left_out,
        print_odd,
        print_settings,
        print_unlisted,
        print_withheld,
        unabridged,
    )

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
        more |= {"odd": odd_videos(graph.odd), "cameras": graph.cameras}
        print(json.dumps(known | more | {"settings": loaded.settings, "left_out": left_out}, indent=1))
        return
    grid = Grid(*unabridged("stage", "why", "parts"), title=escape(f"plan for {graph.store.name}"))
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
    arguments.console.print(grid if num_pending else f"nothing to do in {graph.store.name}", markup=False)
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

    from pipeline.engine.durable import StoreError
    from pipeline.report.doctor import Finding, Health, examine

    findings, unseen = list[Finding](), list[Finding]()
    try:
        folder = data_folder(arguments).absolute()
    except StoreError as error:  # what else a run needs is looked at without it
        folder, unseen = Path.cwd(), [Finding("store", Health.BAD, str(error), "mend that, and ask again")]
    for finding in chain(unseen, examine(folder)):
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
    from pipeline.engine.durable import remove
    from pipeline.engine.plan.tasks import table_of
    from pipeline.report.status import failures
    from stages.settings import unknown
    from stages.stage import Reason

    if arguments.reason and arguments.reason not in set(Reason):
        raise ValueError(unknown(arguments.reason, map(str, Reason), "reason"))
    graph, reopened = load_run(arguments).graph, 0
    with graph.store.lock():
        for task in failures(graph):
            if arguments.reason in (None, task.reason):
                remove(graph.store.error_file(table_of(graph.stages[task.stage]), task.key))
                reopened += 1
    arguments.console.print(f"{reopened} parts will be tried again by the next run")


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
    for look in refresh(graph.store, graph.manifest, settings):
        looks.append(look)
        if not arguments.json and look.offer is not Offer.OFFERED:
            arguments.console.print(f"{look.offer:<8}{look.video}: {look.reason}: {look.message}", markup=False)
    gone = [look.video for look in looks if look.offer is Offer.GONE]
    unknown = sum(look.offer is Offer.UNKNOWN for look in looks)
    if arguments.json:
        print(json.dumps([asdict(look) for look in looks], indent=1))
        return 2 if gone or unknown else 0
    arguments.console.print(f"{len(looks)} videos asked for: {len(gone)} are gone, of {unknown} the site did not say", markup=False)
    if gone:
        words = " ".join(gone[:5]) + (" ..." if len(gone) > 5 else "")
        arguments.console.print(f"to take them out: whim remove {words} --data {graph.store.word()}", markup=False)
    return 2 if gone or unknown else 0


def remove(arguments: argparse.Namespace) -> None:
    """Take videos out of a data folder for good: files, tables, images, frames of the shards; list what went and what stays."""
    from pipeline.engine.store import Store
    from pipeline.remove import remove

    store = Store(data_folder(arguments))
    if not (store.root / "run.json").exists():
        why = "it has no run.json" if store.root.is_dir() else "there is no such folder"
        raise ValueError(f"{store.name} is no data folder: {why}")
    with store.lock():
        gone = remove(store, arguments.names)
    for file in gone.files:
        arguments.console.print(f"removed {file}", markup=False)
    for shard, frames in gone.shards.items():
        arguments.console.print(f"removed {frames:,} frames of {shard}", markup=False)
    elsewhere = "copies of the shards (uploads, exports, caches: ~/.cache/whim), networks trained on them, files of `whim detect`"
    for one in [*gone.stays, elsewhere]:
        arguments.console.print(f"not removed: {one}", markup=False)
    arguments.console.print(f"withdrawn from every later run: {store.name}/removed.txt", markup=False)


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


def render_videos(arguments: argparse.Namespace) -> None:
    """Render labelled videos of two hands, with exact truth."""
    from functools import partial

    from studio.video import Film, make_videos

    film = Film(seed=arguments.seed, seconds=arguments.seconds, frames_per_second=arguments.frames_per_second)
    make_videos(arguments.out, arguments.num_videos, film, partial(arguments.console.print, markup=False))


def render_shards(arguments: argparse.Namespace) -> None:
    """Render shards of hands with exact truth: what a regressor can learn from with no download."""
    from pipeline.dataset.studio_shards import StudioShards, write_on
    from studio.stills import Album

    given = StudioShards(num_albums=arguments.albums, seed=arguments.seed, album=Album(size=arguments.size))
    write_on(arguments.out, given, arguments.console, num_threads=arguments.threads)
