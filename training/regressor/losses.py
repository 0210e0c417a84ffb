"""The terms of the regressor's loss (WiLoR, eq. 8), one value a hand, unreduced: means over points, not sums.

Frame of reference: as `training.regressor.targets`.
"""

from jaxtyping import Float
from torch import Tensor

from fitting.hand.rotation import axis_angle_from_matrix


def shape_loss(
    prediction: Float[Tensor, "b points 3"],
    target: Float[Tensor, "b points 3"],
    prediction_wrist: Float[Tensor, "b 3"],
    target_wrist: Float[Tensor, "b 3"],
) -> Float[Tensor, "b"]:
    """L_3D of vertices or of joints: absolute difference of the coordinates relative to the wrist, metres, mean over points and axes."""
    return ((prediction - prediction_wrist[:, None]) - (target - target_wrist[:, None])).abs().mean((1, 2))


def point_loss(
    prediction: Float[Tensor, "b 21 2"], target: Float[Tensor, "b 21 2"], confidence: Float[Tensor, "b 21"]
) -> Float[Tensor, "b"]:
    """L_2D: absolute difference in the crop, crop units, times the confidence; mean over all points, so that a hand half seen says less."""
    return (confidence[..., None] * (prediction - target).abs()).mean((1, 2))


def matrices_loss(prediction: Float[Tensor, "b 16 3 3"], target: Float[Tensor, "b 16 3 3"]) -> Float[Tensor, "b"]:
    """L_mano's first half: squared difference of the rotation matrices, mean over their entries (HaMeR; the paper writes angles)."""
    return ((prediction - target) ** 2).mean((1, 2, 3))


def angles_loss(prediction: Float[Tensor, "b 16 3 3"], target: Float[Tensor, "b 16 3 3"]) -> Float[Tensor, "b"]:
    """L_mano's first half as the paper writes it: squared difference of the 48 angles, mean; at half a turn they jump, matrices do not."""
    return ((axis_angle_from_matrix(prediction) - axis_angle_from_matrix(target)) ** 2).mean((1, 2))


def betas_loss(prediction: Float[Tensor, "b 10"], target: Float[Tensor, "b 10"]) -> Float[Tensor, "b"]:
    """L_mano's second half: squared difference, mean over the ten."""
    return ((prediction - target) ** 2).mean(1)


def adversarial_loss(of_estimate: Float[Tensor, "b outputs"]) -> Float[Tensor, "b"]:
    """L_adv: how far the discriminator's outputs are from 1, what it says of real hands (LSGAN; Mao et al., ICCV 2017, eq. 9)."""
    return ((of_estimate - 1) ** 2).mean(1)


def discriminator_loss(of_real: Float[Tensor, "b outputs"], of_estimate: Float[Tensor, "b outputs"]) -> Float[Tensor, "b"]:
    """The discriminator's own loss: 1 for real hands, 0 of estimated ones (the same, with a = 0, b = 1)."""
    return ((of_real - 1) ** 2).mean(1) + (of_estimate**2).mean(1)
