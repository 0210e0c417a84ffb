"""Frames through the views of a bent camera: what the detectors look at, and where in the video's own pixels that is."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from fitting.camera import Camera
from stages.cameras.said import camera_in, is_seen
from stages.media.frames import Frames
from stages.stage import tables_given
from stages.tables import Cameras, Table

GREY = 128
"""Of a view where the camera's image shows nothing."""
_MOST_SIDE = 32_000
"""Longest side that cv2.remap takes is 32,767."""


def through_views(stretches: Iterable[Frames], cameras: Cameras) -> Iterator[Frames]:
    """Each stretch of frames once for every view, in turn; of a plain camera as it is."""
    if len(cameras) == 1:
        yield from stretches
        return
    looks = {int(view): Look(cameras, row) for row, view in enumerate(cameras.view) if view >= 0}
    for frames in stretches:
        for view, look in looks.items():
            yield replace(frames, images=[look(image) for image in frames.images], view=view)


def by_view(function: Callable[..., Any], inputs: Sequence[Any]) -> Any:
    """What a stage that makes each frame's rows of that frame's rows gives of each view's, together."""
    views = sorted({int(view) for table in inputs if hasattr(table, "view") for view in table.view}) or [0]
    made = []
    for view in views:
        given = [table.take(table.view == view) if hasattr(table, "view") else table for table in inputs]
        made.append([of_view(table, view) for table in tables_given(function(*given))])
    return tuple(type(tables[0]).concat(list(tables)) for tables in zip(*made, strict=True))


def of_view(table: Table, view: int) -> Table:
    """Rows of a table, said to be of a view."""
    return replace(table, **{"view": np.full(len(table), view, np.int16)}) if hasattr(table, "view") else table


class Look:
    """One view of a bent camera's images."""

    def __init__(self, cameras: Cameras, row: int) -> None:
        self.source, self.view = camera_in(cameras, 0), camera_in(cameras, row)
        self.rotation = cameras.rotation[row]
        self._wraps = self.source.projection == "equirectangular"
        self._maps = self._sampled()

    def __call__(self, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "view_height view_width 3"]:
        """The view of an image, as far as the image goes; grey beyond."""
        import cv2

        if self._wraps:  # one column more than there are: the seam is no border
            image = np.concatenate([image, image[:, :1]], 1)
        border = cv2.BORDER_REPLICATE if self._wraps else cv2.BORDER_CONSTANT
        return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR, borderMode=border, borderValue=(GREY,) * 3), np.uint8)

    def _sampled(self) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:
        """Where each pixel of the view lies in the image, as cv2 counts: the first pixel's centre at 0."""
        assert max(self.source.width, self.source.height) <= _MOST_SIDE, "split refuses larger images"
        columns, rows = np.meshgrid(np.arange(self.view.width) + 0.5, np.arange(self.view.height) + 0.5)
        rays = self.view.rays(np.stack([columns, rows], -1)) @ self.rotation
        pixels = self.source.project(rays) - 0.5
        if self._wraps:
            pixels[..., 0] %= self.source.width
        else:
            pixels[~is_seen(self.source, rays)] = -10
        x, y = np.moveaxis(pixels.astype(np.float32), -1, 0)
        return np.ascontiguousarray(x), np.ascontiguousarray(y)


def to_source(cameras: Cameras, view: int, pixels: Float[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "*batch 2"]:
    """Pixels of a view as pixels of the video's own images."""
    row = int(np.flatnonzero(cameras.view == view)[0])
    return camera_in(cameras, 0).project(camera_in(cameras, row).rays(pixels) @ cameras.rotation[row])


def rays_of(cameras: Cameras, view: int, pixels: Float[np.ndarray, "*batch 2"]) -> Float64[np.ndarray, "*batch 3"]:
    """Unit vectors, in the axes of the video's camera, of pixels of a view."""
    row = int(np.flatnonzero(cameras.view == view)[0])
    rays: Float64[np.ndarray, "*batch 3"] = camera_in(cameras, row).rays(pixels) @ cameras.rotation[row]
    return rays


def in_view(cameras: Cameras, view: int, rays: Float[np.ndarray, "*batch 3"]) -> Float64[np.ndarray, "*batch 2"]:
    """Pixels of a view on which rays of the video's camera fall; NaN behind it."""
    row = int(np.flatnonzero(cameras.view == view)[0])
    return camera_in(cameras, row).project(rays @ cameras.rotation[row].T)


def camera_of_view(cameras: Cameras, view: int) -> Camera:
    """The pinhole of a view, or the plain camera itself."""
    return camera_in(cameras, int(np.flatnonzero(cameras.view == view)[0]))
