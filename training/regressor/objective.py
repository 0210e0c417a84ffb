"""The regressor's loss of a batch: the terms of eq. 8 of every estimate, from the coarse to the most refined, weighted and masked (WiLoR).

A term is a mean over the batch; a hand whose truth is unknown counts as 0 in it. The divisor does not depend on which truth is known,
so that the gradient is the same however a batch is shared among ranks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from training.regressor.losses import adversarial_loss, angles_loss, betas_loss, matrices_loss, point_loss, shape_loss
from training.regressor.network import HandEstimate
from training.regressor.targets import HandTargets


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressorLossWeights:
    """Weights of the terms. The release sums where we take means: its weights times the numbers in its sums are ours, in round figures."""

    vertices: float = 3.0
    """The paper's L_3D, which the release lacks; as the joints."""
    joints: float = 3.0
    """Release: 0.05 x 63."""
    points: float = 0.4
    """Release: 0.01 x 42."""
    rotations: float = 1.5
    """Ten times the release's 0.001 x 144, by which, from scratch, fingers bend to make up for the turn of the hand. Ours."""
    betas: float = 0.005
    """Release: 0.0005 x 10."""
    adversarial: float = 0.008
    """Release: 0.0005 x 17."""
    rotation_loss: Literal["matrices", "angles"] = "matrices"
    """matrices: of the rotations' entries (HaMeR, release); angles: the paper's."""
    coarse: float = 0.5
    """Share of every estimate before the last; the release supervises the last alone, and its coarse hand stays poor. Ours."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "rotation_loss" and not 0 <= getattr(self, field.name) < float("inf"):
                raise ValueError(f"regressor_loss_weights.{field.name} must be 0 or more, got {getattr(self, field.name)}")


class Terms(NamedTuple):
    """One value a hand, unweighted; 0 where the truth is unknown."""

    vertices: Float[Tensor, "b"]
    joints: Float[Tensor, "b"]
    points: Float[Tensor, "b"]
    rotations: Float[Tensor, "b"]
    betas: Float[Tensor, "b"]


def hand_terms(prediction: HandEstimate, targets: HandTargets, rotation_loss: Literal["matrices", "angles"] = "matrices") -> Terms:
    """The terms of one estimate, in float32 whatever the network ran in."""
    of_rotations = {"matrices": matrices_loss, "angles": angles_loss}[rotation_loss]
    prediction = HandEstimate(*(values.float() for values in prediction))
    prediction_wrist, wrist = prediction.joints[:, 0], targets.joints[:, 0]
    return Terms(
        vertices=(targets.has_mano & targets.has_betas) * shape_loss(prediction.vertices, targets.vertices, prediction_wrist, wrist),
        joints=targets.has_joints * shape_loss(prediction.joints, targets.joints, prediction_wrist, wrist),
        points=point_loss(prediction.points, targets.points, targets.confidence),
        rotations=targets.has_mano * of_rotations(prediction.rotations, targets.rotations),
        betas=targets.has_betas * betas_loss(prediction.betas, targets.betas),
    )


def regressor_loss(
    predictions: Sequence[HandEstimate],
    targets: HandTargets,
    weights: RegressorLossWeights,
    opinions: Sequence[Float[Tensor, "b outputs"]] = (),
) -> dict[str, Float[Tensor, ""]]:
    """Weighted terms by name, those of earlier estimates as `coarse_...`; their sum is the loss.

    `opinions` is the discriminator's word on each estimate; without it there is no adversarial term.
    """
    losses: dict[str, Tensor] = {}
    for number, estimate in enumerate(predictions):
        last = number == len(predictions) - 1
        terms = hand_terms(estimate, targets, weights.rotation_loss)._asdict()
        if opinions:
            terms["adversarial"] = adversarial_loss(opinions[number].float())
        for name, values in terms.items():
            key = name if last else f"coarse_{name}"
            weight = getattr(weights, name) * (1.0 if last else weights.coarse)
            losses[key] = losses.get(key, values.new_zeros(())) + weight * (targets.weight * values).mean()
    return losses
