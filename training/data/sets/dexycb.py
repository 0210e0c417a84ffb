"""DexYCB (Chao et al., CVPR 2021), official files: `20200709-subject-01/SEQUENCE/{meta.yml, SERIAL/{color,labels}_000000.{jpg,npz}}` and
`calibration/{intrinsics/SERIAL_640x480.yml, mano_CALIBRATION/mano.yml}`.

A frame's labels tell 21 joints in OpenPose's order, metres before the camera (-1 where there is no hand), and 51 numbers of MANO: the
turn, 45 components of its pose PCA about the mean pose, and a shift. Those of left hands are MANO_LEFT's, fitted with its wrong
`shapedirs`: of them the joints alone are taken.
"""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fitting.files import read_arrays
from fitting.hand.mano import LEFT, RIGHT, load_hand_model
from training.data.sets.hand_crops import HandCrops, training_crops

WHERE = "get DexYCB from dex-ycb.github.io, and unpack it"


def dexycb(folder: Path, *, every: int = 1) -> HandCrops:
    """The hands of its split s0 to train on, four sequences of five of each subject, or every n-th frame. Raises as the other readers."""
    model = load_hand_model()
    components, mean = (values.numpy().astype(np.float64) for values in (model.hands_components, model.hands_mean))
    rows: dict[str, list[Any]] = {name: [] for name in ("image", "side", "joints", "matrix", "betas", "global_orient", "hand_pose")}
    for subject in sorted(folder.glob("20*-subject-*")):
        for number, sequence in enumerate(sorted(path for path in subject.iterdir() if path.is_dir())):
            if number % 5 == 4:
                continue
            meta = _yaml(sequence / "meta.yml")
            side = {"left": LEFT, "right": RIGHT}[meta["mano_sides"][0]]
            betas = _yaml(folder / "calibration" / f"mano_{meta['mano_calib'][0]}" / "mano.yml")["betas"]
            for serial in meta["serials"]:
                lens = _yaml(folder / "calibration" / "intrinsics" / f"{serial}_640x480.yml")["color"]
                matrix = [[lens["fx"], 0, lens["ppx"]], [0, lens["fy"], lens["ppy"]], [0, 0, 1]]
                for labels in sorted((sequence / str(serial)).glob("labels_*.npz"))[::every]:
                    told = read_arrays(labels, ("joint_3d", "pose_m"))
                    joints, pose = (told[name].astype(np.float64).reshape(shape) for name, shape in (("joint_3d", (21, 3)), ("pose_m", 51)))
                    if (joints == -1).all() or not pose.any():
                        continue
                    rows["image"].append(str(labels.with_name(labels.name.replace("labels_", "color_")).with_suffix(".jpg")))
                    rows["side"].append(side)
                    rows["joints"].append(joints)
                    rows["matrix"].append(matrix)
                    known = 1.0 if side == RIGHT else np.nan
                    rows["betas"].append(known * np.array(betas, np.float64))
                    rows["global_orient"].append(known * pose[:3])
                    rows["hand_pose"].append(known * (pose[3:48] @ components + mean))
    if not rows["image"]:
        raise FileNotFoundError(f"{folder} has no *-subject-*/*/*/labels_*.npz with a hand: {WHERE}")
    columns = {name: np.array(values, np.float64) for name, values in rows.items() if name not in ("image", "side")}
    return training_crops("dexycb s0 train", rows["image"], np.array(rows["side"]), **columns)


def _yaml(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {WHERE}")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} cannot be read as YAML ({error}): {WHERE}") from error
