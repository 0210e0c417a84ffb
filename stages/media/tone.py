"""Tone mapping: images of high dynamic range or wide gamut as those that networks and JPEG expect, BT.709.

Transfer functions: ITU-R BT.2100-2 (PQ, table 4; HLG, table 5, at a display of 1000 cd/m2). Tone curve: ITU-R BT.2390-10, 5.4.1, the
knee in PQ's own scale, on the largest component, so that hues stay. Primaries: ITU-R BT.2087, table 4.
"""

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

PQ, HLG, WIDE = "pq", "hlg", "bt2020"
TRANSFERS = {16: PQ, 18: HLG}
"""Names of the transfer functions that are mapped, by their number in ITU-T H.273."""
_WIDE_PRIMARIES = 9
_WHITE_NITS = 203.0
"""Diffuse white of HDR (BT.2408): what an SDR image shows as its white."""
_PEAK_NITS = 1000.0
"""Brightest that is kept apart; beyond is white."""
_BITS = 12
_DISPLAY_GAMMA = 2.4
"""BT.1886, over a black of 0."""
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)


def transfer_of(frame: Any) -> str:
    """Which mapping an av.VideoFrame needs: pq, hlg, bt2020, or '' for none."""
    return TRANSFERS.get(int(frame.color_trc), WIDE if int(frame.color_primaries) == _WIDE_PRIMARIES else "")


def to_bt709(image: UInt16[np.ndarray, "height width 3"], transfer: str) -> UInt8[np.ndarray, "height width 3"]:
    """RGB of 16 bits in BT.2020 as RGB of 8 bits in BT.709."""
    import cv2

    light = _linear(transfer)[image >> (16 - _BITS)]
    if transfer == HLG:  # the display's gamma lies on luminance: BT.2100, table 5, OOTF
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= (np.maximum(luminance, 1e-6) ** 0.2)[..., None] * (_PEAK_NITS / _WHITE_NITS)
    if transfer != WIDE:
        peak = light.max(axis=2)
        gain, steps = _tone_gain()
        light *= gain[np.minimum(peak * (steps / (_PEAK_NITS / _WHITE_NITS)), steps).astype(np.int32)][..., None]
    narrow = cv2.transform(np.ascontiguousarray(light), _TO_BT709)
    codes = (np.clip(narrow, 0, 1) * ((1 << 14) - 1) + 0.5).astype(np.uint16)
    return np.asarray(_encoded()[codes])


@cache
def _linear(transfer: str) -> Float32[np.ndarray, "codes"]:
    """Light of each code: 1 is diffuse white; of HLG, scene light in [0, 1]."""
    code = np.linspace(0, 1, 1 << _BITS)
    if transfer == PQ:
        return (_pq_to_nits(code) / _WHITE_NITS).astype(np.float32)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12).astype(np.float32)
    return (code**_DISPLAY_GAMMA).astype(np.float32)


def _pq_to_nits(code: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = code ** (1 / m2)
    return np.asarray(10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1))


def _nits_to_pq(nits: np.ndarray) -> np.ndarray:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = (nits / 10_000) ** m1
    return np.asarray(((c1 + c2 * power) / (1 + c3 * power)) ** m2)


@cache
def _tone_gain() -> tuple[Float32[np.ndarray, "codes"], int]:
    """What light is multiplied by so that the peak becomes white, for peaks of equal steps, and the number of steps."""
    steps = 4095
    light = np.linspace(0, _PEAK_NITS / _WHITE_NITS, steps + 1)
    top = _nits_to_pq(np.array(_PEAK_NITS))
    source, most = _nits_to_pq(light * _WHITE_NITS) / top, float(_nits_to_pq(np.array(_WHITE_NITS)) / top)
    knee = 1.5 * most - 0.5
    t = np.clip((source - knee) / (1 - knee), 0, 1)
    curve = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    mapped = _pq_to_nits(np.where(source < knee, source, curve) * top) / _WHITE_NITS
    gain = np.where(light > 0, mapped / np.maximum(light, 1e-9), 1)
    return gain.astype(np.float32), steps


@cache
def _encoded() -> UInt8[np.ndarray, "codes"]:
    """BT.709's code of 8 bits for each step of light."""
    light = np.linspace(0, 1, 1 << 14)
    return (255 * light ** (1 / _DISPLAY_GAMMA) + 0.5).astype(np.uint8)
