"""Shards of an object store: the same batches as from a disk, whatever fits into the cache; damaged ones are refused."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer

import whim
from fitting.files import sha256_of
from tests.training.conftest import rows, write
from training.commands.arguments import held_out_frames
from training.commands.evaluate import labelled_set
from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.remote import limit_bytes, make_room
from training.data.samples import Frames
from training.data.shard import CorruptSampleError


@pytest.fixture(scope="module")
def store() -> Any:
    """A server that speaks S3, and its client."""
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="hands")
    yield client, f"?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
    server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def packed(tmp_path: Path, store: Any) -> tuple[Path, str]:
    """A folder as `pack` leaves it, and where it was uploaded to."""
    client, options = store
    folder, prefix = tmp_path / "packed", tmp_path.name
    entries = []
    for k, split in enumerate(("train", "train", "train", "test")):
        path = write(folder / split / f"{split}-{k}.parquet", rows(40 * k, 40))
        entries.append({"path": f"{split}/{path.name}", "split": split, "bytes": path.stat().st_size, "sha256": sha256_of(path)})
        client.upload_file(str(path), "hands", f"{prefix}/{split}/{path.name}")
    index = json.dumps({"shards": entries})
    (folder / "index.json").write_text(index)
    client.put_object(Bucket="hands", Key=f"{prefix}/index.json", Body=index.encode())
    return folder, f"s3://hands/{prefix}{options}"


def batches(dataset: Dataset) -> Any:
    loader = Loader(sources=[Frames(dataset=dataset, size=96)], batch_size=24)
    return [(batch.images.clone(), batch.labels["box"]) for batch in loader.epoch(1)]


@pytest.mark.parametrize("shards_that_fit", [3, 1, 0])
def test_the_same_batches_as_from_a_disk_whatever_fits(
    packed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards_that_fit: int
) -> None:
    folder, uri = packed
    sizes = [entry["bytes"] for entry in json.loads((folder / "index.json").read_text())["shards"]]
    monkeypatch.setenv("WHIM_CACHE_GB", str((sum(sizes[:shards_that_fit]) + 10) / 1e9))
    far = Dataset.open(uri, "train", tmp_path / "far")
    near = Dataset.open(folder, "train", tmp_path / "near")
    assert far.fingerprint == near.fingerprint
    assert len(list((tmp_path / "far" / "shards").glob("*.parquet"))) == shards_that_fit
    for (images, box), (wanted, wanted_box) in zip(batches(far), batches(near), strict=True):
        assert torch.equal(images, wanted)
        assert np.array_equal(box, wanted_box)


def test_what_is_held_out_is_found_in_a_store_as_on_a_disk(
    packed: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, uri = packed
    monkeypatch.setenv("WHIM_CACHE", str(cache))
    far, near = (held_out_frames([Path(place)], 96) for place in (uri, str(folder)))
    assert far
    assert near
    assert far.dataset.fingerprint == near.dataset.fingerprint
    assert bytes(far.dataset.shards[0].image(3)) == bytes(near.dataset.shards[0].image(3))
    assert len(far) == 40, "no shard of val: those of test"
    write(tmp_path / "other" / "val" / "one.parquet", rows(7, 3))
    both = held_out_frames([Path(uri), tmp_path / "other"], 96)
    assert both
    assert len(both) == 43
    (tmp_path / "nothing").mkdir()
    assert held_out_frames([tmp_path / "nothing"], 96) is None
    name, pictures, _ = labelled_set(whim.parse(["evaluate", "detector", "best.pt", "--data", uri, "--image", "96"]))
    assert name == f"{tmp_path.name}-test", "a file's name: without the store's options"
    assert len(list(pictures)) == 40


def test_an_image_that_has_changed_in_the_store_is_quarantined(
    packed: Any, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, uri = packed
    monkeypatch.setenv("WHIM_CACHE_GB", "0")
    dataset = Dataset.open(uri, "train", tmp_path / "far")
    shard = dataset.shards[1]
    assert shard.found
    place = int(shard.found.offset[7]) + 300
    client, _ = store
    changed = bytearray((folder / "train" / "train-1.parquet").read_bytes())
    changed[place] ^= 1
    client.put_object(Bucket="hands", Key=f"{uri.split('/')[3].split('?')[0]}/train/train-1.parquet", Body=bytes(changed))
    with pytest.raises(CorruptSampleError, match=r"train-1.parquet of s3://.*, bytes \d+ to \d+, has changed: upload it again"):
        shard.image(7)
    loader = Loader(sources=[Frames(dataset=dataset, size=96)], batch_size=24)
    assert 47 not in np.concatenate([batch.samples.sample for batch in loader.epoch(0)])
    assert list(loader.quarantine.reasons) == [(0, 47)]


def test_a_cache_that_lost_the_hands_of_a_shard_fetches_them_again(packed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, uri = packed
    monkeypatch.setenv("WHIM_CACHE_GB", "0")
    first = Dataset.open(uri, "train", tmp_path / "far")
    shutil.rmtree(tmp_path / "far" / first.shards[0].identity)
    again = Dataset.open(uri, "train", tmp_path / "far")
    assert np.array_equal(again.hands(range(40), ["box"])[1]["box"], first.hands(range(40), ["box"])[1]["box"])


@pytest.mark.parametrize("words", ["much", "inf"])
def test_a_limit_that_is_no_number_is_named(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIM_CACHE_GB", words)
    with pytest.raises(ValueError, match=f"WHIM_CACHE_GB must be a number of gigabytes, got '{words}'"):
        limit_bytes(tmp_path)


def test_what_is_here_is_not_fetched_again(packed: Any, store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, uri = packed
    monkeypatch.setenv("WHIM_CACHE_GB", "1")
    with ThreadPoolExecutor(4) as pool:  # ranks of one machine
        opened = list(pool.map(lambda _: Dataset.open(uri, "train", tmp_path / "far"), range(4)))
    assert len({dataset.fingerprint for dataset in opened}) == 1
    files = {path: path.stat().st_ino for path in (tmp_path / "far" / "shards").glob("*.parquet")}
    assert len(files) == 3
    client, _ = store
    for entry in client.list_objects_v2(Bucket="hands", Prefix=uri.split("/")[3].split("?")[0])["Contents"]:
        if entry["Key"].endswith(".parquet"):
            client.delete_object(Bucket="hands", Key=entry["Key"])
    assert len(Dataset.open(uri, "train", tmp_path / "far")) == 120
    assert {path: path.stat().st_ino for path in files} == files


def test_what_was_used_longest_ago_makes_room_and_who_reads_it_reads_on(
    packed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, uri = packed
    monkeypatch.setenv("WHIM_CACHE_GB", "1")
    dataset = Dataset.open(uri, "train", tmp_path / "far")
    paths = [shard.path for shard in dataset.shards]
    for age, path in zip((30, 10, 20), paths, strict=True):
        os.utime(path, (1e9 - age, 1e9 - age))
    wanted = [bytes(shard.image(5)) for shard in dataset.shards]
    monkeypatch.setenv("WHIM_CACHE_GB", str((paths[1].stat().st_size + 100) / 1e9))
    make_room(tmp_path / "far", 90, [])
    assert [path.exists() for path in paths] == [False, True, False]
    assert [bytes(shard.image(5)) for shard in dataset.shards] == wanted


def test_a_shard_that_is_not_what_the_index_says_is_refused(packed: Any, store: Any, tmp_path: Path) -> None:
    folder, uri = packed
    client, _ = store
    key = f"{uri.split('/')[3].split('?')[0]}/train/train-1.parquet"
    damaged = bytearray((folder / "train" / "train-1.parquet").read_bytes())
    damaged[5000] ^= 1
    client.put_object(Bucket="hands", Key=key, Body=bytes(damaged))
    with pytest.raises(ValueError, match=r"train-1.parquet of s3://.* has sha256 .* upload it again"):
        Dataset.open(uri, "train", tmp_path / "far")
    assert not list((tmp_path / "far" / "shards").glob("partial-*"))
    client.delete_object(Bucket="hands", Key=key)
    with pytest.raises(FileNotFoundError, match=r"train-1.parquet of s3://.* is missing, index.json lists it"):
        Dataset.open(uri, "train", tmp_path / "far")
    with pytest.raises(FileNotFoundError, match=r"no hands/nowhere/index.json in s3://.*: upload the whole folder"):
        Dataset.open("s3://hands/nowhere?" + uri.split("?")[1], "train", tmp_path / "far")
