"""Milliseconds a clip of our workers on Ray and of Ray Data, at the same clips and the same functions.

Ray Data writes one Parquet file a block, flushes nothing and knows nothing of what it wrote when it is started again; ours commits and
records each part. One item a block is what a run that can go on after a kill needs of it, a hundred what it is fast at.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scale.clips import Cut, Fetch, find, judge, manifest, recipe
from pipeline.engine.bundles.compaction import Compaction
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.on_ray import OnRay
from pipeline.engine.run import run
from pipeline.engine.store import Store
from stages.tables import Clips

WORKERS = 2


def rates(num_clips: int) -> dict[str, Any]:
    """Milliseconds a clip of each, in one Ray of this machine; ours with videos listed and cut before, as theirs are given."""
    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, logging_level="ERROR")
    try:
        ours = _ours(num_clips)
        theirs = {f"ray_data_{size}_a_block": _theirs(num_clips, size) for size in (1, 100)}
    finally:
        ray.shutdown()
    told = {"ours": ours, **theirs}
    return {"num_clips": num_clips, "ms_per_clip": told, "times_ours": {name: round(ms / ours, 2) for name, ms in theirs.items()}}


def _ours(num_clips: int) -> float:
    with tempfile.TemporaryDirectory(prefix="whim-scale-") as folder:
        store, stages = Store(Path(folder)), recipe(num_clips)
        first = Graph(stages[:2], manifest(num_clips), store).load()
        run(first, OnRay(store.root, stages[:2], first.seats, WORKERS))
        graph = Graph(stages, manifest(num_clips), store).load()
        executor, compaction = OnRay(store.root, stages, graph.seats, WORKERS), Compaction(store)
        while executor.starting:  # as Ray Data's own start is not counted either
            executor.wait()
        start = time.perf_counter()
        with store.bundles.sole():
            run(graph, executor, compaction=compaction)
        return round(1000 * (time.perf_counter() - start) / num_clips, 3)


def _theirs(num_clips: int, items_a_block: int) -> float:
    import pandas as pd
    import ray

    cut, fetch = Cut(num_clips=num_clips).build(), Fetch().build()
    rows = [{"clip": clip.to_arrow().to_pylist()[0]} for video in manifest(num_clips).rows() for clip in cut(fetch(video)).rows()]
    ray.data.DataContext.get_current().enable_progress_bars = False

    def work(batch: pd.DataFrame) -> pd.DataFrame:
        import pyarrow as pa

        made = []
        for row in batch["clip"]:
            hands = find(Clips.from_arrow(pa.Table.from_pylist([row], schema=Clips.schema())))
            made += [{"frame": int(frame), "keep": bool(keep)} for frame, keep in zip(hands.frame, judge(hands).keep, strict=True)]
        return pd.DataFrame(made)

    with tempfile.TemporaryDirectory(prefix="whim-scale-") as folder:
        start = time.perf_counter()
        blocks = -(-num_clips // items_a_block)
        ray.data.from_items(rows, override_num_blocks=blocks).map_batches(work, batch_size=None, batch_format="pandas").write_parquet(
            folder
        )
        return round(1000 * (time.perf_counter() - start) / num_clips, 3)
