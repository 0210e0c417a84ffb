"""The camera of a clip, from what its list and its file say, and the views through which one looks at what bends straight lines.

What is said is JSON: `from` (manifest, metadata), `projection`, and as far as it is known `focal_px` [x, y], `hfov_deg`, `principal`
[x, y], `distortion` (see `fitting.camera`), `size` [width, height], the size of image that the pixels are of, and `poses`, where its
path is to be read (see `stages.cameras.path`). Frame: camera axes x right, y down, z forward; a full sphere's straight ahead is the
middle of its image.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64

from fitting.camera import Camera
from stages.tables import Cameras

ASSUMED = "assumed"
VIEW_DEG = 100.0
"""Side of a square view, degrees: beyond 50 off its axis a pinhole stretches a hand by more than 1.6, and detectors miss it. Ours."""
HAND_DEG = 25.0
"""A hand of this size, degrees, lies wholly in some view wherever it is: 0.19 m at 0.43 m. Ours."""
_RINGS = ((0.0, 5), (-53.0, 4), (53.0, 4))
"""Latitude and number of the views of a full sphere: fewest, found by search, that keep every disc of `HAND_DEG` whole in one of them."""
_LARGEST_PX = 1280
"""Of a view's side."""
_MOST_BEND = 0.03
"""Share of the longer side by which distortion may move a pixel before views are looked at instead of the image. Ours."""
_LEAST_SHARE = 0.04
"""A view of which less is in the image is not looked at: a whole hand of `HAND_DEG` has more. Ours."""
_WHOLE_DEG = 62.0
"""An image whose corners are nearer to the axis is looked at as one view. Ours."""
_ASPECT = 0.01
"""By which shares of sides may differ that are one shape."""
_FOCAL_SIDES = (0.05, 200.0)
"""Longer sides that a focal length may be: views of 168 degrees to 0.3."""


class CameraError(ValueError):
    """A camera that cannot be that of these images; the message says how to mend it."""


def cameras_of(said: str, width: int, height: int) -> Cameras:
    """The camera of images of this size and its views, by what is said; '' says nothing. Raises CameraError for what cannot be."""
    if not said:
        return _table([(0, None, np.eye(3))], width, height, ASSUMED)
    known = json.loads(said)
    try:
        camera = camera_of(known, width, height)
    except CameraError:
        if known["from"] == "manifest":
            raise
        return cameras_of("", width, height)  # a file whose tags cannot be is one without
    views = views_of(camera)
    if not views:
        return _table([(0, camera, np.eye(3))], width, height, str(known["from"]))
    rows = [(-1, camera, np.eye(3)), *((number, view, turn) for number, (view, turn) in enumerate(views))]
    return _table(rows, width, height, str(known["from"]))


def camera_of(known: Mapping[str, Any], width: int, height: int) -> Camera:
    """The camera of images of this size. Raises CameraError."""
    if min(width, height) < 1:
        raise CameraError(f"a camera of images without a size ({width} x {height})")
    if known["projection"] == "equirectangular":
        if abs(width / height - 2) > 2 * _ASPECT:
            raise CameraError(f"an equirectangular image is 2:1, this one is {width} x {height}: say another projection=")
        return Camera.sphere(width, height)
    scale = _scale(known, width, height)
    focal = known.get("focal_px") or [_focal_of_view(known, width)] * 2
    focal_px = tuple(float(one) * scale for one in focal)
    low, high = (bound * max(width, height) for bound in _FOCAL_SIDES)
    if not all(low <= one <= high for one in focal_px):
        told = f"a focal length of {focal_px[0]:g} pixels for images of {width} x {height}"
        raise CameraError(f"{told}: it must lie between {low:g} and {high:g}; correct it")
    principal = tuple(float(one) * scale for one in known["principal"]) if "principal" in known else (width / 2, height / 2)
    return Camera(
        projection=known["projection"],
        width=width,
        height=height,
        focal_px=(focal_px[0], focal_px[1]),
        principal=(principal[0], principal[1]),
        distortion=tuple(known.get("distortion", ())),
    )


def views_said(said: str) -> str:
    """The part of what is said that decides where one looks; '' of a plain camera, whatever its focal length."""
    if not said:
        return ""
    known = json.loads(said)
    if known["projection"] == "rectilinear" and not any(known.get("distortion", ())):
        return ""
    if known["projection"] == "equirectangular":
        return json.dumps({"from": known["from"], "projection": "equirectangular"}, sort_keys=True)
    return json.dumps({name: value for name, value in known.items() if name != "poses"}, sort_keys=True)


def identity_said(said: str) -> dict[str, Any]:
    """What is said without where it lies: a file that has moved says what it said."""
    known: dict[str, Any] = json.loads(said)
    return known | ({"poses": {k: v for k, v in known["poses"].items() if k != "file"}} if "poses" in known else {})


def _scale(known: Mapping[str, Any], width: int, height: int) -> float:
    """Pixels of these images in one of those that the camera is told of."""
    if "size" not in known:
        return 1.0
    across, down = width / known["size"][0], height / known["size"][1]
    if abs(across / down - 1) > _ASPECT:
        told = "{} x {}".format(*known["size"])
        raise CameraError(f"the camera is of images of {told}, these are {width} x {height}, of another shape: give the camera of these")
    return math.sqrt(across * down)


def _focal_of_view(known: Mapping[str, Any], width: int) -> float:
    if "hfov_deg" not in known:
        raise CameraError(f"projection={known['projection']} needs focal=, hfov= or camera=file.json")
    half = math.radians(float(known["hfov_deg"])) / 2
    return width / 2 / (half if known["projection"] == "fisheye" else math.tan(half))


@lru_cache(maxsize=64)
def views_of(camera: Camera) -> tuple[tuple[Camera, Float64[np.ndarray, "3 3"]], ...]:
    """Pinholes at a camera's place and their rotations, through which all of its image is seen; none where the image is as good."""
    if camera.projection == "rectilinear" and _bend(camera) <= _MOST_BEND:
        return ()
    if whole := _whole(camera):
        return ((whole, np.eye(3)),)
    density = camera.width / (2 * math.pi) if camera.projection == "equirectangular" else min(camera.focal_px)
    half = math.tan(math.radians(VIEW_DEG / 2))
    side = min(_LARGEST_PX, 4 * round(2 * density * half / 4))
    view = Camera.pinhole(side, side, side / 2 / half)
    turns = [_turn(360.0 * k / count, latitude) for latitude, count in _RINGS for k in range(count)]
    return tuple((view, turn) for turn in turns if _seen_share(camera, view, turn) >= _LEAST_SHARE)


def _turn(longitude_deg: float, latitude_deg: float) -> Float64[np.ndarray, "3 3"]:
    """From a sphere's axes to those of a view of its place, upright."""
    longitude, latitude = math.radians(longitude_deg), math.radians(latitude_deg)
    ahead = np.array([math.cos(latitude) * math.sin(longitude), math.sin(latitude), math.cos(latitude) * math.cos(longitude)])
    right = np.array([math.cos(longitude), 0.0, -math.sin(longitude)])
    return np.stack([right, np.cross(ahead, right), ahead])


def _border(camera: Camera, count: int = 40) -> Float64[np.ndarray, "n 2"]:
    """Pixels along the border of an image."""
    share = np.linspace(0, 1, count)
    sides = [np.stack([share, 0 * share + end], 1) for end in (0, 1)]
    return np.concatenate([*sides, *(one[:, ::-1] for one in sides)]) * (camera.width, camera.height)


def _bend(camera: Camera) -> float:
    """How far distortion moves the pixels of the border, at most, in longer sides; infinite where it folds them."""
    if not any(camera.distortion):
        return 0.0
    border = _border(camera)
    straight = replace(camera, distortion=()).project(camera.rays(border))
    moved = np.linalg.norm(straight - border, axis=1) / max(camera.width, camera.height)
    return float(moved.max()) if np.isfinite(moved).all() else math.inf


def _whole(camera: Camera) -> Camera | None:
    """One pinhole that shows all of an image, where no border of it is farther than `_WHOLE_DEG` from the axis."""
    if camera.projection == "equirectangular":
        return None
    rays = camera.rays(_border(camera))
    if not np.isfinite(rays).all() or (rays[:, 2] < math.cos(math.radians(_WHOLE_DEG))).any():
        return None
    focal = min(camera.focal_px)
    reach = np.abs(rays[:, :2] / rays[:, 2:]).max(0) * focal
    width, height = (4 * math.ceil(2 * one / 4) for one in reach.tolist())
    shrink = min(1.0, 2 * max(camera.width, camera.height) / max(width, height))
    width, height = (4 * max(1, round(one * shrink / 4)) for one in (width, height))
    return Camera.pinhole(width, height, focal * shrink)


def _seen_share(camera: Camera, view: Camera, turn: Float64[np.ndarray, "3 3"]) -> float:
    """Share of a view that a camera's image shows."""
    grid = np.stack(np.meshgrid(*[(np.arange(40) + 0.5) / 40 * side for side in (view.width, view.height)]), -1).reshape(-1, 2)
    return float(is_seen(camera, view.rays(grid) @ turn).mean())


def is_seen(camera: Camera, rays: Float64[np.ndarray, "*batch 3"]) -> np.ndarray:
    """Whether a camera's image shows rays: they fall on it, and what falls there are they."""
    pixels = camera.project(rays)
    with np.errstate(invalid="ignore"):
        again = (camera.rays(pixels) * rays).sum(-1) > 0.999
    return np.asarray(camera.shows(pixels) & again)


def _table(rows: Sequence[tuple[int, Camera | None, Float64[np.ndarray, "3 3"]]], width: int, height: int, camera_from: str) -> Cameras:
    """Rows of view, camera (None: nobody knows it) and rotation."""
    nothing = (math.nan, math.nan)
    distortion = np.empty(len(rows), object)
    distortion[:] = [list(camera.distortion) if camera else [] for _, camera, _ in rows]
    return Cameras(
        view=np.array([view for view, _, _ in rows], np.int16),
        projection=np.array([camera.projection if camera else "rectilinear" for _, camera, _ in rows], object),
        width=np.array([camera.width if camera else width for _, camera, _ in rows], np.int32),
        height=np.array([camera.height if camera else height for _, camera, _ in rows], np.int32),
        focal_px=np.array([camera.focal_px if camera else nothing for _, camera, _ in rows]),
        principal=np.array([camera.principal if camera else nothing for _, camera, _ in rows]),
        distortion=distortion,
        rotation=np.stack([turn for *_, turn in rows]),
        camera_from=np.array([camera_from] * len(rows), object),
    )


def camera_in(cameras: Cameras, row: int) -> Camera:
    """The camera of a row whose focal length is known."""
    focal, principal = cameras.focal_px[row], cameras.principal[row]
    return Camera(
        projection=cameras.projection[row],
        width=int(cameras.width[row]),
        height=int(cameras.height[row]),
        focal_px=(float(focal[0]), float(focal[1])),
        principal=(float(principal[0]), float(principal[1])),
        distortion=tuple(float(one) for one in cameras.distortion[row]),
    )
