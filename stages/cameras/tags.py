"""What a file says of its camera: spherical tags (sv3d, Google's XML, Matroska's Projection), the focal length in 35 mm terms, and GoPro's
angle of view (GPMF in `udta`) where its lens is linear: of its wide ones the angle alone tells no camera."""

import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stages.media.atoms import box_in
from stages.media.heif import exif_of
from stages.media.upright import beside

_DIAGONAL_MM = math.hypot(36, 24)
_FOCAL_KEY = "focal_length.35mm"
"""Of com.apple.quicktime.camera.focal_length.35mm_equivalent, which phones write."""
_EQUIRECTANGULAR = 0
"""AV_SPHERICAL_EQUIRECTANGULAR (libavutil/spherical.h): the first field of the side data; bounds of a part are other projections."""
_EXIF_FOCAL, _EXIF_FOLDER = 0xA405, 0x8769
_DEEPEST = 8
"""Levels of GoPro's metadata; its cameras write three."""
_LEAST_MM, _MOST_MM = 5.0, 2000.0
_LEAST_DEG, _MOST_DEG = 10.0, 150.0


def camera_tags(path: Path, container: Any, stream: Any, frame: Any, width: int, height: int) -> str:
    """What a film's tags say of the camera of its upright images, as `stages.cameras.said` reads it; '' where they say nothing."""
    if _is_sphere(frame) and width == 2 * height:
        return json.dumps({"from": "metadata", "projection": "equirectangular"}, sort_keys=True)
    if diagonal_deg := gopro_deg(path):
        focal_px = round(math.hypot(width, height) / 2 / math.tan(math.radians(diagonal_deg) / 2), 2)
        return json.dumps(_rectilinear(focal_px, width, height), sort_keys=True)
    focal_mm = _quicktime_mm({**dict(container.metadata), **dict(stream.metadata)}) or _exif_mm(path)
    if not _LEAST_MM <= focal_mm <= _MOST_MM:
        return ""
    focal_px = round(focal_mm / _DIAGONAL_MM * math.hypot(width, height), 2)  # the equivalent is meant by the diagonal (CIPA DCG-001)
    return json.dumps(_rectilinear(focal_px, width, height), sort_keys=True)


def _rectilinear(focal_px: float, width: int, height: int) -> dict[str, Any]:
    return {"from": "metadata", "projection": "rectilinear", "focal_px": [focal_px] * 2, "size": [width, height]}


def gopro_deg(path: Path) -> float:
    """Diagonal angle of view of a GoPro's linear lens; 0 where the file tells none."""
    try:
        with path.open("rb") as file:
            if file.read(8)[4:] != b"ftyp":
                return 0.0
            told = dict(_gpmf(box_in(file, (b"moov", b"udta", b"GPMF"), 0, path.stat().st_size)))
        (degrees,) = struct.unpack(">f", told[b"ZFOV"][:4])
        return float(degrees) if told[b"VFOV"][:1] == b"L" and _LEAST_DEG <= degrees <= _MOST_DEG else 0.0
    except (OSError, KeyError, struct.error):
        return 0.0


def _gpmf(data: bytes, depth: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of GoPro's metadata, those within others too (github.com/gopro/gpmf-parser), as deep as cameras write them."""
    at = 0
    while at + 8 <= len(data):
        key, kind, size, count = struct.unpack_from(">4sBBH", data, at)
        value = data[at + 8 : at + 8 + size * count]
        if kind == 0 and depth < _DEEPEST:
            yield from _gpmf(value, depth + 1)
        else:
            yield key, value
        at += 8 + -(-size * count // 4) * 4


def _is_sphere(frame: Any) -> bool:
    mapping = beside(frame, "SPHERICAL")
    return len(mapping) >= 4 and struct.unpack("<i", mapping[:4])[0] == _EQUIRECTANGULAR


def _quicktime_mm(metadata: dict[str, str]) -> float:
    for name, value in metadata.items():
        if _FOCAL_KEY in name and re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,9})?", value.strip()):
            return float(value)
    return 0.0


def _exif_mm(path: Path) -> float:
    """FocalLengthIn35mmFilm of a JPEG, HEIC or AVIF file; 0 where there is none."""
    tiff = exif_of(path)
    if path.suffix.lower() in (".jpg", ".jpeg"):
        with path.open("rb") as file:
            head = file.read(1 << 16)
        start = head.find(b"Exif\0\0")
        tiff = head[start + 6 :] if 0 < start < 64 else b""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        folder = _entries(tiff, order, struct.unpack_from(f"{order}I", tiff, 4)[0])
        details = _entries(tiff, order, struct.unpack(f"{order}I", folder[_EXIF_FOLDER])[0])
        return float(struct.unpack(f"{order}H", details[_EXIF_FOCAL][:2])[0])
    except (KeyError, struct.error):
        return 0.0


def _entries(tiff: bytes, order: str, at: int) -> dict[int, bytes]:
    """The four bytes of each entry of a TIFF directory, by tag."""
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    places = (at + 2 + 12 * number for number in range(count))
    return {struct.unpack_from(f"{order}H", tiff, place)[0]: tiff[place + 8 : place + 12] for place in places}
