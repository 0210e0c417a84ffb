"""Rendered shards: what training reads of them is the truth, no album is in two splits, and a second run has nothing to do."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from fitting.hand.mano import LEFT, pose_either_hand
from pipeline.dataset.studio_shards import SOURCE, StudioShards, write_studio_shards
from pipeline.engine.verify import verify
from stages.pack import Pack
from stages.shards import SPLITS
from studio.hand import studio_model
from studio.stills import Album
from training.data.dataset import Dataset
from training.data.samples import Crops

SETTINGS = StudioShards(num_albums=24, album=Album(num_pictures=3, size=64, two_hands=0.5), pack=Pack(num_shards=1, negatives=0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rendered")
    assert write_studio_shards(out, SETTINGS, Console(quiet=True)) > 60
    return out


def test_every_album_is_in_one_split(folder: Path) -> None:
    videos = [set(pq.read_table(path, columns=["video"])["video"].to_pylist()) for path in sorted(folder.glob("*/*.parquet"))]
    assert {path.parent.name for path in folder.glob("*/*.parquet")} == set(SPLITS)
    assert len(set.union(*videos)) == sum(map(len, videos)) == 24


def test_training_reads_the_truth(folder: Path, tmp_path: Path) -> None:
    crops = Crops.of(Dataset.open(folder, "train", tmp_path))
    labels = crops.labels(range(len(crops)))
    assert set(labels["side"].tolist()) == {0, 1}
    columns = [torch.from_numpy(np.asarray(labels[name], np.float64)) for name in ("betas", "global_orient", "hand_pose")]
    posed = pose_either_hand(studio_model(), torch.from_numpy(labels["side"].astype(np.int64)), *columns)
    np.testing.assert_allclose(posed.joints, labels["joints_3d"], atol=1e-6)
    wrist = labels["camera"][:, 1:]
    np.testing.assert_allclose(labels["joints_2d"][:, 0], wrist, atol=1e-3)
    near = labels["camera"][:, None, :1] * labels["joints_3d"][..., :2] + wrist[:, None]
    assert np.abs(near - labels["joints_2d"]).max() < 0.1 * SETTINGS.album.size  # a pinhole's keypoints, a weak camera's parameters


def test_left_hands_are_mirrored_onto_right_ones(folder: Path, tmp_path: Path) -> None:
    """The skin that a left hand's keypoints lie on is where its mirrored crop shows it."""
    crops = Crops.of(Dataset.open(folder, "train", tmp_path))
    left = next(k for k in range(len(crops)) if crops.labels([k])["side"][0] == LEFT)
    picture, labels = np.empty(crops.shape, np.uint8), crops.labels([left])
    crops.decode(left, picture)
    scale, *shift = labels["to_input"][0]
    x, y = (scale * labels["joints_2d"][0] + shift).T
    inside = np.floor(np.stack([crops.size - x, y], 1)).astype(int)
    red, _, blue = picture[inside[:, 1], inside[:, 0]].astype(float).mean(0)
    assert red > blue + 20


def test_hidden_hands_are_boxes_to_ignore(folder: Path) -> None:
    table = [row for path in folder.glob("*/*.parquet") for row in pq.read_table(path, columns=["hands", "ignore_boxes"]).to_pylist()]
    assert sum(len(row["ignore_boxes"]) for row in table) > 0
    assert all(hand["keep"] and hand["sources"] == [SOURCE] for row in table for hand in row["hands"])


def test_second_run_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    assert write_studio_shards(folder, SETTINGS, Console(quiet=True)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/*.parquet")}
    assert sum(shard["rows"] for shard in json.loads((folder / "index.json").read_text())["shards"]) > 60
    assert "exact truth" in (folder / "README.md").read_text()
    assert verify(folder).corrupt == verify(folder).unknown == {}
    assert verify(folder).num_sound == len(before) + 3
