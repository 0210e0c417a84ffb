"""ARCTIC's sequences become poses of right hands; what is damaged is skipped with its reason, and no file runs code."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fitting.hand.mano import HandModel
from fitting.priors.arctic import read_poses, read_sequence

MEAN = np.linspace(-0.2, 0.3, 45)


def hand(num_frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    """One hand of a sequence, as ARCTIC keeps it."""
    rng = np.random.default_rng(seed)
    parts = {name: rng.normal(size=(num_frames, k)) for name, k in (("rot", 3), ("pose", 45), ("trans", 3))}
    return {**parts, "pose": 0.3 * parts["pose"], "shape": rng.normal(size=10), "fitting_err": rng.uniform(1, 2, num_frames)}


def save(folder: Path, name: str, right: object, left: object) -> Path:
    path = folder / f"{name}.mano.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array({"right": right, "left": left}), allow_pickle=True)
    return path


def test_mean_pose_is_added_and_left_hands_are_mirrored(tmp_path: Path) -> None:
    right, left = hand(6), hand(6, seed=1)
    got = read_sequence(save(tmp_path, "s01/box_grab_01", right, left), MEAN, every=1, worst=0)
    mirrored = (left["pose"].reshape(6, 15, 3) * [1, -1, -1]).reshape(6, 45)
    np.testing.assert_allclose(got, np.concatenate([right["pose"], mirrored]) + MEAN, atol=1e-6)


def test_mirrored_pose_is_the_mirrored_hand(exact: HandModel, tmp_path: Path) -> None:
    """A left hand that holds the mirror image of a right one's pose is the same pose of a right hand."""
    right = hand(4)
    left = {**right, "pose": (right["pose"].reshape(-1, 15, 3) * [1, -1, -1]).reshape(-1, 45)}
    got = read_sequence(save(tmp_path, "s01/a", right, left), exact.hands_mean.numpy(), every=1, worst=0)
    np.testing.assert_array_equal(got[:4], got[4:])


def test_every_nth_frame_without_the_worst_fitted(tmp_path: Path) -> None:
    right, left = hand(100), hand(100, seed=1)
    right["fitting_err"] = np.arange(100.0)
    path = save(tmp_path, "s01/a", right, left)
    assert len(read_sequence(path, MEAN, every=4, worst=0)) == 2 * 25
    kept = read_sequence(path, 0 * MEAN, every=4, worst=0.5)
    np.testing.assert_allclose(kept[:13], right["pose"][:50:4], atol=1e-6)
    assert not (np.abs(kept[:, None] - right["pose"][None, 50:]).max(2) < 1e-5).any(), "the worst half is left out"
    without = {name: values for name, values in right.items() if name != "fitting_err"}
    assert len(read_sequence(save(tmp_path, "s01/b", without, without), MEAN, every=3, worst=0.5)) == 2 * 34


def test_the_worst_fitted_fiftieth_is_left_out_unless_told_otherwise(tmp_path: Path) -> None:
    both = hand(200)
    both["fitting_err"] = np.arange(200.0)
    save(tmp_path, "s01/a", both, both)
    kept = read_poses(tmp_path, 0 * MEAN, every=1).hand_pose
    np.testing.assert_allclose(kept, np.concatenate([both["pose"][:196], both["pose"][:196] * np.tile([1, -1, -1], 15)]), atol=1e-6)


@pytest.mark.parametrize("kind", ["f4", "f8", ">f8"])
def test_any_float_is_read(kind: Any, tmp_path: Path) -> None:
    both = {name: values.astype(kind) for name, values in hand(5).items()}
    got = read_sequence(save(tmp_path, "s01/a", both, both), MEAN, every=1, worst=0)
    np.testing.assert_allclose(got[:5], hand(5)["pose"] + MEAN, atol=1e-6)


def test_all_sequences_of_a_folder_and_the_damaged_ones_reason(tmp_path: Path) -> None:
    for name in ("s01/box_grab_01", "s02/box_use_02"):
        save(tmp_path / "data" / "raw_seqs", name, hand(8), hand(8))
    (tmp_path / "data" / "raw_seqs" / "s02" / "box_use_02.object.npy").write_bytes(b"not read")
    broken = save(tmp_path, "s03/cut", hand(8), hand(8))
    broken.write_bytes(broken.read_bytes()[:-100])
    read = read_poses(tmp_path, MEAN, every=2, worst=0)
    assert read.hand_pose.shape == (2 * 2 * 4, 45)
    assert read.hand_pose.dtype == np.float32
    assert read.sequences == ("s01/box_grab_01", "s02/box_use_02")
    assert list(read.skipped) == ["s03/cut"]
    assert "damaged or cut short" in read.skipped["s03/cut"]


def test_folder_without_sequences_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no \*\.mano\.npy: get raw_seqs\.zip from arctic"):
        read_poses(tmp_path, MEAN)


def test_no_readable_sequence_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, "s01/a", hand(8), {})
    with pytest.raises(
        ValueError, match=r"none of the 1 sequences .* can be read: .*s01/a\.mano\.npy: it lacks the left hand's rot and pose"
    ):
        read_poses(tmp_path, MEAN)


class Command:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


BAD = {
    "code": ({**hand(3), "pose": Command()}, "it holds more than data, refused: posix.system"),
    "NaN": ({**hand(3), "pose": np.full((3, 45), np.nan)}, "right pose is not finite"),
    "text": ({**hand(3), "pose": np.array(["x"] * 3)}, "right pose is not finite, or no number"),
    "degrees": ({**hand(3), "pose": np.full((3, 45), 30.0)}, "a joint of the right hand turns by 52 radians"),
    "PCA coefficients": ({**hand(3), "pose": np.zeros((3, 24))}, r"shapes \(3, 3\) and \(3, 24\)"),
    "other length": ({**hand(3), "rot": np.zeros((2, 3))}, r"shapes \(2, 3\) and \(3, 45\)"),
    "errors of other length": ({**hand(3), "fitting_err": np.zeros(7)}, r"fitting_err has shape \(7,\) for 3 frames"),
    "objects": ({**hand(3), "rot": np.array([None, {}], object)}, "right rot is not an array"),
    "no hand": ([1, 2], "it lacks the right hand's rot and pose"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_sequence_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, reason = BAD[name]
    path = save(tmp_path, "s01/a", content, hand(3))
    with pytest.raises(ValueError, match=f"{path}: .*{reason}"):
        read_sequence(path, MEAN, every=1, worst=0)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "EOF|magic"), (b"text, and more of it", "magic"), (b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O'", "EOF|header|end")],
    ids=["empty", "text", "header cut short"],
)
def test_file_that_is_no_npy_is_named(content: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.mano.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path}: .*({reason})"):
        read_sequence(path, MEAN, every=1, worst=0)


def test_array_of_numbers_is_not_taken_for_a_sequence(tmp_path: Path) -> None:
    np.save(tmp_path / "a.mano.npy", np.zeros((3, 45)))
    with pytest.raises(ValueError, match="it holds numbers, not objects"):
        read_sequence(tmp_path / "a.mano.npy", MEAN, every=1, worst=0)
