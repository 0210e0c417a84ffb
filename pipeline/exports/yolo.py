"""YOLO-pose: `images/SPLIT/...jpg`, `labels/SPLIT/...txt` and `data.yaml`, as Ultralytics documents them.

A line a hand: class, centre and size, then x, y and visibility of 21 keypoints, all but the visibility as shares of the image. The format
takes nothing beyond the image: boxes are cut at its border, keypoints beyond it are not visible. It knows no ignored boxes either; they
stand in `ignored.csv` in pixels, so that whoever wants may leave those frames out.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.exports.source import Frame, Source, seen
from stages.tables import HAND_KEYPOINTS, UNKNOWN_SIDE

CLASSES = ("left_hand", "right_hand", "hand")
"""Named by the side; the last one, of hands whose side nobody knows, stands in `data.yaml` only where there are any."""
YAML = """\
# Hands with 21 keypoints: yolo pose train data=data.yaml fliplr=0.0
# (mirroring an image would turn a left hand into a right one, which the trainer does not know)
path: .  # this folder, where the trainer is started in it; else its absolute path
train: images/{train}
val: images/{val}
{test}kpt_shape: [21, 3]
flip_idx: [{flip}]
kpt_names:
{keypoints}
names:
{names}
"""


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write images and labels of all splits, then `data.yaml`."""
    num_classes = 2
    with (folder / "ignored.csv").open("w", newline="") as file:
        ignored = csv.writer(file)
        ignored.writerow(["image", "x1", "y1", "x2", "y2"])
        for frame in source.frames():
            name = f"{frame.split}/{frame.name}"
            image, label = folder / "images" / f"{name}.jpg", folder / "labels" / f"{name}.txt"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(frame.image)
            label.write_text("".join(_lines(frame)))
            ignored.writerows([f"images/{name}.jpg", *box] for box in frame.ignore.tolist())
            num_classes = max(num_classes, 3 * int((frame.hands["side"] == UNKNOWN_SIDE).any()))
    splits = [split for split in source.splits if (folder / "images" / split).is_dir()]
    if splits:
        (folder / "data.yaml").write_text(_yaml(splits, num_classes))


def _lines(frame: Frame) -> list[str]:
    size = np.array([frame.width, frame.height], np.float64)
    box = np.clip(frame.hands["box"].astype(np.float64).reshape(-1, 2, 2), 0, size) / size
    points = frame.hands["keypoints"].astype(np.float64)
    inside = seen(frame.hands["keypoints"]) & ((points[..., :2] >= 0) & (points[..., :2] <= size)).all(-1)
    share = np.where(inside[..., None], points[..., :2] / size, 0)
    marked = np.concatenate([share, 2 * inside[..., None]], 2).reshape(len(frame), 63)
    place = np.concatenate([box.mean(1), box[:, 1] - box[:, 0]], 1)
    lines = []
    for side, of_box, of_points in zip(frame.hands["side"].tolist(), place, marked, strict=True):
        if (of_box[2:] > 0).all():  # one that lies beyond the image is nothing to this format
            known = " ".join(f"{x:.8g} {y:.8g} {int(v)}" for x, y, v in of_points.reshape(21, 3))
            lines.append(f"{side if side in (0, 1) else 2} {' '.join(f'{value:.8g}' for value in of_box)} {known}\n")
    return lines


def _yaml(splits: list[str], num_classes: int) -> str:
    """Ultralytics wants a train and a val; what is lacking is what there is."""
    train = "train" if "train" in splits else splits[0]
    val = next(split for split in ("val", "test", train) if split in splits)
    return YAML.format(
        train=train,
        val=val,
        test="test: images/test\n" if "test" in splits else "",
        flip=", ".join(map(str, range(21))),
        keypoints="\n".join(f"  {k}: [{', '.join(HAND_KEYPOINTS)}]" for k in range(num_classes)),
        names="\n".join(f"  {k}: {name}" for k, name in enumerate(CLASSES[:num_classes])),
    )
