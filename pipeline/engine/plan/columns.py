"""The tasks of a plan as numbers in columns: some ten bytes a task, so that a plan of a million clips fits a small machine.

The tasks of a video stand together, and so do those of its clips, clip by clip: where a task stands tells which it needs and which need
it, and nothing of that is stored.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.engine.plan.tasks import State, Why
from stages.stage import Stage

_STATES, _WHYS = tuple(State), (None, *Why)
_CODES = {state: code for code, state in enumerate(_STATES)}
_WHY_CODES = {why: code for code, why in enumerate(_WHYS)}
_AGAIN = (_WHY_CODES[Why.MISSING], _WHY_CODES[Why.PROBE])
_UNKNOWN = -1


class Names:
    """Texts by number, one after another in one block of bytes."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("Q", [0])

    def add(self, name: str) -> None:
        self._bytes += name.encode()
        self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode()

    def __len__(self) -> int:
        return len(self._ends) - 1


class Columns:
    """Tasks, videos and clips by their numbers, which are given in the order in which they come."""

    def __init__(self, stages: Sequence[Stage], reads: Sequence[Sequence[int]], videos: Iterable[str]) -> None:
        """`reads`: positions of the stages whose tables each stage reads."""
        self.kinds = [stage.key for stage in stages]
        self.reads = reads
        self.of_video = [p for p, kind in enumerate(self.kinds) if kind == "video"]
        self.of_clip = [p for p, kind in enumerate(self.kinds) if kind == "clip"]
        self._rank = {p: rank for positions in (self.of_video, self.of_clip) for rank, p in enumerate(positions)}
        self._readers = [[q for q, read in enumerate(reads) if p in read] for p in range(len(stages))]
        self.stage, self.about = array("h"), array("i")
        """Of each task its stage, and the number of the video, the clip or the file that it is about."""
        self._state, self._why, self._reason = bytearray(), bytearray(), array("H")
        self.stale, self.handed_out = bytearray(), bytearray()
        self.reasons: list[str] = [""]
        self._reason_codes = {"": 0}
        self.videos = list(videos)
        self.number = {video: number for number, video in enumerate(self.videos)}
        self.shards: list[str] = []
        self.shard_of = array("i", [_UNKNOWN]) * len(self.videos)
        self._first_task = array("i", [_UNKNOWN]) * len(self.videos)
        self._first_clip = array("i", [_UNKNOWN]) * len(self.videos)
        self._num_clips = array("i", [0]) * len(self.videos)
        self._first_of_clips = array("i", [_UNKNOWN]) * len(self.videos)
        self.clips, self.video_of_clip = Names(), array("i")
        self.files: list[tuple[str, int, array[int]]] = []
        """Files of shards: key, number of the shard, tasks that it is packed from."""

    def __len__(self) -> int:
        return len(self.stage)

    def add_video(self, video: int, shard: int) -> None:
        """Add a pending task for each stage of videos."""
        self.shard_of[video], self._first_task[video] = shard, len(self)
        for position in self.of_video:
            self._add(position, video)

    def add_clips(self, video: int, clips: Sequence[str]) -> None:
        """Add the clips of a video, and a pending task for each of them and each stage of clips."""
        self._first_clip[video], self._num_clips[video], self._first_of_clips[video] = len(self.clips), len(clips), len(self)
        for clip in clips:
            for position in self.of_clip:
                self._add(position, len(self.clips))
            self.clips.add(clip)
            self.video_of_clip.append(video)

    def add_file(self, position: int, key: str, shard: int, packed: Sequence[int]) -> int:
        """Add a pending task for a file of a shard, packed from the parts of these tasks."""
        self.files.append((key, shard, array("i", packed)))
        return self._add(position, len(self.files) - 1)

    def drop_file(self) -> None:
        """Take back the task that was added last, one of a file."""
        for column in (self.stage, self.about, self._state, self._why, self._reason, self.stale, self.handed_out, self.files):
            column.pop()

    def _add(self, position: int, about: int) -> int:
        self.stage.append(position)
        self.about.append(about)
        for column in (self._state, self._why, self.stale, self.handed_out):
            column.append(0)
        self._reason.append(0)
        return len(self) - 1

    def key(self, task: int) -> str:
        """The id of the video, the name of the clip or of the file that a task is about."""
        kind, about = self.kinds[self.stage[task]], self.about[task]
        return self.videos[about] if kind == "video" else self.clips[about] if kind == "clip" else self.files[about][0]

    def video(self, task: int) -> int | None:
        """The number of the video that a task is about; None of a file of a shard."""
        kind, about = self.kinds[self.stage[task]], self.about[task]
        return about if kind == "video" else self.video_of_clip[about] if kind == "clip" else None

    def shard(self, task: int) -> int:
        """The number of the shard that a task belongs to."""
        video = self.video(task)
        return self.files[self.about[task]][1] if video is None else self.shard_of[video]

    def clips_of(self, video: int) -> range:
        """The numbers of a video's clips; none as long as they are not known."""
        first = self._first_clip[video]
        return range(first, first + self._num_clips[video])

    def knows_clips_of(self, video: int) -> bool:
        """Whether the clips of a video have been added, if there are any."""
        return self._first_clip[video] != _UNKNOWN

    def tasks_of_clips(self, video: int) -> range:
        """The tasks of all of a video's clips."""
        first = self._first_of_clips[video]
        return range(first, first + self._num_clips[video] * len(self.of_clip))

    def tasks_of_video(self, video: int) -> range:
        """The tasks of a video itself."""
        first = self._first_task[video]
        return range(first, first + len(self.of_video)) if first != _UNKNOWN else range(0)

    def task(self, position: int, about: int) -> int:
        """The task of a stage of videos or clips for a video or a clip of this number."""
        if self.kinds[position] == "video":
            return self._first_task[about] + self._rank[position]
        video = self.video_of_clip[about]
        return self._first_of_clips[video] + (about - self._first_clip[video]) * len(self.of_clip) + self._rank[position]

    def tasks_at(self, position: int, video: int) -> Iterator[int]:
        """The tasks of a stage for a video, or for each of its clips."""
        if self.kinds[position] == "video":
            yield self.task(position, video)
        elif self.kinds[position] == "clip":
            yield from self.tasks_of_clips(video)[self._rank[position] :: len(self.of_clip)]

    def needs(self, task: int) -> Sequence[int]:
        """The tasks whose parts a task is made from, in the order of the recipe."""
        position, about = self.stage[task], self.about[task]
        kind = self.kinds[position]
        if kind == "shard":
            return self.files[about][2]
        if kind == "video":
            return [self.task(p, about) for p in self.reads[position] if self.kinds[p] == "video"]
        video = self.video_of_clip[about]
        return [self.task(p, video if self.kinds[p] == "video" else about) for p in self.reads[position] if p in self._rank]

    def needed_by(self, task: int) -> Iterator[int]:
        """The tasks of videos and clips that are made from the part of a task."""
        about, readers = self.about[task], self._readers[self.stage[task]]
        own = self.kinds[self.stage[task]]
        yield from (self.task(p, about) for p in readers if self.kinds[p] == own)
        if own == "video":
            later = [self._rank[p] for p in readers if self.kinds[p] == "clip"]
            first, step = self._first_of_clips[about], len(self.of_clip)
            yield from (first + clip * step + rank for clip in range(self._num_clips[about]) for rank in later)

    def state(self, task: int) -> State:
        return _STATES[self._state[task]]

    def set_state(self, task: int, state: State) -> None:
        self._state[task] = _CODES[state]

    def why(self, task: int) -> Why | None:
        """Why a task is pending."""
        return _WHYS[self._why[task]]

    def set_why(self, task: int, why: Why | None) -> None:
        self._why[task] = _WHY_CODES[why]

    def again(self, task: int) -> bool:
        """Whether a video is only fetched or looked at again: what was made from it is as good as it was."""
        return self._why[task] in _AGAIN

    def reason(self, task: int) -> str:
        return self.reasons[self._reason[task]]

    def set_reason(self, task: int, reason: str) -> None:
        if reason not in self._reason_codes:
            self._reason_codes[reason] = len(self.reasons)
            self.reasons.append(reason)
        self._reason[task] = self._reason_codes[reason]

    def in_state(self, *states: State) -> list[int]:
        """The tasks in one of these states, in order."""
        codes = np.isin(np.frombuffer(self._state, np.uint8), [_CODES[state] for state in states])
        return np.flatnonzero(codes).tolist()

    def of_stage(self, position: int) -> list[int]:
        """The tasks of a stage, in order."""
        return np.flatnonzero(np.frombuffer(self.stage, np.int16) == position).tolist()

    def counts(self) -> Counter[tuple[int, State, str]]:
        """Tasks by stage, state and reason; of pending ones why they are."""
        columns = (self.stage, np.int16), (self._state, np.uint8), (self._why, np.uint8), (self._reason, np.uint16)
        together = np.zeros(len(self), np.int64)
        for column, kind in columns:
            together = together << 16 | np.frombuffer(column, kind)
        found: Counter[tuple[int, State, str]] = Counter()
        for code, count in zip(*(values.tolist() for values in np.unique(together, return_counts=True)), strict=True):
            state, why, reason = _STATES[code >> 32 & 0xFFFF], _WHYS[code >> 16 & 0xFFFF], self.reasons[code & 0xFFFF]
            found[code >> 48, state, str(why) if state is State.PENDING else reason] += count
        return found
