"""Labelled frames of real video as images: files of the format handmedia-bench/1, COCO's and COCO-WholeBody's, folders of YOLO's."""

from collections.abc import Iterator
from pathlib import Path

from fitting.files import below
from hands.metrics.foreign_labels import stored_size
from hands.metrics.labels import load_labels
from training.data.readers.labelled_image import LabelledImage


def labelled_frames(labels: Path, media: Path | None = None) -> Iterator[LabelledImage]:
    """The images that a label file names, in `media` (default: beside or above the file, or in `images` there), or a YOLO folder holds.

    Raises ValueError for a file of another format and a label of no image or of another size than it has, FileNotFoundError for an image
    that is not there.
    """
    around = [media] if media else [labels] if labels.is_dir() else [labels.resolve().parent.parent, labels.parent]
    for frame in load_labels(labels):
        if not frame.image:
            raise ValueError(f"{labels}: label {frame.name} names no image (jpeg), and frames of videos are not looked at here")
        places = [place for folder in around for place in (folder, folder / "images")]
        path = next((path for place in places if (path := below(place, frame.image)).is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"label {frame.name}: no image {below(around[0], frame.image)}: name the folder of the images with --media"
            )
        size = stored_size(path)
        if size not in (None, (frame.width, frame.height)):
            raise ValueError(
                f"label {frame.name} is of a {frame.width}x{frame.height} image, {path} is {size[0]:g}x{size[1]:g} as it is stored"
            )
        yield LabelledImage(name=frame.name, source=path, box=frame.box, side=frame.side, ignore=frame.ignore)
