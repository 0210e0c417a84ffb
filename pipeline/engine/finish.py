"""Brings every part of a graph to an end, from what is pending to shards that hold nothing that is no longer wanted."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.bundles.compaction import MOST_LOOSE, Compaction
from pipeline.engine.durable import StoreError, remove
from pipeline.engine.files.shard import clips_in
from pipeline.engine.graph import Graph
from pipeline.engine.nodes.cluster import join
from pipeline.engine.nodes.environments import check_environments
from pipeline.engine.nodes.executor import Executor, Local
from pipeline.engine.nodes.metrics import Metrics
from pipeline.engine.nodes.on_ray import OnRay
from pipeline.engine.nodes.pools import gpu_mb_of, with_shares
from pipeline.engine.orders import Outcome
from pipeline.engine.plan.tasks import BAD, State, Task, Why, table_of, tables_of
from pipeline.engine.run import Summary, run
from pipeline.engine.stopping import Stopping
from stages.digest import CorruptFileError
from stages.shards import SPLITS, whole_of
from stages.stage import Prepares, Reason
from stages.tables import Videos

_log = logging.getLogger(__name__)
_MENDED = (Reason.CORRUPT, Reason.DECIDED)
"""Reasons of failures that a graph loaded anew plans otherwise. What failed for another reason is left for the next run, as it was told:
a site that refuses an address is not asked again at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where a run works, and on how much of it."""

    local: bool = False
    """In this process, without Ray."""
    num_workers: int | None = None
    """At most so many workers of each kind; None = what the cluster holds."""
    num_gpus: int | None = None
    """At most so many GPUs; None = all that the cluster has."""


def finish(
    graph: Graph,
    where: Where = Where(),  # frozen
    *,
    on_outcome: Callable[[Task, Outcome], None],
    stopping: Stopping | None = None,
    most_loose: int = MOST_LOOSE,
) -> Summary:
    """Run what is pending, in this process or on Ray; then remove the shards whose every video has come into another one, or left.

    Of tables with more than `most_loose` parts that have files of their own the parts come into bundles, while it runs and at the end.
    For who holds the folder's lock. `on_outcome` is called after each task. Where it is `stopping`, tasks stay pending. The shards'
    index is the caller's to renew (`pipeline.dataset.index.renew_index`). Raises StoreError where the shards would be written into
    another data folder.
    """
    _refuse_foreign(_folder(graph))
    graph.store.footers.write_ledger()
    compaction, tables = Compaction(graph.store, most_loose), _tables_to_compact(graph)
    with graph.store.bundles.sole():
        compaction.mend(tables)
        summary = _run_all(graph, where, compaction, on_outcome, stopping)
        if not (stopping and stopping.asked):
            compaction.end(_settled(graph))
    graph.remember()
    for path in _retired(graph):
        remove(path)
    return summary


def _run_all(
    graph: Graph, where: Where, compaction: Compaction, on_outcome: Callable[[Task, Outcome], None], stopping: Stopping | None
) -> Summary:
    """Run until nothing is other than it was planned on."""
    summary, executor = Summary(), None
    for _ in range(_MOST_PASSES):
        if not graph.pending or (stopping and stopping.asked):
            break
        executor = executor or _executor(graph, where)
        on_receipt = Metrics(graph) if isinstance(executor, OnRay) else lambda receipt: None
        one = run(graph, executor, on_outcome=on_outcome, on_receipt=on_receipt, stopping=stopping, compaction=compaction)
        summary = Summary(summary.num_made + one.num_made, one.counts, summary.started_s or one.started_s, summary.wall_s + one.wall_s)
        if not one.found_other and graph.same_contents() and graph.same_cameras():
            break
        compaction.mend(_tables_to_compact(graph))
        left = {(task.stage, task.key): task.reason for task in graph.in_state(State.RETRY) if task.reason not in _MENDED}
        graph.reload()
        for task in graph.pending:
            if task.why is Why.RETRY and (task.stage, task.key) in left:
                graph.settle(task, State.RETRY, left[task.stage, task.key])
    return summary


def _tables_to_compact(graph: Graph) -> list[str]:
    """The tables of parts."""
    return [table for stage in graph.stages if stage.key != "shard" for table in tables_of(stage).values()]


def _settled(graph: Graph) -> Iterator[tuple[str, Iterator[str]]]:
    """Each table to compact, with the keys of the parts that are as they are wanted."""
    wanted = set(_tables_to_compact(graph))
    for position, stage in enumerate(graph.stages):
        for table in tables_of(stage).values():
            if table in wanted:
                yield table, (task.key for task in graph.tasks_of(position) if task.state is State.DONE)


_MOST_PASSES = 4
"""How often a run goes on from a graph loaded anew, where it found damaged files, new verdicts or videos of the same content."""


def _executor(graph: Graph, where: Where) -> Executor:
    root, stages = graph.store.root, graph.stages
    if where.local:
        return Local(root, stages)
    import ray

    check_environments(stages, on_ray=True)
    if not ray.is_initialized():
        join()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    there = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
    num_gpus = there if where.num_gpus is None else min(there, where.num_gpus)
    if where.num_gpus and where.num_gpus > there:
        _log.warning("--gpus %d: the cluster has %d now; those that join it are used up to that", where.num_gpus, there)
    if num_gpus:
        groups = [[stages[p] for p in group] for group in graph.groups]
        graph.seats = with_shares(graph.seats, groups, num_gpus=num_gpus, gpu_mb=gpu_mb_of(nodes))
    lanes = {p: graph.seats[graph.group_of(p)] for p, stage in enumerate(stages) if stage.resources.lane}
    needed = {seat for p, seat in lanes.items() if any(task.state is State.PENDING for task in graph.tasks_of(p))}
    return OnRay(root, stages, graph.seats, where.num_workers, num_gpus=where.num_gpus, idle_lanes={*lanes.values()} - needed)


def prepared(graph: Graph) -> list[str]:
    """Have what the stages still to come need made ready on this machine; a line for the user on each thing that was begun.

    Every worker does the same on its own machine.
    """
    if not graph.pending:
        return []
    to_come = graph.stages[min(task.stage for task in graph.pending) + 1 :]  # clips of a new video are not known yet
    return [line for stage in to_come if isinstance(stage, Prepares) and (line := stage.prepare())]


def packed_videos(graph: Graph) -> list[Path]:
    """Files of fetched videos of which everything is made and in the shards: nothing that is planned reads them again.

    The user's own videos are none of them, wherever they lie.
    """
    tasks = _tasks(graph).values()
    packed = {graph.video_of(need) for task in tasks if task.state is State.DONE for need in task.needs}
    undone = set(map(graph.video_of, graph.in_state(State.PENDING, *BAD)))
    undone |= {graph.video_of(need) for task in tasks if task.state is not State.DONE for need in task.needs}
    own = {str(row.video[0]) for row in graph.manifest.rows() if Path(str(row.source[0])).is_absolute()}
    rows = [graph.store.read(Videos, "videos", video) for video in sorted(packed - undone - own)]
    files = [graph.store.root / str(row.path[0]) for row in rows if Path(row.path[0]).parts[0] == "media"]
    return [path for path in files if graph.store.size_of(path) is not None]


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """The shards of a data folder."""

    folder: Path
    current: tuple[Path, ...]
    """Made from the parts that lie in the folder now."""
    stale: tuple[Path, ...]
    """Made from earlier parts, and not made again: videos were put away, or something upstream failed. They hold what there is."""


def shard_files(graph: Graph) -> ShardFiles | None:
    """The shards that a recipe has made, and those of an earlier run that have no successor; None for a recipe that makes none."""
    folder = _folder(graph)
    if folder is None:
        return None
    tasks = _tasks(graph)
    done = {path for path, task in tasks.items() if task.state is State.DONE}
    earlier = {path for path in _recorded(graph, folder) - tasks.keys() if path.is_file()}
    held = {clip for path in earlier for _, clip in clips_in(path)}  # no frame is listed twice
    current = sorted(path for path in done if not held & {need.key for need in tasks[path].needs})
    return ShardFiles(folder, tuple(current), tuple(sorted(path for path in (tasks.keys() - done) | earlier if path.is_file())))


def _folder(graph: Graph) -> Path | None:
    pack = next((stage for stage in graph.stages if stage.key == "shard"), None)
    return None if pack is None else graph.store.root / table_of(pack)


def _tasks(graph: Graph) -> dict[Path, Task]:
    """The shards that are wanted, by their files."""
    shards = [position for position, stage in enumerate(graph.stages) if stage.key == "shard"]
    return {graph.store.part(task.table, task.key): task for position in shards for task in graph.tasks_of(position)}


def _recorded(graph: Graph, folder: Path) -> set[Path]:
    """Files of the folder that its own index names: ours to remove, as nothing else below it is."""
    try:
        entries = (graph.store.read_json(f"{folder.name}/index.json") or {}).get("shards", [])
        names = [str(entry["path"]) for entry in entries]
    except (CorruptFileError, TypeError, KeyError, AttributeError):
        return set()  # what nobody recorded stays
    return {
        folder / name
        for name in names
        if name.endswith(".parquet") and whole_of(name.removesuffix(".parquet")) and not (folder / name).is_symlink()
    }


def _refuse_foreign(folder: Path | None) -> None:
    """Raise StoreError where the shards' folder, or one of a split, is a link into another data folder; on another disk it may lie."""
    if folder is None:
        return
    ours = Path(os.path.realpath(folder.parent))
    for path in (folder, *(folder / split for split in SPLITS)):
        real = Path(os.path.realpath(path))  # of a link to itself as well
        home = real.parent if path == folder else real.parent.parent
        if path.is_symlink() and home != ours and (home / "run.json").is_file():
            raise StoreError(f"{path} leads to the shards of another data folder, {home}: remove the link; nothing was changed there")


def _is_ours(graph: Graph, shard: Path) -> bool:
    """Whether a recorded shard was packed from this data folder: what lies behind a link is where each of its videos is known here."""
    root = graph.store.root
    if shard.resolve() == root.resolve() / shard.relative_to(root):
        return True
    held = clips_in(shard)
    return bool(held) and all(graph.store.has("videos", video) for video, _ in held)


def _retired(graph: Graph) -> list[Path]:
    """Recorded shards that no task wants and whose frames are all in a committed one, or are no longer wanted."""
    folder = _folder(graph)
    if folder is None:
        return []
    tasks = _tasks(graph)
    earlier = sorted(path for path in _recorded(graph, folder) - tasks.keys() if path.is_file())
    if not earlier:
        return []
    packed, undone = (
        {graph.video_of(need) for task in tasks.values() if (task.state is State.DONE) is done for need in task.needs}
        for done in (True, False)
    )
    waiting = set(graph.manifest.video) - packed
    if graph.leave:  # what failed goes
        waiting -= set(map(graph.video_of, graph.in_state(*BAD))) - set(map(graph.video_of, graph.pending))
    waiting |= undone
    unpacked: set[str] = set()
    if not graph.leave:  # of a long video one file may lack all of its clips, where the others are there
        packed_clips = {need.key for task in tasks.values() if task.state is State.DONE for need in task.needs}
        unpacked = {task.key for task in graph.tasks if graph.stages[task.stage].key == "clip"} - packed_clips

    def is_wanted(path: Path) -> bool:
        return any(video in waiting or clip in unpacked for video, clip in clips_in(path))

    return [path for path in earlier if _is_ours(graph, path) and not is_wanted(path)]
