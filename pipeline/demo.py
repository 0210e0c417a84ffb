"""The demo: render labelled videos, serve them, run the whole chain on them, score it against the exact truth, report."""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Grid

from fitting.files import sha256_of
from pipeline.dataset.index import renew_index
from pipeline.engine.durable import mirror_of, remove
from pipeline.engine.finish import Where, finish, shard_files
from pipeline.engine.stated import SUMS
from pipeline.engine.stopping import Stopping
from pipeline.engine.store import Store
from pipeline.evaluate.studio_truth import score_run
from pipeline.folder import Asked, load
from pipeline.report.overview import overview_of
from pipeline.report.page import write_report
from pipeline.report.progress import Bars
from pipeline.report.status import all_done, print_settings, print_status
from stages.digest import seal_text
from stages.tables import Clips, Fits, Hands, Reviews
from studio.truth import read_truth
from studio.video import Film, make_videos

HOST, PORT = "127.0.0.1", 8753
SPLITS = ("train", "test")


def make_studio(folder: Path, say: Callable[[str], object]) -> list[Path]:
    """The studio's videos with their truth, one a split; rendered once, of which `say` is told."""
    videos = [folder / f"studio-{seed}.mp4" for seed in range(len(SPLITS))]
    if not all(path.exists() and path.with_suffix(".truth.parquet").exists() for path in videos) or not (folder / "labels.json").exists():
        make_videos(folder, len(SPLITS), Film(seconds=6.0), say)
        remove(folder / SUMS)
    if not (folder / SUMS).exists():
        made = sorted(path for path in folder.iterdir() if path.is_file())
        Store(folder).write_json(SUMS, {"files": {path.name: sha256_of(path) for path in made}})
    if mirror := mirror_of(folder):
        mirror.put_as_it_is(sorted(folder.iterdir()))
    return videos


def write_manifest(path: Path, videos: list[Path], port: int) -> None:
    """A list of the served addresses; left alone when it says the same already, so that nothing counts as changed."""
    lines = [f"http://{HOST}:{port}/{video.name} id={video.stem} split={split}" for video, split in zip(videos, SPLITS, strict=True)]
    text = seal_text("\n".join(["# rendered by the studio, served from this machine", *lines, ""]))
    if path.is_symlink() or not path.is_file() or path.read_text() != text:
        with Store(path.parent).aside(path) as temporary:
            temporary.write_text(text)


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve a folder over HTTP on loopback; yields the port, the usual one if it is free."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: yt-dlp reports what went wrong."""

    handler = partial(Quiet, directory=str(folder))
    with socket.socket() as probe:
        taken = probe.connect_ex((HOST, PORT)) == 0
    with ThreadingHTTPServer((HOST, 0 if taken else PORT), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def demo(root: Path, console: Console, *, settings: Mapping[str, Any], where: Where, stopping: Stopping) -> int:
    """Run the demo below `root`; the exit status is 0 when every part is done, else 2."""
    store = Store(root)
    with store.lock(), served(root / "studio") as port:
        videos = make_studio(root / "studio", partial(console.print, markup=False))
        manifest = root / "manifest.txt"
        write_manifest(manifest, videos, port)
        loaded = load(root, Asked(recipe="demo", videos=manifest, settings=settings), remember=True)
        graph = loaded.graph
        print_settings(loaded.settings, console)
        with Bars(graph, console) as bars:
            summary = finish(graph, where, on_outcome=bars, stopping=stopping)
        damaged = renew_index(shard_files(graph))
    if stopping.asked and graph.pending:
        raise KeyboardInterrupt
    print_status(graph, console)
    print_truth(score_folder(store, root / "studio"), console)
    page = root / "report.html"
    write_report(store.root, page, overview=overview_of(graph), title="whim demo")
    console.print(f"{summary.num_made} parts computed" if summary.num_made else "nothing to compute: every part was there")
    console.print(f"shards: {store.name}/shards\nreport: {store.shown(page.absolute())}", soft_wrap=True, markup=False)
    for path in damaged:
        console.print(f"{path} is damaged and was set aside: run again, it is made anew", style="red", markup=False)
    return 0 if all_done(graph) and not damaged else 2


def score_folder(store: Store, truths: Path) -> dict[str, dict[str, float]]:
    """Score the hands of a data folder against every truth file of a folder; also written to truth_score.json.

    A clip that failed counts as one in which nothing was found. Raises ValueError when the folder holds no truth.
    """
    columns = [read_truth(path) for path in sorted(truths.glob("*.truth.parquet"))]
    if not columns:
        raise ValueError(f"no *.truth.parquet in {truths}: name the studio's folder with --truth")
    videos = sorted({str(name) for one in columns for name in one["video"]})
    clips = Clips.concat([store.read(Clips, "clips", video) for video in videos if store.has("clips", video)])
    keys = [str(key) for key in clips.clip if store.has("reviews", str(key))]
    hands = Hands.concat([store.read(Hands, "hands", key) for key in keys])
    fits = Fits.concat([store.read(Fits, "fits", key) for key in keys])
    reviews = Reviews.concat([store.read(Reviews, "reviews", key) for key in keys])
    truth = {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}
    score = score_run(truth, clips, hands, fits, reviews)
    store.write_json("truth_score.json", score)
    return score


def print_truth(score: dict[str, dict[str, float]], console: Console) -> None:
    """The figures that matter, all hands beside the kept ones."""
    names = {
        "num_true": "true hands, clearly seen",
        "num_hands": "hands found",
        "recall": "recall",
        "precision": "precision",
        "side_accuracy": "side accuracy",
        "box_iou": "box IoU",
        "keypoint_error": "landmark error (share of box)",
        "fit_error": "fitted joint error (share of box)",
        "pa_mpjpe_mm": "PA-MPJPE of the fit (mm)",
        "world_pa_mpjpe_mm": "PA-MPJPE of the detector (mm)",
    }
    grid = Grid("against the exact truth", "all", "kept")
    for name, title in names.items():
        grid.add_row(title, *(f"{score[which][name]:.3g}" for which in ("all", "kept")))
    console.print(grid)
