"""The networks of the detectors' benchmark: ours and the peer's way of each, on the same rendered pictures, with random weights."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import cycle, islice
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.fit.rendered_hands import render
from benchmarks.networks import detectors_peers as peers
from stages.detectors import openpose_hand, person_boxes
from stages.detectors.alphapose import keypoints as alphapose
from stages.detectors.alphapose.network import FastPose
from stages.detectors.contacthands import boxes as contact_hands
from stages.detectors.contacthands.network import FasterRCNN
from stages.detectors.mediapipe import models
from stages.detectors.mediapipe.crops import region_of_box
from stages.detectors.mediapipe.hand_landmarks import load_hand_landmarks
from stages.detectors.mediapipe.palm import load_palm_detector
from stages.detectors.views import whole
from stages.detectors.vitpose import keypoints as vitpose
from stages.tables import People

LARGEST_BATCH = 32
Work = Callable[[int], Any]
"""That many inputs, once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """One network of ours and its peer on the same inputs."""

    ours: Work
    also: Mapping[str, Work]
    """Other settings of ours, by name."""
    peer: Work
    peer_is: str
    per: Literal["frame", "crop"]
    gflop: float = 0.0
    """Of one input; 0: counted while the peer runs."""


Open = Callable[[str], AbstractContextManager[Contest]]
"""A contest on a device."""


@cache
def pictures() -> list[np.ndarray]:
    """The studio's, one hand each."""
    return [scene.image for scene in islice(render("still", 7), 8)]


@contextmanager
def palms(device: str) -> Iterator[Contest]:
    looks = [(image, region_of_box(whole(640, 480))) for image in pictures()]

    def finder(engine: models.Engine, num_threads: int) -> Work:
        find = load_palm_detector(engine, num_threads)
        return lambda n: find(some(looks, n), 0.5)

    with peers.mediapipe_alone("palms") as peer:
        yield Contest(
            ours=finder(best_engine(), num_cores()),
            also=by_engine(finder),
            peer=lambda n: [peer(image) for image, _ in some(looks, n)],
            peer_is="mediapipe package, Tasks API, one picture after the other, of which no palm is sure enough to go on with; one thread",
            per="frame",
            gflop=gflop_of_tflite("palm_detection_full"),
        )


@contextmanager
def hand_landmarks(device: str) -> Iterator[Contest]:
    looks = [(image, np.array([320.0, 240.0, 400.0, 0.3])) for image in pictures()]

    def finder(engine: models.Engine, num_threads: int) -> Work:
        find = load_hand_landmarks(engine, num_threads)
        return lambda n: find(some(looks, n))

    with peers.mediapipe_alone("landmarks") as peer:
        yield Contest(
            ours=finder(best_engine(), num_cores()),
            also=by_engine(finder),
            peer=lambda n: [peer(image) for image, _ in some(looks, n)],
            peer_is="mediapipe package, Tasks API, video mode: it tracks one hand and looks for no palms; one thread",
            per="crop",
            gflop=gflop_of_tflite("hand_landmark_full"),
        )


def by_engine(finder: Callable[[models.Engine, int], Work]) -> dict[str, Work]:
    """On one core, and by the default engine."""
    return {"one_core": finder(best_engine(), 1), "litert": finder("litert", num_cores()), "litert_one_core": finder("litert", 1)}


def of_persons(name: str) -> Open:
    """The contest of a person detector of transformers."""

    @contextmanager
    def contest(device: str) -> Iterator[Contest]:
        import transformers

        prefix, options = person_boxes.ARCHITECTURES[name]
        config = getattr(transformers, f"{prefix}Config")(num_labels=80, **options)
        network = getattr(transformers, f"{prefix}ForObjectDetection")(config)
        peer, images = peers.person_boxes_by_transformers(deepcopy(network).eval().to(device)), pictures()

        def finder(*, bf16: bool) -> Work:
            found = person_boxes.PersonDetector(deepcopy(network))
            find = person_boxes.person_finder(found, device=device, bf16=bf16, batch_size=LARGEST_BATCH)
            return lambda n: find(some(images, n), 0.5)

        yield Contest(
            ours=finder(bf16=True),
            also={"float32": finder(bf16=False)},
            peer=lambda n: [peer(image) for image in some(images, n)],
            peer_is="transformers: image processor, model and post-processing, float32, one picture after the other",
            per="frame",
        )

    return contest


def of_poses(num_keypoints: int) -> Open:
    """The contest of ViTPose-B, without its second look at the mirrored crop, which the peer has not."""

    @contextmanager
    def contest(device: str) -> Iterator[Contest]:
        from transformers import VitPoseBackboneConfig, VitPoseConfig, VitPoseForPoseEstimation

        backbone = VitPoseBackboneConfig(
            hidden_size=768, num_hidden_layers=12, num_attention_heads=12, out_indices=[12], layer_norm_eps=1e-6
        )
        network = VitPoseForPoseEstimation(VitPoseConfig(backbone_config=backbone, num_labels=num_keypoints, use_simple_decoder=False))
        peer, box = peers.poses_by_transformers(deepcopy(network).eval().to(device)), np.array([200.0, 60.0, 420.0, 440.0])
        looks = [(image, vitpose.views_of(box[None])[0]) for image in pictures()]

        def reader(*, bf16: bool) -> Work:
            read = vitpose.keypoint_reader(deepcopy(network), flip=False, device=device, bf16=bf16, batch_size=LARGEST_BATCH)
            return lambda n: read(some(looks, n))

        yield Contest(
            ours=reader(bf16=True),
            also={"float32": reader(bf16=False)},
            peer=lambda n: [peer(image, box) for image, _ in some(looks, n)],
            peer_is="transformers: image processor, model and post-processing, float32, one crop after the other",
            per="crop",
        )

    return contest


@contextmanager
def alpha_pose(device: str) -> Iterator[Contest]:
    network = FastPose(136)
    plain = deepcopy(network).eval().to(device)
    view = alphapose.views_of(np.array([[200.0, 60.0, 420.0, 440.0]]))[0]
    looks = [(image, view) for image in pictures()]

    def reader(*, bf16: bool) -> Work:
        read = alphapose.keypoint_reader(deepcopy(network), decode="integral", device=device, bf16=bf16, batch_size=LARGEST_BATCH)
        return lambda n: read(some(looks, n))

    def peer(image: np.ndarray) -> Any:
        maps = peers.forward(plain, torch.from_numpy(alphapose.cut_person(image, view))[None])
        return alphapose.to_frame(alphapose.mean_points(maps)[0, :, :2].cpu().numpy(), view)

    yield Contest(
        ours=reader(bf16=True),
        also={"float32": reader(bf16=False)},
        peer=lambda n: [peer(image) for image, _ in some(looks, n)],
        peer_is="the same torch module called plainly, float32, one crop after the other",
        per="crop",
    )


@contextmanager
def openpose_hands(device: str) -> Iterator[Contest]:
    network = openpose_hand.HandNetwork()
    plain = deepcopy(network).eval().to(device)
    square = np.array([120.0, 40.0, 400.0])
    looks = [(image, square, False) for image in pictures()]

    def reader(*, bf16: bool) -> Work:
        read = openpose_hand.hand_reader(deepcopy(network), device=device, bf16=bf16, batch_size=LARGEST_BATCH, size=368)
        return lambda n: read(some(looks, n))

    def peer(image: np.ndarray) -> Any:
        crop = openpose_hand.cut_hand(image, square, 368, mirror=False)
        return openpose_hand.peaks(peers.forward(plain, torch.from_numpy(crop)[None])).cpu().numpy()

    yield Contest(
        ours=reader(bf16=True),
        also={"float32": reader(bf16=False)},
        peer=lambda n: [peer(image) for image, _, _ in some(looks, n)],
        peer_is="the same torch module called plainly, float32, one crop after the other",
        per="crop",
    )


@contextmanager
def contact_hands_boxes(device: str) -> Iterator[Contest]:
    network = FasterRCNN(min_score=0.05, max_iou=0.3)
    plain, images = deepcopy(network).eval().to(device), pictures()

    def finder(*, bf16: bool) -> Work:
        find = contact_hands.find_hands(
            deepcopy(network), device=device, bf16=bf16, batch_size=LARGEST_BATCH, margin=0.25, gain=2.0, max_zoom=4.0
        )
        return lambda n: find(some(images, n), [People.empty()] * n)

    def peer(image: np.ndarray) -> Any:
        (look,) = contact_hands.looks_of([image], [People.empty()], margin=0.25, gain=2.0, max_zoom=4.0)
        picture = torch.from_numpy(contact_hands.cut_look(image, look))[None]
        return peers.forward(plain, picture, torch.tensor([look.input_size])).cpu().numpy()

    yield Contest(
        ours=finder(bf16=True),
        also={"float32": finder(bf16=False)},
        peer=lambda n: [peer(image) for image in some(images, n)],
        peer_is="the same torch module called plainly, float32, one picture after the other",
        per="frame",
    )


MEDIAPIPE: Mapping[str, Open] = {"palm": palms, "hand_landmarks": hand_landmarks}
TORCH: Mapping[str, Open] = {
    "person_boxes_rtdetr_r50": of_persons("rtdetr_r50"),
    "person_boxes_dfine_large": of_persons("dfine_large"),
    "vitpose_base_body": of_poses(17),
    "vitpose_base_wholebody": of_poses(133),
    "alphapose": alpha_pose,
    "openpose_hand": openpose_hands,
    "contact_hands": contact_hands_boxes,
}


def some(inputs: Sequence[Any], count: int) -> list[Any]:
    return list(islice(cycle(inputs), count))


def num_cores() -> int:
    return len(os.sched_getaffinity(0))


def best_engine() -> models.Engine:
    return "openvino" if find_spec("openvino") else "litert"


def gflop_of_tflite(name: str) -> float:
    """Operations of a network on one image, in 10^9: convolutions and matrix products, two a multiply-add."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(str(models.find(name)), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter.allocate_tensors()
    shape = {tensor["index"]: [int(side) for side in tensor["shape"]] for tensor in interpreter.get_tensor_details()}
    flop = 0.0
    for op in interpreter._get_ops_details():
        if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            weight, output = shape[op["inputs"][1]], shape[op["outputs"][0]]
            taps = weight[1:3] if op["op_name"] == "DEPTHWISE_CONV_2D" else weight[1:]
            flop += 2 * float(np.prod(output) * np.prod(taps))
    return flop / 1e9
