"""The rotation, scale and shift that bring points nearest to others: the Procrustes problem of many hands at once, in closed form."""

import numpy as np
from jaxtyping import Float, Float64


def aligned(
    said: Float[np.ndarray, "n points 3"], true: Float[np.ndarray, "n points 3"], *, mirrored: bool = False, scaled: bool = True
) -> Float64[np.ndarray, "n points 3"]:
    """`said` as near to `true` as a similarity brings it, by least squares (Umeyama, 1991, eq. 39-43).

    `mirrored` lets the rotation be a reflection, as orthogonal Procrustes does; without `scaled` the size stays. Points that all lie
    in one place come to lie in the middle of the others.
    """
    middle = true.astype(np.float64).mean(1, keepdims=True)
    a, b = said - said.astype(np.float64).mean(1, keepdims=True), true - middle
    u, stretch, vt = np.linalg.svd(np.swapaxes(a, 1, 2) @ b)
    sign = np.ones_like(stretch)
    if not mirrored:
        sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    scale = (stretch * sign).sum(1) / np.maximum((a**2).sum((1, 2)), 1e-18) if scaled else np.ones(len(said))
    return scale[:, None, None] * (a @ ((u * sign[:, None]) @ vt)) + middle
