"""`make bench-detector-real`: the shipped detector on labelled frames of real video that it never saw, beside MediaPipe's loop.

The labelled videos are among its training data (docs/detector_palm.md): `--fold NETWORK VIDEOS`, once for each half, has the frames of
the videos that VIDEOS lists judged by a NETWORK of the same training that never saw them. A hand is found at IoU 0.3, for the labels
are drawn by eye. `one_pass` is the network alone; `second_look` adds the landmark network at its boxes, which tells sides, and is
matched by these boxes or, `at_landmarks`, by where the landmarks lie: of hands that lie on each other a box may be about both. The peer
is the whole-frame route of the same palm and landmark networks as MediaPipe's package runs them. Speeds are frames of these videos on
one core, by turns.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from benchmarks.machine import describe
from hands.metrics.labels import LabelledFrame, load_labels, match_hands
from stages.detect_hands_mediapipe import DetectHands
from stages.detect_hands_whim import DetectHandsWhim
from stages.detectors.found import HAND_EXTENT, FoundHands, hull_boxes
from stages.detectors.mediapipe.hand_landmarks import FindLandmarks, load_hand_landmarks
from stages.detectors.mediapipe.hand_search import confirm, each_once, frame_views, palm_starts
from stages.detectors.mediapipe.palm import FindPalms, load_palm_detector
from stages.detectors.whim import WhimNetwork, find_hands, open_network
from stages.media.frames import Frames
from stages.propose_hands_whim import SHIPPED, ProposeHands
from stages.tables import HandDetections, People
from training.run.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "detector_real.json"
PRECISIONS = (0.5, 0.8, 0.9, 0.95)
ROUNDS = 3
LEAST_SCORE = 0.02
"""Boxes below are left out: with them no precision is worth reading."""
MEDIAPIPE_CONFIDENCE = 0.5
"""Least palm score and presence: the package's own."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Seen:
    """Hands that one way of looking found in one frame."""

    box: Float[np.ndarray, "n 4"]
    score: Float[np.ndarray, "n"]
    side: Int64[np.ndarray, "n"]
    hull: Float[np.ndarray, "n 4"] | None = None
    """Boxes about the landmarks, where a hand is taken to be where they lie."""


Look = Callable[[np.ndarray], Seen]


def one_pass(network: Path) -> Look:
    """The network alone."""
    return network_look(open_network(network, device="cpu"))


def network_look(network: WhimNetwork) -> Look:
    """An open network as a way of looking at a frame."""
    find = find_hands(network, min_score=LEAST_SCORE, max_iou=ProposeHands().max_iou, batch_size=1)

    def look(image: np.ndarray) -> Seen:
        found: FoundHands = find([image], [People.empty()])
        return Seen(box=found.box, score=found.score, side=(found.p_right >= 0.5).astype(np.int64))

    return look


def second_look(network: Path) -> Look:
    """The stage as the ensemble has it."""
    propose, detect = ProposeHands(file=str(network)).build(), DetectHandsWhim().build()

    def look(image: np.ndarray) -> Seen:
        found: HandDetections = detect(_frames(image), propose(_frames(image)), HandDetections.empty())
        hull = hull_boxes(found.keypoints, min_score=0.0, extent=HAND_EXTENT)
        return Seen(box=found.box, score=found.score, side=(found.p_right >= 0.5).astype(np.int64), hull=hull)

    return look


def mediapipe_loop() -> Look:
    """Palms of the whole frame, and landmarks of each: what the package does with a still image."""
    find_palms: FindPalms = load_palm_detector()
    find_landmarks: FindLandmarks = load_hand_landmarks()
    extent = np.array([DetectHands().extent_width, DetectHands().extent_height])

    def look(image: np.ndarray) -> Seen:
        starts = palm_starts(image, frame_views(image.shape[1], image.shape[0], ()), find_palms, MEDIAPIPE_CONFIDENCE)
        found = each_once(confirm(image, starts, find_landmarks, min_presence=MEDIAPIPE_CONFIDENCE))
        hull = np.array([hand.hull for hand in found]).reshape(-1, 4)
        centre, half = (hull[:, :2] + hull[:, 2:]) / 2, (hull[:, 2:] - hull[:, :2]) / 2 * extent
        return Seen(
            box=np.concatenate([centre - half, centre + half], 1),
            score=np.array([hand.score for hand in found]),
            side=np.array([hand.landmarks.p_right >= 0.5 for hand in found], np.int64),
        )

    return look


def _frames(image: np.ndarray) -> Frames:
    return Frames(video="", frame=np.array([0]), time_s=np.array([0.0]), images=[image])


def curve(labels: Sequence[LabelledFrame], seen: Sequence[Seen]) -> list[dict[str, float]]:
    """Recall, precision and side accuracy at every score that somebody has."""
    scores = np.unique(np.concatenate([one.score for one in seen] or [np.zeros(0)]))
    num_hands = sum(len(label.box) for label in labels)
    points = []
    for threshold in scores[:: max(1, len(scores) // 2000)]:
        found = false = right = sided = 0
        for label, one in zip(labels, seen, strict=True):
            rows = one.score >= threshold
            match = match_hands(label, one.box[rows], one.score[rows])
            hits = match.found >= 0
            known = hits & (label.side >= 0)
            found, false = found + int(hits.sum()), false + int(match.false.sum())
            sided += int(known.sum())
            right += int((one.side[rows][match.found[known]] == label.side[known]).sum())
        points.append(
            {
                "score": float(threshold),
                "recall": found / max(num_hands, 1),
                "precision": found / max(found + false, 1),
                "side_accuracy": right / max(sided, 1),
            }
        )
    return points


def summary(points: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The best recall at each of `PRECISIONS`, and how many sides are right there."""
    found: dict[str, Any] = {}
    for least in PRECISIONS:
        best = max((p for p in points if p["precision"] >= least), key=lambda p: p["recall"], default=None)
        found[f"recall_at_p{round(100 * least)}"] = round(best["recall"], 3) if best else 0.0
        if least == 0.9:
            found["side_accuracy"] = round(best["side_accuracy"], 3) if best else 0.0
            found["score_at_p90"] = round(best["score"], 3) if best else 1.0
    return found


Folds = Sequence[tuple[Path, frozenset[str]]]
"""Networks, each with the videos that it never saw."""


def read_folds(given: Sequence[Sequence[Path]]) -> Folds:
    """Networks with the videos that a file lists for each, one a line."""
    return [(network, frozenset(Path(line).name for line in listed.read_text().split())) for network, listed in given]


def judges(frames: Sequence[LabelledFrame], network: Path, folds: Folds) -> list[Path]:
    """The network that judges each frame. Raises ValueError where folds leave a frame to none, or to several."""
    if not folds:
        return [network] * len(frames)
    of_frames = [[fold for fold, videos in folds if Path(frame.video).name in videos] for frame in frames]
    for frame, those in zip(frames, of_frames, strict=True):
        if len(those) != 1:
            raise ValueError(f"frame {frame.name} of {frame.video} is listed by {len(those)} folds: every video belongs to one")
    return [those[0] for those in of_frames]


def by_judge(look_of: Callable[[Path], Look], networks: Sequence[Path]) -> list[Look]:
    """How each frame is looked at, every network opened once."""
    looks = {network: look_of(network) for network in set(networks)}
    return [looks[network] for network in networks]


def measure(labels: Path, media: Path, network: Path, folds: Folds = (), seen_before: int = 0) -> dict[str, Any]:
    """All figures, ready for JSON."""
    frames = load_labels(labels)
    images = [read_frame(media / frame.image) for frame in frames]
    networks = judges(frames, network, folds)
    looks = {
        "one_pass": by_judge(one_pass, networks),
        "second_look": by_judge(second_look, networks),
        "mediapipe": [mediapipe_loop()] * len(frames),
    }
    seen: dict[str, list[Seen]] = {}
    spent_s = dict.fromkeys(looks, np.inf)
    for turn in range(ROUNDS):
        for name, look in looks.items():
            began = time.process_time()
            here = [look_at(image) for look_at, image in zip(look, images, strict=True)]
            spent_s[name] = min(spent_s[name], time.process_time() - began)
            seen.setdefault(name, here) if turn == 0 else None
    figures: dict[str, Any] = {}
    for name in looks:
        points = curve(frames, seen[name])
        figures[name] = {**summary(points), "frames_per_s": round(len(frames) / spent_s[name], 2)}
    looked = [replace(one, box=one.hull) for one in seen["second_look"] if one.hull is not None]
    figures["second_look"]["at_landmarks"] = summary(curve(frames, looked))
    alone = points[0]
    figures["mediapipe"] |= {name: round(alone[name], 3) for name in ("recall", "precision", "side_accuracy")}
    speed = {name: figures[name]["frames_per_s"] / figures["mediapipe"]["frames_per_s"] for name in ("one_pass", "second_look")}
    ours = curve(frames, seen["one_pass"])
    as_precise = max((p["recall"] for p in ours if p["precision"] >= alone["precision"]), default=0.0)
    return {
        "labels": labels.name,
        "cross_fit": bool(folds),
        "num_frames": len(frames),
        "num_hands": sum(len(frame.box) for frame in frames),
        **figures,
        "vs_mediapipe_frames": {name: round(value, 2) for name, value in speed.items()},
        "recall_at_mediapipe_precision": round(as_precise, 3),
        "pictures_seen": (images_seen(network.with_suffix(".pt")) or 0) + seen_before,
        "machine": describe(),
    }


def images_seen(checkpoint: Path) -> int | None:
    """How many images a checkpoint was trained on, every pass counted; None where none lies beside the network."""
    if not checkpoint.is_file():
        return None
    saved = Checkpoint.load(checkpoint, "detector")
    *_, batch_size = json.loads(saved.data)
    return int(saved.progress.num_steps * batch_size)


def read_frame(path: Path) -> np.ndarray:
    """A frame as RGB. Raises FileNotFoundError."""
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise FileNotFoundError(f"{path} is no image, or not there: set WHIM_MEDIA")
    return np.asarray(image)


def main() -> None:
    """Measure and write."""
    media = Path(os.environ.get("WHIM_MEDIA", ROOT.parent / "shared" / "media"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.detector_real", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--labels", type=Path, default=media / "labels" / "bench_A.json")
    parser.add_argument("--media", type=Path, default=media)
    parser.add_argument("--network", type=Path, default=SHIPPED)
    parser.add_argument("--fold", nargs=2, type=Path, action="append", default=[], metavar=("NETWORK", "VIDEOS"))
    parser.add_argument("--seen-before", type=int, default=0, help="images that the trainings before, from which it went on, had seen")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    figures = measure(given.labels, given.media, given.network, read_folds(given.fold), given.seen_before)
    before = json.loads(given.out.read_text()) if given.out.exists() else {}
    given.out.write_text(json.dumps(before | figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
