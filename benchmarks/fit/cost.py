"""The least cost of a fit: multiply-adds counted from the formulas, and the rate at which this machine multiplies matrices."""

import time

import torch

from fitting.priors.prior import NUM_COMPONENTS as COMPONENTS

POINTS, BONES, FINGERS, BETAS, ROWS_OF_G, VERTICES, UNKNOWNS = 21, 15, 5, 10, 135, 778, 61


def triangle(n: int) -> int:
    """Entries of one half of a symmetric n x n matrix."""
    return n * (n + 1) // 2


def multiply_adds_of_iteration() -> dict[str, int]:
    """Multiply-adds of one Levenberg-Marquardt iteration without world landmarks, by term; known zeros and symmetry are not counted.

    A finger's point hangs on 0, 1, 2 and (the tip) 3 joints of its finger, so that its two rows of the Jacobian have 16 entries (root 3,
    betas 10, scale 1, shift 2) and 0, 3, 6 and 9 more. The prior's matrix is J'QJ with Q = inertia (x) I - E'E (`PosePrior`): joint k
    of a finger moves the 9 entries of each of its bones from k on.
    """
    hangs = (0, 3, 6, 9)
    moved = FINGERS * 3 * (27 + 18 + 9)  # entries of J, the Jacobian of the bone rotations
    pairs = triangle(BONES)
    return {
        "rotations of the step": 16 * (27 + 20),
        "shape": (BONES + FINGERS) * 3 * BETAS,
        "correctives of the tips": FINGERS * 3 * ROWS_OF_G,
        "forward kinematics": BONES * (27 + 9) + FINGERS * 4 * (9 + 3),
        "projection and robust weights": POINTS * 10,
        "joint angles": BONES * (54 + 27 + 27),
        "bone lengths": 20 * (3 * BETAS + triangle(BETAS)),
        "Jacobian of the points": 2 * POINTS * 9 + 2 * 3 * FINGERS * sum(hangs) + (BONES * 9 + FINGERS * 4 * 9) * BETAS,
        "J'WJ of the points": 2 * FINGERS * sum(triangle(16 + h) + 16 + h for h in hangs),
        "energy and slope of the prior": 45 * 45 * 3 + 2 * COMPONENTS * ROWS_OF_G + moved,
        "J of the prior": 2 * moved,
        "(EJ)'(EJ) of the prior": COMPONENTS * (moved + triangle(45)),
        "J'(inertia (x) I)J of the prior": pairs * (27 + 2 * 9 + 2 * 27),
        "Cholesky and two solves": UNKNOWNS**3 // 6 + UNKNOWNS**2,
    }


def multiply_adds_of_mesh() -> int:
    """Multiply-adds of the 778 vertices, posed once at the end for the box: shape, correctives, blended transforms."""
    return VERTICES * (3 * BETAS + 3 * ROWS_OF_G + 16 * 12 + 12)


def flops_of_hand(num_iterations: float) -> float:
    """Two a multiply-add; `num_iterations` over both tilts together, on average."""
    return 2 * (num_iterations * sum(multiply_adds_of_iteration().values()) + multiply_adds_of_mesh())


def sgemm_gflops(num_threads: int, device: str = "cpu", side: int = 2048) -> float:
    """float32 matrix product, the best of ten: what the machine gives at most."""
    torch.set_num_threads(num_threads)
    matrix = torch.randn(side, side, device=device)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9
