"""The peer: the installed mediapipe package (Tasks API), fed the same networks as our own run of them."""

import sys
import tempfile
import types
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stages.detectors.mediapipe import models

PARTS = {
    "hand": (("hand_detector", "palm_detection_full", 0.0, 255.0), ("hand_landmarks_detector", "hand_landmark_full", 0.0, 255.0)),
    "pose": (("pose_detector", "pose_detection", 127.5, 127.5), ("pose_landmarks_detector", "pose_landmark_full", 0.0, 255.0)),
}
"""By task: name inside the bundle, our network, and the mean and deviation that its input is normalised by."""


def write_bundle(task: str, path: Path) -> Path:
    """A `.task` file: a stored zip of networks that say how their input is normalised."""
    writer = _metadata_writer()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bundle:
        for inside, name, mean, deviation in PARTS[task]:
            one = writer.MetadataWriter.create(models.find(name).read_bytes())
            one.add_image_input([mean], [deviation])
            bundle.writestr(f"{inside}.tflite", bytes(one.populate()[0]))
    return path


def _metadata_writer() -> Any:
    """The package's own metadata writer, given the one compiled module that its wheels lack."""
    for name in ("", ".metadata", ".metadata.python", ".metadata.python._pywrap_metadata_version"):
        sys.modules.setdefault(f"mediapipe.tasks.cc{name}", types.ModuleType(f"mediapipe.tasks.cc{name}"))
    version = sys.modules["mediapipe.tasks.cc.metadata.python._pywrap_metadata_version"]
    version.GetMinimumMetadataParserVersion = lambda _: "1.0.0"  # type: ignore[attr-defined]
    sys.modules["mediapipe.tasks.cc.metadata.python"]._pywrap_metadata_version = version  # type: ignore[attr-defined]
    from mediapipe.tasks.python.metadata.metadata_writers import metadata_writer

    return metadata_writer


@contextmanager
def landmarker(task: str, num: int) -> Iterator[Callable[[np.ndarray], Any]]:
    """The package's hand or pose landmarker in image mode, looking for at most `num`; RGB uint8 in, its own result out."""
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    with tempfile.TemporaryDirectory() as folder:
        base = BaseOptions(model_asset_path=str(write_bundle(task, Path(folder) / f"{task}.task")))
        if task == "hand":
            found = vision.HandLandmarker.create_from_options(vision.HandLandmarkerOptions(base_options=base, num_hands=num))
        else:
            found = vision.PoseLandmarker.create_from_options(vision.PoseLandmarkerOptions(base_options=base, num_poses=num))
        yield lambda image: found.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=image))
        found.close()
