"""An MP4 file that grows by an image at a time, as LeRobot seeks in it."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pipeline.exports.lerobot.plan import Plan
from stages.errors import UserError


class Film:
    """An MP4 that grows, H.264, every second frame a key frame, as LeRobot seeks in it. Raises UserError for a size beyond the codec's."""

    def __init__(self, path: Path, plan: Plan) -> None:
        import av

        self.path, self.fps, self.count = path, plan.fps, 0
        self.container = av.open(str(path), "w")
        self.codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"g": "2", "bf": "0", "crf": "18", "threads": "1"} if self.codec == "libx264" else {"g": "2", "bf": "0", "qscale": "2"}
        self.stream = self.container.add_stream(self.codec, rate=Fraction(plan.fps).limit_denominator(60_000), options=options)
        self.stream.width, self.stream.height = plan.size
        self.stream.pix_fmt = "yuv420p"
        try:
            self.container.start_encoding()  # the file is there from now on, however few images come
        except av.error.FFmpegError as error:
            width, height = plan.size
            raise UserError(
                f"{self.codec} encodes no images of {width} x {height} pixels: export with --images, or filter them out"
            ) from error

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.count / self.fps

    def add(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """One image more."""
        import av
        import cv2

        planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)  # BT.601
        self.container.mux(self.stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        self.count += 1

    def close(self) -> None:
        """Write what the codec still holds."""
        self.container.mux(self.stream.encode())
        self.container.close()
