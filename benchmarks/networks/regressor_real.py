"""`make bench-regressor-real`: the regressor that ships, the fit and the fit with its hint on rendered albums that nobody trained on.

Hands are found as a run finds them, by MediaPipe and fusion, each picture by itself. Joints are scored apart by what the studio knows of
them: seen, behind the hand itself, behind the other hand. Nothing here was chosen on these albums: seeds from `SEED` on.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64

from benchmarks.fit.end_to_end import mirrored
from benchmarks.fit.rendered_hands import RenderedHands, Scene, find
from benchmarks.machine import describe
from fitting.files import STANDIN
from fitting.fit import Fitter
from fitting.hand.mano import LEFT, load_hand_model, pose_either_hand
from fitting.hand.similarity import aligned
from fitting.landmarks.offsets import corrected, load_offsets
from pipeline.evaluate.studio_truth import pa_mpjpe_mm
from stages.fit import Fit
from stages.tables import Hands
from studio.raster import fill
from studio.render import SUPERSAMPLE
from studio.stills import Album, render_album
from studio.truth import CLEAR_VISIBLE
from training.data.samples import squared
from training.regressor.inference import SHIPPED, HandReconstructor, crop_of

RESULT = Path(__file__).parents[1] / "results" / "regressor_real.json"
SEED = 500_000
BEHIND_M = 0.016
"""A joint so far behind the surface that the camera sees there is hidden: half a finger is 8 to 10 mm thick."""
KINDS = ("seen", "behind itself", "behind another")


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class AlbumScene(Scene):
    """A picture of an album, and of each joint which of `KINDS` it is."""

    hidden: Int64[np.ndarray, "k 21"]


def scenes(seed: int, pictures_each: int = 4) -> Iterator[AlbumScene]:
    """Pictures of albums without end, a few of each."""
    model = load_hand_model(STANDIN, dtype=torch.float64)
    for number in count(seed):
        for picture, rows in render_album(Album(seed=number, num_pictures=pictures_each, two_hands=0.5)):
            truth = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            told = [torch.as_tensor(np.asarray(truth[name], np.float64)) for name in ("betas", "global_orient", "hand_pose")]
            posed = pose_either_hand(model, torch.as_tensor(truth["side"].astype(np.int64)), *told)
            place = truth["transl"][:, None] - posed.joints.numpy()[:, :1]
            yield AlbumScene(
                image=picture.image,
                box=truth["box"].astype(np.float64),
                side=truth["side"].astype(np.int64),
                clear=truth["visible"] >= CLEAR_VISIBLE,
                joints_2d=truth["keypoints"].astype(np.float64),
                joints_3d=truth["joints_3d"].astype(np.float64),
                hidden=_hidden(posed.vertices.numpy() + place, model.faces.numpy(), truth, picture.image.shape[:2]),
            )


def _hidden(
    vertices: Float64[np.ndarray, "k 778 3"], faces: np.ndarray, truth: dict[str, np.ndarray], size: tuple[int, int]
) -> Int64[np.ndarray, "k 21"]:
    """Number in `KINDS` of what hides each joint, from depth images of each hand alone."""
    depths = []
    for points in vertices:
        focal, middle = float(truth["focal_px"][0]), np.array(size[::-1]) / 2
        pixels = focal * points[:, :2] / points[:, 2:] + middle
        face_at, depth_at = (
            np.full([SUPERSAMPLE * s for s in size], -1, np.int32),
            np.full([SUPERSAMPLE * s for s in size], np.inf, np.float32),
        )
        fill(pixels * SUPERSAMPLE - 0.5, points[:, 2], faces.astype(np.int32), face_at, depth_at)
        depths.append(depth_at)
    found = np.zeros((len(vertices), 21), np.int64)
    for hand in range(len(vertices)):
        at = np.clip((truth["keypoints"][hand] * SUPERSAMPLE).astype(int), 0, np.array(depths[0].shape[::-1]) - 1)
        depth = truth["joints_3d"][hand, :, 2] + truth["transl"][hand, 2] - BEHIND_M
        for other, image in enumerate(depths):
            before = image[at[:, 1], at[:, 0]] < depth
            found[hand] = np.where(before, 1 if other == hand else 2, found[hand])
    return found


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Regressed:
    """Joints in space that the regressor says of each found hand, of the side that was found."""

    network: HandReconstructor
    coarse: list[np.ndarray] = field(default_factory=list)
    refined: list[np.ndarray] = field(default_factory=list)
    hidden: list[np.ndarray] = field(default_factory=list)

    def __call__(self, scene: Scene, hands: Hands, true: Int64[np.ndarray, "k"]) -> None:
        """Look at the found hands of one picture, left ones mirrored."""
        assert isinstance(scene, AlbumScene)
        self.hidden.extend(scene.hidden[true])
        for box, side, keypoints in zip(hands.box, hands.side, hands.keypoints, strict=True):
            to_input, crop = squared(box, 256, 2.0), np.empty((256, 256, 3), np.uint8)
            crop_of(scene.image, to_input, crop, mirrored=side == LEFT)
            points = (keypoints[:, :2] * to_input[0] + to_input[1:]) / 256 - 0.5
            points = points * ([-1, 1] if side == LEFT else [1, 1])
            with torch.inference_mode():
                image = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
                said = self.network.network(image, torch.from_numpy(points[None].astype(np.float32)))
            self.coarse.append(said[0].joints[0].numpy())
            self.refined.append(said[-1].joints[0].numpy())


def measure(found: RenderedHands, regressed: Regressed) -> dict[str, Any]:
    """Millimetres of every estimate of the same hands, and of its joints by what hides them."""
    hands = mirrored(found)
    fitter = Fitter(load_hand_model(STANDIN), Fit().settings)
    keypoints, world = corrected(hands.keypoints, hands.world, load_offsets()["mediapipe"])
    hint = found.hint[..., :3] * np.where(found.side == LEFT, -1.0, 1.0)[:, None, None] ** np.array([1, 0, 0])
    estimates = {
        "coarse": np.stack(regressed.coarse).astype(np.float64),
        "refined": np.stack(regressed.refined).astype(np.float64),
        "mediapipe": hands.world,
        "hint": hint,
        "fit": fitter.fit(keypoints, world).joints_3d.double().numpy(),
        "fit_with_hint": fitter.fit(keypoints, hint, deviation=found.hint[..., 3]).joints_3d.double().numpy(),
    }
    hidden = np.stack(regressed.hidden)
    by_joint = {name: 1000 * np.linalg.norm(aligned(of, hands.joints_3d) - hands.joints_3d, axis=2) for name, of in estimates.items()}
    kinds = {
        kind: {name: round(float(gap[hidden == number].mean()), 2) for name, gap in by_joint.items()}
        | {"joints": int((hidden == number).sum())}
        for number, kind in enumerate(KINDS)
        if (hidden == number).any()
    }
    millimetres = {name: round(float(pa_mpjpe_mm(of, hands.joints_3d).mean()), 2) for name, of in estimates.items()}
    return {"pa_mpjpe_mm": millimetres, "hidden_joint_mm": kinds, "num_hands": len(hidden), "num_clear": found.num_clear}


def main() -> None:
    """Read the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks.regressor_real", description=__doc__)
    parser.add_argument("--hands", type=int, default=400, help="clearly seen, in pictures of albums (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    regressed = Regressed(network=HandReconstructor.load(SHIPPED))
    found = find(scenes(SEED), given.hands, regressed)
    result = measure(found, regressed) | {"seed": SEED, "machine": describe()}
    two = RESULT.parent / "fit_quality.json"
    result["two_hands"] = json.loads(two.read_text()).get("two_hands") if two.exists() else None
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
