"""What the page asks of a data folder and tells it: the index, the tables behind it, and the decisions of whoever sits before it."""

import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from pipeline.browse.asking import Asking
from pipeline.browse.decisions import NOWHERE, Decision, Subject, added_on, decide, lost_verdicts, refuse_beyond, said_of, undo
from pipeline.browse.detail import clip_row, frame_detail, mesh, plain
from pipeline.browse.images import Images
from pipeline.browse.index import index_file, open_index, renew
from pipeline.browse.landed import OF_HANDS
from pipeline.dataset.audits import TABLE, audits_of, judged
from pipeline.engine.store import Store
from pipeline.engine.verdicts import TABLE as VERDICTS
from pipeline.engine.verdicts import read_verdicts, videos_with_verdicts
from stages.digest import CorruptFileError
from stages.errors import UserError
from stages.tables import Audits, Clips
from stages.verdicts import What, same_box

Json = dict[str, Any]
Box = tuple[float, float, float, float]
MOST_DRAWN = 2000


class Session:
    """A data folder that somebody looks at."""

    def __init__(self, root: Path, who: str, *, file: Path | None = None) -> None:
        """Raises UserError where there is no data folder."""
        self.store, self.who, self.file = Store(root), who, file or index_file(root)
        if not (self.store.root / "hands").is_dir():
            name, word = self.store.name, self.store.word()
            begun = f"whim status --data {word} says why" if (root / "manifest.parquet").is_file() else ""
            raise UserError(f"{name} has no hands yet: {begun or f'whim run --videos FOLDER_OR_LIST --data {word}'}")
        self._lock, self._noting = Lock(), Lock()
        self.num_changes = 0
        self._open()
        self.images = Images(self.store, lambda: self.asking)

    @property
    def report(self) -> Path:
        """The page that the last run wrote."""
        return self.store.root / "report.html"

    def _open(self) -> None:
        stamp, noted = self._stamp(), self._verdicts()  # what lands while the tables are read is taken up the next time
        self.unreadable = renew(self.store, self.file)
        self.asking = Asking(open_index(self.file))
        for video in videos_with_verdicts(self.store):
            self._note(video)
        self.stamp, self.noted = stamp, noted

    def _stamp(self) -> tuple[int, ...]:
        """Changes whenever a part has landed: its name is new in the table's folder."""
        index = self.store.root / "shards" / "index.json"
        return (*map(self.store.changed_ns, OF_HANDS), index.stat().st_mtime_ns if index.exists() else 0)

    def _verdicts(self) -> dict[str, str]:
        """A stamp of each video's verdicts, which changes whenever they are written."""
        return self.store.stamps(VERDICTS)

    def refresh(self) -> None:
        """Take up what runs have made since, and what was decided elsewhere: in another `whim browse`, or by `whim verdicts import`."""
        with self._lock:
            if self._stamp() != self.stamp:
                self._open()
                return
            now = self._verdicts()
            for video in {video for video in now | self.noted if now.get(video) != self.noted.get(video)}:
                self._note(video)
            self.noted = now

    def about(self) -> Json:
        """What there is to ask for."""
        self.refresh()
        lost = lost_verdicts(self.store)
        return {
            "folder": self.store.root.name,
            "revision": str(hash((self.stamp, *sorted(self.noted.items())))),
            "who": self.who,
            "report": self.report.is_file(),
            "columns": {name: str(kind) for name, kind in self.asking.columns.items()},
            "unreadable": self.unreadable,
            "lost": [
                {"video": str(v.video[0]), "frame": int(v.frame[0]), "what": str(v.what[0]), "who": str(v.who[0])} for v in lost.rows()
            ],
            "audits": [audit.name for audit in audits_of(self.store)],
        }

    def hands(self, where: str, sort: str, *, descending: bool, offset: int, limit: int) -> Json:
        """A page of hands."""
        return self.asking.hands(self.asking.where(where), sort=sort, descending=descending, offset=offset, limit=limit)

    def frame(self, video: str, frame: int, view: int) -> Json:
        """A view of a frame with its hands, those refused, and those that people added."""
        clip = self._clip(video, frame)
        row = clip_row(self.store, clip)
        cameras = self.images.cameras(row)
        of_view = np.flatnonzero(cameras.view == view)
        if not len(of_view):
            raise UserError(f"the frames of {video[:100]} have no view {view}")
        said = {(f, h): words for f, h, words in said_of(self.store, video)}
        detail = frame_detail(self.store, clip, frame, view)
        for hand in (*detail["hands"], *detail["refused"]):
            hand["verdict"] = said.get((frame, hand["hand"]))
        detail["added"] = plain(added_on(self.store, video, row, frame))
        size = [int(cameras.width[of_view[0]]), int(cameras.height[of_view[0]])]
        return detail | {"video": video, "size": size, "views": cameras.view.tolist()}

    def clip(self, video: str, frame: int) -> Json:
        """The clip of a frame: its frames, and its hands in brief."""
        clip = self._clip(video, frame)
        hands = self.asking.of_clip(clip)
        times = self._times(clip_row(self.store, clip), hands)
        return {"clip": clip, "video": video, "frames": plain(sorted(times.items())), "hands": plain(hands)}

    def mesh(self, video: str, frame: int, hand: int) -> Json:
        """A fitted hand."""
        return mesh(self.store, self._clip(video, frame), frame, hand)

    def image(self, video: str, frame: int, view: int) -> bytes:
        """A view of a frame as JPEG."""
        self._clip(video, frame)
        return self.images.frame(video, frame, view)

    def thumb(self, video: str, frame: int, hand: int) -> bytes:
        """A hand as a small JPEG."""
        place = self.asking.place_of(video, frame, hand)
        if place is None:
            raise UserError(f"no hand {hand} on frame {frame} of {video[:100]}")
        *box, width, view = place
        return self.images.thumb(video, frame, int(view), box, int(width))

    def decide(self, decision: Decision, hands: Sequence[tuple[str, int, int]], boxes: Sequence[Box] | None = None) -> str:
        """Decide on hands (video, frame, number), which were seen in these boxes; its id."""
        clips = self._clips([(video, frame) for video, frame, _ in hands])
        subjects = [
            Subject(video, clips[video, frame], frame, hand, self._time(decision, video, frame), box)
            for (video, frame, hand), box in zip(hands, boxes or [NOWHERE] * len(hands), strict=True)
        ]
        name = decide(self.store, decision, subjects)
        self.num_changes += 1
        for video in {subject.video for subject in subjects}:
            self._note(video)
        return name

    def undo(self, decision: str = "") -> Json:
        """Take back a decision, or the last one that stands: which it was."""
        said = undo(self.store, self.who, decision)
        self.num_changes += 1
        for video in set(said.video.tolist()):
            self._note(str(video))
        hands = f"{len(said)} hands, the first" if len(said) > 1 else "a hand"
        of = f"{said.what[0]} of {hands} on frame {said.frame[0]} of {said.video[0]}, by {said.who[0]}"
        return {"undone": str(said.decision[0]), "of": of}

    def history(self, limit: int = 100) -> list[Json]:
        """The last decisions, the latest first, undone ones too."""
        rows: dict[str, Json] = {}
        for video in videos_with_verdicts(self.store):
            for one in read_verdicts(self.store, video).rows():
                row = rows.setdefault(str(one.decision[0]), {"decision": str(one.decision[0]), "num": 0})
                row |= {"what": str(one.what[0]), "who": str(one.who[0]), "when_s": float(one.when_s[0]), "undoes": str(one.undoes[0])}
                row |= {"num": row["num"] + 1, "video": video, "frame": int(one.frame[0])}
        return sorted(rows.values(), key=lambda row: -row["when_s"])[:limit]

    def draw(self, where: str, size: int, seed: int) -> Json:
        """Draw hands by chance for an audit, and note which."""
        if not 0 < size <= MOST_DRAWN:
            raise UserError(f"an audit draws 1 to {MOST_DRAWN} hands, not {size}")
        asked = self.asking.where(where)
        drawn = self.asking.sample(asked, size, seed)
        if not drawn:
            raise UserError("the filter takes no hand: nothing to draw from")
        n, name = len(drawn), time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]
        taken = self.asking.hands(asked, limit=1)
        once = {"audit": name, "who": self.who, "where": where}
        audit = Audits(
            **{column: np.full(n, value, object) for column, value in once.items()},
            when_s=np.full(n, time.time()),
            seed=np.full(n, seed),
            population=np.full(n, taken["total"] - taken["refused"]),
            video=np.array([row["video"] for row in drawn], object),
            **{c: np.array([row[c] for row in drawn], d) for c, d in (("frame", "i8"), ("time_s", "f8"), ("hand", "i2"), ("side", "i1"))},
            box=np.array([[row[c] for c in ("x0", "y0", "x1", "y1")] for row in drawn], np.float32).reshape(n, 4),
        )
        self.store.commit(TABLE, name, audit, {})
        return self.audit(name)

    def audit(self, name: str) -> Json:
        """An audit: the hands drawn, what was said of each, and what that says of all."""
        if name not in self.store.keys(TABLE):
            raise UserError(f"no audit {name[:60]!r}")
        drawn = self.store.read(Audits, TABLE, name)
        found = judged(self.store, drawn)
        numbers, boxes = self._now(drawn)
        rows = zip(drawn.video, drawn.frame, numbers, drawn.side, plain(boxes), found.answers, strict=True)
        shares = {name: {"text": str(s), "num": s.num, "of": s.of} for name, s in (("precision", found.precision), ("side", found.side))}
        return {
            "name": found.name,
            "where": found.where,
            "population": found.population,
            "hands": [
                {"video": str(v), "frame": int(f), "hand": int(h), "side": int(s), "box": box, "answer": a} for v, f, h, s, box, a in rows
            ],
            **shares,
        }

    def _now(self, drawn: Audits) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and boxes of hands that were drawn, as runs have found them since; of one that none finds any more as it was drawn."""
        numbers, boxes = drawn.hand.copy(), drawn.box.copy()
        places = list(zip(map(str, drawn.video), drawn.frame.tolist(), strict=True))
        on_frames: dict[tuple[str, int], list[Json]] = defaultdict(list)
        for row in self.asking.on_frames(list(dict.fromkeys(places))):
            on_frames[row["video"], row["frame"]].append(row)
        for i, place in enumerate(places):
            hand = np.array([row["hand"] for row in on_frames[place]])
            box = np.array([row["box"] for row in on_frames[place]], np.float32)
            same = same_box(drawn.box[i], box, hand == drawn.hand[i])
            if same is not None:
                numbers[i], boxes[i] = hand[same], box[same]
        return numbers, boxes

    def _clip(self, video: str, frame: int) -> str:
        """The clip of a frame. Raises UserError."""
        return self._clips([(video, frame)])[video, frame]

    def _clips(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], str]:
        """The clips of frames that the index knows: no other name reaches a path. Raises UserError."""
        clips = self.asking.clips_of(list(dict.fromkeys(places)))
        for video, frame in places:
            if (video, frame) not in clips:
                raise UserError(f"no frame {frame} of a video {video[:100]!r}")
        return clips

    def _time(self, decision: Decision, video: str, frame: int) -> float:
        """When a frame is shown, of one to which a hand is added: it must be one that was looked at, and the box lie on it."""
        if decision.what is not What.ADD:
            return float("nan")
        row = clip_row(self.store, clip := self._clip(video, frame))
        cameras = self.images.cameras(row)
        if len(cameras) > 1:
            raise UserError("hands are added to whole images: a camera that bends straight lines is looked at through views")
        refuse_beyond(decision.to_box, int(cameras.width[0]), int(cameras.height[0]))
        times = self._times(row, self.asking.of_clip(clip))
        if frame not in times:
            raise UserError(f"frame {frame} of {video} was not looked at: hands are added to frames that were")
        return times[frame]

    def _times(self, clip: Clips, hands: Sequence[Json]) -> dict[int, float]:
        """When each frame of a clip that was looked at is shown, seconds; NaN where nobody knows."""
        return dict(self.images.frames_of(clip)) | {int(hand["frame"]): float(hand["time_s"]) for hand in hands}

    def _note(self, video: str) -> None:
        try:
            with self._noting:  # what was read first is noted first
                self.asking.set_said(video, said_of(self.store, video))
        except CorruptFileError:
            self.unreadable = (*self.unreadable, f"verdicts/{video}.parquet")
