"""Which parts a run wants, which it has, and why the rest is missing: the plan, kept current while parts land."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline.engine.plan.columns import Columns
from pipeline.engine.plan.contents import Contents
from pipeline.engine.plan.inputs import Inputs
from pipeline.engine.plan.judge import Judge
from pipeline.engine.plan.recipes import Recipes
from pipeline.engine.plan.seats import groups_of, seat_of_group
from pipeline.engine.plan.shards import Packing
from pipeline.engine.plan.tasks import BAD, Item, State, Task, Tasks
from pipeline.engine.store import Store
from stages.cameras.path import poses_said
from stages.cameras.said import ASSUMED
from stages.digest import CorruptFileError
from stages.media.frames import Frames
from stages.stage import Reason, Stage, tables_written
from stages.tables import CameraPoses, Cameras, Clips, Manifest, Verdicts, Videos, Views


@dataclass(eq=False)
class Graph:
    """The tasks of a recipe over a manifest. `load` reads the folder; `ready` and `settle` drive a run."""

    stages: Sequence[Stage]
    manifest: Manifest
    store: Store
    unknown_clips: set[str] = field(default_factory=set)
    """Videos whose clip list has not landed yet."""
    leave: bool = False
    """Whether shards may lose the frames of videos that cannot be made again."""
    duplicates: dict[str, str] = field(default_factory=dict)
    """Videos of the same content as another one, with that other one: they share its shard, so that no content is in two splits."""

    def __post_init__(self) -> None:
        _check_order(self.stages)
        self.reads = [_read_by(self.stages, position) for position in range(len(self.stages))]
        """Positions of the stages whose tables each stage reads."""
        self.groups = groups_of(self.stages)
        self.seats = [seat_of_group([self.stages[p] for p in group]) for group in self.groups]
        """What a worker of each group holds; a run on a cluster with GPUs shares them out."""
        self._group_of = {position: g for g, group in enumerate(self.groups) for position in group}
        self._written = [tables_written(stage) for stage in self.stages]
        self._lister = next((p for p, written in enumerate(self._written) if Clips in written), None)
        self._contents = Contents(self.store)
        self._touched: set[str] = set()  # videos and clips of which a part that a shard is packed from is new in this run
        self._begin()

    def load(self) -> "Graph":
        """Every task that is known from the files alone."""
        self.duplicates = self._contents.duplicates(self.manifest.video)
        self._load()
        frames = {self.video_of(task) for task in self.pending if Frames in self.stages[task.stage].reads}
        lost = {video for video in sorted(frames) if self._contents.is_lost(video)}
        if lost:
            self._load(fetch=lost)
        return self

    def reload(self) -> "Graph":
        """Every task anew, after a run that found something other than it was planned on."""
        if self.store.mirror:
            self.store.mirror.sync()
        self._contents = Contents(self.store)
        return self.load()

    def _begin(self) -> None:
        """Forget every task."""
        stages, store = self.stages, self.store
        self._columns = columns = Columns(stages, self.reads, map(str, self.manifest.video))
        self._inputs = Inputs(stages, self.manifest, store, columns, self._contents)
        self._recipes = Recipes(stages, self.manifest, columns, self._inputs, self._contents)
        self._judge = Judge(stages, store, columns, self._recipes, self._contents)
        self._packing = Packing(stages, store, columns, self._judge, self._contents, leave=self.leave)
        self._fresh: dict[tuple[int, int], int] = {}  # groups and what they may work on now, with a task of it: an ordered set
        self.tasks: Sequence[Task] = Tasks(self._recipes)
        self.unknown_clips.clear()
        self.num_tasks: Counter[int] = Counter()
        """Tasks by stage, kept current: to count them all after each outcome grows with their square."""
        self.num_settled: Counter[int] = Counter()
        self.found_other = False
        """Whether a clip list is other than it was planned on: a graph loaded anew plans on what there is."""
        self.odd: dict[str, str] = {}
        """What is odd of videos by their clips, in words (`Clips.odd`)."""

    def _load(self, fetch: Collection[str] = ()) -> None:
        """Plan every video, then every shard; `fetch`: videos whose file is gone and is wanted."""
        self._begin()
        self._judge.fetch = fetch
        for video in range(len(self._columns.videos)):
            self._add_video(video)
            self._judge.forget()
        self._enter_all(self._packing.close_all(self._touched))

    def _add_video(self, video: int) -> None:
        """Add the tasks of a video; one of the same content as another shares its shard."""
        columns = self._columns
        name = columns.videos[video]
        same = columns.number[self.duplicates.get(name, name)]
        columns.add_video(video, self._packing.add_video(video, same, str(self.manifest.split[same])))
        self._inputs.take_video(video)
        self._judge_all(columns.tasks_of_video(video))
        lister = None if self._lister is None else columns.state(columns.task(self._lister, video))
        if lister is State.DONE:
            self._add_clips(video)
        elif lister is State.PENDING:
            self.unknown_clips.add(name)

    def _add_clips(self, video: int) -> None:
        """Add the tasks of a video's clips. Raises CorruptFileError."""
        name = self._columns.videos[video]
        self.unknown_clips.discard(name)
        clips = self._contents.clips(name)
        if odd := " ".join(filter(None, clips.odd)):
            self.odd[name] = odd
        self._columns.add_clips(video, list(map(str, clips.clip)))
        self._inputs.take_clips(video, clips)
        self._judge_all(self._columns.tasks_of_clips(video))
        self._judge.forget()

    def _judge_all(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._judge.judge(number)
            self._enter(number)

    def _enter(self, number: int) -> None:
        """Count a task that was judged; a pending one is looked at by `ready`."""
        stage, is_pending = self._columns.stage[number], self._columns.state(number) is State.PENDING
        self.num_tasks[stage] += 1
        self.num_settled[stage] += not is_pending
        self._packing.note(number)
        if is_pending:
            self._look_at(number)

    def _enter_all(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._enter(number)

    def _look_at(self, number: int) -> None:
        self._fresh[self._group_of[self._columns.stage[number]], self._columns.about[number]] = number

    def ready(self) -> Iterator[Item]:
        """Items that can run now and have not been handed out before."""
        columns = self._columns
        fresh, self._fresh = self._fresh, {}
        for (group, about), number in fresh.items():
            of_file = columns.video(number) is None
            own = [number] if of_file else [columns.task(position, about) for position in self.groups[group]]
            numbers = [one for one in own if columns.state(one) is State.PENDING and not columns.handed_out[one]]
            needs = (need for one in numbers for need in columns.needs(one))
            if numbers and all(columns.state(need) is not State.PENDING or need in numbers for need in needs):
                for one in numbers:
                    columns.handed_out[one] = True
                yield Item(group, columns.key(number), tuple(Task(self._recipes, one) for one in numbers))

    def settle(self, task: Task, state: State, reason: str = "") -> None:
        """Record an outcome; dependents that cannot run any more are settled with it, new clips and shards appear."""
        self._settle(task.number, state, reason)

    def _settle(self, number: int, state: State, reason: str) -> None:
        columns = self._columns
        if columns.state(number) is not State.PENDING:
            return
        stage, key, written = columns.stage[number], columns.key(number), self._written[columns.stage[number]]
        if state is State.DONE:
            if Videos in written or Clips in written:
                self._contents.forget(key)
            if Clips in written and not self._can_read_clips(key):
                state, reason, self.found_other = State.RETRY, Reason.CORRUPT, True
        columns.set_state(number, state)
        columns.set_reason(number, reason)
        self.num_settled[stage] += 1
        self._packing.note_settled(number)
        if state is State.DONE:
            if stage in self._packing.reads:
                self._touched.add(key)
            if Clips in written:
                self._add_clips(columns.about[number])
            for dependent in columns.needed_by(number):
                self._look_at(dependent)
        else:
            self.unknown_clips.discard(key)
            for dependent in columns.needed_by(number):
                self._settle(dependent, State.BLOCKED, "upstream failed")
            self._look_beside(number)
        try:
            self._enter_all(self._packing.close(columns.shard(number), self._touched))
        except (CorruptFileError, FileNotFoundError):
            self.found_other = True

    def _look_beside(self, number: int) -> None:
        """Have `ready` look at the tasks that a settled one would have gone together with: they may have waited for its inputs alone."""
        columns, group = self._columns, self.groups[self._group_of[self._columns.stage[number]]]
        for one in [columns.task(position, columns.about[number]) for position in group] if len(group) > 1 else ():
            if columns.state(one) is State.PENDING and not columns.handed_out[one]:
                self._look_at(one)

    def _can_read_clips(self, video: str) -> bool:
        try:
            self._contents.clips(video)
        except (CorruptFileError, FileNotFoundError):
            return False
        return True

    def refresh(self, task: Task, bundled: Collection[str] = ()) -> None:
        """See the parts of a task as they are now, where a worker may have another mirror of the folder; but for tables whose part was
        `bundled`. Raises StoreError."""
        self._judge.refresh(task.number, bundled)

    def is_made(self, task: Task) -> bool:
        """Whether the parts of a task lie in the folder, as this process sees it."""
        return self._judge.is_made(task.number)

    def is_there(self, task: Task) -> bool:
        """Whether a task has parts at all, of whatever fingerprint."""
        return self._judge.is_there(task.number)

    def camera_of(self, video: str) -> str:
        """What is said of a video's camera, by the list or else by its file: see `stages.cameras.said`."""
        return self._inputs.camera_of(video)

    def same_cameras(self) -> bool:
        """Whether no more is known of cameras than when the clips were planned: a file may have been asked again meanwhile."""
        return self._inputs.same_cameras()

    def same_contents(self) -> bool:
        """Whether no other videos are of the same content than those that this graph was planned with."""
        return self._contents.duplicates(self.manifest.video) == self.duplicates

    @property
    def cameras(self) -> dict[str, list[str]]:
        """Videos by who knows their cameras: manifest, metadata, or assumed."""
        found: dict[str, list[str]] = defaultdict(list)
        for video in sorted(self._columns.videos):
            said = self.camera_of(video)
            found[json.loads(said)["from"] if said else ASSUMED].append(video)
        return dict(found)

    @property
    def paths(self) -> dict[str, tuple[CameraPoses, Clips]]:
        """Where the cameras of videos stood, and their clips, of those of which somebody says it in a file that is still there."""
        found = {}
        for video in sorted(self._columns.videos):
            poses = CameraPoses.empty()
            with suppress(OSError, ValueError):  # who fits or packs the video tells it
                poses = poses_said(self.camera_of(video))
            if len(poses) and self._columns.knows_clips_of(self._columns.number[video]):
                found[video] = (poses, self._contents.clips(video))
        return found

    def remember(self) -> None:
        """Write down the hashes of local files that this plan took, and what it read in footers."""
        self._contents.remember()
        self.store.footers.write_ledger()

    def _all(self, numbers: Iterable[int]) -> list[Task]:
        return [Task(self._recipes, number) for number in numbers]

    def in_state(self, *states: State) -> list[Task]:
        """Tasks in one of these states, in the order of the recipe."""
        return self._all(self._columns.in_state(*states))

    def tasks_of(self, stage: int) -> list[Task]:
        """Tasks of the stage at a position of the recipe."""
        return self._all(self._columns.of_stage(stage))

    @property
    def stale(self) -> list[Task]:
        """Tasks of which a part of an earlier run lies in the folder and could not be made again."""
        return [task for task in self.in_state(*BAD) if task.stale]

    @property
    def pending(self) -> list[Task]:
        """Tasks still to do."""
        return self.in_state(State.PENDING)

    @property
    def open_shards(self) -> list[str]:
        """Shards that are packed anew once their videos are settled: some part that they are packed from is pending."""
        return self._packing.open

    def group_of(self, stage: int) -> int:
        """The group a stage belongs to."""
        return self._group_of[stage]

    def video_of(self, task: Task) -> str:
        """The video a task is about; '' for a shard."""
        video = self._columns.video(task.number)
        return "" if video is None else self._columns.videos[video]

    def states(self) -> Counter[tuple[int, State]]:
        """Tasks by the position of their stage and by state."""
        found: Counter[tuple[int, State]] = Counter()
        for (stage, state, _), count in self._columns.counts().items():
            found[stage, state] += count
        return found

    def counts(self) -> Counter[tuple[str, State, str]]:
        """Tasks by stage name, state and reason, or why they are pending."""
        found: Counter[tuple[str, State, str]] = Counter()
        for (stage, state, reason), count in self._columns.counts().items():
            found[self.stages[stage].name, state, reason] += count
        return found


def _check_order(stages: Sequence[Stage]) -> None:
    """Raise ValueError when a stage reads a table that no stage before it makes, unless the stage `may_lack` it."""
    made: set[type] = {Manifest, Frames, Verdicts, Cameras, CameraPoses, Views}
    for stage in stages:
        lacking = next((kind for kind in stage.reads if kind not in made and kind not in getattr(stage, "may_lack", ())), None)
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
