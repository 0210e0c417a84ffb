"""The demo: render labelled videos, serve them, run the whole chain on them, score it against the exact truth, report."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from rich.console import Console

from pipeline.graph import Graph, State
from pipeline.manifest import read_manifest
from pipeline.progress import finish
from pipeline.recipes import demo as recipe
from pipeline.report import write_report
from pipeline.status import print_status, status_rows
from pipeline.store import Store
from pipeline.truth import print_truth, score_run

HOST, PORT = "127.0.0.1", 8753
SPLITS = ("train", "test")


def make_studio(folder: Path) -> list[Path]:
    """The studio's videos with their truth, one a split; rendered once."""
    from studio.video import Film, make_videos

    videos = [folder / f"studio-{seed}.mp4" for seed in range(len(SPLITS))]
    if not all(path.exists() and path.with_suffix(".truth.parquet").exists() for path in videos) or not (folder / "labels.json").exists():
        make_videos(folder, len(SPLITS), Film(seconds=6.0))
    return videos


def write_manifest(path: Path, videos: list[Path], port: int) -> None:
    """A list of the served addresses; left alone when it says the same already, so that nothing counts as changed."""
    lines = [f"http://{HOST}:{port}/{video.name} id={video.stem} split={split}" for video, split in zip(videos, SPLITS, strict=True)]
    text = "\n".join(["# rendered by the studio, served from this machine", *lines, ""])
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


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


def demo(root: Path, console: Console, *, local: bool = False, num_workers: int | None = None) -> int:
    """Run the demo below `root`; the exit status is 0 when every part is done and the hands were found."""
    store = Store(root)
    with store.lock(), served(root / "studio") as port:
        videos = make_studio(root / "studio")
        manifest = root / "manifest.txt"
        write_manifest(manifest, videos, port)
        store.write_json("run.json", {"recipe": "demo", "videos": str(manifest.absolute())})
        listed = read_manifest(manifest)
        graph = Graph(recipe(listed, store.root), listed, store).load()
        num_pending = len(graph.pending)
        finish(graph, console, local=local, num_workers=num_workers)
    print_status(graph, console)
    score = score_run(store, {video.stem: video.with_suffix(".truth.parquet") for video in videos})
    store.write_json("truth_score.json", score)
    print_truth(score, console)
    page = root / "report.html"
    write_report(store.root, page, status=status_rows(graph), title="whim demo")
    console.print(f"computed {num_pending} parts anew" if num_pending else "nothing to compute: every part was there")
    console.print(f"shards: {store.root / 'shards'}\nreport: {page.absolute()}", soft_wrap=True)
    return 0 if all(task.state is State.DONE for task in graph.tasks) else 2
