"""The camera of a clip of a data folder, and the views through which one looks at what bends straight lines."""

from pipeline.engine.store import Store
from stages.cameras.said import CameraError, cameras_of
from stages.tables import Cameras, Clips, Manifest, Videos


def cameras_of_clip(store: Store, video: Videos, clip: Clips) -> Cameras:
    """The camera by what list and file say; the assumed one where what they say cannot be, which the run has told."""
    size = size_of_frames(video, clip)
    try:
        return cameras_of(_said(store, video), *size)
    except CameraError:
        return cameras_of("", *size)


def size_of_frames(video: Videos, clip: Clips) -> tuple[int, int]:
    """Width and height of a clip's frames, pixels."""
    of = clip if clip.width[0] else video
    return int(of.width[0]), int(of.height[0])


def _said(store: Store, video: Videos) -> str:
    """What list or file say of a video's camera."""
    try:
        manifest = store.read(Manifest, "", "manifest")
    except (FileNotFoundError, ValueError):
        return str(video.camera[0])
    told = [str(said) for said in manifest.camera[manifest.video == video.video[0]]]
    return told[0] if told and told[0] else str(video.camera[0])
