"""What a list of videos says of a camera: `focal=`, `hfov=`, `projection=`, or `camera=`, a JSON file in OpenCV's or COLMAP's words.

    {"model": "OPENCV", "width": 1920, "height": 1080, "params": [1180, 1180, 960, 540, -0.21, 0.05, 0, 0]}
    {"image_width": 1920, "image_height": 1080, "camera_matrix": [[1180, 0, 960], [0, 1180, 540], [0, 0, 1]],
     "distortion_coefficients": [-0.21, 0.05, 0, 0], "distortion_model": "fisheye"}

Pixels are of the upright image with square pixels. OpenCV's first pixel has its centre at 0, COLMAP's and ours at .5.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from fitting.camera import PROJECTIONS

_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,12})?")
CAMERA_FIELDS: Mapping[str, re.Pattern[str]] = {
    "focal": _NUMBER,
    "hfov": re.compile(r"[0-9]{1,3}(\.[0-9]{1,12})?"),
    "projection": re.compile("|".join(PROJECTIONS)),
    "camera": re.compile(r"\S{1,1000}"),
}
"""What each word looks like."""
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


def camera_said(known: Mapping[str, str], where: str, folder: Path) -> str:
    """What a line of a list says of its camera, as `stages.cameras.said` reads it; '' where it says nothing.

    Raises ValueError that names `where`, what is wrong and how to mend it.
    """
    words = [name for name in CAMERA_FIELDS if name in known]
    if not words:
        return ""
    if "camera" in known and len(words) > 1:
        raise ValueError(f"{where}: camera= says all of the camera; take {' and '.join(f'{w}=' for w in words if w != 'camera')} away")
    if "focal" in known and "hfov" in known:
        raise ValueError(f"{where}: focal= and hfov= say the same; keep one")
    if "camera" in known:
        return json.dumps({"from": "manifest", **_read(where, folder / Path(known["camera"]).expanduser())}, sort_keys=True)
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


def _read(where: str, path: Path) -> dict[str, Any]:
    try:
        stat = path.stat()
        return read_camera_file(path, (stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise ValueError(f"{where}: camera={path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{where}: camera={path}: {error}") from None


@lru_cache(maxsize=1024)
def read_camera_file(path: Path, facts: tuple[int, int]) -> dict[str, Any]:
    """The camera of a file; `facts`, its size and time, are what it is kept in memory by.

    Raises ValueError that says what is wrong with it, OSError.
    """
    if facts[0] > _LARGEST_BYTES:
        raise ValueError(f"{facts[0]:,} bytes are no camera")
    try:
        given = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON can be read from it ({str(error)[:80]})") from None
    if not isinstance(given, dict):
        raise ValueError("it must hold one JSON object")
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
    if flat is None or not all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in flat):
        raise ValueError(f"{name} must be finite numbers")
    return [float(one) for one in flat]
