"""FiftyOne: `samples.json` and `metadata.json` beside `data/SPLIT/VIDEO/FRAME.jpg`; the split is the sample's tag.

    import fiftyone as fo
    dataset = fo.Dataset.from_dir(dataset_dir=folder, dataset_type=fo.types.LegacyFiftyOneDataset)

The one of its formats that is plain JSON with any field. Boxes are left, top, width, height and keypoints x, y, all as shares of the image;
a keypoint that nobody knows is NaN. Detections and keypoints of a hand carry the same `index`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.exports.source import Frame, Source, json_of, plain, seen, side_name
from stages.tables import HAND_KEYPOINTS

FIELDS = ("score", "quality", "track", "person", "error_px", "betas", "global_orient", "hand_pose", "transl", "camera",
          "camera_from", "focal_px", "transl_world", "global_orient_world")  # fmt: skip
EDGES = [[0 if k % 4 == 1 else k - 1, k] for k in range(1, 21)]


def write(source: Source, folder: Path, _: Mapping[str, object]) -> None:
    """Write the images and a line of JSON for each, then what the dataset is."""
    with (folder / "samples.json").open("w") as file:
        file.write('{"samples":[')
        for number, frame in enumerate(source.frames()):
            path = folder / "data" / frame.split / f"{frame.name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(frame.image)
            file.write(("," if number else "") + "\n" + _json(_sample(frame)))
        file.write("\n]}\n")
    info = {"hand_model": source.hand_model, "pose_prior": source.pose_prior, "filter": source.filter}
    skeleton = {"labels": list(HAND_KEYPOINTS), "edges": EDGES}
    (folder / "metadata.json").write_text(json_of({"media_type": "image", "info": info, "default_skeleton": skeleton}) + "\n")


def _sample(frame: Frame) -> dict[str, Any]:
    about = frame.about_it()
    free = {f"extra_{name}": str(value) for name, value in about.pop("extra").items()}
    size = {
        "_cls": "ImageMetadata",
        "size_bytes": len(frame.image),
        "mime_type": "image/jpeg",
        "width": frame.width,
        "height": frame.height,
    }
    ignore = [{"_cls": "Detection", "label": "ignore", "bounding_box": box} for box in _shares(frame.ignore, frame)]
    return {
        "filepath": f"data/{frame.split}/{frame.name}.jpg",
        "tags": [about.pop("split")],
        "metadata": size | {"num_channels": 3},
        **about,
        **free,
        "hands": {"_cls": "Detections", "detections": _detections(frame)},
        "keypoints": {"_cls": "Keypoints", "keypoints": _keypoints(frame)},
        "ignore": {"_cls": "Detections", "detections": ignore},
    }


def _detections(frame: Frame) -> list[dict[str, Any]]:
    columns = {name: plain(frame.hands[name]) for name in FIELDS}
    boxes, index = _shares(frame.hands["box"], frame), frame.hands["hand"].tolist()
    return [
        {
            "_cls": "Detection",
            "label": side_name(frame.hands["side"][row]),
            "bounding_box": boxes[row],
            "confidence": columns["score"][row],
            "index": index[row],
            **{name: values[row] for name, values in columns.items() if name != "score"},
        }
        for row in range(len(frame))
    ]


def _keypoints(frame: Frame) -> list[dict[str, Any]]:
    known = seen(frame.hands["keypoints"])
    points = frame.hands["keypoints"][..., :2].astype(np.float64) / [frame.width, frame.height]
    points = np.where(known[..., None], points, np.nan).tolist()
    confidence, index = np.nan_to_num(frame.hands["keypoints"][..., 2]).tolist(), frame.hands["hand"].tolist()
    return [
        {
            "_cls": "Keypoint",
            "label": side_name(frame.hands["side"][row]),
            "points": points[row],
            "confidence": confidence[row],
            "index": index[row],
        }
        for row in range(len(frame))
    ]


def _shares(box: np.ndarray, frame: Frame) -> list[list[float]]:
    sides = np.array([frame.width, frame.height] * 2, np.float64)
    wide = box.astype(np.float64)
    values: list[list[float]] = (np.concatenate([wide[:, :2], wide[:, 2:] - wide[:, :2]], 1) / sides).tolist()
    return values


def _json(value: Any) -> str:
    """JSON as Python has it, with NaN, which FiftyOne takes for a keypoint that is not there."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
