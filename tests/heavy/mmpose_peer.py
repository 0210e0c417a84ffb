"""mmpose's own ViTPose, run by the Python of .env-mmpose: `mmpose_peer.py WIDTH KEYPOINTS FOLDER`.

Writes into FOLDER the checkpoint of a network with random weights (vitpose.pth), and peer.npz: crops and heatmaps, a picture's crop by
mmpose's transforms, and keypoints that its codec reads from noisy maps. mmpose imports torchvision and the compiled half of mmcv
for networks that are not ViTPose; both are absent here, and answered by stubs.
"""

import importlib.abc
import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch


class Absent(ModuleType):
    """A module that has any class one asks for."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (torch.nn.Module,), {})


class AbsentFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision and mmcv.ops, whatever is asked of them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        absent = name.split(".")[0] == "torchvision" or name.startswith("mmcv.ops")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if absent else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = Absent(spec.name)
        module.__version__ = "0.28.0"
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


def network(width: int, num_keypoints: int) -> torch.nn.Module:
    """The head and backbone of td-hm_ViTPose-*_8xb64-210e_coco-256x192."""
    import mmpretrain.models  # noqa: F401
    from mmengine.registry import init_default_scope
    from mmpose.registry import MODELS

    init_default_scope("mmpose")
    arch = {384: {"embed_dims": 384, "num_layers": 12, "num_heads": 12, "feedforward_channels": 384 * 4}, 768: "base"}[width]
    backbone = {
        "type": "mmpretrain.VisionTransformer", "arch": arch, "img_size": (256, 192), "patch_size": 16, "qkv_bias": True,
        "with_cls_token": False, "out_type": "featmap", "patch_cfg": {"padding": 2},
    }  # fmt: skip
    head = {
        "type": "HeatmapHead", "in_channels": width, "out_channels": num_keypoints, "deconv_out_channels": (256, 256),
        "deconv_kernel_sizes": (4, 4), "loss": {"type": "KeypointMSELoss", "use_target_weight": True},
    }  # fmt: skip
    model = torch.nn.ModuleDict({"backbone": MODELS.build(backbone), "head": MODELS.build(head)})
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape) if name.endswith("running_var") else tensor + 0.02 * torch.randn(tensor.shape))
    return model.eval()


def picture_crop(image: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A person's crop by mmpose's test pipeline with UDP, RGB, 0 to 255."""
    from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine

    results = {"img": image, "bbox": box[None], "bbox_score": np.ones(1)}
    results = TopdownAffine(input_size=(192, 256), use_udp=True).transform(GetBBoxCenterScale(padding=1.25).transform(results))
    return results["img"]


def decoded(maps: np.ndarray) -> np.ndarray:
    """Keypoints of each map, x, y in cells and score, by the UDP codec."""
    from mmpose.codecs import UDPHeatmap

    codec = UDPHeatmap(input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
    keypoints, scores = codec.decode(maps.copy())
    cells = keypoints[0] / np.array([192, 256]) * np.array([47, 63])
    return np.column_stack([cells, scores[0]])


def main(width: int, num_keypoints: int, folder: Path) -> None:
    rng = np.random.default_rng(0)
    model = network(width, num_keypoints)
    torch.save({"meta": {}, "state_dict": model.state_dict()}, folder / "vitpose.pth")
    crops = torch.from_numpy(rng.normal(size=(2, 3, 256, 192)).astype(np.float32))
    with torch.inference_mode():
        heatmaps = model["head"](model["backbone"](crops)).numpy()
    columns, rows = np.meshgrid(np.arange(48), np.arange(64))
    x, y = rng.uniform(3, 44, (2, 200, 1, 1))
    maps = np.exp(-((columns - x) ** 2 + (rows - y * 63 / 47) ** 2) / (2 * rng.uniform(1.5, 3, (200, 1, 1)) ** 2)).astype(np.float32)
    image = np.load(folder / "image.npy")
    box = np.load(folder / "box.npy")
    crop = picture_crop(image, box)
    np.savez(folder / "peer.npz", crops=crops.numpy(), heatmaps=heatmaps, maps=maps, points=decoded(maps), crop=crop)


if __name__ == "__main__":
    sys.meta_path.insert(0, AbsentFinder())
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
