"""Audits: hands drawn by chance that a person looked at, and what that says of all of them."""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from pipeline.engine.store import Store
from pipeline.engine.verdicts import read_verdicts
from stages.digest import CorruptFileError
from stages.tables import Audits
from stages.verdicts import What, same_box, standing

TABLE = "audits"


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share of what was looked at, with Wilson's interval of 95 %."""

    num: int
    of: int

    @property
    def share(self) -> float:
        """The share itself; NaN of nothing."""
        return self.num / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Where the share of all hands lies, 19 times of 20 (Wilson 1927)."""
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.959964, self.of, self.share
        centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, (centre - half) / (1 + z * z / n)), min(1.0, (centre + half) / (1 + z * z / n))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:.3f} ({low:.3f} to {high:.3f}; {self.num:,} of {self.of:,})" if self.of else "nothing looked at yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """An audit and what it found: which of the hands drawn are hands, and which of those are on their side."""

    name: str
    where: str
    population: int
    size: int
    answers: tuple[str, ...]
    """For each hand drawn what was decided: keep, reject, side, landmarks, or '' where nobody has looked yet."""
    precision: Share
    side: Share


def audits_of(store: Store) -> list[Audit]:
    """The audits of a data folder, the earliest first; damaged ones are left to `whim verify`."""
    found = []
    for name in store.keys(TABLE):
        try:
            found.append(judged(store, store.read(Audits, TABLE, name)))
        except CorruptFileError:
            continue
    return found


def judged(store: Store, drawn: Audits) -> Audit:
    """Judgements of the hands that an audit drew, found by their boxes: a run may have numbered hands anew since.

    The last answer counts; an answer that was undone is none.
    """
    name = str(drawn.audit[0]) if len(drawn) else ""
    on_frames: dict[tuple[str, int], list[int]] = defaultdict(list)
    for i, place in enumerate(zip(map(str, drawn.video), drawn.frame.tolist(), strict=True)):
        on_frames[place].append(i)
    said: dict[int, str] = {}
    for video in sorted(set(map(str, drawn.video))):
        held = standing(read_verdicts(store, video))
        for row in np.flatnonzero((held.audit == name) & (held.what != What.ADD)):
            here = on_frames.get((video, int(held.frame[row])), [])
            same = same_box(held.box[row], drawn.box[here], drawn.hand[here] == held.hand[row])
            if same is not None:
                said[here[same]] = str(held.what[row])
    answers = tuple(said.get(i, "") for i in range(len(drawn)))
    num_answers = sum(map(bool, answers))
    hands = num_answers - answers.count(What.REJECT)
    return Audit(
        name=name,
        where=str(drawn.where[0]) if len(drawn) else "",
        population=int(drawn.population[0]) if len(drawn) else 0,
        size=len(drawn),
        answers=answers,
        precision=Share(num=hands, of=num_answers),
        side=Share(num=hands - answers.count(What.SIDE), of=hands),
    )


def card_lines(store: Store) -> list[str]:
    """What the audits of a data folder found that people have looked at, a sentence each."""
    return [as_text(audit) for audit in audits_of(store) if audit.precision.of]


def as_text(audit: Audit) -> str:
    """What an audit found, in a sentence for the dataset's card."""
    looked_at = f"{audit.precision.of:,} of {audit.population:,} hands" + (f" ({audit.where})" if audit.where else "")
    return f"a person looked at {looked_at}, drawn by chance: hands {audit.precision}, on their side {audit.side}"
