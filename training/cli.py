"""Commands that train, measure, export and use the networks, with their options: on what, where and how long."""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from stages.errors import at_least_one, none_or_more, number
from training.commands import evaluate, train, use

Handler = Callable[[argparse.Namespace], int | None]
Add = Callable[[str, str, Handler], argparse.ArgumentParser]
"""Group of the help, words of the command, handler: returns the command's parser."""


SHIPPED = Path(__file__).parent / "detector" / "assets" / "palm.pt"
"""The detector that comes with the project: docs/detector_palm.md."""


def detector_named(name: str) -> Path:
    """The checkpoint that `--detector` names. Raises ValueError where there is none."""
    if name != "ours" and not Path(name).is_file():
        raise ValueError(f"--detector {name}: there is no such checkpoint; chain, ours or a file")
    return SHIPPED if name == "ours" else Path(name)


def add_commands(add: Add, detect: Handler = use.detect, reconstruct: Handler = use.reconstruct) -> None:
    """Every command of training with its options; `detect` and `reconstruct` may be handlers that can do without a network."""
    detector = _on_training(add("train", "train detector", train.train_detector), "detector_s", Path("runs/detector"))
    detector.add_argument("--held-out", type=Path, nargs="+", help="folders to measure on (default: those of --data)")
    regressor = _on_training(add("train", "train regressor", train.train_regressor), "regressor_h", Path("runs/regressor"))
    regressor.add_argument("--held-out", type=Path, help="folder to measure on (default: the first of --data); its split val")
    regressor.add_argument("--held-out-hands", type=at_least_one, default=1000, help="of it, the most that an epoch is measured on")
    _landmarks(add("train", "train landmarks", train.train_landmarks))
    _evaluate_detector(add)
    _evaluate_regressor(add)
    export = _on_checkpoint(add("train", "export detector", use.export_detector))
    export.add_argument("--out", type=Path, required=True, help="file.onnx, file.pt2, or file.pt: its weights alone, in half precision")
    export.add_argument("--half", action="store_true", help="hold the weights of an ONNX file in half the bytes")
    export.add_argument("--hands", type=at_least_one, default=100, help="the most that an image can have")
    write = add("train", "export regressor", use.export_regressor)
    write.add_argument("checkpoint", type=Path)
    write.add_argument("--out", type=Path, required=True, help="file.onnx")
    _detect(add, detect)
    _reconstruct(add, reconstruct)


def _on_training(parser: argparse.ArgumentParser, recipe: str, out: Path) -> argparse.ArgumentParser:
    """Options of a training: where and how long."""
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="folders of shards (with index.json)")
    parser.add_argument("--weights", type=number(0, 1e9), nargs="+", help="share of each folder of --data in an epoch, in their order")
    help = "published sets by their official files (docs/paper.md), besides --data or alone: freihand=DIR:.25,ho3d=DIR:.1"
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME=DIR[:WEIGHT]", help=help)
    parser.add_argument("--out", type=Path, default=out, help=f"folder of the run (default: {out}); one that exists is gone on with")
    parser.add_argument("--recipe", default=recipe, help=f"of training/recipes.py, or path/to/file.py:function (default: {recipe})")
    help = "a setting of the recipe, such as network.size=m; again for more; --settings lists them"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=help)
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings of the recipe as TOML")
    start = "fine-tune: begin with this checkpoint and its network; often with --set train.learning_rate=1e-4"
    parser.add_argument("--from", dest="start", type=Path, metavar="CHECKPOINT", help=start)
    parser.add_argument("--watch", metavar="trackio|wandb", help="follow the run there too, beside TensorBoard")
    parser.add_argument("--settings", action="store_true", help="list the settings of the recipe, and do nothing")
    parser.add_argument("--epochs", type=at_least_one, help="default: the recipe's")
    parser.add_argument("--minutes", type=number(0, above=True), default=math.inf, help="end after this time at the latest")
    parser.add_argument("--precision", choices=("float32", "bfloat16", "auto"), help="of the network's arithmetic (default: the recipe's)")
    parser.add_argument("--threads", type=at_least_one, default=2, help="that decode images, of each worker")
    parser.add_argument("--workers", type=none_or_more, default=0, help="of Ray Train; 0 trains in this process")
    parser.add_argument("--gpu", action="store_true", help="a GPU for each worker")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the data and of the augmentation")
    return parser


def _landmarks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of shards with fits: films, images, rendered ones")
    parser.add_argument("--out", type=Path, default=Path("runs/landmarks"), help="hint.npz and regressor.pt; what is there is gone on with")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="examples, coarse_steps, real, ...; again for more"
    )
    parser.add_argument("--settings", action="store_true", help="list the settings, and do nothing")


def _on_checkpoint(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of a command that uses a trained detector."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--image", type=at_least_one, help="side of the network's images, pixels, a multiple of 32 (default: as it was trained)"
    )
    parser.add_argument("--threshold", type=number(0, 1), default=0.3, help="least score of a hand")
    parser.add_argument("--gpu", action="store_true")
    return parser


def _evaluate_detector(add: Add) -> None:
    parser = _on_checkpoint(add("look", "evaluate detector", evaluate.evaluate_detector))
    on = parser.add_mutually_exclusive_group(required=True)
    on.add_argument("--data", type=Path, help="folder of shards")
    on.add_argument("--labels", type=Path, help="label file (docs/labels.md), COCO's or COCO-WholeBody's, or a folder of YOLO's")
    on.add_argument("--coco-wholebody", type=Path, metavar="DIR", help="with annotations/coco_wholebody_val_v1.0.json and val2017/")
    on.add_argument("--oxford-hands", type=Path, metavar="DIR", help="with test_dataset/")
    on.add_argument("--whim", type=Path, metavar="DIR", help="the official labels, with test/anno/")
    media = "folder that --labels' paths start from (default: above the file's own), or of --whim's videos"
    parser.add_argument("--media", type=Path, help=media)
    parser.add_argument("--report", type=Path, metavar="DIR", help="add the metrics to a page with tables, curves and the worst images")
    parser.add_argument("--beside", type=Path, help="metrics of the annotators on the same frames (whim evaluate annotators --json)")
    parser.add_argument("--split", help="of the shards (default: test, else val)")
    parser.add_argument("--json", action="store_true")


def _evaluate_regressor(add: Add) -> None:
    parser = add("look", "evaluate regressor", evaluate.evaluate_regressor)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--freihand", type=Path, metavar="DIR", help="official files of FreiHAND, with evaluation_xyz.json")
    parser.add_argument("--ho3d", type=Path, metavar="DIR", help="official files of HO3D, with evaluation_xyz.json")
    parser.add_argument("--every", type=at_least_one, default=1, help="of HO3D's images")
    parser.add_argument("--hint", type=Path, metavar="DIR", help="HInt_annotation_partial: joints in the image, seen and hidden")
    by = "measure FreiHAND and HO3D on this detector's boxes too, not on the sets' own: ours, or a checkpoint"
    parser.add_argument("--detector", metavar="ours|FILE", help=by)
    parser.add_argument("--data", type=Path, help="folder of shards")
    parser.add_argument("--split", help="of the shards (default: test, else val)")
    parser.add_argument("--hands", type=at_least_one, help="of the shards, the most")
    parser.add_argument("--report", type=Path, metavar="DIR", help="add the metrics to a page with tables, curves, best and worst hands")
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="write SET/pred.json for the official scripts")
    parser.add_argument("--batch", type=at_least_one, default=64, help="hands at once")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", action="store_true")


def _detect(add: Add, handler: Handler) -> None:
    parser = add("use", "detect", handler)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="of a detector: --detector's")
    parser.add_argument(
        "source", help="an image, a video, a folder of them, webcam, webcam:2 for /dev/video2, or a camera's http(s):// or rtsp:// address"
    )
    by = "chain: all that `whim run` does, the most accurate, with 3D (default); ours: the network that ships, faster; or a checkpoint"
    parser.add_argument("--detector", default="chain", metavar="chain|ours|FILE", help=by)
    parser.add_argument("--out", type=Path, default=Path("detected"), help="folder")
    parser.add_argument("--table", choices=("parquet", "json"), default="parquet")
    parser.add_argument("--frames", type=at_least_one, help="stop after so many")
    network = parser.add_argument_group("of a network alone")
    network.add_argument("--image", type=at_least_one, help="side of its images, pixels, a multiple of 32 (default: as it was trained)")
    network.add_argument("--threshold", type=number(0, 1), help="least score of a hand (default: 0.3)")
    network.add_argument("--gpu", action="store_true")


def _reconstruct(add: Add, handler: Handler) -> None:
    parser = add("use", "reconstruct", handler)
    parser.add_argument("source", help="a file")
    by = "ours: the network that ships looks at the hands of the chain (default); fit: they are as the chain fits them; or a checkpoint"
    parser.add_argument("--regressor", default="ours", metavar="ours|fit|FILE", help=by)
    parser.add_argument("--out", type=Path, default=Path("reconstructed"), help="folder")
    parser.add_argument("--meshes", choices=("glb", "obj", "none"), default="glb", help="a file a frame, an object a hand")
    parser.add_argument("--focal", type=number(0, 1e9, above=True), metavar="PIXELS", help="focal length, where it is known")
    parser.add_argument("--frames", type=at_least_one, help="stop after so many")
    network = parser.add_argument_group("of a regressor alone")
    network.add_argument("--detector", type=Path, metavar="FILE", help="checkpoint (default: the one that ships)")
    network.add_argument(
        "--smooth", type=number(0, 1e9), metavar="SECONDS", help="deviation over time (default: 0.05); 0: every frame by itself"
    )
    network.add_argument("--threshold", type=number(0, 1), help="least score of a hand (default: 0.3)")
    network.add_argument("--detector-image", type=at_least_one, help="side of the detector's images, pixels (default: as it was trained)")
    network.add_argument("--gpu", action="store_true")
