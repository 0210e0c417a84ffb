"""How fast a run goes: seconds and memory by stage and node, rate, time left and what takes long, from the receipts in `runs/*.jsonl`."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

WINDOW_S = 300.0
"""Rates are those of the last five minutes before the newest receipt."""
STRAGGLES = 5.0
"""An item that takes so many times the median of its stage is told of, once it has taken `STRAGGLES_S` too."""
STRAGGLES_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePace:
    """What the parts of one stage took."""

    num_parts: int
    seconds: float
    """All together, on however many workers."""
    median_s: float
    per_s: float
    """Parts a second, on all workers, in the last minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePace:
    """What one machine did."""

    num_items: int
    seconds: float
    peak_mb: float
    """Of its largest worker."""
    last_s: float
    """Unix time of its newest receipt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A run's receipts, summed up."""

    stages: Mapping[int, StagePace]
    """By position in the recipe."""
    nodes: Mapping[str, NodePace]
    at_once: float
    """Workers at work on average, in the last minutes."""
    last_s: float
    """Unix time of the newest receipt."""
    slowest: Sequence[tuple[float, str, int]] = field(default=())
    """Seconds, key and stage of parts that took many times the median of their stage, the worst first."""

    def left_s(self, remaining: Mapping[int, int]) -> float | None:
        """Seconds until so many more parts of each stage are made, at the pace of the last minutes; None where nothing tells."""
        known = [
            count * self.stages[stage].seconds / self.stages[stage].num_parts for stage, count in remaining.items() if stage in self.stages
        ]
        if not known or not self.at_once:
            return None
        return sum(known) / self.at_once


def read_receipts(root: Path) -> list[dict[str, Any]]:
    """The receipts of the newest run of a data folder; a line that is half written, or damaged, counts for nothing."""
    logs = sorted((root / "runs").glob("*.jsonl"))
    receipts = []
    for line in logs[-1].read_text(errors="replace").splitlines() if logs else []:
        try:
            told = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _is_receipt(told):
            receipts.append(told)
    return receipts


def _is_receipt(told: Any) -> bool:
    """Whether a line of the log says all that is summed up here."""
    if not (isinstance(told, dict) and isinstance(told.get("outcomes"), list) and isinstance(told.get("key"), str)):
        return False
    numbers = [told.get(name) for name in ("started_s", "wall_s", "peak_mb")]
    for outcome in told["outcomes"]:
        if not (isinstance(outcome, dict) and isinstance(outcome.get("state"), str) and isinstance(outcome.get("stage"), int)):
            return False
        numbers.append(outcome.get("wall_s"))
    return all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)


def pace_of(receipts: Iterable[Mapping[str, Any]]) -> Pace:
    """Receipts summed up by stage and by node."""
    receipts = list(receipts)
    ends = np.array([one["started_s"] + one["wall_s"] for one in receipts])
    last_s = float(ends.max(initial=0.0))
    walls: dict[int, list[float]] = defaultdict(list)
    fresh: dict[int, int] = defaultdict(int)
    parts: list[tuple[float, str, int]] = []
    nodes: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    since_s = max(last_s - WINDOW_S, min((one["started_s"] for one in receipts), default=0.0))
    for one, end in zip(receipts, ends, strict=True):
        nodes[one.get("host", "")].append(one)
        for outcome in one["outcomes"]:
            if outcome["state"] == "done":
                walls[outcome["stage"]].append(outcome["wall_s"])
                parts.append((outcome["wall_s"], one["key"], outcome["stage"]))
                fresh[outcome["stage"]] += end >= since_s
    window_s = max(last_s - since_s, 1e-9)
    medians = {stage: float(np.median(seconds)) for stage, seconds in walls.items()}
    worked = sum(max(0.0, min(end, last_s) - max(one["started_s"], since_s)) for one, end in zip(receipts, ends, strict=True))
    return Pace(
        stages={
            stage: StagePace(num_parts=len(seconds), seconds=sum(seconds), median_s=medians[stage], per_s=fresh[stage] / window_s)
            for stage, seconds in sorted(walls.items())
        },
        nodes={
            host: NodePace(
                num_items=len(of),
                seconds=sum(one["wall_s"] for one in of),
                peak_mb=max(one["peak_mb"] for one in of),
                last_s=max(one["started_s"] + one["wall_s"] for one in of),
            )
            for host, of in sorted(nodes.items())
        },
        at_once=worked / window_s,
        last_s=last_s,
        slowest=sorted((p for p in parts if p[0] > max(STRAGGLES_S, STRAGGLES * medians[p[2]])), reverse=True)[:5],
    )


def in_words(seconds: float | None) -> str:
    """A time left as people say it: 45 s, 12 min, 3.4 h, 2.1 days."""
    if seconds is None:
        return "unknown"
    for size, unit in ((86_400, "days"), (3600, "h")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
