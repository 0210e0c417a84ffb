"""Tags of files, the views of bent cameras, and one scene taken by several cameras: the same hands."""

import json
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from fitting.camera import Camera
from stages.cameras.said import HAND_DEG, camera_in, cameras_of
from stages.cameras.tags import gopro_deg
from stages.cameras.views import camera_of_view, in_view, rays_of, through_views, to_source
from stages.fit import Fit
from stages.fuse_hands import FuseHands
from stages.fusion.pairs import contradiction_m
from stages.fusion.views import in_video
from stages.media.frames import Frames
from stages.media.probe import Probe, probe
from stages.tables import Cameras, Clips, Fits, HandDetections, Hands, People, Videos
from studio.lenses import taken_by

SPHERE = json.dumps({"from": "manifest", "projection": "equirectangular"})
FISHEYE = json.dumps(
    {
        "from": "manifest",
        "projection": "fisheye",
        "size": [1200, 1200],
        "focal_px": [360, 360],
        "principal": [600, 600],
        "distortion": [0.03, -0.008, 0.002, -0.0003],
    }
)
PINHOLE = json.dumps({"from": "manifest", "projection": "rectilinear", "focal_px": [900, 900]})
SIZES = {SPHERE: (2400, 1200), FISHEYE: (1200, 1200), PINHOLE: (1280, 960)}


def film(path: Path, *options: str, size: str = "64x32") -> Path:
    source = ["-f", "lavfi", "-i", f"testsrc=size={size}:rate=5:duration=1"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *source, *options, path], check=True)
    return path


def with_spherical_tag(path: Path) -> Path:
    """Google's XML in a uuid box at the end of the track; the index lies behind the frames, so no offset changes."""
    xml = b'<?xml version="1.0"?><rdf:SphericalVideo xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:GSpherical='
    xml += b'"http://ns.google.com/videos/1.0/spherical/"><GSpherical:Spherical>true</GSpherical:Spherical><GSpherical:Stitched>true'
    xml += b"</GSpherical:Stitched><GSpherical:StitchingSoftware>ours</GSpherical:StitchingSoftware>"
    xml += b"<GSpherical:ProjectionType>equirectangular</GSpherical:ProjectionType></rdf:SphericalVideo>"
    box = b"uuid" + bytes.fromhex("ffcc8263f8554a938814587a02521fdd") + xml
    box = struct.pack(">I", len(box) + 4) + box
    content = path.read_bytes()
    moov, trak = content.rindex(b"moov") - 4, content.rindex(b"trak") - 4
    size = struct.unpack(">I", content[trak : trak + 4])[0]
    grown = bytearray(content[: trak + size] + box + content[trak + size :])
    for place in (moov, trak):
        grown[place : place + 4] = struct.pack(">I", struct.unpack(">I", content[place : place + 4])[0] + len(box))
    path.write_bytes(bytes(grown))
    return path


def test_tags_of_a_file_say_its_camera(tmp_path: Path) -> None:
    phone = film(
        tmp_path / "phone.mov", "-movflags", "use_metadata_tags", "-metadata", "com.apple.quicktime.camera.focal_length.35mm_equivalent=26"
    )
    found = {
        "phone": probe(phone),
        "sphere": probe(with_spherical_tag(film(tmp_path / "sphere.mp4"))),
        "square": probe(with_spherical_tag(film(tmp_path / "square.mp4", size="64x64"))),
        "plain": probe(film(tmp_path / "plain.mp4")),
    }
    said = {name: one.camera for name, one in found.items() if isinstance(one, Probe)}
    assert json.loads(said["sphere"]) == {"from": "metadata", "projection": "equirectangular"}
    assert (said["square"], said["plain"]) == ("", "")
    focal = cameras_of(said["phone"], 64, 32).focal_px[0]
    assert focal == pytest.approx([26 / np.hypot(36, 24) * np.hypot(64, 32)] * 2, abs=0.01)


def klv(key: bytes, kind: bytes, size: int, value: bytes) -> bytes:
    return key + kind + struct.pack(">BH", size, len(value) // size) + value + bytes(-len(value) % 4)


def with_gopro_tags(path: Path, lens: bytes, degrees: float) -> Path:
    """GoPro's metadata in a `udta` box at the end of the index, which lies behind the frames."""
    inner = klv(b"DVID", b"L", 4, struct.pack(">I", 1)) + klv(b"VFOV", b"c", 1, lens) + klv(b"ZFOV", b"f", 4, struct.pack(">f", degrees))
    gpmf = klv(b"DEVC", b"\0", 1, inner)
    box = struct.pack(">I4s", 8 + len(gpmf), b"GPMF") + gpmf
    box = struct.pack(">I4s", 8 + len(box), b"udta") + box
    content = path.read_bytes()
    moov = content.rindex(b"moov") - 4
    size = struct.unpack(">I", content[moov : moov + 4])[0]
    path.write_bytes(content[:moov] + struct.pack(">I", size + len(box)) + content[moov + 4 : moov + size] + box + content[moov + size :])
    return path


def test_a_gopro_says_the_angle_of_its_linear_lens(tmp_path: Path) -> None:
    said = {}
    for name, lens, degrees in (("linear", b"L", 94.0), ("wide", b"W", 140.0), ("absurd", b"L", 1e9), ("nan", b"L", float("nan"))):
        found = probe(with_gopro_tags(film(tmp_path / f"{name}.mp4"), lens, degrees))
        assert isinstance(found, Probe)
        said[name] = found.camera
    assert cameras_of(said["linear"], 64, 32).focal_px[0] == pytest.approx([np.hypot(32, 16) / np.tan(np.radians(47))] * 2, abs=0.01)
    assert {name for name, one in said.items() if one} == {"linear"}
    cut = tmp_path / "linear.mp4"
    cut.write_bytes(cut.read_bytes()[:-20])
    assert not isinstance(probe(cut), Probe) or probe(cut).camera == ""  # type: ignore[union-attr]


def test_metadata_nested_without_end_say_nothing(tmp_path: Path) -> None:
    path = with_gopro_tags(film(tmp_path / "deep.mp4"), b"L", 94.0)
    nested = b""
    for _ in range(5000):
        nested = klv(b"DEVC", b"\0", 1, nested)
    box = struct.pack(">I4s", 8 + len(nested), b"GPMF") + nested
    moov = struct.pack(">I4s", 16 + len(box), b"moov") + struct.pack(">I4s", 8 + len(box), b"udta") + box
    path.write_bytes(path.read_bytes()[:32] + moov)
    assert gopro_deg(path) == 0


def test_a_photograph_says_its_focal_length(tmp_path: Path) -> None:
    entries = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26) + struct.pack("<I", 0)
    details = struct.pack("<HHHIHH", 1, 0xA405, 3, 1, 28, 0) + struct.pack("<I", 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<I", 8) + entries + details
    plain = film(tmp_path / "plain.jpg", "-frames:v", "1").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    found = probe(tmp_path / "photo.jpg", images=True)
    assert isinstance(found, Probe)
    assert json.loads(found.camera)["focal_px"][0] == pytest.approx(28 / np.hypot(36, 24) * np.hypot(64, 32), abs=0.01)


@pytest.mark.parametrize("said", [SPHERE, FISHEYE])
def test_a_hand_lies_whole_in_some_view_wherever_it_is(said: str) -> None:
    cameras, rng = cameras_of(said, *SIZES[said]), np.random.default_rng(0)
    middle = rng.normal(size=(400, 3))
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    across = np.cross(middle, rng.normal(size=(400, 3)))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    way = np.linspace(0, 2 * np.pi, 24, endpoint=False)[:, None, None]
    rim = np.cos(np.radians(HAND_DEG / 2)) * middle + np.sin(np.radians(HAND_DEG / 2)) * (
        np.cos(way) * across + np.sin(way) * np.cross(middle, across)
    )
    source = camera_in(cameras, 0)
    seen = source.shows(source.project(rim)).all(0) & (middle[:, 2] > -0.2 if said == FISHEYE else True)
    whole = np.zeros(400, bool)
    for view in cameras.view[cameras.view >= 0].tolist():
        with np.errstate(invalid="ignore"):
            whole |= camera_of_view(cameras, view).shows(in_view(cameras, view, rim)).all(0)
    assert seen.sum() > 100
    assert whole[seen].all()


def test_a_view_shows_what_a_pinhole_there_would() -> None:
    cameras = cameras_of(SPHERE, 1200, 600)
    checks = (np.indices((300, 400)) // 25).sum(0) % 2 * 200 + 20
    image = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    pinhole, turn = Camera.pinhole(400, 300, 400), cameras.rotation[2].T  # the axis of view 1
    sphere = taken_by(camera_in(cameras, 0), turn, image, pinhole)
    frames = Frames(video="v", frame=np.array([0]), time_s=np.array([0.0]), images=[sphere])
    looks = list(through_views([frames], cameras))
    assert [one.view for one in looks] == list(range(13))
    view, camera = looks[1].images[0], camera_of_view(cameras, 1)
    columns, rows = np.meshgrid(np.arange(60, 340, 7) + 0.5, np.arange(60, 240, 7) + 0.5)
    pixels = np.stack([columns, rows], -1)
    there = camera.project(pinhole.rays(pixels))
    seen = view[there[..., 1].astype(int), there[..., 0].astype(int)].astype(int)
    meant = image[pixels[..., 1].astype(int), pixels[..., 0].astype(int)].astype(int)
    assert (np.abs(seen - meant) < 60).mean() > 0.9
    np.testing.assert_allclose(to_source(cameras, 1, there), camera_in(cameras, 0).project(rays_of(cameras, 1, there)))


def scene(num_frames: int = 8) -> tuple[Any, Any]:
    """Joints of one right hand of mean shape that moves sideways before the camera, and its wrist."""
    import torch

    from fitting.hand.mano import RIGHT, load_hand_model, pose_either_hand

    model = load_hand_model(dtype=torch.float64)
    turn, bend = torch.tensor([[0.2, 0.4, 1.3]]).double(), torch.zeros(1, 45).double()
    joints = pose_either_hand(model, torch.tensor([RIGHT]), torch.zeros(1, 10).double(), turn, bend).joints.numpy()
    shift = np.stack([np.linspace(-0.12, 0.12, num_frames), np.full(num_frames, 0.03), np.full(num_frames, 0.55)], 1)
    return joints + shift[:, None], shift


def detections(cameras: Cameras, joints: Any) -> HandDetections:
    """What a perfect detector says of every view that shows most of the hand."""
    rows: dict[str, list[Any]] = {name: [] for name in ("frame", "view", "box", "keypoints", "world", "crop")}
    for view in cameras.view[cameras.view >= 0].tolist():
        camera = camera_of_view(cameras, view)
        row = int(np.flatnonzero(cameras.view == view)[0])
        for frame, points in enumerate(joints):
            seen = points @ cameras.rotation[row].T
            pixels = camera.project(seen)
            with np.errstate(invalid="ignore"):
                if camera.shows(pixels).mean() < 0.6:
                    continue
            box = np.concatenate([pixels.min(0), pixels.max(0)])
            sure = np.concatenate([pixels, np.full((21, 1), 0.99)], 1)
            crop = [0, 0, camera.width, camera.height]
            values = (frame, view, box, sure, seen - seen.mean(0), crop)
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
    n = len(rows["frame"])
    told = {name: np.array(value, np.float32) for name, value in rows.items() if name not in ("frame", "view")}
    return HandDetections(
        video=np.full(n, "v", object),
        frame=np.array(rows["frame"]),
        time_s=np.array(rows["frame"]) / 5,
        source=np.full(n, "seer", object),
        route=np.full(n, "frame", object),
        person=np.full(n, -1, np.int16),
        score=np.full(n, 0.95, np.float32),
        palm_score=np.full(n, 0.95, np.float32),
        presence=np.ones(n, np.float32),
        p_right=np.full(n, 0.99, np.float32),
        spread=np.full((n, 21), np.nan, np.float32),
        view=np.array(rows["view"], np.int16),
        **told,
    )


@pytest.mark.parametrize("said", [PINHOLE, FISHEYE, SPHERE])
def test_one_scene_by_any_camera_is_the_same_hand_in_one_track(said: str) -> None:
    size = SIZES[said]
    cameras = cameras_of(said, *size)
    joints, wrist = scene()
    angle = {PINHOLE: 0.0, FISHEYE: np.radians(36), SPHERE: np.pi}[said]  # between two views; straight behind, across the seam
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    joints, wrist = joints @ turn.T, wrist @ turn.T
    source = camera_in(cameras, 0)
    true = source.project(joints)
    if said == SPHERE:
        assert (np.ptp(true[..., 0], axis=1) > source.width / 2).any()
        true[..., 0] = np.where(true[..., 0] < source.width / 2, true[..., 0] + source.width, true[..., 0])
    found = detections(cameras, joints)
    assert said == PINHOLE or len(found) > len(joints)
    fuse = FuseHands(detectors=("seer",), arm_detectors=(), eye_detectors=(), mode="raw").build()
    videos = Videos.of(**{name: np.zeros(1, column.dtype) if column.dtype != object else np.array([""], object)
                          for name, column in vars(Videos.empty()).items()} | {"width": np.array([size[0]], np.int32),
                                                                               "height": np.array([size[1]], np.int32)})  # fmt: skip
    hands, refused = fuse(videos, Clips.empty(), People.empty(), found, cameras)
    assert hands.frame.tolist() == list(range(len(joints)))
    assert set(hands.track) == {0}
    assert set(hands.side) == {1}
    assert len(refused) == len(found) - len(hands)
    assert set(refused.reason) <= {"other_view"}
    fits = Fit(landmark_offsets=False).build()(Clips.empty(), hands, cameras=cameras)
    assert set(fits.camera_from) == {"manifest"}
    pixels, place = fits.joints_2d.astype(np.float64), fits.transl.astype(np.float64)
    if len(cameras) > 1:
        for view in np.unique(hands.view).tolist():
            here, row = hands.view == view, int(np.flatnonzero(cameras.view == view)[0])
            pixels[here], place[here] = to_source(cameras, view, fits.joints_2d[here]), fits.transl[here] @ cameras.rotation[row]
        around = source.width if said == SPHERE else 1e9
        middle = hands.box_source.reshape(-1, 2, 2).mean(1)[:, :1]
        assert (np.abs((middle - true.mean(1)[:, :1] + around / 2) % around - around / 2) < 30).all()
        pixels[..., 0] = true[..., 0] + (pixels[..., 0] - true[..., 0] + around / 2) % around - around / 2
        seen = hands.keypoints_source.astype(np.float64)
        seen[..., 0] = true[..., 0] + (seen[..., 0] - true[..., 0] + around / 2) % around - around / 2
        assert np.abs(seen - true).max() < 0.5
        np.testing.assert_array_equal(in_video(hands).box, hands.box_source)
        np.testing.assert_array_equal(in_video(hands).keypoints[..., :2], hands.keypoints_source)
    else:
        np.testing.assert_array_equal(in_video(hands).keypoints, hands.keypoints)
    assert np.median(np.linalg.norm(pixels - true, axis=2)) < 3
    assert np.median(np.linalg.norm(place - wrist, axis=1) / np.linalg.norm(wrist, axis=1)) < 0.03


def test_two_hands_of_a_person_that_cannot_be_are_measured() -> None:
    def table(kind: Any, **given: Any) -> Any:
        blank = {name: np.zeros((4, *c.shape[1:]), c.dtype) if c.dtype != object else np.full(4, "", object)
                 for name, c in vars(kind.empty()).items()}  # fmt: skip
        return kind(**blank | given)

    wrist = np.array([[0, 0, 0.5], [0.03, 0, 0.5], [0, 0, 0.5], [0.3, 0, 0.5]], np.float32)
    joints = np.zeros((4, 21, 3), np.float32)
    joints[:, 9, 0] = (0.09, 0.08, 0.09, 0.09)
    frame, person = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 0], np.int16)
    hands = table(Hands, frame=frame, person=person)
    known = table(Fits, transl=wrist, joints_3d=joints, focal_px=np.full(4, 900, np.float32))
    np.testing.assert_allclose(contradiction_m(hands, known), [0.03, 0.03, 0, 0], atol=1e-6)
    assert np.isnan(contradiction_m(hands, replace(known, focal_px=np.full(4, np.nan, np.float32)))).all()
    assert np.isnan(contradiction_m(replace(hands, person=np.array([0, 1, -1, -1], np.int16)), known)).all()
