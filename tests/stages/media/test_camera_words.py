"""What a list says of cameras, in words and in files of OpenCV's and COLMAP's; each bad one is one line that says where."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.manifest import read_manifest
from stages.cameras.said import CameraError, cameras_of, views_said

COLMAP = {"model": "OPENCV", "width": 1920, "height": 1080, "params": [1180, 1190, 960.5, 540.5, -0.01, 0.005, 0, 0]}
OPENCV: dict[str, Any] = {
    "image_width": 1920,
    "image_height": 1080,
    "camera_matrix": [[1180, 0, 960], [0, 1190, 540], [0, 0, 1]],
    "distortion_coefficients": {"rows": 1, "cols": 4, "data": [-0.01, 0.005, 0, 0]},
}


def said(folder: Path, words: str, **files: Any) -> str:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / "list.txt").write_text(f"# a list\n./a.mp4 {words}\n")
    return str(read_manifest(folder / "list.txt").camera[0])


def test_both_vocabularies_mean_one_camera(tmp_path: Path) -> None:
    one, other = said(tmp_path, "camera=a.json", a=COLMAP), said(tmp_path, "camera=b.json", b=OPENCV)
    assert json.loads(one) == json.loads(other)
    half = cameras_of(one, 960, 540)
    assert (half.focal_px[0].tolist(), half.principal[0].tolist()) == ([590.0, 595.0], [480.25, 270.25])
    assert half.camera_from.tolist() == ["manifest"]


def test_words_say_what_they_say(tmp_path: Path) -> None:
    assert cameras_of(said(tmp_path, "focal=900 signer=ann"), 640, 480).focal_px[0].tolist() == [900.0, 900.0]
    assert cameras_of(said(tmp_path, "hfov=90"), 640, 480).focal_px[0] == pytest.approx([320, 320])
    assert cameras_of(said(tmp_path, "projection=fisheye hfov=180"), 640, 640).focal_px[0] == pytest.approx([640 / 3.14159265] * 2)
    assert len(cameras_of(said(tmp_path, "projection=equirectangular"), 2000, 1000)) == 14
    assert said(tmp_path, "signer=ann") == ""
    assert views_said(said(tmp_path, "focal=900")) == ""
    assert read_manifest(tmp_path / "list.txt").extra[0] == ""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("focal=0", "more than 0"),
        ("focal=-5", "focal=-5"),
        ("focal=nan", "focal=nan"),
        ("focal=1e9", "focal=1e9"),
        ("focal=900 hfov=60", "keep one"),
        ("hfov=0", "(0, 175]"),
        ("hfov=200", "(0, 175]"),
        ("projection=fisheye", "needs focal= or hfov="),
        ("projection=equirectangular focal=3", "has no focal="),
        ("projection=cubic hfov=90", "projection=cubic"),
        ("camera=none.json", "No such file"),
        ("camera=a.json focal=3", "take focal= away"),
        ("camera=broken.json", "no JSON"),
        ("camera=list.json", "one JSON object"),
        ("camera=empty.json", "must be a whole number"),
        ("camera=model.json", "is none of"),
        ("camera=params.json", "has 8 params, got 2"),
        ("camera=infinite.json", "finite numbers"),
        ("camera=huge.json", "finite numbers"),
        ("camera=skew.json", "camera_matrix must be"),
        ("camera=nought.json", "must lie in (0, 1000000)"),
        ("camera=aside.json", "far outside"),
    ],
)
def test_a_bad_camera_is_named_in_one_line(tmp_path: Path, words: str, told: str) -> None:
    files = {
        "a": COLMAP,
        "broken": '{"model": ',
        "list": "[]",
        "empty": {},
        "model": COLMAP | {"model": "THIN_PRISM_FISHEYE"},
        "params": COLMAP | {"params": [1, 2]},
        "infinite": '{"model": "PINHOLE", "width": 9, "height": 9, "params": [NaN, 1, 1, 1]}',
        "huge": COLMAP | {"params": [10**400, 900, 960, 540, 0, 0, 0, 0]},
        "skew": OPENCV | {"camera_matrix": [[1180, 3, 960], [0, 1190, 540], [0, 0, 1]]},
        "nought": COLMAP | {"params": [0, 0, 960, 540, 0, 0, 0, 0]},
        "aside": COLMAP | {"params": [900, 900, 9600, 540, 0, 0, 0, 0]},
    }
    with pytest.raises(ValueError, match=r"list\.txt:2: ") as error:
        said(tmp_path, words, **files)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "size", "told"),
    [
        ("projection=equirectangular", (1920, 1080), "2:1"),
        ("camera=a.json", (640, 480), "of another shape"),
        ("focal=3", (640, 480), "must lie between 32 and"),
        ("focal=900000", (640, 480), "must lie between"),
    ],
)
def test_a_camera_of_other_images_is_refused(tmp_path: Path, words: str, size: tuple[int, int], told: str) -> None:
    text = said(tmp_path, words, a=COLMAP)
    with pytest.raises(CameraError, match=r".") as error:
        cameras_of(text, *size)
    assert told in str(error.value)
    tags = json.dumps(json.loads(text) | {"from": "metadata"})
    assert cameras_of(tags, *size).camera_from.tolist() == ["assumed"]
