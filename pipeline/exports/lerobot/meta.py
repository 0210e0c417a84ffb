"""The folder `meta/` of a LeRobot dataset: what it is, its episodes, tasks and statistics."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exports.lerobot.features import CAMERA, features
from pipeline.exports.lerobot.plan import Plan
from pipeline.exports.lerobot.writer import BYTES_A_FILE, FILES_A_CHUNK, PATHS, Writer
from pipeline.exports.source import Source


def write_meta(folder: Path, source: Source, plan: Plan, writer: Writer, *, video: bool) -> None:
    """Write what a dataset says of itself, once all of it is written."""
    meta = folder / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    known = features(plan, video=video)
    info = {
        "codebase_version": "v3.0",
        "robot_type": "human_hands",
        "total_episodes": len(writer.episodes),
        "total_frames": writer.num_frames,
        "total_tasks": len(writer.tasks),
        "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": BYTES_A_FILE >> 20,
        "video_files_size_in_mb": BYTES_A_FILE >> 20,
        "fps": int(plan.fps) if plan.fps.is_integer() else plan.fps,
        "splits": _splits(writer.episodes),
        "data_path": PATHS["data"],
        "video_path": PATHS["video"] if video else None,
        "features": known,
        "hand_model": source.hand_model,
        "hands_of_others_left_out": writer.num_others,
        "hands_in_other_views_left_out": plan.num_elsewhere,
        "clips_of_another_rate_left_out": sorted(plan.left_out),
    }
    (meta / "info.json").write_text(json.dumps(info, indent=1) + "\n")
    stats: dict[str, Any] = {name: sums.told() for name, sums in writer.sums.items()}
    stats[CAMERA] = {name: of if name == "count" else np.reshape(of, (3, 1, 1)).tolist() for name, of in stats[CAMERA].items()}
    (meta / "stats.json").write_text(json.dumps(stats) + "\n")
    pq.write_table(pa.Table.from_pylist(writer.episodes), meta / "episodes" / "chunk-000" / "file-000.parquet")
    pq.write_table(_tasks(writer.tasks), meta / "tasks.parquet")


def _splits(episodes: list[dict[str, Any]]) -> dict[str, str]:
    """Ranges of episodes; shards are read split by split."""
    of: defaultdict[str, list[int]] = defaultdict(list)
    for episode in episodes:
        of[episode["split"]].append(episode["episode_index"])
    return {split: f"{min(numbers)}:{max(numbers) + 1}" for split, numbers in of.items()}


def _tasks(tasks: Mapping[str, int]) -> pa.Table:
    """Tasks as pandas keeps a table whose index is the text."""
    index = "__index_level_0__"
    table = pa.table({"task_index": pa.array(list(tasks.values()), pa.int64()), index: pa.array(list(tasks), pa.string())})
    column = {"field_name": None, "metadata": None, "name": None, "numpy_type": "object", "pandas_type": "unicode"}
    columns = [
        {**column, "field_name": "task_index", "name": "task_index", "numpy_type": "int64", "pandas_type": "int64"},
        {**column, "field_name": index},
    ]
    told = {"index_columns": [index], "column_indexes": [column], "columns": columns, "pandas_version": "2.2.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(told)})
