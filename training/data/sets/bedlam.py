"""BEDLAM's hands (Black et al., CVPR 2023), official files: `training_labels/all_npz_12_training/SCENE.npz` and
`training_images/SCENE/png/seq_000000/seq_000000_0000.png`.

People are SMPL-X with flat_hand_mean: `pose_cam` holds 55 rotations, of the whole body in the camera's axes first, and `gtkps` SMPL-X's
joints in the image. A hand's turn is the product along the arm; its 15 rotations are MANO's; its shape is the body's and no MANO's, so that
betas and joints in space stay unknown. Scenes called closeup were rendered on their side: their labels are of the image turned upright,
and are turned back here.
"""

from pathlib import Path

import numpy as np
import torch

from fitting.files import read_arrays
from fitting.hand.mano import LEFT, RIGHT
from fitting.hand.rotation import axis_angle_from_matrix, matrix_from_axis_angle
from training.data.sets.hand_crops import PIXEL_MIDDLE, HandCrops, training_crops

ARMS = {LEFT: (0, 3, 6, 9, 13, 16, 18, 20), RIGHT: (0, 3, 6, 9, 14, 17, 19, 21)}
"""SMPL-X's joints from the pelvis to a wrist."""
FIRST_FINGER = {LEFT: 25, RIGHT: 40}
"""Rows of the 15 joints of a hand, in MANO's order: index, middle, little, ring, thumb."""
FIRST_TIP = {LEFT: 66, RIGHT: 71}
"""Rows of the five tips, thumb to little finger, of smplx's vertices."""
SIDEWAYS = "closeup"
HEIGHT = 720
"""Of the images as they are stored, pixels."""
WHERE = "get BEDLAM's images and all_npz_12_training.zip from bedlam.is.tue.mpg.de, and unpack them"


def rows_of(side: int) -> list[int]:
    """For each of OpenPose's keypoints, its row among SMPL-X's joints."""
    first, tip = FIRST_FINGER[side], FIRST_TIP[side]
    fingers = {"thumb": 12, "index": 0, "middle": 3, "ring": 9, "little": 6}
    of_fingers = [[first + start + k for k in range(3)] + [tip + number] for number, start in enumerate(fingers.values())]
    return [ARMS[side][-1], *(row for finger in of_fingers for row in finger)]


def bedlam(folder: Path) -> HandCrops:
    """Both hands of every labelled person whose keypoints lie in the image. Raises as the other readers."""
    places = [folder / "training_labels" / "all_npz_12_training", folder / "all_npz_12_training"]
    labels = sorted(path for place in places for path in place.glob("*.npz"))
    if not labels:
        raise FileNotFoundError(f"{folder} has no training_labels/all_npz_12_training/*.npz: {WHERE}")
    images: list[str] = []
    side, points, orient, pose = [], [], [], []
    for path in labels:
        told = read_arrays(path, ("imgname", "pose_cam", "gtkps"))
        if set(told) != {"imgname", "pose_cam", "gtkps"} or told["gtkps"].shape[1] < max(FIRST_TIP.values()) + 5:
            raise ValueError(f"{path} lacks imgname, pose_cam or gtkps with SMPL-X's joints: {WHERE}")
        place = folder / "training_images" / path.stem / "png"
        names = [f"{place}/{name.decode() if isinstance(name, bytes) else name}" for name in told["imgname"].tolist()]
        turns = matrix_from_axis_angle(torch.as_tensor(told["pose_cam"].astype(np.float64)).reshape(len(names), -1, 3))
        seen, back = told["gtkps"][..., :2].astype(np.float64), np.eye(3)
        if SIDEWAYS in path.stem:  # upright (u, v) is (v, height - 1 - u) of the image as it is stored
            seen = np.stack([seen[..., 1], HEIGHT - 1 - seen[..., 0]], -1)
            back = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
        for of, arm in ARMS.items():
            whole = torch.as_tensor(back)
            for joint in arm:
                whole = whole @ turns[:, joint]
            first = FIRST_FINGER[of]
            images += names
            side.append(np.full(len(names), of))
            points.append(np.concatenate([seen[:, rows_of(of)] + PIXEL_MIDDLE, np.ones((len(names), 21, 1))], 2))
            orient.append(axis_angle_from_matrix(whole).numpy())
            pose.append(told["pose_cam"].astype(np.float64).reshape(len(names), -1)[:, 3 * first : 3 * first + 45])
    return training_crops(
        "bedlam training",
        images,
        np.concatenate(side),
        points=np.concatenate(points),
        global_orient=np.concatenate(orient),
        hand_pose=np.concatenate(pose),
    )
