"""What is known of the hand in each crop of a batch: the regressor's targets.

Frame of reference: every crop shows a right hand; a left one is mirrored with its picture, x -> -x. Camera axes of the crop as the
network sees it (x right, y down, z forward), so that a crop turned by its augmentation turns the truth about z. Crop units: the
square's middle is 0, its borders are -0.5 and 0.5. What is unknown is 0 and masked, never NaN, so that gradients stay finite.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor


class HandTruth(NamedTuple):
    """Of a batch of crops. A sample with 2D points only has `has_joints`, `has_mano` and `has_betas` false."""

    rotations: Float[Tensor, "b 16 3 3"]  # global orientation, then MANO's 15 joints in its order, the mean pose added
    betas: Float[Tensor, "b 10"]
    vertices: Float[Tensor, "b 778 3"]  # metres, about any origin: what is compared is relative to the wrist
    joints: Float[Tensor, "b 21 3"]  # metres, OpenPose's order, about the vertices' origin
    points: Float[Tensor, "b 21 2"]  # the joints in the crop, crop units
    confidence: Float[Tensor, "b 21"]  # of the points, in [0, 1]; 0 where unknown
    has_mano: Bool[Tensor, "b"]  # rotations and vertices are known
    has_betas: Bool[Tensor, "b"]
    has_joints: Bool[Tensor, "b"]
    weight: Float[Tensor, "b"]  # of the sample in every term, in [0, 1]: 1 for measured truth, the review's quality for a fit
