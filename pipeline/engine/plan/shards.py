"""Which files the clips of a shard are packed into, once all of its videos are settled."""

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence, Set

from pipeline.engine.files.shard import clips_in, pieces_of
from pipeline.engine.plan.columns import Columns
from pipeline.engine.plan.contents import Contents
from pipeline.engine.plan.judge import Judge
from pipeline.engine.plan.tasks import BAD, State, Why, table_of
from pipeline.engine.store import Store
from stages.digest import CorruptFileError
from stages.shards import pieces, shard_of
from stages.stage import ShardStage, Stage


class Packing:
    """The shards of a plan: which of their tasks are still to be settled, and what they are packed from then."""

    def __init__(self, stages: Sequence[Stage], store: Store, columns: Columns, judge: Judge, contents: Contents, *, leave: bool) -> None:
        self.store, self.columns, self.judge, self.contents = store, columns, judge, contents
        self.leave = leave
        """Whether shards may lose the frames of videos that cannot be made again."""
        self.position = next((p for p, stage in enumerate(stages) if stage.key == "shard"), None)
        stage = None if self.position is None else stages[self.position]
        assert stage is None or isinstance(stage, ShardStage)
        self.stage = stage
        self.reads = () if self.position is None else columns.reads[self.position]
        self._number: dict[str, int] = {}
        self._videos: list[array[int]] = []
        self._waiting: Counter[int] = Counter()  # tasks to be settled
        self._bad: Counter[int] = Counter()  # tasks that ended without a part
        self._closed: set[int] = set()

    def add_video(self, video: int, same: int, split: str) -> int:
        """The shard of a video, that of the first video of its content (`same`), whose split is given."""
        name = shard_of(self.columns.videos[same], split, self.stage.num_shards) if self.stage else ""
        if name not in self._number:
            self._number[name] = len(self._videos)
            self._videos.append(array("i"))
            self.columns.shards.append(name)
        self._videos[self._number[name]].append(video)
        return self._number[name]

    def note(self, task: int) -> None:
        """Count a task that has come."""
        state, shard = self.columns.state(task), self.columns.shard(task)
        self._waiting[shard] += state is State.PENDING
        self._bad[shard] += state in BAD

    def note_settled(self, task: int) -> None:
        """Count a task that was pending and is settled now."""
        shard = self.columns.shard(task)
        self._waiting[shard] -= 1
        self._bad[shard] += self.columns.state(task) in BAD

    @property
    def open(self) -> list[str]:
        """Shards that are packed anew once their videos are settled: some part that they are packed from is pending."""
        if self.position is None:
            return []
        read = {self.position, *self.reads}
        waiting = {self.columns.shard(task) for task in self.columns.in_state(State.PENDING) if self.columns.stage[task] in read}
        return [self.columns.shards[shard] for shard in range(len(self._videos)) if shard in waiting - self._closed]

    def close_all(self, touched: Set[str]) -> list[int]:
        """The files of all shards that wait for nothing, as tasks."""
        return [task for shard in range(len(self._videos)) for task in self.close(shard, touched)]

    def close(self, shard: int, touched: Set[str]) -> list[int]:
        """The tasks of a shard's own files, added once all of its videos are settled: it is made from what there is.

        `touched`: videos and clips of which a part that it is packed from is new in this run. Where it raises CorruptFileError or
        FileNotFoundError, over a clip list that is other than it was planned on, the shard stays open.
        """
        if self.position is None or self._waiting[shard] or shard in self._closed:
            return []
        clips = sorted(self._clips(shard), key=self.columns.key)
        needs = [task for task in clips if self.columns.state(task) is State.DONE]
        lost = [] if self.leave else self._would_lose(shard, {self.columns.key(need) for need in needs})
        if not needs and not lost:
            return []
        self._closed.add(shard)
        num_before = len(self.columns)
        try:
            return self._files(shard, clips, needs, lost, touched)
        except (CorruptFileError, FileNotFoundError):
            while len(self.columns) > num_before:
                self.judge.recipes.drop_file()
            self._closed.discard(shard)
            raise

    def _files(self, shard: int, clips: Sequence[int], needs: Sequence[int], lost: Collection[str], touched: Set[str]) -> list[int]:
        """The tasks of a shard's files: one of all clips, or one a piece."""
        name = self.columns.shards[shard]
        whole, dealt = self._file(name, shard, needs), self._pieces(name, clips)
        if self.columns.state(whole) is State.DONE or name in dealt or not needs:
            return [self._entered(whole, lost, touched)]
        self.judge.recipes.drop_file()
        there = set(needs)
        of_pieces = ((key, [task for task in of_piece if task in there]) for key, of_piece in sorted(dealt.items()))
        return [self._entered(self._file(key, shard, of_piece), lost, touched) for key, of_piece in of_pieces if of_piece]

    def _clips(self, shard: int) -> Iterator[int]:
        """The tasks that a shard is packed from, if they are done."""
        for video in self._videos[shard]:
            yield from self.columns.tasks_at(self.reads[-1], video)

    def _file(self, key: str, shard: int, needs: Sequence[int]) -> int:
        assert self.position is not None
        task = self.columns.add_file(self.position, key, shard, needs)
        try:
            self.judge.judge(task)
        finally:
            self.judge.forget()  # the next task may have the number of this one, where this one is dropped
        return task

    def _entered(self, task: int, lost: Collection[str], touched: Set[str]) -> int:
        """A task of a file, with what it is told beside what lies in the folder."""
        columns = self.columns
        if columns.state(task) is State.DONE and touched and any(self._names(need) & touched for need in columns.needs(task)):
            columns.set_state(task, State.PENDING)
            columns.set_why(task, Why.UPSTREAM)
        if columns.state(task) is not State.DONE and lost:
            columns.set_state(task, State.BLOCKED)
            columns.stale[task] = True
            told = f"it would lose the frames of {len(lost)} clips that cannot be made again: mend them, or let them go by --leave"
            columns.set_reason(task, told)
        return task

    def _names(self, task: int) -> set[str]:
        video = self.columns.video(task)
        return {self.columns.key(task)} | ({self.columns.videos[video]} if video is not None else set())

    def _pieces(self, name: str, clips: Sequence[int]) -> dict[str, list[int]]:
        """Clips by the file that their frames go into: all that are known, so that one which failed moves no other into another file."""
        assert self.stage is not None
        videos, sizes = [], []
        for task in clips:
            video = self.columns.video(task)
            assert video is not None
            videos.append(self.columns.videos[video])
            row, clip = self.contents.row(videos[-1]), self.judge.recipes.row(task)
            sizes.append(0 if row is None else self.stage.expected_bytes(clip, row.width, row.height))
        return {key: [clips[place] for place in places] for key, places in pieces(name, videos, sizes, self.stage.shard_mb).items()}

    def _would_lose(self, shard: int, made: Collection[str]) -> list[str]:
        """Clips whose frames a shard holds and would no longer hold, though their videos are wanted: something upstream failed."""
        assert self.stage is not None
        if not self._bad[shard]:
            return []
        files = pieces_of(self.store.part(table_of(self.stage), self.columns.shards[shard]))
        held = {place for path in files for place in clips_in(path)}
        return sorted(clip for video, clip in held if clip not in made and self._is_wanted(video, clip))

    def _is_wanted(self, video: str, clip: str) -> bool:
        """Whether a video is wanted, and a clip one of its, as far as is known."""
        number = self.columns.number.get(video)
        if number is None:
            return False
        return not self.columns.knows_clips_of(number) or clip in map(self.columns.clips.__getitem__, self.columns.clips_of(number))
