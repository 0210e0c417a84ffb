"""Frames of shards as a test set: what can be seen counts, and a corrupt frame does not end a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import rows, write
from training.data.dataset import Dataset
from training.data.readers.shard_frames import shard_frames
from training.data.samples import Frames


def with_boxes(dataset: Dataset, box: np.ndarray) -> Dataset:
    (shard,) = dataset.shards
    return Dataset([replace(shard, columns={**shard.columns, "box": box})], dataset.fingerprint, dataset.start)


def test_boxes_are_cut_at_the_frames_border_and_hands_outside_count_neither_way(tmp_path: Path, cache: Path) -> None:
    dataset = Dataset.of([write(tmp_path / "a.parquet", rows(1, 2))], cache)  # frames of 96 x 64 with one hand and with two
    box = np.array([[10, -20, 40, 20], [-27, 10, 3, 50], [60, 60, 100, 68]], np.float32)
    one, two = shard_frames(Frames(dataset=with_boxes(dataset, box), size=192))
    np.testing.assert_allclose(one.box, [[20, 32, 80, 72]])
    np.testing.assert_allclose(two.box, [[120, 152, 192, 160]])
    np.testing.assert_allclose(two.ignore, [[0, 52, 6, 132]])


def test_a_corrupt_frame_is_left_out_by_name(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = rows(0, 4)
    images = table["image"].to_pylist()
    images[2] = b"no image"
    table = table.set_column(2, table.schema.field("image"), [images])
    frames = Frames(dataset=Dataset.of([write(tmp_path / "a.parquet", table)], cache), size=96)
    assert [image.name for image in shard_frames(frames)] == ["0", "1", "3"]
    assert [image.name for image in shard_frames(frames, [3, 2])] == ["3"]
    assert "frame 2 left out: no JPEG" in caplog.text
