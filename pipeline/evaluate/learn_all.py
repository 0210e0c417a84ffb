"""What every member of an ensemble is worth, learned in one go: `whim learn all` shows rendered hands, or labelled frames, to a recipe's
detectors.

From both come calibrations (extents of boxes, shares of hits), from rendered hands the offsets of landmarks too, whose true joints are
known. Members that come with the project keep what they have, which was learned on real frames; `again` learns theirs anew.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from fitting.files import weights_folder
from fitting.landmarks.learn_offsets import MIN_HANDS, LabelledHands, learn, to_json
from fitting.landmarks.offsets import LANDMARK_OFFSETS, OFFSETS_NAME
from hands.metrics.labels import LabelledFrame, load_labels, match_hands
from pipeline.evaluate import calibrate
from pipeline.evaluate.annotators import finders_and_fusion
from pipeline.evaluate.observe import Seen, observe, seen_on
from stages.fusion.calibration import EMBEDDED
from stages.media.frames import Frames
from stages.stage import Stage
from stages.tables import HandDetections, People
from studio.stills import Album, render_album
from studio.truth import CLEAR_VISIBLE

FIRST_SEED = 700_000
"""Of the albums: far from those that shards and benchmarks are made of."""
NOTE = "studio albums of stills"


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Shown:
    """One frame as the detectors saw it, and the joints of its labelled hands where they are known."""

    seen: Seen
    joints_2d: np.ndarray  # [hands, 21, 2]
    joints_3d: np.ndarray  # [hands, 21, 3]


def shown_albums(stages: Sequence[Stage], num_albums: int) -> Iterator[Shown]:
    """Rendered stills with exact truth; hands of which little is seen count neither way."""
    functions = [(stage, stage.build()) for stage in stages]
    for number in range(num_albums):
        album = Album(seed=FIRST_SEED + number)
        for k, (picture, truths) in enumerate(render_album(album)):
            truth = {name: np.stack([row[name] for row in truths]) for name in truths[0]} if truths else {}
            clear = truth["visible"] >= CLEAR_VISIBLE if truth else np.zeros(0, bool)
            box = truth["box"].astype(np.float64) if truth else np.zeros((0, 4))
            label = LabelledFrame(
                name=f"album-{album.seed}-{k:02d}",
                video="",
                frame=0,
                image="",
                width=picture.image.shape[1],
                height=picture.image.shape[0],
                box=box[clear],
                side=truth["side"][clear].astype(np.int64) if truth else np.zeros(0, np.int64),
                ignore=box[~clear],
            )
            frames = Frames(video=label.name, frame=np.array([0]), time_s=np.array([0.0]), images=[picture.image])
            flat, space = (truth[name][clear].astype(np.float64) for name in ("keypoints", "joints_3d")) if truth else (box, box)
            yield Shown(seen=seen_on(functions, label, frames, 0, 5.0), joints_2d=flat, joints_3d=space)


def labelled_hands(shown: Sequence[Shown], source: str) -> LabelledHands:
    """Hands that one source found, with landmarks, beside where their joints truly are."""
    rows: dict[str, list[Any]] = {name: [] for name in ("keypoints", "world", "joints_2d", "joints_3d")}
    for one in shown:
        mine = one.seen.here.take(one.seen.here.source == source)
        found = match_hands(one.seen.label, mine.box, mine.score).found
        for hand in np.flatnonzero(found >= 0):
            if np.isfinite(mine.keypoints[found[hand]]).all():
                rows["keypoints"].append(mine.keypoints[found[hand]])
                rows["world"].append(mine.world[found[hand]])
                rows["joints_2d"].append(one.joints_2d[hand])
                rows["joints_3d"].append(one.joints_3d[hand])
    count = len(rows["keypoints"])
    shapes = {"keypoints": (21, 3), "world": (21, 3), "joints_2d": (21, 2), "joints_3d": (21, 3)}
    columns = {name: np.array(values, np.float64).reshape(count, *shapes[name]) for name, values in rows.items()}
    return LabelledHands(detector=np.full(count, source), **columns)


def learn_all(
    stages: Sequence[Stage],
    console: Console,
    *,
    num_albums: int,
    labels: Path | None = None,
    media: Path = Path(),
    out: Path | None = None,
    again: bool = False,
) -> list[str]:
    """Write `calibration.json` and `landmark_offsets.json` in `out` (default: the folder of weights), where fusion and fit find them.

    The names of the sources that were learned. Raises ValueError when there was nothing to learn.
    """
    finders, fuse = finders_and_fusion(stages)
    known = set() if again else set(json.loads(EMBEDDED.read_text())["sources"])
    shown = list(shown_albums(finders, num_albums))
    on = list(observe(load_labels(labels), media, finders, reach=0)) if labels else [one.seen for one in shown]
    detections, people = HandDetections.concat([seen.here for seen in on]), People.concat([seen.people for seen in on])
    told = calibrate.learn([seen.label for seen in on], detections, people)
    told = {name: of for name, of in told.items() if name not in known}
    where = str(labels) if labels else f"{num_albums} {NOTE}"
    offsets = _offsets(shown, [name for name in fuse.detectors if again or name not in _detectors(LANDMARK_OFFSETS)])
    if not told and not offsets:
        raise ValueError(
            f"nothing to learn from {len(on)} frames: each of {', '.join(fuse.detectors)} has what comes with the project (--again learns"
            f" it anew) or found fewer than {calibrate.MIN_DETECTIONS} hands (--albums shows more)"
        )
    out = out or weights_folder()
    if told:
        before = _read(out / "calibration.json")
        _write(out / "calibration.json", before | {"sources": before.get("sources", {}) | told, "learned_on": {"frames": where}})
    if offsets:
        before = _read(out / OFFSETS_NAME) or _read(LANDMARK_OFFSETS)
        _write(out / OFFSETS_NAME, before | {"detectors": before["detectors"] | offsets})
    for name in fuse.detectors:
        console.print(f"{name}: {_told(told.get(name), offsets.get(name))}", markup=False)
    return [name for name in fuse.detectors if name in told or name in offsets]


def _told(calibrated: Mapping[str, Any] | None, moved: Mapping[str, Any] | None) -> str:
    """What was learned of one source, and what it is worth."""
    parts = []
    if calibrated:
        parts.append(f"squared error of scores {calibrated['brier']['raw']:.3f} to {calibrated['brier']['held_out']:.3f}")
    if moved:
        parts.append(f"landmarks {np.mean(moved['error_before']):.1%} to {np.mean(moved['error_after']):.1%} of a hand off")
    return "; ".join(parts) or "left as it is"


def _offsets(shown: Sequence[Shown], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Offsets of the sources that found enough hands with landmarks."""
    found = {}
    for name in names:
        hands = labelled_hands(shown, name)
        if len(hands.keypoints) >= MIN_HANDS:
            try:
                found[name] = to_json(hands, learn(hands), "", NOTE)
            except ValueError:  # too few of them near the truth
                continue
    return found


def _detectors(path: Path) -> set[str]:
    return set(json.loads(path.read_text())["detectors"])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.aside")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    aside.replace(path)
