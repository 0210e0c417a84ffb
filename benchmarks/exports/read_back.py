"""Exports read by the libraries they are for: `python read_back.py FORMAT FOLDER` prints what it found as JSON.

Run by the environment that the library is installed in; imports nothing of ours. What is found: of each frame, `SPLIT/VIDEO/FRAME`, its
hands as side (left, right, unknown), box (x1, y1, x2, y2 pixels) and 21 keypoints (x, y pixels; None where unknown); and its free
columns.
"""

import csv
import json
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Found = dict[str, Any]
"""hands: by frame; extra: by frame, where the format has it."""


def hand(side: str, box: Any, keypoints: Any) -> list[Any]:
    points = np.asarray(keypoints, np.float64).reshape(21, -1)
    known = np.isfinite(points[:, :2].sum(1))
    if points.shape[1] == 3:
        known &= points[:, 2] > 0
    return [side, np.asarray(box, np.float64).tolist(), [p.tolist() if k else None for p, k in zip(points[:, :2], known, strict=True)]]


def coco(folder: Path) -> Found:
    """Read by pycocotools, or where that is not installed by faster-coco-eval, which has its classes."""
    try:
        from pycocotools.coco import COCO
    except ImportError:
        from faster_coco_eval import COCO
    hands: dict[str, list[Any]] = {}
    extra = {}
    for path in sorted((folder / "annotations").glob("*.json")):
        api = COCO(str(path))
        for image in api.loadImgs(api.getImgIds()):
            name = str(Path(image["file_name"]).with_suffix(""))
            assert (folder / "images" / image["file_name"]).is_file(), name
            notes = api.loadAnns(api.getAnnIds(imgIds=[image["id"]], iscrowd=False))
            hands[name] = []
            for note in notes:
                x, y, w, h = note["bbox"]
                side = {"left_hand": "left", "right_hand": "right", "hand": "unknown"}[api.loadCats([note["category_id"]])[0]["name"]]
                hands[name].append(hand(side, [x, y, x + w, y + h], note["keypoints"]))
            extra[name] = image["whim"]["extra"]
    return {"hands": hands, "extra": extra}


def yolo(folder: Path) -> Found:
    """Read by Ultralytics' own dataset (AGPL-3.0, in an environment of its own)."""
    import yaml
    from ultralytics.data.dataset import YOLODataset

    data = yaml.safe_load((folder / "data.yaml").read_text())
    hands: dict[str, list[Any]] = {}
    for split in ("train", "val", "test"):
        if not (folder / "images" / split).is_dir():
            continue
        for label in YOLODataset(img_path=str(folder / "images" / split), data=data, task="pose").labels:
            name = f"{split}/{Path(label['im_file']).relative_to(folder.absolute() / 'images' / split).with_suffix('')}"
            height, width = label["shape"]
            hands[name] = []
            for side, place, points in zip(label["cls"].ravel(), label["bboxes"], label["keypoints"], strict=True):
                middle, half = place[:2] * [width, height], place[2:] * [width, height] / 2
                scaled = np.concatenate([points[:, :2] * [width, height], points[:, 2:]], 1)
                name_of = data["names"][int(side)].removesuffix("_hand").replace("hand", "unknown")
                hands[name].append(hand(name_of, np.concatenate([middle - half, middle + half]), scaled))
    for path in folder.rglob("*.cache"):
        path.unlink()  # what the trainer left
    return {"hands": hands}


def webdataset(folder: Path) -> Found:
    import webdataset as wds

    hands: dict[str, list[Any]] = {}
    extra = {}
    for tar in sorted(folder.glob("*/*.tar")):
        for sample in wds.WebDataset(str(tar), shardshuffle=False).decode("rgb8"):
            name, told = f"{tar.parent.name}/{sample['__key__']}", sample["json"]
            assert sample["jpg"].shape == (told["height"], told["width"], 3), name
            hands[name] = [hand(h["side_name"], h["box"], _numbers(h["keypoints"])) for h in told["hands"]]
            extra[name] = told["extra"]
    return {"hands": hands, "extra": extra}


def _numbers(points: Any) -> list[list[float]]:
    return [[math.nan if value is None else value for value in point] for point in points]


def hamer(folder: Path) -> Found:
    """Read as `ImageDataset.load_tars_as_webdataset` reads them."""
    import webdataset as wds

    hands: dict[str, list[Any]] = {}
    extra = {}
    for tar in sorted(folder.glob("*/*.tar")):
        for sample in wds.WebDataset(str(tar), shardshuffle=False).decode("rgb8").rename(jpg="jpg;jpeg;png"):
            name = f"{tar.parent.name}/{sample['__key__']}"
            hands[name] = []
            for data in sample["data.pyd"]:
                half = data["scale"] * 200 / 2
                box = np.concatenate([data["center"] - half, data["center"] + half])
                hands[name].append(hand("right" if data["right"] > 0 else "left", box, data["keypoints_2d"]))
                extra[name] = data["extra_info"]["extra"]
    return {"hands": hands, "extra": extra}


def huggingface(folder: Path) -> Found:
    import datasets

    hands: dict[str, list[Any]] = {}
    extra = {}
    for split, rows in datasets.load_dataset(str(folder), streaming=True).items():
        for row in rows:
            name = f"{split}/{row['video']}/{row['frame']:08d}"
            assert row["image"].size == (row["width"], row["height"]), name
            hands[name] = [hand({0: "left", 1: "right"}.get(h["side"], "unknown"), h["box"], h["keypoints"]) for h in row["hands"]]
            extra[name] = json.loads(row["extra"] or "{}")
    return {"hands": hands, "extra": extra}


def parquet(folder: Path) -> Found:
    import pandas as pd

    table = pd.read_parquet(folder / "hands.parquet")
    hands: dict[str, list[Any]] = {}
    for row in table.to_dict("records"):
        name = f"{row['split']}/{row['video']}/{row['frame']:08d}"
        points = np.array([list(point) for point in row["keypoints"]], np.float64)
        hands.setdefault(name, []).append(hand({0: "left", 1: "right"}.get(row["side"], "unknown"), row["box"], points))
    return {"hands": hands}


def csv_table(folder: Path) -> Found:
    hands: dict[str, list[Any]] = {}
    with (folder / "hands.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            name = f"{row['split']}/{row['video']}/{int(row['frame']):08d}"
            points = [[float(row[f"keypoints_{k}_{axis}"] or "nan") for axis in ("x", "y", "confidence")] for k in range(21)]
            box = [float(row[f"box_{corner}"]) for corner in ("x1", "y1", "x2", "y2")]
            hands.setdefault(name, []).append(hand({"0": "left", "1": "right"}.get(row["side"], "unknown"), box, points))
    return {"hands": hands}


def fiftyone(folder: Path) -> Found:
    """Read by the importer that `Dataset.from_dir` calls; it needs no database, which FiftyOne fetches from elsewhere."""
    from fiftyone.utils.data.importers import LegacyFiftyOneDatasetImporter

    hands: dict[str, list[Any]] = {}
    extra = {}
    with LegacyFiftyOneDatasetImporter(dataset_dir=str(folder.absolute())) as importer:
        for sample in importer:
            name = f"{sample.tags[0]}/{sample['video']}/{sample['frame']:08d}"
            assert Path(sample.filepath).is_file(), name
            size = np.array([sample.metadata.width, sample.metadata.height])
            hands[name] = []
            for found, points in zip(sample["hands"].detections, sample["keypoints"].keypoints, strict=True):
                assert found.index == points.index, name
                x, y, w, h = found.bounding_box
                hands[name].append(hand(found.label, np.array([x, y, x + w, y + h]) * np.tile(size, 2), np.array(points.points) * size))
            free = [field for field in sample.field_names if field.startswith("extra_")]
            extra[name] = {field.removeprefix("extra_"): sample[field] for field in free}
    return {"hands": hands, "extra": extra}


def lerobot(folder: Path) -> Found:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data = LeRobotDataset("whim/hands", root=folder, video_backend="pyav")
    hands: dict[str, list[Any]] = {}
    extra = {}
    for number in range(len(data)):
        item = data[number]
        episode = data.meta.episodes[item["episode_index"].item()]
        name = f"{episode['split']}/{episode['video']}/{item['source.frame'].item():08d}"
        assert item["observation.images.camera"].shape[0] == 3, name
        sides = [side for side in ("right", "left") if item[f"observation.{side}_hand.present"].item()]
        columns = [[item[f"observation.{side}_hand.{key}"].numpy() for key in ("box", "keypoints")] for side in sides]
        hands[name] = [hand(side, box, points.reshape(21, 3)) for side, (box, points) in zip(sides, columns, strict=True)]
        extra[name] = json.loads(episode["extra"])
    return {"hands": hands, "extra": extra}


def rerun(folder: Path) -> Found:
    import rerun as rr

    hands: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*/*.rrd")):
        recording = rr.dataframe.load_recording(path)
        table = recording.view(index="frame", contents="/**").select().read_pandas()
        video = str(table["/about:video_id"].iloc[0]) if "/about:video_id" in table else path.stem.rpartition("-")[0]
        for row in table.to_dict("records"):
            name = f"{path.parent.name}/{video}/{int(row['frame']):08d}"
            half = np.array([list(v) for v in _listed(row["/camera/image/hands:Boxes2D:half_sizes"])]).reshape(-1, 2)
            middle = np.array([list(v) for v in _listed(row["/camera/image/hands:Boxes2D:centers"])]).reshape(-1, 2)
            points = np.array([list(v) for v in _listed(row["/camera/image/keypoints:Points2D:positions"])]).reshape(-1, 21, 2)
            side = [{0: "left", 1: "right"}.get(s, "unknown") for s in _listed(row["/camera/image/hands/columns:side"])]
            boxes = np.concatenate([middle - half, middle + half], 1)
            hands[name] = [hand(*one) for one in zip(side, boxes, points, strict=True)]
    return {"hands": hands}


def _listed(values: Any) -> list[Any]:
    return [] if values is None or isinstance(values, float) else list(values)


def glb(folder: Path) -> Found:
    """Read by pygltflib; the skinned mesh itself is compared with the model in `tests/pipeline/exports`."""
    import pygltflib

    hands: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("*/*/*.glb")):
        file = pygltflib.GLTF2().load(str(path))
        told = file.scenes[0].extras
        for k, frame in enumerate(told["frame"]):
            name = f"{told['split']}/{told['video']}/{frame:08d}"
            hands.setdefault(name, []).append(hand(told["side"], told["box"][k], _numbers(told["keypoints"][k])))
    return {"hands": hands}


READERS: dict[str, Callable[[Path], Found]] = {
    "coco": coco,
    "yolo": yolo,
    "webdataset": webdataset,
    "hamer": hamer,
    "huggingface": huggingface,
    "parquet": parquet,
    "csv": csv_table,
    "fiftyone": fiftyone,
    "lerobot": lerobot,
    "rerun": rerun,
    "glb": glb,
}


def main() -> None:
    """Print what one reader found in the last line, as JSON."""
    warnings.filterwarnings("ignore")
    print(json.dumps(READERS[sys.argv[1]](Path(sys.argv[2]))))


if __name__ == "__main__":
    main()
