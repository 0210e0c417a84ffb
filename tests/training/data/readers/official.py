"""Small test sets in the official layouts."""

import json
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from scipy.io import savemat


def photo(path: Path, width: int = 120, height: int = 80, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))
    return path


def person(image: int, left: Any, right: Any, *, left_valid: bool = True, right_valid: bool = True, **more: Any) -> dict[str, Any]:
    """An annotation of COCO-WholeBody; boxes are x, y, width, height, zeros where there is none."""
    hands = {"lefthand_box": left, "righthand_box": right, "lefthand_valid": left_valid, "righthand_valid": right_valid}
    body = {"keypoints": [0] * 51, "num_keypoints": 0, "face_box": [0.0] * 4, "face_valid": False, "category_id": 1, "area": 1.0}
    return {"id": 1, "image_id": image, "bbox": [0.0, 0.0, 50.0, 60.0], "iscrowd": 0, **body, **hands, **more}


def coco(folder: Path, annotations: list[dict[str, Any]], num_images: int, split: str = "val") -> Path:
    images: list[dict[str, Any]] = [{"id": k, "file_name": f"{k:012d}.jpg", "width": 120, "height": 80} for k in range(num_images)]
    for image in images:
        photo(folder / f"{split}2017" / str(image["file_name"]), seed=int(image["id"]))
    labels = folder / "annotations" / f"coco_wholebody_{split}_v1.0.json"
    labels.parent.mkdir(parents=True, exist_ok=True)
    told = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    labels.write_text(json.dumps(told))
    return folder


def oxford(folder: Path, pictures: dict[str, list[list[tuple[float, float]]]], split: str = "test") -> Path:
    """Four corners (x, y), counted as MATLAB counts, of each hand of each image; kept as (row, column), and a side that nobody reads."""
    place = folder / {"test": "test_dataset/test_data", "train": "training_dataset/training_data"}[split]
    for name, hands in pictures.items():
        photo(place / "images" / f"{name}.jpg")
        cells = np.empty((1, len(hands)), object)
        for k, corners in enumerate(hands):
            cells[0, k] = {key: np.array([[y, x]]) for key, (x, y) in zip("abcd", corners, strict=True)} | {"side": "L"}
        (place / "annotations").mkdir(parents=True, exist_ok=True)
        savemat(place / "annotations" / f"{name}.mat", {"boxes": cells})
    return folder


def whim_hand(box: list[float], side: float) -> dict[str, Any]:
    """One dictionary of WHIM's labels."""
    mano = {"global_orient": np.eye(3)[None], "hand_pose": np.tile(np.eye(3), (15, 1, 1)), "betas": np.zeros(10, np.float32)}
    camera = {"joints_3d": np.zeros((21, 3), np.float32), "trans": np.array([0.0, 0, 1]), "K": np.eye(3)}
    return {"bbox": np.array(box, np.float32), "side": np.float32(side), "mano": mano, **camera}


def whim_labels(folder: Path, video: str, frames: dict[int, list[dict[str, Any]]]) -> Path:
    place = folder / "test" / "anno" / video
    place.mkdir(parents=True, exist_ok=True)
    for number, hands in frames.items():
        array = np.empty(len(hands), object)
        array[:] = hands
        np.save(place / f"{number:06d}.npy", array, allow_pickle=True)
    return place


def film(path: Path, num_frames: int, rate: int, width: int, height: int) -> Path:
    """A video whose frame k has the grey of its time: 50 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for k in range(num_frames):
            grey = np.full((height, width, 3), 20 + round(50 * k / rate), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path
