"""Shards of posed hands, exact under weak perspective: a grey image with one white dot where a keypoint of the hand is."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg
import torch

from fitting.hand.mano import load_hand_model, pose_either_hand, project
from tests.training.conftest import write
from training.data.dataset import Dataset
from training.data.samples import Crops

SIDE, DOT = 240, 8
"""Of the images, pixels; the keypoint that is marked, the tip of the index finger."""


def posed_hands(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Left and right in turn, about the middle of the image."""
    rng = np.random.default_rng(seed)
    side = np.arange(count) % 2
    columns = {"betas": rng.normal(0, 0.5, (count, 10)), "global_orient": rng.normal(0, 0.8, (count, 3))}
    columns |= {"hand_pose": rng.normal(0, 0.2, (count, 45))}
    columns |= {"camera": np.concatenate([rng.uniform(450, 600, (count, 1)), SIDE / 2 + rng.uniform(-8, 8, (count, 2))], 1)}
    model = load_hand_model(dtype=torch.float64)
    told = [torch.from_numpy(columns[name]) for name in ("betas", "global_orient", "hand_pose")]
    hand = pose_either_hand(model, torch.from_numpy(side), *told)
    pixels = [project(points, torch.from_numpy(columns["camera"])).numpy() for points in hand]
    box = np.concatenate([pixels[0].min(1), pixels[0].max(1)], 1)
    seen = np.concatenate([pixels[1], np.ones((count, 21, 1))], 2)
    return columns | {"side": side, "box": box, "joints_2d": pixels[1], "joints_3d": hand.joints.numpy(), "keypoints": seen}


def shard_of(path: Path, hands: dict[str, np.ndarray], **changed: np.ndarray) -> Path:
    """One image a hand."""
    count = len(hands["side"])
    columns = hands | {"quality": np.ones(count), "keep": np.ones(count, bool), "track": np.zeros(count, int)} | changed
    schema = {"side": pa.int8(), "keep": pa.bool_(), "track": pa.int32()}
    fields, arrays = [], []
    for name, values in columns.items():
        kind = schema.get(name, pa.float32())
        for size in reversed(values.shape[1:]):
            kind = pa.list_(kind, size)
        fields.append(pa.field(name, kind, nullable=False))
        arrays.append(pa.array(values.tolist(), kind))
    structs = pa.StructArray.from_arrays(arrays, fields=fields)
    lists = pa.ListArray.from_arrays(pa.array(range(count + 1), pa.int32()), structs)
    nothing = pa.array([[]] * count, pa.list_(pa.list_(pa.float32(), 4)))
    jpegs = [
        simplejpeg.encode_jpeg(picture(point), quality=95, colorspace="RGB", colorsubsampling="444") for point in hands["joints_2d"][:, DOT]
    ]
    table = pa.table({"hands": lists, "ignore_boxes": nothing, "image": pa.array(jpegs, pa.binary())})
    return write(path, table)


def picture(point: np.ndarray) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    at = np.round((point - 0.5) * 16).astype(int).tolist()
    cv2.circle(image, at, 4 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    return image


def crops_of(path: Path, **settings: Any) -> Crops:
    return Crops.of(Dataset.of([path], path.parent / "cache"), **settings)
