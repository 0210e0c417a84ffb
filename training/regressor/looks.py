"""Looks of MediaPipe's landmark network at the hands of shards, with the truth in each look's axes: computed once, so that what reads the
network's features trains in minutes.

Frame of reference: a look is a square about the hand, turned so that the hand is upright, and mirrored or not; x right, y down, z forward,
metres about the wrist, and shares of its side from its middle. Looks at a left hand that are mirrored show a right one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Int64, UInt8
from torch import Tensor

from fitting.hand.mano import LEFT
from fitting.hand.rotation import matrix_from_axis_angle
from stages.detectors.mediapipe.crops import Look, cut_all
from stages.detectors.mediapipe.hand_landmarks import FEATURES, MAPS, SIZE, Landmarks, read_all, tracked_region
from stages.detectors.mediapipe.models import Network, load
from stages.detectors.mediapipe.second_looks import Change, hint_look, look_again, mirrored_back, mirrored_look
from training.data.dataset import Dataset
from training.data.order import key_of
from training.data.samples import decode_jpeg
from training.data.shard import Shard

LANDMARK_NOISE = 0.008
"""Deviation of the landmarks that a look is placed by, lengths of the hand: no two looks at video are placed alike. Ours."""
LEAST_PRESENCE, LEAST_PX = 0.5, 24.0
"""Looks in which the network sees no hand, and hands smaller than so many pixels, teach nothing."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Looks:
    """One row a look; `maps` where the network's maps are kept too."""

    said: Float32[np.ndarray, "n 1278"]  # by the network: `Landmarks.said`
    near: Float16[np.ndarray, "n 21 344"]  # `Landmarks.near`
    joints: Float32[np.ndarray, "n 21 3"]
    points: Float32[np.ndarray, "n 21 2"]  # the joints in the look, shares of its side from its middle
    rotations: Float32[np.ndarray, "n 16 3 3"]  # of the hand as the look shows it, where that is a right one; else NaN
    betas: Float32[np.ndarray, "n 10"]
    right: Bool[np.ndarray, "n"]  # the look shows a right hand
    hand: Int64[np.ndarray, "n"]
    first: Bool[np.ndarray, "n"]  # of its hand's looks
    weight: Float32[np.ndarray, "n"]  # the review's quality of a fit, 1 for exact truth
    exact: Bool[np.ndarray, "n"]  # the truth is the studio's
    to_frame: Float32[np.ndarray, "n 2 2"]  # axes of the look to those of the image
    map_28: Float16[np.ndarray, "n 40 a a"]  # of `MAPS`; no cells where they are not kept
    map_14: Float16[np.ndarray, "n 112 b b"]

    def __len__(self) -> int:
        return len(self.said)

    def take(self, rows: np.ndarray) -> "Looks":
        return Looks(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence["Looks"]) -> "Looks":
        """All rows; hands are numbered anew."""
        parts = [part for part in parts if len(part)] or list(parts[:1])
        start = np.cumsum([0, *(int(part.hand.max(initial=-1)) + 1 for part in parts)])
        columns = {field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        columns["hand"] = np.concatenate([part.hand + first for part, first in zip(parts, start, strict=False)])
        return cls(**columns)


def looks_of(folders: Sequence[Path], cache: Path, split: str = "train", *, mapped: bool = False, min_quality: float = 0.4) -> Looks:
    """Looks at the hands of a split of some folders of shards, two at each; those of a shard that are in the cache are read. `mapped`:
    with the network's maps, one look at each that shows a right hand.

    Raises ValueError where no hand is good enough, and as `Dataset.open`.
    """
    columns = key_of(*sorted(field.name for field in fields(Looks)))
    kind, network = f"{'mapped' if mapped else 'asked'}-{columns & 0xFFFF:04x}", None
    parts = []
    for shard in (shard for folder in folders for shard in Dataset.open(folder, split).shards):
        path = cache / f"{kind}-{key_of(shard.identity):016x}.npz"
        if not path.exists():
            network = network or load("hand_landmark_full", taps=(FEATURES, *MAPS))
            _write(path, _looks_of(shard, network, min_quality, mapped))
        with np.load(path) as arrays:
            parts.append(Looks(**{name: arrays[name].astype(np.float32) if name == "said" else arrays[name] for name in arrays.files}))
    found = Looks.joined(parts)
    if not len(found):
        raise ValueError(f"no hand of quality {min_quality} or more in the {split} split of {', '.join(map(str, folders))}")
    return found


def _write(path: Path, looks: Looks) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial.npz")
    columns = {field.name: getattr(looks, field.name) for field in fields(Looks)}
    np.savez(aside, **columns | {"said": looks.said.astype(np.float16)})
    aside.rename(path)


def _looks_of(shard: Shard, network: Network, min_quality: float, mapped: bool) -> Looks:
    """Looks at each hand that is known in space."""
    columns, rng = shard.columns, np.random.default_rng(0)
    exact = bool((columns["error_px"] == 0).all()) if "error_px" in columns else False
    good = columns["keep"] & (columns["quality"] >= min_quality) & np.isfinite(columns["hand_pose"]).all(1)
    good &= np.isfinite(columns["keypoints"]).all((1, 2)) & np.isin(columns["side"], (0, 1))
    good &= np.ptp(columns["keypoints"][..., :2], axis=1).max(1) >= LEAST_PX
    rows: list[dict[str, np.ndarray]] = []
    for row in range(shard.num_rows):
        here = np.arange(shard.hand_start[row], shard.hand_start[row + 1])
        here = here[good[here]]
        if len(here):
            image = np.ascontiguousarray(decode_jpeg(shard.image(row)))
            for hand in here.tolist():
                told = {name: np.asarray(columns[name][hand]) for name in WANTED}
                points = columns["keypoints"][hand, :, :2].astype(np.float64)
                is_left = bool(told["side"] == LEFT)
                seen = _right(image, points, is_left, network, rng) if mapped else _asked(image, points, is_left, network, rng)
                for number, (look, maps) in enumerate(seen):
                    if look.presence >= LEAST_PRESENCE:
                        rows.append(_told(look, told) | maps | {"hand": np.array(hand), "first": np.array(not number)})
    table = {name: np.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}
    return Looks(**table, exact=np.full(len(rows), exact)) if rows else _nothing()


WANTED = ("side", "quality", "joints_3d", "joints_2d", "global_orient", "hand_pose", "betas")


def _asked(
    image: UInt8[np.ndarray, "h w 3"], points: np.ndarray, is_left: bool, network: Network, rng: np.random.Generator
) -> Iterator[tuple[Landmarks, dict[str, np.ndarray]]]:
    """The looks by which a hint is asked for, placed a little off."""

    def find(looks: Sequence[Look]) -> list[Landmarks]:
        return [look for look, _ in _seen(network, looks)]

    changes = [Change(mirrored=is_left), hint_look(is_left=is_left)]
    for look in look_again(image, [_off(points, rng)], find, changes)[0]:
        yield look, NO_MAPS


def _right(
    image: UInt8[np.ndarray, "h w 3"], points: np.ndarray, is_left: bool, network: Network, rng: np.random.Generator
) -> Iterator[tuple[Landmarks, dict[str, np.ndarray]]]:
    """The look that shows a right hand, with the maps."""
    region = tracked_region(_off(points, rng))
    looked, corner = mirrored_look(image, region) if is_left else ((image, region), None)
    ((look, maps),) = _seen(network, [looked])
    yield look if corner is None else mirrored_back(look, corner), maps


def _off(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(points + rng.normal(0, LANDMARK_NOISE * np.ptp(points, axis=0).max(), (21, 2)))


def _seen(network: Network, looks: Sequence[Look]) -> list[tuple[Landmarks, dict[str, np.ndarray]]]:
    """What the network says of looks, and its maps, channels first."""
    answers = network(cut_all(looks, SIZE, border="repeat"))
    found = read_all(answers, looks)
    first = [values.transpose(0, 3, 1, 2).astype(np.float16) for values in answers[-3:-1]]
    return [(look, {"map_28": a, "map_14": b}) for look, a, b in zip(found, *first, strict=True)]


NO_MAPS = {"map_28": np.zeros((40, 0, 0), np.float16), "map_14": np.zeros((112, 0, 0), np.float16)}


def _told(look: Landmarks, hand: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A hand as a look shows it."""
    assert look.said is not None
    assert look.near is not None
    assert look.turn is not None
    turn, mirrored = look.turn, bool(np.linalg.det(look.turn) < 0)
    screen = look.said[1152 : 1152 + 63].reshape(21, 3)[:, :2].astype(np.float64)
    side_px = _spread(look.points) / _spread(screen)
    joints = hand["joints_3d"] - hand["joints_3d"][:1]
    points = (hand["joints_2d"] - look.points.mean(0)) @ turn / side_px + screen.mean(0)
    right = (hand["side"] == LEFT) == mirrored
    rotations = np.full((16, 3, 3), np.nan, np.float32)
    if right:
        rotations = _rotations(hand, turn, mirrored)
    return {
        "said": look.said,
        "near": look.near.astype(np.float16),
        "joints": np.concatenate([joints[:, :2] @ turn, joints[:, 2:]], 1).astype(np.float32),
        "points": points.astype(np.float32),
        "rotations": rotations.astype(np.float32),
        "betas": np.asarray(hand["betas"], np.float32),
        "right": np.array(right),
        "weight": np.array(np.clip(hand["quality"], 0, 1), np.float32),
        "to_frame": turn.astype(np.float32),
    }


def _spread(points: np.ndarray) -> float:
    return float(np.sqrt(((points - points.mean(0)) ** 2).sum()))


def _rotations(hand: dict[str, np.ndarray], turn: np.ndarray, mirrored: bool) -> np.ndarray:
    """Rotations of the right hand that a look shows: a left one's are mirrored with it."""
    angles = np.concatenate([hand["global_orient"], hand["hand_pose"]]).reshape(16, 3)
    told: Tensor = matrix_from_axis_angle(torch.as_tensor(angles, dtype=torch.float64))
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0, 1.0])
    rotations = flip @ told.numpy() @ flip
    to_look = np.eye(3)
    to_look[:2, :2] = turn.T
    rotations[0] = to_look @ flip @ rotations[0]
    return rotations


def _nothing() -> Looks:
    shapes = {
        "said": (1278,),
        "near": (21, sum(MAPS.values())),
        "joints": (21, 3),
        "points": (21, 2),
        "rotations": (16, 3, 3),
        "betas": (10,),
        "to_frame": (2, 2),
    }
    shapes |= {name: values.shape for name, values in NO_MAPS.items()}
    kinds = {
        "near": np.float16,
        "map_28": np.float16,
        "map_14": np.float16,
        "hand": np.int64,
        "right": np.bool_,
        "first": np.bool_,
        "exact": np.bool_,
    }
    return Looks(**{field.name: np.zeros((0, *shapes.get(field.name, ())), kinds.get(field.name, np.float32)) for field in fields(Looks)})
