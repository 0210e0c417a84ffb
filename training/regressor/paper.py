"""Numbers that WiLoR's paper gives of itself and of others: its Tables 3 to 6."""

import math
from collections.abc import Mapping, Sequence

FREIHAND: Mapping[str, Sequence[float]] = {
    "I2L-MeshNet": (7.4, 7.6, 0.681, 0.973),
    "Pose2Mesh": (7.7, 7.8, 0.674, 0.969),
    "I2UV-HandNet": (6.7, 6.9, 0.707, 0.977),
    "METRO": (6.5, 6.3, 0.731, 0.984),
    "Tang et al.": (6.7, 6.7, 0.724, 0.981),
    "Mesh Graphormer": (5.9, 6.0, 0.764, 0.986),
    "MobRecon": (5.7, 5.8, 0.784, 0.986),
    "AMVUR": (6.2, 6.1, 0.767, 0.987),
    "HaMeR": (6.0, 5.7, 0.785, 0.990),
    "WiLoR": (5.5, 5.1, 0.825, 0.993),
}
"""PA-MPJPE and PA-MPVPE, mm, F@5 and F@15: WiLoR, Table 3."""

HO3D: Mapping[str, Sequence[float]] = {
    "Liu et al.": (0.803, 9.9, 0.810, 9.5, 0.528, 0.956),
    "HandOccNet": (0.819, 9.1, 0.819, 8.8, 0.564, 0.963),
    "I2UV-HandNet": (0.804, 9.9, 0.799, 10.1, 0.500, 0.943),
    "Hampali et al.": (0.788, 10.7, 0.790, 10.6, 0.506, 0.942),
    "Hasson et al.": (0.780, 11.0, 0.777, 11.2, 0.464, 0.939),
    "ArtiBoost": (0.773, 11.4, 0.782, 10.9, 0.488, 0.944),
    "Pose2Mesh": (0.754, 12.5, 0.749, 12.7, 0.441, 0.909),
    "I2L-MeshNet": (0.775, 11.2, 0.722, 13.9, 0.409, 0.932),
    "METRO": (0.792, 10.4, 0.779, 11.1, 0.484, 0.946),
    "MobRecon": (math.nan, 9.2, math.nan, 9.4, 0.538, 0.957),
    "Keypoint Transformer": (0.786, 10.8, *[math.nan] * 4),
    "AMVUR": (0.835, 8.3, 0.836, 8.2, 0.608, 0.965),
    "HaMeR": (0.846, 7.7, 0.841, 7.9, 0.635, 0.980),
    "WiLoR": (0.851, 7.5, 0.846, 7.7, 0.646, 0.983),
}
"""AUC of joints, PA-MPJPE, AUC of vertices, PA-MPVPE, F@5 and F@15 on version 2: WiLoR, Table 4."""

MOTION: Mapping[str, Sequence[float]] = {
    "Mesh Graphormer": (21.86, 4.99, 41.16, 7.92),
    "MobRecon": (22.18, 6.09, 40.25, 8.03),
    "SimpleHand": (19.72, 5.12, 38.53, 6.04),
    "HaMeR": (10.60, 1.768, 20.43, 2.92),
    "WiLoR": (4.43, 0.762, 5.92, 0.07),
}
"""MPFVE and MPFJE x 100, jitter and RTE on HO3D: WiLoR, Table 6."""

ABLATIONS: Mapping[str, tuple[str, Sequence[float]]] = {
    "regressor_fastvit": ("Proposed w. FastViT", (6.5, 6.3, 0.741, 0.967)),
    "regressor_no_vitpose": ("Proposed w/o ViTPose", (5.9, 5.7, 0.795, 0.989)),
    "regressor_single_scale": ("Proposed w. Single-Scale", (6.0, 5.9, 0.793, 0.991)),
    "regressor_no_refinement": ("Proposed w/o Refinement", (6.1, 5.8, 0.795, 0.991)),
    "regressor_freihand": ("Proposed w. FreiHAND", (6.1, 5.8, 0.793, 0.990)),
    "regressor_hamer": ("Proposed w. Datasets [HaMeR]", (5.9, 5.7, 0.805, 0.992)),
    "regressor_full": ("Proposed Full", (5.5, 5.1, 0.825, 0.993)),
}
"""The row and its figures as in `FREIHAND`, by the recipe that trains it: WiLoR, Table 5."""
