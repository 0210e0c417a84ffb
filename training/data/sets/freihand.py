"""FreiHAND (Zimmermann et al., ICCV 2019), official files: `training_xyz.json` and so on, `training/rgb/00000000.jpg`, and `evaluation`'s.

Images are 224 x 224 with a right hand in the middle. Of `mano` there are 61 numbers a hand: 48 angles about MANO's mean pose, 10 betas,
the root's pixel and its scale. Each training hand has four images, with other backgrounds. The length of a bone that the set tells
besides (`scale`) is not used: no other image comes with one.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fitting.hand.mano import load_hand_model
from hands.metrics.hands import Hands3D
from training.data.sets.hand_crops import HandCrops, box_of, columns_of, projected, with_our_tips

SIDE = 224
"""Side of the images, pixels."""
TIPS = (744, 320, 443, 555, 672)
"""Its toolbox's `kpId2vertices`."""
WHERE = "get FreiHAND_pub_v2 and FreiHAND_pub_v2_eval from lmb.informatik.uni-freiburg.de/projects/freihand, and unzip both into it"


def freihand(folder: Path, split: Literal["training", "evaluation"], *, versions: int = 4) -> HandCrops:
    """The crops of a split; of training images the first `versions` kinds of background (1: the green screen alone).

    A training crop is around the projected joints; an evaluation crop shows the whole image, so that nothing is told of where the
    hand is. MANO's parameters are NaN where the stand-in hand is in use, to which they mean nothing. Raises FileNotFoundError for
    a file that is missing, ValueError for one that is damaged.
    """
    if not 1 <= versions <= 4:
        raise ValueError(f"freihand.versions must lie in [1, 4], got {versions}")
    joints, matrix = _read(folder, split, "xyz", (21, 3)), _read(folder, split, "K", (3, 3))
    if len(matrix) != len(joints):
        raise ValueError(f"{folder}: {split}_K.json has {len(matrix)} entries, {split}_xyz.json {len(joints)}: {WHERE}")
    training = split == "training"
    copies = versions if training else 1
    images = [folder / split / "rgb" / f"{number:08d}.jpg" for number in range(copies * len(joints))]
    missing = next((path for path in (images[0], images[-1]) if not path.is_file()), None)
    if missing:
        raise FileNotFoundError(f"{missing} is missing: {WHERE}")
    middle_half = np.tile([SIDE / 4, SIDE / 4, 3 * SIDE / 4, 3 * SIDE / 4], (len(joints), 1))
    parameters = _parameters(folder, len(joints)) if training else {}
    columns = columns_of(with_our_tips(joints, parameters), matrix, **parameters)
    return HandCrops(
        name=f"freihand {split}",
        images=images,
        box=np.tile(box_of(projected(joints, matrix)) if training else middle_half, (copies, 1)),
        columns={name: np.tile(values, (copies, *[1] * (values.ndim - 1))) for name, values in columns.items()},
        matrix=np.tile(matrix, (copies, 1, 1)),
        truth=None if training else Hands3D(joints, _read(folder, split, "verts", (778, 3))),
        tips=TIPS,
        sequence=[path.stem for path in images],
        frame=np.zeros(len(images), np.int64),
    )


def _parameters(folder: Path, count: int) -> dict[str, np.ndarray]:
    """MANO's, of the hand model in use; none where that is the stand-in."""
    model = load_hand_model()
    if model.source != "mano":
        return {}
    mano = _read(folder, "training", "mano", (61,))
    if len(mano) != count:
        raise ValueError(f"{folder}: training_mano.json has {len(mano)} entries, training_xyz.json {count}: {WHERE}")
    hand_pose = mano[:, 3:48] + model.hands_mean.numpy()
    return {"global_orient": mano[:, :3], "hand_pose": hand_pose, "betas": mano[:, 48:58]}


def _read(folder: Path, split: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """One annotation file as an array [n, *shape]."""
    path = folder / f"{split}_{kind}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {WHERE}")
    try:
        told: Any = json.loads(path.read_text())
        return np.array(told, np.float64).reshape(len(told), *shape)
    except ValueError as error:
        raise ValueError(f"{path} is no FreiHAND {kind} file ({error}): {WHERE}") from error
