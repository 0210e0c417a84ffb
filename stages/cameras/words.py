"""What a list of videos says of a camera: `focal=`, `hfov=`, `projection=`, or `camera=`, a JSON file in OpenCV's or COLMAP's words.

    {"model": "OPENCV", "width": 1920, "height": 1080, "params": [1180, 1180, 960, 540, -0.21, 0.05, 0, 0]}
    {"image_width": 1920, "image_height": 1080, "camera_matrix": [[1180, 0, 960], [0, 1180, 540], [0, 0, 1]],
     "distortion_coefficients": [-0.21, 0.05, 0, 0], "distortion_model": "fisheye"}

Pixels are of the upright image with square pixels. OpenCV's first pixel has its centre at 0, COLMAP's and ours at .5.

Where the camera stood on each frame (`stages.cameras.path`): `poses` of the JSON file, or a folder of COLMAP's (`cameras` and
`images`, .bin or .txt) as `camera=`. Of the latter `pose_first=1` is the number in the name of the film's first frame, `pose_fps=5` the
rate of images that are not every frame, and `pose_unit=0.37` how many metres its unit is.
"""

import json
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fitting.camera import PROJECTIONS
from fitting.files import sha256_of
from stages.cameras.path import cameras_of_images, read_poses

_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,12})?")
CAMERA_FIELDS: Mapping[str, re.Pattern[str]] = {
    "focal": _NUMBER,
    "hfov": re.compile(r"[0-9]{1,3}(\.[0-9]{1,12})?"),
    "projection": re.compile("|".join(PROJECTIONS)),
    "camera": re.compile(r"\S{1,1000}"),
    "pose_first": re.compile(r"[0-9]{1,12}"),
    "pose_fps": _NUMBER,
    "pose_unit": re.compile(r"[0-9]{1,6}(\.[0-9]{1,12})?"),
}
"""What each word looks like."""
CAMERA_EXAMPLES: Mapping[str, str] = {
    "focal": "1180",
    "hfov": "62",
    "projection": "|".join(PROJECTIONS),
    "camera": "file.json",
    "pose_first": "1",
    "pose_fps": "5",
    "pose_unit": "0.37",
}
_OF_POSES = ("pose_first", "pose_fps", "pose_unit")
_LARGEST_BYTES = 64 << 20
_LARGEST_SIDE = 1 << 17

COLMAP: Mapping[str, tuple[str, int, int]] = {
    "SIMPLE_PINHOLE": ("rectilinear", 1, 3),
    "PINHOLE": ("rectilinear", 2, 4),
    "SIMPLE_RADIAL": ("rectilinear", 1, 4),
    "RADIAL": ("rectilinear", 1, 5),
    "OPENCV": ("rectilinear", 2, 8),
    "FULL_OPENCV": ("rectilinear", 2, 12),
    "SIMPLE_RADIAL_FISHEYE": ("fisheye", 1, 4),
    "RADIAL_FISHEYE": ("fisheye", 1, 5),
    "OPENCV_FISHEYE": ("fisheye", 2, 8),
}
"""COLMAP's models (src/colmap/sensor/models.h): projection, focal lengths, parameters."""
_MODEL_IDS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV", "SIMPLE_RADIAL_FISHEYE",
    "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE",
)  # fmt: skip
"""COLMAP's numbers of its models in cameras.bin."""
_MODEL_FOLDERS = ("", "sparse/0", "sparse")
"""Where in a folder of COLMAP's its files lie."""


def camera_said(known: Mapping[str, str], where: str, folder: Path, moments: tuple[int, float] = (0, 0.0)) -> str:
    """What a line of a list says of its camera, as `stages.cameras.said` reads it; '' where it says nothing.

    `moments`: the number in the name of the first image and the rate of a video that is numbered images. Raises ValueError that names
    `where`, what is wrong and how to mend it.
    """
    words = [name for name in CAMERA_FIELDS if name in known and name not in _OF_POSES]
    if stray := [name for name in _OF_POSES if name in known and "camera" not in known]:
        raise ValueError(f"{where}: {stray[0]}= speaks of the poses of a camera=, which is not there")
    if not words:
        return ""
    if "camera" in known and len(words) > 1:
        raise ValueError(f"{where}: camera= says all of the camera; take {' and '.join(f'{w}=' for w in words if w != 'camera')} away")
    if "focal" in known and "hfov" in known:
        raise ValueError(f"{where}: focal= and hfov= say the same; keep one")
    if "camera" in known:
        return json.dumps({"from": "manifest", **_read(where, folder / Path(known["camera"]).expanduser(), known, moments)}, sort_keys=True)
    projection = known.get("projection", "rectilinear")
    said: dict[str, Any] = {"from": "manifest", "projection": projection}
    if projection == "equirectangular" and len(words) > 1:
        raise ValueError(f"{where}: an equirectangular image has no {words[0]}=; take it away")
    if projection != "equirectangular" and len(words) == 1 and "projection" in known:
        raise ValueError(f"{where}: projection={projection} needs focal= or hfov= beside it, or camera=file.json instead")
    if "focal" in known:
        if not float(known["focal"]) > 0:
            raise ValueError(f"{where}: focal={known['focal']} must be more than 0, in pixels")
        said["focal_px"] = [float(known["focal"])] * 2
    if "hfov" in known:
        widest = 360 if projection == "fisheye" else 175
        if not 0 < float(known["hfov"]) <= widest:
            raise ValueError(f"{where}: hfov={known['hfov']} must lie in (0, {widest}], in degrees")
        said["hfov_deg"] = float(known["hfov"])
    return json.dumps(said, sort_keys=True)


def _read(where: str, path: Path, known: Mapping[str, str], moments: tuple[int, float]) -> dict[str, Any]:
    try:
        cameras, images = _model_files(path)
        camera = read_camera_file(cameras, _facts(cameras), images)
        if images is None and "poses" not in camera:
            if stray := [name for name in _OF_POSES if name in known]:
                raise ValueError(f"{stray[0]}= speaks of poses, and it has none")
            return camera
        rate = float(known.get("pose_fps", 0.0 if "pose_first" in known else moments[1]))
        first, unit_m = int(known.get("pose_first", moments[0])), float(known.get("pose_unit", 1.0))
        if "pose_fps" in known and not rate > 0:
            raise ValueError("pose_fps=0 must be more than 0, in images a second")
        if not unit_m > 0:
            raise ValueError(f"pose_unit={known['pose_unit']} must be more than 0, in metres")
        if images is None and {"pose_first", "pose_fps"} & known.keys():
            raise ValueError("pose_first= and pose_fps= are for numbers in image names; a pose in JSON has frame or time_s")
        file = (images or cameras).resolve()
        told = {"file": str(file), "first": 0 if images is None else first, "rate": 0.0 if images is None else rate, "unit_m": unit_m}
        count, digest = _poses_of(file, _facts(file), told["first"], told["rate"])
        return camera | {"poses": told | {"sha256": digest, "count": count}}
    except OSError as error:
        raise ValueError(f"{where}: camera={path}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{where}: camera={path}: {error}") from None


def _facts(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _model_files(path: Path) -> tuple[Path, Path | None]:
    """The file of the camera and COLMAP's of its images, or None. Raises FileNotFoundError."""
    if path.suffix == ".json" or not (path.is_dir() or path.stem in ("images", "cameras")):
        return path, None
    for place in [path / sub for sub in _MODEL_FOLDERS] if path.is_dir() else [path.parent]:
        for suffix in (".bin", ".txt") if path.is_dir() else (path.suffix,):
            cameras, images = place / f"cameras{suffix}", place / f"images{suffix}"
            if cameras.is_file() and images.is_file():
                return cameras, images
    raise FileNotFoundError(0, "COLMAP's cameras.bin and images.bin, or .txt, are not both there")


@lru_cache(maxsize=64)
def _poses_of(path: Path, facts: tuple[int, int], first: int, rate: float) -> tuple[int, str]:
    """Number of the poses of a file, and its sha256. Raises ValueError, OSError."""
    assert facts
    return len(read_poses(path, first, rate)), sha256_of(path)


@lru_cache(maxsize=1024)
def read_camera_file(path: Path, facts: tuple[int, int], images: Path | None = None) -> dict[str, Any]:
    """The camera of a file; `facts`, its size and time, are what it is kept in memory by. `images`: COLMAP's, which say which of several.

    Raises ValueError that says what is wrong with it, OSError.
    """
    if facts[0] > _LARGEST_BYTES:
        raise ValueError(f"{facts[0]:,} bytes are no camera")
    if images is not None:
        return _camera_of(_colmap_camera(path, images))
    try:
        given = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON can be read from it ({str(error)[:80]})") from None
    if not isinstance(given, dict):
        raise ValueError("it must hold one JSON object")
    if "poses" not in given:
        return _camera_of(given)
    if not isinstance(given["poses"], list):
        raise ValueError("its poses must be a list")
    return _camera_of(given) | {"poses": {}}


def _camera_of(given: Mapping[str, Any]) -> dict[str, Any]:
    model = str(given.get("model", ""))
    width, height = (_side(given, names) for names in (("width", "image_width"), ("height", "image_height")))
    if model.upper() == "EQUIRECTANGULAR":
        return {"projection": "equirectangular", "size": [width, height]}
    if "params" in given:
        projection, focal, principal, distortion = _by_colmap(model, given["params"])
    else:
        projection, focal, principal, distortion = _by_opencv(given)
    if not all(0 < one < 1e6 for one in focal):
        raise ValueError(f"its focal length {focal[0]:g} must lie in (0, 1000000), in pixels")
    if not (-width <= principal[0] <= 2 * width and -height <= principal[1] <= 2 * height):
        raise ValueError(f"its principal point {principal} is far outside its image of {width} x {height}")
    told = {"projection": projection, "size": [width, height], "focal_px": focal, "principal": principal}
    return told | ({"distortion": distortion} if any(distortion) else {})


def _colmap_camera(path: Path, images: Path) -> dict[str, Any]:
    """The one camera that COLMAP's images are of, in its words. Raises ValueError, OSError."""
    cameras = _cameras_bin(path.read_bytes()) if path.suffix == ".bin" else _cameras_txt(path.read_text())
    used = cameras_of_images(images)
    if lacking := used - cameras.keys():
        raise ValueError(f"{images.name} names camera {min(lacking)}, which {path.name} has not")
    of_images = [cameras[number] for number in sorted(used)]
    if not of_images:
        raise ValueError(f"{images.name} holds no image")
    if any(one != of_images[0] for one in of_images):
        raise ValueError(f"its images are of {len(of_images)} cameras; a video has one: keep the images of this video")
    return of_images[0]


def _cameras_txt(text: str) -> dict[int, dict[str, Any]]:
    """COLMAP's cameras.txt: CAMERA_ID MODEL WIDTH HEIGHT PARAMS."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            sides = {"width": int(words[2]), "height": int(words[3])}
            found[int(words[0])] = {"model": words[1], **sides, "params": [float(one) for one in words[4:]]}
        except (ValueError, IndexError):
            raise ValueError(f"{line[:60]!r} of cameras.txt is not CAMERA_ID MODEL WIDTH HEIGHT PARAMS") from None
    return found


def _cameras_bin(data: bytes) -> dict[int, dict[str, Any]]:
    """COLMAP's cameras.bin (src/colmap/scene/reconstruction_io_binary.cc)."""
    found = {}
    try:
        (count,), at = struct.unpack_from("<Q", data, 0), 8
        for _ in range(min(count, len(data))):
            number, model, width, height = struct.unpack_from("<iiQQ", data, at)
            name = _MODEL_IDS[model] if 0 <= model < len(_MODEL_IDS) else str(model)
            if name not in COLMAP:
                raise ValueError(f"model {name!r} is none of {', '.join(COLMAP)}")
            params = struct.unpack_from(f"<{COLMAP[name][2]}d", data, at + 24)
            found[number] = {"model": name, "width": width, "height": height, "params": list(params)}
            at += 24 + 8 * len(params)
    except struct.error:
        raise ValueError(f"cameras.bin ends in the middle of camera {len(found) + 1}") from None
    return found


def _side(given: Mapping[str, Any], names: Sequence[str]) -> int:
    value = next((given[name] for name in names if name in given), None)
    if value is None and isinstance(given.get("image_size"), list) and len(given["image_size"]) == 2:
        value = given["image_size"][names[0] == "height"]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _LARGEST_SIDE:
        raise ValueError(f"{names[0]} must be a whole number of pixels, got {value!r}")
    return value


def _by_colmap(model: str, params: Any) -> tuple[str, list[float], list[float], list[float]]:
    if model.upper() not in COLMAP:
        raise ValueError(f"model {model[:40]!r} is none of {', '.join(COLMAP)}, EQUIRECTANGULAR")
    projection, num_focals, count = COLMAP[model.upper()]
    numbers = _numbers(params, "params")
    if len(numbers) != count:
        raise ValueError(f"{model} has {count} params, got {len(numbers)}")
    focal, principal = [numbers[0], numbers[num_focals - 1]], numbers[num_focals : num_focals + 2]
    return projection, focal, principal, numbers[num_focals + 2 :]


def _by_opencv(given: Mapping[str, Any]) -> tuple[str, list[float], list[float], list[float]]:
    matrix = next((given[name] for name in ("camera_matrix", "K", "intrinsic_matrix") if name in given), None)
    if matrix is None:
        raise ValueError("it has neither COLMAP's model and params nor OpenCV's camera_matrix")
    numbers = _numbers(matrix, "camera_matrix")
    if len(numbers) != 9 or numbers[1:2] + numbers[3:4] + numbers[6:] != [0, 0, 0, 0, 1]:
        raise ValueError("camera_matrix must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    names = ("distortion_coefficients", "dist_coeffs", "distortion", "D")
    distortion = _numbers(next((given[name] for name in names if name in given), []), "distortion_coefficients")
    kind = str(given.get("distortion_model", given.get("model", ""))).lower()
    projection = "fisheye" if kind in ("fisheye", "equidistant", "kannala_brandt", "opencv_fisheye") else "rectilinear"
    if len(distortion) > 8 and any(distortion[8:]):
        raise ValueError("distortion_coefficients beyond the eighth (thin prism, tilt) are not known here")
    allowed = (0, 4) if projection == "fisheye" else (0, 1, 2, 4, 5, 8, 12, 14)
    if len(distortion) not in allowed:
        raise ValueError(f"distortion_coefficients must be {', '.join(map(str, allowed[1:]))} numbers, got {len(distortion)}")
    return projection, [numbers[0], numbers[4]], [numbers[2] + 0.5, numbers[5] + 0.5], distortion[:8]


def _numbers(value: Any, name: str) -> list[float]:
    """A list, a matrix or OpenCV's {rows, cols, data} as one list of finite numbers."""
    value = value.get("data") if isinstance(value, dict) else value
    flat = [one for row in value for one in (row if isinstance(row, list) else [row])] if isinstance(value, list) else None
    if flat is None or not all(
        isinstance(one, int | float) and not isinstance(one, bool) and abs(one) <= sys.float_info.max for one in flat
    ):
        raise ValueError(f"{name} must be finite numbers")
    return [float(one) for one in flat]
