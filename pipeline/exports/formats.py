"""Formats of other programs that hands are exported in, in one table. Imports the standard library only: the help reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.exports.source import Source

    Write = Callable[[Source, Path, Mapping[str, object]], None]


ABOUT = "whim_export.json"
"""What an export says of itself: the mark by which its folder is known for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format: what it is, and where its writer lies."""

    name: str
    about: str
    """The line of the help."""
    module: str
    version: int = 1
    """Raised when the same shards give other files: folders of before are then written anew."""
    images: bool = True
    """Whether it holds the images."""
    passes: int = 1
    """How often it reads all frames."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Choices of its own on the command line, with what they are unless said otherwise."""

    def write(self, source: "Source", folder: "Path", options: Mapping[str, object]) -> None:
        """Write all of it into an empty folder."""
        write: Write = import_module(self.module).write
        write(source, folder, {**self.options, **options})


_TABLE = (
    Format(
        name="coco",
        about="COCO keypoints: images and annotations by split, MANO in fields of its own",
        module="pipeline.exports.coco",
        version=3,
    ),
    Format(
        name="yolo", about="YOLO-pose: images, labels and data.yaml, as Ultralytics trains on", module="pipeline.exports.yolo", version=3
    ),
    Format(name="webdataset", about="WebDataset: tars of JPEG and JSON, one pair a frame", module="pipeline.exports.webdataset", version=3),
    Format(
        name="lerobot",
        about="LeRobot v3: an episode an unbroken stretch of a clip, video, hands as state",
        module="pipeline.exports.lerobot.dataset",
        version=3,
        options={"images": False},
        passes=2,
    ),
    Format(name="huggingface", about="Hugging Face: Parquet with a dataset card, ready to push", module="pipeline.exports.huggingface"),
    Format(name="hamer", about="HaMeR and WiLoR: tars as both train on", module="pipeline.exports.hamer", version=3),
    Format(
        name="fiftyone", about="FiftyOne: a dataset of images with detections and keypoints", module="pipeline.exports.fiftyone", version=3
    ),
    Format(
        name="rerun", about="Rerun: a recording (.rrd) a clip, hands in the image and in space", module="pipeline.exports.rerun", version=2
    ),
    Format(
        name="glb",
        about="glTF: an animated, skinned hand (.glb) a track, for Blender and browsers",
        module="pipeline.exports.glb",
        version=2,
        images=False,
    ),
    Format(name="parquet", about="Parquet: a row a hand, MANO and all else", module="pipeline.exports.mano", version=2, images=False),
    Format(name="csv", about="CSV: a row a hand, MANO and all else", module="pipeline.exports.mano", images=False, options={"csv": True}),
)
FORMATS: Mapping[str, Format] = {one.name: one for one in _TABLE}
"""Every format by its name."""
