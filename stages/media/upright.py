"""Decoded frames as images: RGB, upright, with square pixels, as a viewer shows them.

Stored pixels that are not square are made so by scaling the width (640x480 at 4:3 becomes 853x480), then the image is turned and
mirrored as the file's display matrix says: sizes and boxes are those of the image that a viewer shows. What is transparent lies on
grey; high dynamic range and wide gamut are mapped to BT.709 (`stages.media.tone`).
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8

from stages.media.tone import to_bt709, transfer_of

GREY = 128
"""What lies behind transparent pixels."""
_NAMELESS = range(28, 40)
"""Numbers of what can lie beside a frame (libavutil/frame.h) from the first that PyAV 18 has no name for: views, displays, EXIF."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a frame is shown."""

    width: int  # upright, square pixels
    height: int
    transposed: bool  # rows and columns swapped, before the mirrorings
    mirrored_x: bool
    mirrored_y: bool

    @classmethod
    def of(cls, stream: Any, frame: Any) -> "Shape":
        """The shape from a frame's size, its stream's sample aspect ratio and its display matrix, to the nearest quarter turn."""
        size = (max(1, round(frame.width * (stream.sample_aspect_ratio or 1))), frame.height)
        # x' = a x + c y, y' = b x + d y, from stored to shown pixels
        a, b, c, d = _display_matrix(frame)
        transposed = abs(b) > abs(a)
        width, height = size[::-1] if transposed else size
        across, down = (c, b) if transposed else (a, d)
        return cls(width=width, height=height, transposed=transposed, mirrored_x=across < 0, mirrored_y=down < 0)


def _display_matrix(frame: Any) -> tuple[float, float, float, float]:
    matrix = beside(frame, "DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, "<i4")[:5].tolist() if matrix else (1, 0, 0, 0, 1)
    return a, b, c, d


def beside(frame: Any, name: str) -> bytes:
    """What lies beside a frame by PyAV's name of it, such as DISPLAYMATRIX or SPHERICAL; empty where nothing does."""
    try:
        found = frame.side_data.get(name)
    except ValueError:  # PyAV has no name for something else that lies there, such as EXIF, and then shows nothing
        found = _without_nameless(frame).side_data.get(name)
    return bytes(found) if found else b""


def _without_nameless(frame: Any) -> Any:
    """The frame without what PyAV has no name for."""
    import av

    graph = av.filter.Graph()
    last = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1))
    for number in _NAMELESS:
        cleared = graph.add("sidedata", f"mode=delete:type={number}")
        last.link_to(cleared)
        last = cleared
    sink = graph.add("buffersink")
    last.link_to(sink)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def has_alpha(frame: Any) -> bool:
    """Whether a frame's format can be transparent."""
    return frame.format.name == "pal8" or any(component.is_alpha for component in frame.format.components)


def is_transparent(frame: Any) -> bool:
    """Whether some pixel of a frame is."""
    return has_alpha(frame) and int(frame.reformat(format="rgba", threads=1).to_ndarray()[..., 3].min()) < 255


class Upright:
    """Converts av.VideoFrames of one video to RGB images of one shape; keeps the scaler's tables between frames."""

    def __init__(self, shape: Shape) -> None:
        import av

        self.shape = shape
        self._size = (shape.height, shape.width) if shape.transposed else (shape.width, shape.height)
        self._reformatter = av.video.reformatter.VideoReformatter()

    def __call__(self, frame: Any) -> UInt8[np.ndarray, "height width 3"]:
        if transfer := transfer_of(frame):
            image = to_bt709(self._converted(frame, "rgb48le"), transfer)
        elif has_alpha(frame):
            image = _on_grey(self._converted(frame, "rgba"))
        else:
            image = self._converted(frame, "rgb24")
        if self.shape.transposed:
            image = image.transpose(1, 0, 2)
        return np.ascontiguousarray(image[:: -1 if self.shape.mirrored_y else 1, :: -1 if self.shape.mirrored_x else 1])

    def _converted(self, frame: Any, pixel_format: str) -> np.ndarray:
        width, height = self._size
        return np.asarray(self._reformatter.reformat(frame, width=width, height=height, format=pixel_format, threads=1).to_ndarray())


def _on_grey(image: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    alpha = image[..., 3:].astype(np.uint16)
    if int(alpha.min()) == 255:
        return image[..., :3]
    return ((image[..., :3] * alpha + GREY * (255 - alpha) + 127) // 255).astype(np.uint8)
