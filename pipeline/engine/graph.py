"""Which parts a run wants, which it has, and why the rest is missing: the plan, kept current while parts land."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.engine.plan.contents import Contents
from pipeline.engine.plan.former import Former
from pipeline.engine.plan.seats import groups_of, seat_of_group
from pipeline.engine.plan.tasks import Item, Line, State, Task, Why, difference, origin_of, table_of, tables_of
from pipeline.engine.store import Store
from pipeline.engine.verdicts import read_verdicts, videos_with_verdicts
from stages.cameras.path import poses_said
from stages.cameras.said import ASSUMED, identity_said, views_said
from stages.media.frames import Frames
from stages.media.sequence import images_of_pattern, is_pattern, listing_digest
from stages.shards import pieces, shard_of
from stages.stage import ShardStage, Stage, tables_written
from stages.tables import CameraPoses, Cameras, Clips, Manifest, Verdicts, Videos, Views
from stages.verdicts import digest, in_clip
from stages.web.address import without_secrets

_NOTHING: Mapping[str, Any] = {}
"""The `item` of most tasks, in memory once."""

_NOT_FOR_CLIPS = frozenset({"camera"})
"""Columns of `Videos` that no clip hangs on: a video that lacks them is looked at again, and what was made from it is as good as it was."""


@dataclass(eq=False)
class Graph:
    """The tasks of a recipe over a manifest. `load` reads the folder; `ready` and `settle` drive a run."""

    stages: Sequence[Stage]
    manifest: Manifest
    store: Store
    tasks: list[Task] = field(default_factory=list)
    unknown_clips: set[str] = field(default_factory=set)
    """Videos whose clip list has not landed yet."""
    leave: bool = False
    """Whether shards may lose the frames of videos that cannot be made again."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """Videos of the same content as another one, with that other one: they share its shard, so that no content is in two splits."""

    def __post_init__(self) -> None:
        _check_order(self.stages)
        self._origins = [origin_of(stage) for stage in self.stages]
        folders = [tables_of(stage) for stage in self.stages]
        self._tables = [[(folder, kind.schema()) for kind, folder in tables.items()] for tables in folders]
        self._formers = self._versions_before()
        self._reads = [_read_by(self.stages, position) for position in range(len(self.stages))]
        self._pack = next((p for p, stage in enumerate(self.stages) if stage.key == "shard"), None)
        self.groups = groups_of(self.stages)
        self.seats = [seat_of_group([self.stages[p] for p in group]) for group in self.groups]
        """What a worker of each group holds; a run on a cluster with GPUs shares them out."""
        self._group_of = {position: g for g, group in enumerate(self.groups) for position in group}
        self._dependents: dict[Task, list[Task]] = defaultdict(list)
        self._videos: dict[str, dict[int, Task]] = {}
        self._shards: dict[str, list[Task]] = defaultdict(list)
        self._waiting: Counter[str] = Counter()  # unsettled tasks by shard
        self._touched: set[str] = set()  # videos and clips of which a part that a shard is packed from is new in this run
        self._todo: dict[tuple[int, str], list[Task]] = defaultdict(list)  # pending tasks by group and key, not handed out
        self._fresh: dict[tuple[int, str], None] = {}  # the ones of `_todo` to look at: an ordered set
        self._clips: dict[str, Clips] = {}
        self.num_tasks: Counter[int] = Counter()
        """Tasks by stage, kept current: to count them all after each outcome grows with their square."""
        self.num_settled: Counter[int] = Counter()
        self._judged: set[str] = set()  # videos of which people decided something
        self._verdicts: dict[str, Verdicts] = {}
        self._contents = Contents(self.store)
        self._told: dict[str, str] = {}  # what the list says of cameras
        self._said: dict[str, str] = {}  # what was known of them when a video's clips were planned
        self._fetch: set[str] = set()  # videos whose file is gone and is wanted

    def load(self) -> "Graph":
        """Every task that is known from the files alone."""
        self.duplicates = self._contents.duplicates(self.manifest.video)
        self._load()
        frames = {self.video_of(task) for task in self.pending if Frames in self.stages[task.stage].reads}
        self._fetch = {video for video in sorted(frames) if self._contents.is_lost(video)}
        if self._fetch:
            self._load()
        return self

    def reload(self) -> "Graph":
        """Every task anew, after a run that found something other than it was planned on."""
        if self.store.mirror:
            self.store.mirror.sync()
        self._contents = Contents(self.store)
        return self.load()

    def _load(self) -> None:
        found = (
            self.tasks,
            self.unknown_clips,
            self._dependents,
            self._videos,
            self._shards,
            self._waiting,
            self._todo,
            self._fresh,
            self._clips,
            self.num_tasks,
            self.num_settled,
        )
        for one in found:
            one.clear()
        self._judged, self._verdicts = videos_with_verdicts(self.store), {}
        self._formers = self._versions_before()
        lines = {str(video): Line(self.manifest, place, str(video)) for place, video in enumerate(self.manifest.video)}
        self._told = {video: str(said) for video, said in zip(lines, self.manifest.camera, strict=True) if said}
        for video, line in lines.items():
            self._add_video(line, lines[self.duplicates.get(video, video)])
        for shard in list(self._shards):
            self._close_shard(shard)

    def _versions_before(self) -> tuple[Former, ...]:
        folders = [tables_of(stage) for stage in self.stages]
        return tuple(Former(self.stages, self._origins, folders, one_people) for one_people in (False, True))

    def _shard(self, line: Line) -> str:
        if self._pack is None:
            return ""
        split = str(self.manifest.split[line.place])
        return shard_of(line.video, split, self.stages[self._pack].num_shards)  # type: ignore[attr-defined]

    def _add_video(self, line: Line, same: Line) -> None:
        """Add the tasks of a video; `same`: the line of the first video of its content, whose shard it shares."""
        video, shard = line.video, self._shard(same)
        made = self._videos.setdefault(video, {})
        for position, stage in enumerate(self.stages):
            if stage.key == "video":
                item = self._manifest_identity(stage, line) if Manifest in stage.reads else _NOTHING
                made[position] = self._add(position, video, shard, item, line, made)
        lister = next((t for p, t in made.items() if Clips in tables_written(self.stages[p])), None)
        if lister is not None and lister.state is State.DONE:
            self._add_clips(video)
        elif lister is not None and lister.state is State.PENDING:
            self.unknown_clips.add(video)

    def _manifest_identity(self, stage: Stage, line: Line) -> dict[str, Any]:
        """What of a manifest line decides the download: where from and which size; a local file by its content.

        A local file's size and time stand for its content: where they differ from those of its part, or where it has moved, it is
        hashed. Of one that is gone, those of its part: what was made from it stays good, and can be refitted.
        """
        assert isinstance(line.row, Manifest)
        row: Manifest = line.row
        source = row.source[0]
        identity = {
            "source": without_secrets(source),
            "width": int(row.width[0]),
            "height": int(row.height[0]),
            "fps": float(row.frames_per_second[0]),
        }
        wanted = {"start_s": float(row.start_s[0]), "end_s": float(row.end_s[0]), "extra": str(row.extra[0])}
        identity |= {name: value for name, value in wanted.items() if value}
        before = self.store.item(table_of(stage), row.video[0], tables_written(stage)[0].schema())
        if is_pattern(source):
            images, listing = images_of_pattern(Path(source)), before.get("listing")
            with suppress(OSError):  # who fetches them tells it
                listing = listing_digest(images) if images else listing
            return identity | ({"listing": listing} if listing else {})
        if not source.startswith("/"):
            return {name: before[name] for name in ("content",) if name in before} | identity
        if not Path(source).is_file():
            return {name: before[name] for name in ("size_bytes", "modified_ns") if name in before} | identity
        stat = Path(source).stat()
        now = identity | {"size_bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}
        wishes = ("width", "height", "fps", *wanted)
        if before and before != now and all(before.get(wish) == now.get(wish) for wish in wishes):
            return before if self._contents.is_of(row.video[0], Path(source)) else now
        return now

    def _add_clips(self, video: str) -> None:
        self.unknown_clips.discard(video)
        made, said = self._videos[video], self.camera_of(video)
        self._said[video] = said
        lister = next(t for p, t in made.items() if Clips in tables_written(self.stages[p]))
        clips = self._clips[video] if video in self._clips else self._read_clips(lister)
        of_camera = {position: _camera_identity(stage, said) for position, stage in enumerate(self.stages) if stage.key == "clip"}
        for place, clip in enumerate(clips.clip):
            of_clip, line = dict(made), Line(clips, place, video)
            for position, camera in of_camera.items():
                item = camera | self._decided(self.stages[position], line)
                of_clip[position] = self._add(position, str(clip), lister.shard, item or _NOTHING, line, of_clip)

    def _decided(self, stage: Stage, line: Line) -> dict[str, Any]:
        """What a recipe says of people's verdicts on a clip: nothing where there are none that the stage honours.

        Raises CorruptFileError.
        """
        video = line.video
        if Verdicts not in stage.reads or video not in self._judged:
            return {}
        if video not in self._verdicts:
            self._verdicts[video] = read_verdicts(self.store, video)
        assert isinstance(line.row, Clips)
        found = digest(in_clip(self._verdicts[video], line.row), getattr(stage, "honours", ()))
        return {"verdicts": found} if found else {}

    def camera_of(self, video: str) -> str:
        """What is said of a video's camera, by the list or else by its file: see `stages.cameras.said`."""
        told = self._told.get(video, "")
        row = None if told else self._contents.row(video)
        return told if row is None else str(row.camera[0])

    def _read_clips(self, lister: Task) -> Clips:
        """The clips of a video. Raises CorruptFileError."""
        self._clips[lister.key] = self.store.read(Clips, table_of(self.stages[lister.stage]), lister.key)
        return self._clips[lister.key]

    def _add(self, position: int, key: str, shard: str, item: Mapping[str, Any], line: Line, made: Mapping[int, Task]) -> Task:
        needs = tuple(made[p] for p in self._upstream(position) if p in made)
        task = Task(position, key, shard, self._origins[position], self._tables[position][0][0], item, needs, line)
        self._judge(task)
        for need in needs:
            if not need.settled:
                self._dependents[need].append(task)
        self._enter(task)
        return task

    def _enter(self, task: Task) -> None:
        self.tasks.append(task)
        self._shards[task.shard].append(task)
        self.num_tasks[task.stage] += 1
        self.num_settled[task.stage] += task.settled
        if not task.settled:
            self._waiting[task.shard] += 1
            place = self._group_of[task.stage], task.key
            self._todo[place].append(task)
            self._fresh[place] = None

    def _upstream(self, position: int) -> list[int]:
        """Positions of the stages whose tables a stage reads."""
        return self._reads[position]

    def _judge(self, task: Task) -> None:
        """Settle a task from what lies in the folder, or say why it is pending. Done is what has all of its parts."""
        parts = [(folder, self.store.fingerprint(folder, task.key, schema)) for folder, schema in self._tables[task.stage]]
        self._settle_from(task, parts)
        task.stale = task.state is not State.DONE and not task.again and any(fingerprint is not None for _, fingerprint in parts)

    def _settle_from(self, task: Task, parts: Sequence[tuple[str, str | None]]) -> None:
        if self._made_before(task, parts):
            task.state = State.DONE
            return
        if any(need.state in (State.FAILED, State.RETRY, State.BLOCKED) for need in task.needs):
            task.state, task.reason = State.BLOCKED, "upstream failed"
            return
        if any(not need.settled and not need.again for need in task.needs):
            task.why = Why.UPSTREAM
        if all(fingerprint == task.fingerprint for _, fingerprint in parts):
            task.why = task.why or self._why_again(task)
            if task.why is None:
                task.state = State.DONE
            return
        error = self.store.error(parts[0][0], task.key)
        if error and error.fingerprint == task.fingerprint:
            if error.permanent and task.why is None:
                task.state, task.reason = State.FAILED, error.reason
            else:
                task.why, task.reason = Why.RETRY, error.reason
            return
        place = next(place for place, (_, fingerprint) in enumerate(parts) if fingerprint != task.fingerprint)
        folder, schema = self._tables[task.stage][place]
        other = None if parts[place][1] is None else self.store.made_by(folder, task.key, schema)
        task.why = Why.NEW if other is None else difference(other, task.recipe)

    def _why_again(self, task: Task) -> Why | None:
        """Why a committed part is made again all the same: its file is gone and wanted, or the plan cannot read it."""
        written = tables_written(self.stages[task.stage])
        if Videos in written and task.key in self._fetch:
            return Why.MISSING
        if Videos in written and self._is_here(task.key):
            lacks = partial(self.store.lacks, table_of(self.stages[task.stage]), task.key, Videos.schema())
            if lacks(Videos.young_columns().keys() - _NOT_FOR_CLIPS):
                return Why.CODE
            return Why.PROBE if lacks(_NOT_FOR_CLIPS) else None
        if Clips in written:
            try:
                self._read_clips(task)
            except ValueError:
                return Why.CORRUPT
        return None

    def _made_before(self, task: Task, parts: Sequence[tuple[str, str | None]]) -> bool:
        """Whether the parts were made, wholly or in part, in the layout before, and what they were made from is still there."""
        found = [fingerprint for _, fingerprint in parts if fingerprint]
        if len(found) < len(parts) or all(fingerprint == task.fingerprint for fingerprint in found):
            return False
        if Clips in tables_written(self.stages[task.stage]) and self._is_here(task.key):
            return False  # the video can be asked again
        for former in self._formers:
            before = former.fingerprints(task)
            good = all(one in (task.fingerprint, before.get(folder)) for one, (folder, _) in zip(found, parts, strict=True))
            if good and all(need.state is State.DONE for need in former.needs(task)):
                return True
        return False

    def _is_here(self, video: str) -> bool:
        """Whether the file of a video lies there to be read."""
        row = self._contents.row(video)
        return row is not None and self.store.size_of(self.store.root / row.path[0]) is not None

    def _close_shard(self, shard: str) -> None:
        """Add the shard's own task once all of its videos are settled: it is made from what there is."""
        if self._pack is None or self._waiting[shard] or any(t.stage == self._pack for t in self._shards[shard]):
            return
        last = self._upstream(self._pack)[-1]
        needs = tuple(sorted((t for t in self._shards[shard] if t.stage == last and t.state is State.DONE), key=lambda t: t.key))
        lost = [] if self.leave else self._would_lose(shard, {need.key for need in needs})
        if not needs and not lost:
            return
        whole, dealt = self._pack_task(shard, shard, needs), self._pieces(shard)
        if whole.state is State.DONE or shard in dealt or not needs:
            self._enter_shard(whole, lost)
            return
        there = {need.key for need in needs}
        for key, clips in sorted(dealt.items()):
            of_piece = tuple(task for task in clips if task.key in there)
            if of_piece:
                self._enter_shard(self._pack_task(key, shard, of_piece), lost)

    def _pack_task(self, key: str, shard: str, needs: tuple[Task, ...]) -> Task:
        assert self._pack is not None
        task = Task(self._pack, key, shard, self._origins[self._pack], self._tables[self._pack][0][0], _NOTHING, needs)
        self._judge(task)
        return task

    def _enter_shard(self, task: Task, lost: Collection[str]) -> None:
        keys = {key for need in task.needs for key in (need.key, self.video_of(need))}
        if task.state is State.DONE and self._touched & keys:
            task.state, task.why = State.PENDING, Why.UPSTREAM
        if task.state is not State.DONE and lost:
            task.state, task.stale = State.BLOCKED, True
            task.reason = f"it would lose the frames of {len(lost)} clips that cannot be made again: mend them, or let them go by --leave"
        self._enter(task)

    def _pieces(self, shard: str) -> dict[str, list[Task]]:
        """Clips by the file that their frames go into: all that are known, so that one which failed moves no other into another file."""
        assert self._pack is not None
        stage, last = self.stages[self._pack], self._upstream(self._pack)[-1]
        clips = sorted((task for task in self._shards[shard] if task.stage == last), key=lambda task: task.key)
        assert isinstance(stage, ShardStage)
        videos, sizes = [self.video_of(task) for task in clips], []
        for task, video in zip(clips, videos, strict=True):
            row = self._contents.row(video)
            assert isinstance(task.row, Clips)
            sizes.append(0 if row is None else stage.expected_bytes(task.row, row))
        return {key: [clips[place] for place in places] for key, places in pieces(shard, videos, sizes, stage.shard_mb).items()}

    def _would_lose(self, shard: str, made: Collection[str]) -> list[str]:
        """Clips whose frames a shard holds and would no longer hold, though their videos are wanted: something upstream failed."""
        assert self._pack is not None
        if not any(task.state in (State.FAILED, State.RETRY, State.BLOCKED) for task in self._shards[shard]):
            return []
        files = self.store.pieces_of(table_of(self.stages[self._pack]), shard)
        held = {place for path in files for place in self.store.clips_in(path)}
        return sorted(clip for video, clip in held if clip not in made and video in self._videos and self._is_wanted(video, clip))

    def _is_wanted(self, video: str, clip: str) -> bool:
        """Whether a clip is one of its video's, as far as is known."""
        return video not in self._clips or clip in self._clips[video].clip

    def ready(self) -> Iterator[Item]:
        """Items that can run now and have not been handed out before."""
        fresh, self._fresh = self._fresh, {}
        for place in fresh:
            tasks = [t for t in self._todo.get(place, ()) if not t.settled]
            if tasks and all(need.settled or need in tasks for task in tasks for need in task.needs):
                del self._todo[place]
                yield Item(*place, tuple(tasks))

    def settle(self, task: Task, state: State, reason: str = "") -> None:
        """Record an outcome; dependents that cannot run any more are settled with it, new clips and shards appear."""
        if task.settled:
            return
        task.state, task.reason = state, reason
        self.num_settled[task.stage] += 1
        self._waiting[task.shard] -= 1
        if state is State.DONE:
            if Videos in tables_written(self.stages[task.stage]):
                self._contents.rows.pop(task.key, None)
            if self._pack is not None and task.stage in self._upstream(self._pack):
                self._touched.add(task.key)
            if Clips in tables_written(self.stages[task.stage]):
                self._add_clips(task.key)
            self._fresh.update(((self._group_of[d.stage], d.key), None) for d in self._dependents[task])
        else:
            self.unknown_clips.discard(task.key)
            for dependent in self._dependents[task]:
                self.settle(dependent, State.BLOCKED, "upstream failed")
        self._close_shard(task.shard)

    def refresh(self, task: Task) -> None:
        """See the parts of a task as they are now, where a worker may have another mirror of the folder. Raises StoreError."""
        self.store.refresh([folder for folder, _ in self._tables[task.stage]], task.key)

    def is_made(self, task: Task) -> bool:
        """Whether the parts of a task lie in the folder, as this process sees it."""
        found = [self.store.fingerprint(folder, task.key, schema) for folder, schema in self._tables[task.stage]]
        return all(fingerprint == task.fingerprint for fingerprint in found)

    def is_there(self, task: Task) -> bool:
        """Whether a task has parts at all, of whatever fingerprint."""
        return all(self.store.fingerprint(folder, task.key, schema) for folder, schema in self._tables[task.stage])

    def same_cameras(self) -> bool:
        """Whether no more is known of cameras than when the clips were planned: a file may have been asked again meanwhile."""
        return all(self.camera_of(video) == said for video, said in self._said.items())

    def same_contents(self, duplicates: Mapping[str, str]) -> bool:
        """Whether no other videos are of the same content than those that this graph was planned with."""
        return Contents(self.store).duplicates(self.manifest.video) == duplicates

    @property
    def clips(self) -> list[Clips]:
        """The clips of each video whose list is known, in order of the videos' names."""
        return [clips for _, clips in sorted(self._clips.items())]

    @property
    def cameras(self) -> dict[str, list[str]]:
        """Videos by who knows their cameras: manifest, metadata, or assumed."""
        found: dict[str, list[str]] = defaultdict(list)
        for video in sorted(map(str, self.manifest.video)):
            said = self.camera_of(video)
            found[json.loads(said)["from"] if said else ASSUMED].append(video)
        return dict(found)

    @property
    def paths(self) -> dict[str, tuple[CameraPoses, Clips]]:
        """Where the cameras of videos stood, and their clips, of those of which somebody says it in a file that is still there."""
        found = {}
        for video, clips in sorted(self._clips.items()):
            poses = CameraPoses.empty()
            with suppress(OSError, ValueError):  # who fits or packs the video tells it
                poses = poses_said(self.camera_of(video))
            if len(poses):
                found[video] = (poses, clips)
        return found

    def remember(self) -> None:
        """Write down the hashes of local files that this plan took, and what it read in footers."""
        self._contents.remember()
        self.store.write_ledger()

    @property
    def stale(self) -> list[Task]:
        """Tasks of which a part of an earlier run lies in the folder and could not be made again."""
        return [task for task in self.tasks if task.stale and task.state in (State.FAILED, State.RETRY, State.BLOCKED)]

    @property
    def pending(self) -> list[Task]:
        """Tasks still to do, in the order of the recipe."""
        return [t for t in self.tasks if not t.settled]

    @property
    def open_shards(self) -> list[str]:
        """Shards that are packed anew once their videos are settled: some part that they are packed from is pending."""
        if self._pack is None:
            return []
        read = {self._pack, *self._upstream(self._pack)}
        waiting = {task.shard for task in self.pending if task.stage in read}
        return [s for s, n in self._waiting.items() if n and s in waiting and not any(t.stage == self._pack for t in self._shards[s])]

    def group_of(self, stage: int) -> int:
        """The group a stage belongs to."""
        return self._group_of[stage]

    def video_of(self, task: Task) -> str:
        """The video a task is about; '' for a shard."""
        key = self.stages[task.stage].key
        if key == "clip":
            assert task.line is not None
            return task.line.video
        return task.key if key == "video" else ""

    def counts(self) -> Counter[tuple[str, State, str]]:
        """Tasks by stage name, state and reason."""
        return Counter((self.stages[t.stage].name, t.state, t.reason if t.settled else str(t.why)) for t in self.tasks)


def _check_order(stages: Sequence[Stage]) -> None:
    """Raise ValueError when a stage reads a table that no stage before it makes."""
    made: set[type] = {Manifest, Frames, Verdicts, Cameras, CameraPoses, Views}
    for stage in stages:
        lacking = next((kind for kind in stage.reads if kind not in made), None)
        if lacking is not None:
            who = " by ".join(filter(None, (stage.name, stage.detector)))
            raise ValueError(f"{who} reads {lacking.__name__}, which no stage before it in the recipe makes")
        made |= set(tables_written(stage))


def _read_by(stages: Sequence[Stage], position: int) -> list[int]:
    """Positions of the stages whose tables a stage reads; frames come from the video and its clip list."""
    wanted = set(stages[position].reads)
    if Frames in wanted:
        wanted |= {Videos, Clips}
    return [p for p, stage in enumerate(stages[:position]) if wanted & set(tables_written(stage))]


def _camera_identity(stage: Stage, said: str) -> dict[str, Any]:
    """What of a camera decides a stage's result: all that is said to one that reads `Cameras`, to one that looks only where it looks.

    Of a clip of whose camera nothing is said, nothing: its parts are those of versions that knew no cameras.
    """
    if said and Cameras in stage.reads:
        return {"camera": identity_said(said), "camera_version": getattr(stage, "camera_version", 1)}
    looks = views_said(said) if Frames in stage.reads or Views in stage.reads else ""
    return {"views": json.loads(looks)} if looks else {}
