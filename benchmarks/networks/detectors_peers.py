"""The peers of the detectors: what a user would run instead, one picture or crop after the other, in float32."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from benchmarks.peer import write_bundle

Picture = UInt8[np.ndarray, "height width 3"]


@contextmanager
def mediapipe_alone(part: Literal["palms", "landmarks"]) -> Iterator[Callable[[Picture], Any]]:
    """One of the two hand networks of the mediapipe package, with all that the package does about it.

    `palms`: pictures, with a least confidence that nothing reaches, so that no landmarks follow. `landmarks`: a video whose first
    picture finds a hand, after which the package tracks it and looks for no palms; no doubt ends the track.
    """
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    video = part == "landmarks"
    with tempfile.TemporaryDirectory() as folder:
        options = vision.HandLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(write_bundle("hand", Path(folder) / "hand.task"))),
            running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
            min_hand_detection_confidence=0.2 if video else 1.0,
            min_hand_presence_confidence=0.01,
            min_tracking_confidence=0.01,
        )
        with vision.HandLandmarker.create_from_options(options) as found:
            clock = count(step=33)

            def look(picture: Picture) -> Any:
                image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=picture)
                return found.detect_for_video(image, next(clock)) if video else found.detect(image)

            yield look


def person_boxes_by_transformers(network: nn.Module) -> Callable[[Picture], Any]:
    """RT-DETR or D-FINE of transformers between its own image processor's two halves."""
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil

    processor = RTDetrImageProcessorPil()

    def look(picture: Picture) -> Any:
        seen = processor(images=picture, return_tensors="pt")
        found = forward(network, seen["pixel_values"])
        return processor.post_process_object_detection(found, threshold=0.5, target_sizes=[picture.shape[:2]])

    return look


def poses_by_transformers(network: nn.Module) -> Callable[[Picture, Float64[np.ndarray, "4"]], Any]:
    """ViTPose of transformers between its own image processor's two halves; the person's box is xyxy."""
    from transformers.models.vitpose.image_processing_pil_vitpose import VitPoseImageProcessorPil

    processor = VitPoseImageProcessorPil()

    def look(picture: Picture, box: Float64[np.ndarray, "4"]) -> Any:
        boxes = [[[*box[:2], *(box[2:] - box[:2])]]]
        seen = processor(picture, boxes=boxes, return_tensors="pt")
        return processor.post_process_pose_estimation(forward(network, seen["pixel_values"]), boxes=boxes)

    return look


def forward(network: nn.Module, *inputs: Tensor) -> Any:
    """The module as torch runs it by itself, wherever its weights are."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return network(*(given.to(device) for given in inputs))
