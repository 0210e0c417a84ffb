"""Trivial clips in a data folder of an object store: objects and requests a clip, of a run and of a plan by another machine."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

BUCKET = "scale"


def rates(num_clips: int) -> dict[str, Any]:
    """Figures by their names, with moto's S3 server on loopback in a process of its own."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
    server.start()
    address = f"s3://{BUCKET}/data?scheme=http&endpoint_override=127.0.0.1:{here.recv()}&region=us-east-1"
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")

    def counted(work: Callable[[], int]) -> tuple[int, float, int]:
        """Result of a step, its processor seconds a clip, and the number of requests that it made."""
        here.send("requests")
        before, start = here.recv(), time.process_time()
        found, seconds = work(), time.process_time() - start
        here.send("requests")
        return found, seconds / num_clips, here.recv() - before

    with tempfile.TemporaryDirectory(prefix="whim-scale-") as folder:
        made, run_s, run_requests = counted(lambda: _run(address, num_clips, Path(folder) / "one"))
        left, plan_s, plan_requests = counted(lambda: _plan(address, num_clips, Path(folder) / "other"))
    here.send("objects")
    objects = here.recv()
    server.kill()
    assert made > num_clips
    assert left == 0
    return {
        "num_clips": num_clips,
        "objects_per_clip": round(objects / num_clips, 3),
        "requests_per_clip": {"run": round(run_requests / num_clips, 3), "plan_elsewhere": round(plan_requests / num_clips, 3)},
        "seconds_per_clip": {"run": round(run_s, 5), "plan_elsewhere": round(plan_s, 5)},
    }


def _run(address: str, num_clips: int, cache: Path) -> int:
    """Parts made of all clips."""
    from pipeline.engine.finish import Where, finish

    graph = _graph(address, num_clips, cache)
    with graph.store.lock():
        return finish(graph, Where(local=True), on_outcome=lambda task, outcome: None).num_made


def _plan(address: str, num_clips: int, cache: Path) -> int:
    """Parts still to be made, as a machine sees it that has no mirror yet."""
    return len(_graph(address, num_clips, cache).pending)


def _graph(address: str, num_clips: int, cache: Path) -> Any:
    from benchmarks.scale.clips import manifest, recipe
    from pipeline.engine.durable import MIRRORS
    from pipeline.engine.graph import Graph
    from pipeline.engine.roots.opening import opened
    from pipeline.engine.store import Store

    MIRRORS.clear()
    os.environ["WHIM_CACHE"] = str(cache)
    return Graph(recipe(num_clips), manifest(num_clips), Store(opened(address))).load()


def _serve(asked: Connection) -> None:
    """Answer S3 requests until killed; say the port, then the number of requests or objects whenever it is asked for."""
    import logging
    import threading

    import boto3  # type: ignore[import-untyped]
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    answer, requests = DomainDispatcherApplication(create_backend_app), [0]

    def counting(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        requests[0] += 1
        return answer(environ, start_response)

    server = make_server("127.0.0.1", 0, counting, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.port}", region_name="us-east-1", **keys)
    client.create_bucket(Bucket=BUCKET)
    asked.send(server.port)
    while True:
        if asked.recv() == "requests":
            asked.send(requests[0])
        else:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
            asked.send(sum(page["KeyCount"] for page in pages))
