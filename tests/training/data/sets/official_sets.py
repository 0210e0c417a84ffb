"""Tiny folders of published sets, made to what their own documents say of files, axes, units, sides and orders, from hands that are known.

Each image shows a spot on the wrist of its hand. The orders are spelled here as the documents spell them, apart from the readers.
"""

import io
import json
import pickle
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from fitting.hand.mano import LEFT, OPENPOSE_ORDER, RIGHT, HandModel
from tests.training.data.sets.hand_sets import Posed, seen, spotted

MATRIX = np.array([[600.0, 0, 160], [0, 590, 120], [0, 0, 1]])
SIZE = (320, 240)
MIRROR = np.array([-1.0, 1, 1])
TURN = Rotation.from_rotvec([0.3, -0.5, 0.2]).as_matrix()
"""Of a camera, from world axes to its own."""
SHIFT = np.array([0.1, -0.2, 0.3])
OPENGL = np.array([1.0, -1, -1])


class Hand(NamedTuple):
    """A hand of its own side before the camera."""

    side: int
    joints: np.ndarray
    betas: np.ndarray
    orient: np.ndarray
    pose: np.ndarray
    rest_wrist: np.ndarray
    """Where smplx puts the wrist of this shape."""

    @property
    def pixels(self) -> np.ndarray:
        """Counted from pixels' middles."""
        return seen(self.joints, MATRIX)


class Made(NamedTuple):
    """A folder, and the hands that its reader should find, in its order."""

    folder: Path
    hands: Sequence[Hand]
    space: bool = True
    mano: bool = True
    shape: bool = True
    left_mano: bool = True
    left_shape: bool = True


def sided(hands: Posed, model: HandModel) -> list[Hand]:
    """Right and left hands by turns; a left one is a right one in the mirror."""
    found = []
    for k, (betas, orient, pose, joints) in enumerate(zip(hands.betas, hands.global_orient, hands.hand_pose, hands.joints, strict=True)):
        shaped = model.v_template.numpy() + model.shapedirs.numpy() @ betas
        rest = (model.J_regressor.numpy() @ shaped)[0]
        if k % 2:
            flip = np.array([1.0, -1, -1])
            found.append(Hand(LEFT, joints * MIRROR, betas, orient * flip, pose * np.tile(flip, 15), rest * MIRROR))
        else:
            found.append(Hand(RIGHT, joints, betas, orient, pose, rest))
    return found


def write_image(path: Path, hand: Hand, pixel: np.ndarray | None = None, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), spotted(hand.pixels[0] if pixel is None else pixel, *size))
    return path


def jpeg(hand: Hand, pixel: np.ndarray | None = None, size: tuple[int, int] = SIZE) -> bytes:
    return cv2.imencode(".jpg", spotted(hand.pixels[0] if pixel is None else pixel, *size))[1].tobytes()


def dumped(value: Any) -> bytes:
    """Pickled as Python 2 with numpy 1 would."""
    return pickle.dumps(value, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def tips_first(joints: np.ndarray) -> np.ndarray:
    """Thumb to little finger, each from its tip to the palm."""
    return np.concatenate([joints[[4 + 4 * finger, 3 + 4 * finger, 2 + 4 * finger, 1 + 4 * finger]] for finger in range(5)])


def about_mean(hand: Hand, model: HandModel) -> np.ndarray:
    mean = model.hands_mean.numpy()
    return hand.pose - (mean if hand.side == RIGHT else mean * np.tile([1.0, -1, -1], 15))


def in_world(hand: Hand) -> tuple[np.ndarray, np.ndarray]:
    """MANO's turn and shift in world axes: X = TURN x + SHIFT."""
    orient = Rotation.from_matrix(TURN.T @ Rotation.from_rotvec(hand.orient).as_matrix()).as_rotvec()
    return orient, (hand.joints[0] - SHIFT) @ TURN - hand.rest_wrist


def rhd(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    told = {}
    for k, hand in enumerate(hands):
        rows = slice(0, 21) if hand.side == LEFT else slice(21, 42)
        uv, xyz = np.zeros((42, 3)), np.ones((42, 3))
        order = [np.concatenate([points[:1], tips_first(points)]) for points in (hand.pixels, hand.joints)]
        uv[rows, :2], uv[rows, 2], xyz[rows] = order[0], 1, order[1]
        told[k] = {"uv_vis": uv, "xyz": xyz, "K": MATRIX}
        write_image(folder / "training" / "color" / f"{k:05d}.png", hand)
    (folder / "training" / "anno_training.pickle").write_bytes(dumped(told))
    return Made(folder, hands, mano=False)


def mtc(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    data, cameras = [], {}
    for k, hand in enumerate(hands):
        name, frame = f"17102{k}_pose1", f"{k:08d}"
        views = {3: {"occluded": [0] * 21, "insideImg": [1] * 21, "overlap": False}}
        views[4] = views[3] | ({"overlap": True} if k % 2 else {"occluded": [0] * 20 + [1]})
        world = (hand.joints - SHIFT) @ TURN * 100
        side = "left_hand" if hand.side == LEFT else "right_hand"
        data.append({"seqName": name, "frame_str": frame, "id": 0, side: {"landmarks": world.ravel().tolist(), "2D": views}})
        camera = {"K": MATRIX, "R": TURN, "t": 100 * SHIFT[:, None], "distCoef": np.zeros(5)}
        cameras[name] = {3: camera, 4: camera}
        write_image(folder / "hdImgs" / name / frame / f"00_03_{frame}.jpg", hand)
    (folder / "annotation.pkl").write_bytes(dumped({"training_data": data, "testing_data": []}))
    (folder / "camera_data.pkl").write_bytes(dumped(cameras))
    return Made(folder, hands, mano=False)


def interhand(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    images, annotations, space, fits = [], [], {}, {}
    for k, hand in enumerate(hands):
        name = f"Capture0/ROM01/cam400262/image{k:05d}.jpg"
        images.append({"id": k, "file_name": name, "width": 320, "height": 240, "capture": 0, "camera": "400262", "frame_idx": k})
        rows = slice(0, 21) if hand.side == RIGHT else slice(21, 42)
        world, valid = np.ones((42, 3)), np.zeros(42)
        world[rows] = 1000 * (np.concatenate([tips_first(hand.joints), hand.joints[:1]]) - SHIFT) @ TURN
        valid[rows] = 1
        annotations.append({"id": k, "image_id": k, "joint_valid": valid.tolist()})
        space[str(k)] = {"world_coord": world.tolist()}
        orient, trans = in_world(hand)
        fit = {"pose": [*orient, *about_mean(hand, model)], "shape": hand.betas.tolist(), "trans": trans.tolist()}
        fits[str(k)] = {"right": None, "left": None} | {"right" if hand.side == RIGHT else "left": fit}
        write_image(folder / "images" / "train" / name, hand)
    camera = {
        "campos": {"400262": (-1000 * SHIFT @ TURN).tolist()},
        "camrot": {"400262": TURN.tolist()},
        "focal": {"400262": [600.0, 590.0]},
        "princpt": {"400262": [160.0, 120.0]},
    }
    parts = {"data": {"images": images, "annotations": annotations}, "camera": {"0": camera}, "joint_3d": {"0": space}}
    for kind, content in (parts | {"MANO_NeuralAnnot": {"0": fits}}).items():
        path = folder / "annotations" / "train" / f"InterHand2.6M_train_{kind}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return Made(folder, hands)


def reinterhand(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    for k, hand in enumerate(hands):
        for capture in ("m--20210701--1058--two-hands", "m--20221215--0949--RNS217--pilot"):
            cameras = folder / capture / "Mugsy_cameras"
            write_image(cameras / "envmap_per_frame" / "images" / "cam1" / f"{k:06d}.png", hand)
            camera = {"R": TURN.tolist(), "t": (1000 * SHIFT).tolist(), "focal": [600, 590], "princpt": [160, 120]}
            (cameras / "cam_params.json").write_text(json.dumps({"cam1": camera}))
            orient, trans = in_world(hand)
            fit = {"pose": [*orient, *about_mean(hand, model)], "shape": hand.betas.tolist(), "trans": trans.tolist()}
            path = folder / capture / "mano_fits" / "params" / f"{k}_{'right' if hand.side == RIGHT else 'left'}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(fit))
    return Made(folder, hands)


def h2o3d(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    names = []
    for k, hand in enumerate(hands):
        names.append(f"SM{k}/0000")
        prefix, other = ("right", "left") if hand.side == RIGHT else ("left", "right")
        turned = Rotation.from_matrix(np.diag(OPENGL) @ Rotation.from_rotvec(hand.orient).as_matrix()).as_rotvec()
        meta = {
            f"{prefix}HandJoints3D": (hand.joints * OPENGL)[np.argsort(OPENPOSE_ORDER)],
            f"{prefix}HandPose": np.concatenate([turned, hand.pose]),
            f"jointValid{prefix.title()}": np.ones(21),
            f"{other}HandJoints3D": np.zeros((21, 3)),
            f"{other}HandPose": np.zeros(48),
            f"jointValid{other.title()}": np.zeros(21),
            "handBeta": hand.betas,
            "camMat": MATRIX,
        }
        path = folder / "train" / f"SM{k}" / "meta" / "0000.pkl"
        path.parent.mkdir(parents=True)
        path.write_bytes(dumped(meta))
        write_image(folder / "train" / f"SM{k}" / "rgb" / "0000.jpg", hand)
    (folder / "train.txt").write_text("\n".join(names))
    return Made(folder, hands, left_shape=False)


def dexycb(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    calibration = folder / "calibration"
    for path, content in (
        (calibration / "intrinsics" / "836212060125_640x480.yml", {"color": {"fx": 600.0, "fy": 590.0, "ppx": 160.0, "ppy": 120.0}}),
        *((calibration / f"mano_c{k}" / "mano.yml", {"betas": hand.betas.tolist()}) for k, hand in enumerate(hands)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    for k, hand in enumerate([*hands, hands[0]]):
        sequence = folder / "20200709-subject-01" / f"20200709_14120{k}"
        place = sequence / "836212060125"
        write_image(place / "color_000000.jpg", hand)
        calibrated = k if k < len(hands) else 0
        meta = {"serials": ["836212060125"], "num_frames": 2, "mano_calib": [f"c{calibrated}"]}
        meta |= {"mano_sides": ["right" if hand.side == RIGHT else "left"]}
        (sequence / "meta.yml").write_text(yaml.safe_dump(meta))
        coefficients = np.linalg.solve(model.hands_components.numpy().T, about_mean(hand, model))
        pose = np.concatenate([hand.orient, coefficients, np.zeros(3)])
        np.savez(place / "labels_000000.npz", joint_3d=hand.joints[None].astype(np.float32), pose_m=pose[None].astype(np.float32))
        np.savez(place / "labels_000001.npz", joint_3d=-np.ones((1, 21, 3)), pose_m=np.zeros((1, 51)))
    return Made(folder, hands, left_mano=False)


def coco_wholebody(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    images, people = [], []
    for k, hand in enumerate(hands):
        write_image(folder / "train2017" / f"{k:012d}.jpg", hand, hand.pixels[0] - 0.5)
        images.append({"id": k, "file_name": f"{k:012d}.jpg"})
        name, other = ("righthand", "lefthand") if hand.side == RIGHT else ("lefthand", "righthand")
        flat = np.concatenate([hand.pixels, np.ones((21, 1))], 1)
        box = [*hand.pixels.min(0), *np.ptp(hand.pixels, axis=0)]
        person = {"id": k, "image_id": k, "bbox": [0, 0, 320, 240], "iscrowd": 0, f"{name}_box": box, f"{other}_box": [0.0] * 4}
        person |= {f"{name}_kpts": flat.ravel().tolist(), f"{name}_valid": True, f"{other}_kpts": [0.0] * 63, f"{other}_valid": False}
        people.append(person)
    return _coco(folder, "coco_wholebody_train_v1.0.json", images, people, hands)


def halpe(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    images, people = [], []
    for k, hand in enumerate(hands):
        write_image(folder / "hico_20160224_det/images/train2015" / f"HICO_{k}.jpg", hand, hand.pixels[0] - 0.5)
        images.append({"id": k, "file_name": f"HICO_{k}.jpg"})
        points = np.zeros((136, 3))
        first = 94 if hand.side == LEFT else 115
        points[first : first + 21] = np.concatenate([hand.pixels, np.ones((21, 1))], 1)
        people.append({"id": k, "image_id": k, "keypoints": points.ravel().tolist()})
    return _coco(folder, "halpe_train_v1.json", images, people, hands)


def _coco(folder: Path, name: str, images: list[Any], people: list[Any], hands: Sequence[Hand]) -> Made:
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / name).write_text(json.dumps({"images": images, "annotations": people}))
    return Made(folder, hands, space=False, mano=False)


def mpii_nzsl(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    for k, hand in enumerate(hands):
        path = write_image(folder / "manual_train" / f"{k:09d}_01.jpg", hand, hand.pixels[0] - 0.5)
        points = np.concatenate([hand.pixels, np.ones((21, 1))], 1)
        told = {"hand_pts": points.tolist(), "is_left": float(hand.side == LEFT), "is_mpii": 1.0}
        path.with_suffix(".json").write_text(json.dumps(told))
    return Made(folder, hands, space=False, mano=False)


def bedlam(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    """A person a hand, whose other hand is beyond the image; the last in an image that lies on its side."""
    rng = np.random.default_rng(0)
    smplx = {LEFT: ([0, 3, 6, 9, 13, 16, 18, 20], 25, 66), RIGHT: ([0, 3, 6, 9, 14, 17, 19, 21], 40, 71)}
    for k, hand in enumerate(hands):
        sideways = k == len(hands) - 1
        scene = "20221011_1_250_batch01hand_closeup_suburb_a_6fps" if sideways else f"2022101{k}_3_1000_batch01hand_6fps"
        arm, first, tip = smplx[hand.side]
        body = rng.normal(size=(55, 3)) / 4
        want = Rotation.from_rotvec(hand.orient)
        pixels, size = hand.pixels, (1280, 720)
        points = pixels.copy()
        if sideways:  # the labels are of the image turned clockwise: (x, y) of 1280 x 720 is (719 - y, x)
            points = np.stack([719 - pixels[:, 1], pixels[:, 0]], 1)
            want = Rotation.from_rotvec([0, 0, np.pi / 2]) * want
        so_far = Rotation.identity()
        for joint in arm[:-1]:
            so_far = so_far * Rotation.from_rotvec(body[joint])
        body[arm[-1]] = (so_far.inv() * want).as_rotvec()
        body[first : first + 15] = hand.pose.reshape(15, 3)
        flat = np.full((127, 3), -5000.0)
        flat[arm[-1], :2] = points[0]
        for start, finger in ((0, 1), (3, 2), (6, 4), (9, 3), (12, 0)):  # index, middle, little, ring, thumb
            flat[first + start : first + start + 3, :2] = points[1 + 4 * finger : 4 + 4 * finger]
        flat[tip : tip + 5, :2] = points[[4, 8, 12, 16, 20]]
        other = smplx[RIGHT if hand.side == LEFT else LEFT]
        flat[[other[0][-1], *range(other[1], other[1] + 15), *range(other[2], other[2] + 5)]] = np.nan
        path = folder / "training_labels" / "all_npz_12_training" / f"{scene}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, imgname=np.array(["seq_000000/seq_000000_0000.png"]), pose_cam=body.reshape(1, 165), gtkps=flat[None])
        write_image(folder / "training_images" / scene / "png/seq_000000/seq_000000_0000.png", hand, size=size)
    return Made(folder, hands, space=False, shape=False)


def arctic(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    sequences, names, crop = {}, [], np.array([160.0, 120, 1.0])  # a box of 200 pixels, shown 1.5 times as large in 1000
    back = np.argsort(OPENPOSE_ORDER)
    for k, hand in enumerate(hands):
        name, other = ("right", "left") if hand.side == RIGHT else ("left", "right")
        letter, of_other = name[0], other[0]
        views = lambda *shape: np.zeros((2, 9, *shape))  # noqa: E731
        camera = {f"joints.{side}": views(21, 3) for side in ("right", "left")} | {"is_valid": views() + 1}
        camera |= {f"{side}_valid": views() for side in ("right", "left")} | {f"rot_{side}_cam": views(3) for side in "rl"}
        flat = {f"joints.{side}": views(21, 2) for side in ("right", "left")}
        camera[f"joints.{name}"][1, 2], camera[f"{name}_valid"][1, 2], camera[f"rot_{letter}_cam"][1, 2] = hand.joints[back], 1, hand.orient
        flat[f"joints.{name}"][1, 2] = hand.pixels[back]
        params = {f"pose_{letter}": np.tile(about_mean(hand, model), (2, 1)), f"pose_{of_other}": np.zeros((2, 45))}
        params |= {f"shape_{side}": np.tile(hand.betas, (2, 1)) for side in "rl"}
        sequences[f"s01/box_grab_0{k}"] = {"cam_coord": camera, "2d": flat, "bbox": np.tile(crop, (2, 9, 1)), "params": params}
        names += [f"./data/arctic_data/data/images/s01/box_grab_0{k}/{view}/00007.jpg" for view in (0, 2)]
        pixel = (hand.pixels[0] - [160 - 150, 120 - 150]) / 300 * 1000
        write_image(folder / "cropped_images/s01" / f"box_grab_0{k}" / "2/00007.jpg", hand, pixel, (1000, 1000))
    for path, content in (("splits/p1_train.npy", None), ("meta/misc.json", {"s01": {"ioi_offset": 6}})):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if content:
            (folder / path).write_text(json.dumps(content))
        else:
            np.save(folder / path, np.array({"data_dict": sequences, "imgnames": names}, dtype=object)[None], allow_pickle=True)
    return Made(folder, hands, left_shape=False)


def hot3d(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    """A clip a hand, seen by a fisheye without further bends: a point lies as far out as its angle times the focal length."""
    for k, hand in enumerate(hands):
        angle = np.arctan(np.linalg.norm(hand.joints[0, :2] / hand.joints[0, 2]))
        direction = hand.joints[0, :2] / np.linalg.norm(hand.joints[0, :2])
        pixel = 600 * angle * direction + [160, 120]
        orient, trans = in_world(hand)
        mean = model.hands_mean.numpy()
        thetas = np.linalg.lstsq(model.hands_components[:15].numpy().T, hand.pose - mean, rcond=None)[0]
        x, y, z, w = Rotation.from_matrix(TURN.T).as_quat()
        place = {"quaternion_wxyz": [w, x, y, z], "translation_xyz": (-SHIFT @ TURN).tolist()}
        lens: dict[str, Any] = {"model_name": "CameraModelType.FISHEYE624", "projection_params": [600.0, 160, 120, *[0.0] * 12]}
        lens |= {"image_width": 320, "image_height": 240}
        told = {"right" if hand.side == RIGHT else "left": {"mano_pose": {"thetas": thetas.tolist(), "wrist_xform": [*orient, *trans]}}}
        members = {
            "__hand_shapes.json__": json.dumps({"mano": hand.betas.tolist(), "umetrack": {}}).encode(),
            "000000.cameras.json": json.dumps({"214-1": {"calibration": lens, "T_world_from_camera": place}}).encode(),
            "000000.hands.json": json.dumps(told).encode(),
            "000000.image_214-1.jpg": jpeg(hand, pixel),
        }
        write_tar(folder / "train_aria" / f"clip-{k:06d}.tar", members)
    return Made(folder, [hand for hand in hands if hand.side == RIGHT])


def hamer(folder: Path, hands: Sequence[Hand], model: HandModel) -> Made:
    for k, hand in enumerate(hands):
        points = np.concatenate([hand.pixels + 0.5, np.ones((21, 1))], 1)
        told = {
            "keypoints_2d": points.astype(np.float32),
            "keypoints_3d": np.concatenate([hand.joints, np.ones((21, 1))], 1).astype(np.float32),
            "hand_pose": np.concatenate([hand.orient, hand.pose]).astype(np.float32),
            "betas": hand.betas.astype(np.float32),
            "has_hand_pose": np.float32(1),
            "has_betas": np.float32(1),
            "right": np.float32(hand.side == RIGHT),
            "center": hand.pixels.mean(0),
            "scale": np.array([0.5, 0.5]),
            "personid": 0,
            "extra_info": {},
        }
        members = {f"seq/{k:06d}.jpg": jpeg(hand), f"seq/{k:06d}.data.pyd": dumped([told])}
        write_tar(folder / "freihand-train" / f"{k:06d}.tar", members)
    return Made(folder, hands)


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


MAKERS: Mapping[str, Callable[[Path, Sequence[Hand], HandModel], Made]] = {
    "mtc": mtc,
    "rhd": rhd,
    "interhand": interhand,
    "h2o3d": h2o3d,
    "dexycb": dexycb,
    "coco-wholebody": coco_wholebody,
    "halpe": halpe,
    "mpii-nzsl": mpii_nzsl,
    "bedlam": bedlam,
    "arctic": arctic,
    "reinterhand": reinterhand,
    "hot3d": hot3d,
    "hamer": hamer,
}
