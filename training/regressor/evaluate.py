"""A regressor evaluated on hands that are known: every metric of the coarse hand and of the refined one, side by side.

Frames of reference: as `hands.metrics.hands`; pixels of the image for boxes and cameras. All is in terms of right hands: a left
hand of a shard is mirrored with its crop, and so is its truth.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Float32, Float64, Int64

from fitting.hand.anatomy import TIP_VERTICES
from fitting.hand.mano import load_hand_model
from fitting.hand.similarity import aligned
from hands.metrics.hands import FINGERTIPS, Evaluation, Hands3D, distances, evaluate_hands3d
from hands.metrics.motion import motion_metrics, path_metrics, runs
from training.data.dataset import Dataset
from training.data.samples import Crops
from training.data.sets.freihand import freihand
from training.data.sets.hand_crops import PIXEL_MIDDLE, HandCrops
from training.data.sets.ho3d import NUM_EVALUATION_V3, as_ho3d, ho3d
from training.data.shard import CorruptSampleError
from training.regressor.camera import frame_translation
from training.regressor.hand import HandLayer
from training.regressor.network import Regressor
from training.regressor.targets import refuse_other_hand, targets_of

_log = logging.getLogger(__name__)

CROP_FACTOR = 2.0
"""Side of the crop that the network sees over the longer side of the hand's box (WiLoR's demo)."""
_SLOWEST = 5.0
"""Frames a second, below which frames that follow each other tell no motion. Ours."""


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Benchmark:
    """Crops, the hands in them, and how they are counted."""

    name: str
    protocol: str
    """In words: which images, which boxes."""
    crops: HandCrops | Crops
    truth: Hands3D
    matrix: Float64[np.ndarray, "n 3 3"] | None
    """The camera's, pixels; None where the truth's place before the camera is not known."""
    tracks: Sequence[Int64[np.ndarray, "_"]]
    """Rows of one hand in consecutive frames."""
    frames_per_second: float = 30.0
    tips: tuple[int, ...] = TIP_VERTICES
    """The vertices that the set takes for fingertips."""
    submitted: Callable[[Hands3D], Hands3D] | None = None
    """Hands before the camera as the set's own script takes them."""


class Predictions(NamedTuple):
    """Hands that a network predicts, and their cameras in the crop."""

    hands: Hands3D
    """About the wrist."""
    camera: Float32[np.ndarray, "n 3"]


class RegressorEvaluation(NamedTuple):
    """Predictions of a regressor on one benchmark, and their metrics."""

    evaluations: Mapping[str, Evaluation]
    """Metrics by estimate: `coarse`, and `refined` where the network refines."""
    predictions: Mapping[str, Predictions]


def freihand_benchmark(folder: Path) -> Benchmark:
    """FreiHAND's evaluation split. Raises as the reader."""
    crops = freihand(folder, "evaluation")
    return replace(of_crops(crops, "freihand", "FreiHAND evaluation, the whole image as crop"), submitted=lambda hands: hands)


def ho3d_benchmark(folder: Path, *, every: int = 1) -> Benchmark:
    """HO3D's evaluation split: `ho3d-v3` when there are as many images as in version 3, else `ho3d`. Raises as the reader."""
    crops = ho3d(folder, "evaluation", every=every)
    name = "ho3d-v3" if len(crops) == -(-NUM_EVALUATION_V3 // every) else "ho3d"
    protocol = "HO3D evaluation, the set's own boxes" + (f", one image of {every}" if every > 1 else "")
    return replace(of_crops(crops, name, protocol), submitted=as_ho3d if every == 1 else None)


def of_crops(crops: HandCrops, name: str, protocol: str) -> Benchmark:
    """The benchmark of a published set whose truth is known in space."""
    assert crops.truth is not None
    return Benchmark(
        name=name,
        protocol=protocol,
        crops=replace(crops, factor=CROP_FACTOR),
        truth=crops.truth,
        matrix=crops.matrix,
        tracks=list(runs(crops.sequence, crops.frame)),
        frames_per_second=crops.frames_per_second,
        tips=crops.tips,
    )


def shards_benchmark(folder: Path, split: str = "test", *, max_hands: int | None = None) -> Benchmark:
    """Hands of a split of our shards, or so many from all over it; their truth is what the shards say.

    Hands whose image is corrupt are left out, by name. Raises as `Dataset.open` and `refuse_other_hand`.
    """
    refuse_other_hand(folder)
    dataset = Dataset.open(folder, split)
    crops = Crops.of(dataset, factor=CROP_FACTOR)
    some = np.linspace(0, len(crops) - 1, min(max_hands or len(crops), len(crops))).astype(int)
    crops = _sound(replace(crops, hand=crops.hand[some]))
    layer, cpu = HandLayer(load_hand_model()), torch.device("cpu")
    parts = [targets_of(crops.labels(rows), crops.size, 1.0, layer, cpu) for rows in _batches(len(crops), 1024)]
    tracks, rate = _tracks(crops)
    return Benchmark(
        name=f"{folder.resolve().name}-{split}",
        protocol=f"{len(dataset)} frames of {folder.resolve().name}, split {split}, the shards' boxes and hands",
        crops=crops,
        truth=Hands3D(*(torch.cat([getattr(part, name) for part in parts]).numpy() for name in Hands3D._fields)),
        matrix=None,
        tracks=tracks,
        frames_per_second=rate,
    )


def _sound(crops: Crops) -> Crops:
    """The crops without the hands whose image cannot be read."""
    image, sound = np.empty(crops.shape, np.uint8), []
    for row in range(len(crops)):
        try:
            crops.decode(row, image)
            sound.append(row)
        except CorruptSampleError as error:
            _log.warning("a hand is left out: %s", error)
    if not sound:
        raise ValueError(f"none of {len(crops)} hands has an image that can be read: fetch the shards again")
    return replace(crops, hand=crops.hand[sound])


def _tracks(crops: Crops) -> tuple[list[Int64[np.ndarray, "_"]], float]:
    """Rows of one hand in consecutive frames, and their rate; none where the shards do not tell."""
    wanted = ["clip", "frame", "time_s"]
    files = [shard.path for shard in crops.dataset.shards]
    if any(not set(wanted) <= set(pq.read_schema(path).names) for path in files):
        return [], 30.0
    tables = [pq.read_table(path, columns=wanted) for path in files]
    clip, frame, time_s = (np.concatenate([table.column(name).to_numpy() for table in tables]) for name in wanted)
    row = crops.hand[:, 0]
    track = [crops.dataset.shards[number].columns["track"][hand] for _, number, hand in crops.hand.tolist()]
    tracks = list(runs([f"{c}/{t}" for c, t in zip(clip[row], track, strict=True)], frame[row]))
    steps = np.concatenate([np.diff(time_s[row[rows]]) for rows in tracks])
    rate = float(1 / np.median(steps)) if len(steps) else 0.0
    return (tracks, rate) if rate >= _SLOWEST else ([], 30.0)


@torch.inference_mode()
def estimates(network: Regressor, crops: HandCrops | Crops, *, batch_size: int = 64) -> dict[str, Predictions]:
    """Predictions of a network for all crops, by estimate."""
    device = next(network.parameters()).device
    found: dict[str, list[tuple[np.ndarray, ...]]] = {}
    network = network.eval()
    with ThreadPoolExecutor(4) as pool:
        for rows in _batches(len(crops), batch_size):
            images = np.empty((len(rows), *crops.shape), np.uint8)
            list(pool.map(crops.decode, rows, images))
            hands = network(torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255)
            named = {"coarse": hands[0]} | ({"refined": hands[-1]} if len(hands) > 1 else {})
            for name, hand in named.items():
                found.setdefault(name, []).append(
                    tuple(values.float().cpu().numpy() for values in (hand.joints, hand.vertices, hand.camera))
                )
    columns = {name: [np.concatenate(values) for values in zip(*parts, strict=True)] for name, parts in found.items()}
    return {name: Predictions(Hands3D(joints, vertices), camera) for name, (joints, vertices, camera) in columns.items()}


def _batches(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


def placed(predictions: Predictions, benchmark: Benchmark) -> Hands3D:
    """The hands before the image's camera, whose focal length and axis are known."""
    assert benchmark.matrix is not None
    labels = benchmark.crops.labels(range(len(benchmark.crops)))
    scale, shift = labels["to_input"][:, :1].astype(np.float64), labels["to_input"][:, 1:]
    centre, side = (benchmark.crops.size / 2 - shift) / scale, benchmark.crops.size / scale
    focal, axis = benchmark.matrix[:, [0, 1], [0, 1]].mean(1), benchmark.matrix[:, :2, 2] + PIXEL_MIDDLE
    box = torch.as_tensor(np.concatenate([centre - axis, side], 1))
    place = frame_translation(torch.as_tensor(predictions.camera).double(), box, (0, 0), 1.0).numpy()
    place[:, 2] *= focal
    return Hands3D(*(points + place[:, None] for points in predictions.hands))


def evaluate(network: Regressor, benchmark: Benchmark, *, batch_size: int = 64) -> RegressorEvaluation:
    """Run it and evaluate every estimate."""
    predictions = estimates(network, benchmark.crops, batch_size=batch_size)
    return RegressorEvaluation({name: evaluation_of(one, benchmark) for name, one in predictions.items()}, predictions)


def evaluation_of(predictions: Predictions, benchmark: Benchmark) -> Evaluation:
    """All figures of one estimate; motion as `motion_` about the wrist and, where places are known, `camera_motion_`.

    `own_tips_pa_mpjpe_mm` takes for fingertips the vertices that the set takes; WiLoR and HaMeR take smplx's.
    """
    in_camera = benchmark.matrix is not None
    hands = placed(predictions, benchmark) if in_camera else predictions.hands
    found = evaluate_hands3d(hands, benchmark.truth, in_camera=in_camera)
    metrics = dict(found.metrics)
    if benchmark.tips != TIP_VERTICES:
        own = hands.joints.copy()
        own[:, FINGERTIPS] = hands.vertices[:, list(benchmark.tips)]
        apart = distances(aligned(own, benchmark.truth.joints, mirrored=True), benchmark.truth.joints)
        metrics["own_tips_pa_mpjpe_mm"] = 1000 * float(apart.mean())
    turning = motion_metrics(hands.about_wrist(), benchmark.truth.about_wrist(), benchmark.tracks, benchmark.frames_per_second)
    metrics |= {f"motion_{name}": value for name, value in turning.items()}
    if in_camera:
        moving = motion_metrics(hands, benchmark.truth, benchmark.tracks, benchmark.frames_per_second)
        moving = {**moving, **path_metrics(hands, benchmark.truth, benchmark.tracks)}
        metrics |= {f"camera_motion_{name}": value for name, value in moving.items()}
    return found._replace(metrics=metrics)
