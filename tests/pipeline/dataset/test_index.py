"""What lies beside the shards: it says where everything is, it is right, and it is the same bytes every time."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.index import write_index
from pipeline.engine.files.shard import write_shard
from stages.pack import ClipTables, Pack
from tests.small_tables import clip_row, render_video, source_of, video_row

FILES = ("index.json", "stats.json", "README.md")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ClipTables]:
    folder = tmp_path_factory.mktemp("videos")
    videos = {name: video_row(render_video(folder / f"{name}.mp4", seed=i), name) for i, name in enumerate("abc")}
    videos["b"].licence[0] = ""
    videos["b"].title[0] = "a | title\n<b>with marks</b>"
    return {name: source_of(video, clip_row(name), seed=i) for i, (name, video) in enumerate(videos.items())}


@pytest.fixture
def shards(sources: dict[str, ClipTables], tmp_path: Path) -> Path:
    """Two shards of train and one of val."""
    stage = Pack(row_group_size=8, negatives=1.0)
    for name, key in (("a", "train/train-00000-of-00002"), ("b", "train/train-00001-of-00002"), ("c", "val/val-00000-of-00001")):
        path = tmp_path / f"{key}.parquet"
        path.parent.mkdir(exist_ok=True)
        write_shard(stage, stage.build()([sources[name]]), path, {"fingerprint": name * 64, "key": key})
    return tmp_path


def test_index_says_where_every_image_is(shards: Path) -> None:
    write_index(shards)
    index = json.loads((shards / "index.json").read_text())
    assert [s["path"] for s in index["shards"]] == [f"train/train-0000{i}-of-00002.parquet" for i in (0, 1)] + [
        "val/val-00000-of-00001.parquet"
    ]
    assert [c["name"] for c in index["columns"]] == pq.read_schema(shards / index["shards"][0]["path"]).names
    for shard in index["shards"]:
        data, table = (shards / shard["path"]).read_bytes(), pq.read_table(shards / shard["path"])
        assert (shard["bytes"], shard["sha256"], shard["rows"]) == (len(data), hashlib.sha256(data).hexdigest(), table.num_rows)
        assert shard["hands"] == sum(map(len, table.column("hands").to_pylist())) > 0
        assert len(shard["row_groups"]) > 1
        images = table.column("image").to_pylist()
        for first, num_rows, offset, size in shard["row_groups"]:
            place = offset
            for image in images[first : first + num_rows]:
                place = data.index(image, place, offset + size) + len(image)


def test_stats_count_what_is_in_the_shards(shards: Path, sources: dict[str, ClipTables]) -> None:
    write_index(shards)
    stats = json.loads((shards / "stats.json").read_text())
    train = stats["splits"]["train"]
    keep = np.concatenate([sources[n].reviews.keep for n in "ab"])
    side = np.concatenate([sources[n].hands.side for n in "ab"])[keep]
    assert (train["hands"], train["left"], train["right"]) == (keep.sum(), (side == 0).sum(), (side == 1).sum())
    assert train["clips"] == 2
    assert train["negatives"] > 0
    assert train["hands_by_source"] == {"mediapipe": keep.sum(), "vitpose": keep.sum()}
    assert all(sum(h["counts"]) == train["hands"] for h in train["histograms"].values())
    quality = np.concatenate([sources[n].reviews.quality for n in "ab"])[keep]
    edges = np.array(train["histograms"]["quality"]["edges"])
    np.testing.assert_array_equal(train["histograms"]["quality"]["counts"], np.histogram(quality, edges)[0])
    pose = np.concatenate([sources[n].fits.hand_pose for n in "ab"])[keep].reshape(-1, 15, 3)
    pose[side == 0] *= [1, -1, -1]
    np.testing.assert_allclose(np.reshape(train["mean_hand_pose"], (15, 3)), pose.mean(0), atol=2e-5)
    assert stats["videos"]["c"]["split"] == "val"
    assert sum(v["hands"] for v in stats["videos"].values()) == sum(s["hands"] for s in stats["splits"].values())


def test_the_same_shards_give_the_same_bytes(shards: Path) -> None:
    write_index(shards, hand_model="standin")
    first = [(shards / name).read_bytes() for name in FILES]
    write_index(shards, hand_model="standin")
    assert [(shards / name).read_bytes() for name in FILES] == first
    for name in FILES:
        (shards / name).unlink()
    write_index(shards, hand_model="standin")
    assert [(shards / name).read_bytes() for name in FILES] == first


def test_card_names_licences_models_and_limits(shards: Path) -> None:
    write_index(shards, hand_model="standin")
    card = (shards / "README.md").read_text()
    assert "| a | train |" in card
    assert "CC-BY 4.0 (2)" in card
    assert "not stated (1)" in card
    assert "a \\| title &lt;b>with marks" in card
    assert "stand-in hand" in card
    assert "mediapipe" in card
    assert "recognisable" in card
    write_index(shards, hand_model="mano", pose_prior="invented (licence: Apache-2.0)")
    assert "MANO (Romero" in (shards / "README.md").read_text()
    assert "lean: invented (licence: Apache-2.0)." in (shards / "README.md").read_text()
    assert json.loads((shards / "index.json").read_text())["pose_prior"] == "invented (licence: Apache-2.0)"


def test_card_names_videos_of_the_same_content(sources: dict[str, ClipTables], tmp_path: Path) -> None:
    stage = Pack(row_group_size=8, negatives=1.0)
    path = tmp_path / "train/train-00000-of-00001.parquet"
    path.parent.mkdir()
    for name in "ac":
        sources[name].videos.sha256[0] = "5" * 64
    write_shard(stage, stage.build()(list(sources.values())), path, {"fingerprint": "a" * 64, "key": "train"})
    write_index(tmp_path)
    assert "as another one, whose frames are here twice: c is a." in (tmp_path / "README.md").read_text()
    sources["c"].videos.sha256[0] = "6" * 64
    write_shard(stage, stage.build()(list(sources.values())), path, {"fingerprint": "b" * 64, "key": "train"})
    write_index(tmp_path)
    assert "as another one, whose frames are here twice: none." in (tmp_path / "README.md").read_text()


def test_shards_of_two_runs_are_not_indexed_as_one(shards: Path) -> None:
    shutil.copy(shards / "train" / "train-00000-of-00002.parquet", shards / "train" / "train-00000-of-00004.parquet")
    with pytest.raises(ValueError, match="00002 and of 00004"):
        write_index(shards)


def test_no_shards_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no shards"):
        write_index(tmp_path)


def test_hugging_face_datasets_decodes_the_folder(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(os.environ, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    write_index(shards)
    loaded = datasets.load_dataset(str(shards), cache_dir=str(tmp_path / "cache"), streaming=True)
    assert set(loaded) == {"train", "val"}
    table = pq.read_table(shards / "val" / "val-00000-of-00001.parquet")
    rows = list(loaded["val"])
    assert [row["sample"] for row in rows] == table.column("sample").to_pylist()
    assert all(row["image"].size == (320, 240) for row in rows)
    assert [row["hands"] for row in rows] == table.column("hands").to_pylist()
