"""Render -> detect -> fit, against the exact truth: how far fitted hands are off, and which part of the way is to blame.

`python -m benchmarks.fit.end_to_end` writes benchmarks/results/end_to_end.json. With `--labelled FILE` it writes hands of other seeds for
`whim learn offsets` instead. All poses come from the studio's vocabulary of shapes, the prior's from `fitting.hand.anatomy`'s sampler.
The hand model is the stand-in on both sides.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64

from benchmarks.fit.rendered_hands import Kind, RenderedHands, find, render
from benchmarks.machine import describe
from fitting.files import STANDIN
from fitting.fit import Fitter, HandFits
from fitting.hand.mano import LEFT, load_hand_model
from fitting.landmarks.learn_offsets import LabelledHands, write_labelled
from fitting.landmarks.offsets import corrected, load_offsets
from pipeline.evaluate.studio_truth import pa_mpjpe_mm
from stages.fit import Fit

RESULT = Path(__file__).parents[1] / "results" / "end_to_end.json"
HELD_OUT_SEED, CALIBRATION_SEED = 20_000, 30_000
KINDS: tuple[Kind, ...] = ("still", "film", "mixed")
GROSS_SHARE = 0.12
"""Landmarks off by more than this share of the hand on average are on something else."""
PALM = (0, 1, 5, 9, 13, 17)
TURNED_DEG = 90.0
TILTS_APART_DEG = 60.0


def end_to_end(num_hands: int) -> dict[str, float]:
    """Figures of `num_hands` held-out hands, half in stills and half in films, none of those found left out.

    Millimetres are PA-MPJPE, `_error` shares of the hand's size. `without_gross_mm` leaves out wrong sides and `gross_share`, hands whose
    landmarks are on something else. `true_...` put the truth in place of one part. `flip_rate`: see `flipped`, of hands of the right side.
    """
    halves = [find(render(kind, HELD_OUT_SEED), num_hands // 2) for kind in ("still", "film")]
    return score(joined(halves))


def joined(parts: Sequence[RenderedHands]) -> RenderedHands:
    """All rows."""
    columns = {f.name: np.concatenate([getattr(part.labelled, f.name) for part in parts]) for f in fields(LabelledHands)}
    return RenderedHands(
        labelled=LabelledHands(**columns),
        hint=np.concatenate([part.hint for part in parts]),
        side=np.concatenate([part.side for part in parts]),
        true_side=np.concatenate([part.true_side for part in parts]),
        num_clear=sum(part.num_clear for part in parts),
    )


def score(found: RenderedHands) -> dict[str, float]:
    """Every figure of one set of hands, mirrored to right hands by the side the detector says, as the fit stage does."""
    hands = mirrored(found)
    offsets = load_offsets()["mediapipe"]
    fitter = Fitter(load_hand_model(STANDIN), Fit().settings)
    plain = fitter.fit(hands.keypoints, hands.world)
    keypoints, world = corrected(hands.keypoints, hands.world, offsets)
    hint = found.hint[..., :3] * np.where(found.side == LEFT, -1.0, 1.0)[:, None, None] ** np.array([1, 0, 0])
    without_hint = fitter.fit(keypoints, world)
    fitted = fitter.fit(keypoints, hint, deviation=found.hint[..., 3])
    exact = np.concatenate([hands.joints_2d, np.ones((len(keypoints), 21, 1))], 2)
    from_above = np.concatenate([1000 * hands.joints_3d[..., :2], np.ones((len(keypoints), 21, 1))], 2)
    error = _pa(fitted, hands)
    near = hands.error(hands.keypoints).mean(1) < GROSS_SHARE
    sided = found.side == found.true_side
    return {
        "num_hands": found.num_clear,
        "num_found": len(error),
        "side_accuracy": float(sided.mean()),
        "gross_share": float((~near).mean()),
        "end_to_end_pa_mpjpe_mm": float(error.mean()),
        "median_mm": float(np.median(error)),
        "without_gross_mm": float(error[near & sided].mean()),
        "without_offsets_mm": float(_pa(plain, hands).mean()),
        "without_hint_mm": float(_pa(without_hint, hands).mean()),
        "hint_mm": float(pa_mpjpe_mm(hint, hands.joints_3d).mean()),
        "detector_mm": float(pa_mpjpe_mm(hands.world, hands.joints_3d).mean()),
        "detector_corrected_mm": float(pa_mpjpe_mm(world, hands.joints_3d).mean()),
        "true_landmarks_mm": float(_pa(fitter.fit(exact, world), hands).mean()),
        "true_landmarks_without_perspective_mm": float(_pa(fitter.fit(from_above, world), hands).mean()),
        "true_depths_mm": float(_pa(fitter.fit(keypoints, hands.joints_3d), hands).mean()),
        "landmark_error": float(hands.error(hands.keypoints).mean()),
        "landmark_error_corrected": float(hands.error(keypoints).mean()),
        "fit_error": float(hands.error(fitted.joints_2d.double().numpy()).mean()),
        "flip_rate": float(flipped(fitted.joints_3d.double().numpy()[sided], hands.joints_3d[sided]).mean()),
        "limit_violation_share": float((fitted.violation_deg > 10).float().mean()),
    }


def mirrored(found: RenderedHands) -> LabelledHands:
    """Hands the detector calls left, mirrored, with their truth."""
    sign = np.where(found.side == LEFT, -1.0, 1.0)[:, None, None]
    hands = found.labelled
    three, two = (np.concatenate([sign, *[np.ones_like(sign)] * more], 2) for more in (2, 1))
    return LabelledHands(
        detector=hands.detector,
        keypoints=hands.keypoints * three,
        world=hands.world * three,
        joints_2d=hands.joints_2d * two,
        joints_3d=hands.joints_3d * three,
    )


def _pa(fitted: HandFits, hands: LabelledHands) -> Float64[np.ndarray, "n"]:
    return pa_mpjpe_mm(fitted.joints_3d.double().numpy(), hands.joints_3d)


def flipped(found: Float64[np.ndarray, "n 21 3"], true: Float64[np.ndarray, "n 21 3"]) -> Bool[np.ndarray, "n"]:
    """Hands whose palm is turned by more than 90 degrees, or tilted the wrong way: its normal is nearer to the mirror image in depth of
    the true one than to that one, where the two lie 60 degrees or more apart (a palm seen flat or edge-on is its own mirror image)."""
    a, b = (points[:, PALM] - points[:, PALM].mean(1, keepdims=True) for points in (found, true))
    turned = (np.trace(_best_turn(b, a), axis1=1, axis2=2) - 1) / 2 < np.cos(np.radians(TURNED_DEG))
    normal, true_normal = _palm_normal(a), _palm_normal(b)
    mirror = true_normal * np.array([1, 1, -1])
    apart = np.abs((mirror * true_normal).sum(1)) < np.cos(np.radians(TILTS_APART_DEG))
    return turned | (apart & (np.abs((normal * mirror).sum(1)) > np.abs((normal * true_normal).sum(1))))


def _best_turn(start: Float64[np.ndarray, "n k 3"], end: Float64[np.ndarray, "n k 3"]) -> Float64[np.ndarray, "n 3 3"]:
    """The rotation that takes one set of centred points nearest to another (Kabsch, 1976)."""
    u, _, vt = np.linalg.svd(np.swapaxes(end, 1, 2) @ start)
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    return u @ vt


def _palm_normal(points: Float64[np.ndarray, "n k 3"]) -> Float64[np.ndarray, "n 3"]:
    return np.linalg.svd(points)[2][:, 2]


def write_calibration(path: Path, num_hands: int) -> None:
    """The table for `whim learn offsets`: equal shares of stills, films and sampled poses, of seeds of their own."""
    each = num_hands // len(KINDS)
    parts = [find(render(kind, CALIBRATION_SEED), each) for kind in KINDS]
    note = f"studio renders of the stand-in hand, seed {CALIBRATION_SEED}: {', '.join(KINDS)}, {each} clear hands each"
    write_labelled(path, joined(parts).labelled, note)


def main() -> None:
    """Read the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fit.end_to_end", description="Render, detect, fit, score against the truth."
    )
    parser.add_argument("--hands", type=int, default=800, help="hands rendered (%(default)s)")
    parser.add_argument("--labelled", type=Path, help="write hands for whim learn offsets here instead")
    given = parser.parse_args()
    if given.labelled:
        write_calibration(given.labelled, given.hands)
        return
    sets = {kind: find(render(kind, HELD_OUT_SEED), given.hands // 2) for kind in KINDS}
    figures: dict[str, dict[str, float]] = {
        "all": score(joined([sets["still"], sets["film"]])),
        **{kind: score(one) for kind, one in sets.items()},
    }
    for name in figures["all"]:
        print(f"{name:40s}", *(f"{kind} {one[name]:<9.4g}" for kind, one in figures.items()))
    RESULT.write_text(json.dumps({**figures, "machine": describe()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
