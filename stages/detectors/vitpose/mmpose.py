"""ViTPose by mmpose 1.x: its crops, its network, its mirror test, its peaks; by the Python of `.env-mmpose` (`make env-mmpose`).

mmpose imports torchvision and the compiled operators of mmcv for networks that are not ViTPose. That environment has neither: modules that
hold any class one asks for answer to their names.
"""

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64

from stages.detectors.networks import Batches, computes_bfloat16, pick_device
from stages.detectors.pictures import rgb
from stages.detectors.vitpose.checkpoint import HEADS, MMPOSE, POSITIONS, QKV, UNUSED, plain, renamed_by, size_of
from stages.detectors.vitpose.keypoints import Look, Reader
from stages.detectors.weights import State, fill

CONFIG = ".mim/configs/body_2d_keypoint/topdown_heatmap/coco/td-hm_ViTPose-base_8xb64-210e_coco-256x192.py"
"""Within mmpose. The other sizes' differ in the backbone's numbers alone."""
DATASETS = {17: "CocoDataset", 133: "CocoWholeBodyDataset"}
"""Which keypoints there are, and which of them change sides in a mirror."""


class _Unused(ModuleType):
    __version__ = "0"

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


class _UnusedFinder(MetaPathFinder, Loader):
    """Finds torchvision and mmcv.ops, whatever is asked of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        unused = name.split(".")[0] == "torchvision" or name.startswith("mmcv.ops")
        return ModuleSpec(name, self, is_package=True) if unused else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unused(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: its classes are made as they are asked for."""


def pose_estimator(state: State, num_keypoints: int, source: Path) -> Any:
    """mmpose's TopdownPoseEstimator with these weights; its size is read from them. Raises as `vitpose_checkpoint.vitpose`."""
    sys.meta_path.insert(0, _UnusedFinder())
    import mmpose
    import mmpretrain.models  # noqa: F401  it registers the backbone
    from mmengine.config import Config
    from mmpose.apis import init_model

    state = plain(state, num_keypoints, source)
    width, depth = size_of(state, source)
    config = Config.fromfile(Path(mmpose.__file__).parent / CONFIG)
    arch = {"embed_dims": width, "num_layers": depth, "num_heads": HEADS[width], "feedforward_channels": 4 * width}
    config.model.backbone.update(arch=arch, init_cfg=None)
    config.model.head.update(in_channels=width, out_channels=num_keypoints)
    config.train_dataloader.dataset.type = DATASETS[num_keypoints]
    network = init_model(config, device="cpu")
    fill(network, in_mmposes_names(state, network.state_dict()), source, ignore=UNUSED)
    return network


def in_mmposes_names(state: State, names: Iterable[str]) -> State:
    """A plain checkpoint as mmpose names it; what has no name there keeps its own."""
    positions = state[POSITIONS]
    left = state | {POSITIONS: positions[:, 1:] + positions[:, :1]}
    named: State = {}
    for name in names:
        ours = renamed_by(MMPOSE, name)
        parts = [ours.replace("qkv", part) for part in QKV] if ".attention.qkv." in ours else [ours]
        if all(part in left for part in parts):
            rows = [left.pop(part) for part in parts]
            named[name] = torch.cat(rows) if len(rows) > 1 else rows[0]
    return named | left


def views_of(box: Float[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
    """The boxes themselves: mmpose grows them."""
    return box.astype(np.float64)


def keypoint_reader(network: Any, *, flip: bool, device: str, bf16: bool, batch_size: int) -> Reader:
    """mmpose's estimator as a function of pictures and boxes: `mmpose.apis.inference_topdown`, over many pictures at once."""
    from mmengine.dataset import Compose, pseudo_collate

    place = pick_device(device)
    narrow, network = bf16 and computes_bfloat16(place), network.to(place)
    network.test_cfg.flip_test = flip
    network.head.final_layer.register_forward_hook(lambda layer, inputs, maps: maps.float())  # peaks are read by numpy: no bfloat16
    prepare = Compose(network.cfg.test_dataloader.dataset.pipeline)
    score = np.ones(1, np.float32)

    def read(looks: Sequence[Look]) -> list[np.ndarray]:
        given = [{"img": rgb(image)[..., ::-1], "bbox": box[None].astype(np.float32), "bbox_score": score} for image, box in looks]
        batch = pseudo_collate([prepare(one | network.dataset_meta) for one in given])
        with torch.inference_mode(), torch.autocast(place.type, torch.bfloat16, enabled=narrow):
            found = [sample.pred_instances for sample in network.test_step(batch)]
        return [np.column_stack([one.keypoints[0], one.keypoint_scores[0]]) for one in found]

    batches = Batches[Look, np.ndarray](read, batch_size, "crops of people")
    num_keypoints = network.head.out_channels
    return lambda looks: np.array(batches(looks), np.float32).reshape(len(looks), num_keypoints, 3)
