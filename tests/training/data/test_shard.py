"""Reading shards: byte for byte what Parquet's own reader gives, and a clear word on everything that is not a sound shard."""

import gc
import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fitting.files import sha256_of
from tests.training.conftest import rows, write
from training.data.dataset import Dataset
from training.data.pages import extents, map_file
from training.data.shard import CorruptSampleError, open_shard


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data_page_version": "2.0"},
        {"write_page_checksum": False},
        {"row_group_size": 7, "data_page_size": 100},
    ],
    ids=str,
)
def test_bytes_by_offset_are_those_of_parquets_reader(shards: Callable[..., list[Path]], cache: Path, options: Any) -> None:
    (path,) = shards(1, **options)
    wanted = pq.read_table(path, columns=["image"])["image"].to_pylist()
    dataset = Dataset.of([path], cache)
    assert dataset.shards[0].found is not None
    assert [bytes(dataset.place(k)[0].image(k)) for k in range(40)] == wanted


@pytest.mark.parametrize("options", [{"compression": "zstd"}, {"use_dictionary": ["image"], "column_encoding": None}], ids=str)
def test_any_parquet_is_read_by_row_groups(shards: Callable[..., list[Path]], cache: Path, options: Any) -> None:
    (path,) = shards(1, **options)
    wanted = pq.read_table(path, columns=["image"])["image"].to_pylist()
    dataset = Dataset.of([path], cache)
    assert dataset.shards[0].found is None
    order = np.random.default_rng(0).permutation(40).tolist()
    got: dict[int, bytes] = {}
    threads = [
        threading.Thread(target=lambda part: got.update({k: bytes(dataset.shards[0].image(k)) for k in part}), args=(order[t::4],))
        for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [got[k] for k in range(40)] == wanted


def test_hands_and_ignored_boxes_of_rows(shards: Callable[..., list[Path]], cache: Path) -> None:
    dataset = Dataset.of(shards(), cache)
    picked = [5, 41, 0, 119]  # with 2, 2, 0, 2 hands
    of, hands = dataset.hands(picked, ["box", "side", "hand_pose"])
    assert of.tolist() == [0, 0, 1, 1, 3, 3]
    assert hands["side"].tolist() == [1, 0, 1, 0, 1, 0]
    assert hands["box"][:, 0].tolist() == [5, 5, 1, 1, 19, 19]
    assert np.isnan(hands["hand_pose"]).all(1).tolist() == [False, False, True, True, False, False]
    of, ignore = dataset.ignore(picked)
    assert of.tolist() == [0, 2]
    assert ignore.tolist() == [[1, 2, 3, 4]] * 2


def test_the_second_opening_reads_the_cache_and_a_changed_file_does_not(shards: Callable[..., list[Path]], cache: Path) -> None:
    paths = shards(1)
    first = Dataset.of(paths, cache)
    (folder,) = cache.iterdir()
    np.save(folder / "hand.side.npy", np.full(len(first.shards[0].columns["side"]), 9, np.int8))
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in folder.glob("*.npy")]
    (folder / "arrays.sha256").write_text("".join(sums))
    assert (Dataset.of(paths, cache).shards[0].columns["side"] == 9).all()
    write(paths[0], rows(0, 39))
    again = Dataset.of(paths, cache)
    assert again.fingerprint != first.fingerprint
    assert set(again.shards[0].columns["side"]) == {0, 1}


def test_threads_open_shards_at_the_same_time(shards: Callable[..., list[Path]], cache: Path) -> None:
    path = shards()[0]
    open_shard(path, cache)
    threshold = gc.get_threshold()
    gc.callbacks.append(lambda *_: time.sleep(0))
    gc.set_threshold(20)  # another thread goes on in the midst of whatever makes objects
    try:
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(lambda _: open_shard(path, cache), range(60)))
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.pop()
    assert len({shard.identity for shard in opened}) == 1


def test_a_flipped_bit_in_the_cache_is_found_and_the_cache_made_again(shards: Callable[..., list[Path]], cache: Path) -> None:
    paths = shards(1)
    whole = Dataset.of(paths, cache).shards[0].columns["box"].copy()
    (folder,) = cache.iterdir()
    for name in ("hand.box.npy", "hand.side.npy", "arrays.sha256", "sha256"):
        data = bytearray((folder / name).read_bytes())
        data[-3] ^= 4
        (folder / name).write_bytes(data)
        columns = Dataset.of(paths, cache).shards[0].columns
        assert np.array_equal(columns["box"], whole)
        assert set(columns["side"]) == {0, 1}


def test_a_cache_that_cannot_be_written_is_done_without(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    assert len(Dataset.of(shards(1), blocked)) == 40


def test_a_flipped_byte_is_seen(shards: Callable[..., list[Path]], cache: Path) -> None:
    (path,) = shards(1)
    found = extents(path, "image", map_file(path))
    assert found
    data = bytearray(path.read_bytes())
    data[int(found.offset[20]) + 200] ^= 0x10
    path.write_bytes(bytes(data))
    dataset = Dataset.of([path], cache)
    with pytest.raises(CorruptSampleError, match="checksum"):
        dataset.shards[0].image(20)
    assert dataset.shards[0].image(39)  # of another page


def opened(data: bytearray, path: Path) -> Dataset | str:
    """Hands read from these bytes, or the error that they raise."""
    path.write_bytes(data)
    try:
        return Dataset.of([path], path.with_suffix(""))
    except ValueError as error:
        return str(error)


def flipped(data: bytes, place: int, bit: int) -> bytearray:
    other = bytearray(data)
    other[place] ^= 1 << bit
    return other


def test_a_flipped_bit_among_the_hands_is_named_or_does_no_harm(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    """A few bits of the pages' headers say nothing that is read."""
    (path,) = shards(1, row_group_size=40)
    wanted = Dataset.of([path], tmp_path / "sound").shards[0].columns
    group, said = pq.read_metadata(path).row_group(0), []
    for chunk in (group.column(k) for k in range(group.num_columns) if group.column(k).path_in_schema.startswith("hands")):
        for place in np.linspace(chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size - 1, 4).astype(int).tolist():
            said.append(opened(flipped(path.read_bytes(), place, place % 8), tmp_path / f"damaged-{place}.parquet"))
    assert sum(isinstance(each, str) for each in said) > 0.7 * len(said)
    for each in said:
        if isinstance(each, str):
            assert re.search(r"damaged-\d+.parquet is damaged", each)
        else:
            assert all(np.array_equal(each.shards[0].columns[name], values, equal_nan=True) for name, values in wanted.items())


def test_a_damaged_page_header_is_named(shards: Callable[..., list[Path]], tmp_path: Path) -> None:
    (path,) = shards(1)
    found = extents(path, "image", map_file(path))
    assert found
    end = int(found.page_offset[1])
    said = [opened(flipped(path.read_bytes(), end - 1 - k // 3, k % 8), tmp_path / f"damaged-{k}.parquet") for k in range(60)]
    named = [each for each in said if isinstance(each, str)]
    assert len(named) > 10
    assert all(re.search(r"damaged-\d+.parquet", each) for each in named)


def test_what_other_writers_make_of_a_shard_is_read_too(shards: Callable[..., list[Path]], cache: Path, tmp_path: Path) -> None:
    """DuckDB knows neither lists of a fixed length nor columns without nulls."""
    (path,) = shards(1)
    other = tmp_path / "other.parquet"
    duckdb.sql(f"copy (select nullif(hands, []) as hands, ignore_boxes, image from '{path}') to '{other}'")
    assert pq.read_schema(other).field("hands").type.value_type.field("box").type == pa.list_(pa.field("element", pa.float32()))
    assert pq.read_table(other)["hands"].null_count == 14
    got, wanted = (Dataset.of([each], cache) for each in (other, path))
    assert [bytes(got.shards[0].image(k)) for k in range(40)] == [bytes(wanted.shards[0].image(k)) for k in range(40)]
    for rows_of in (
        lambda dataset: dataset.hands(range(40), ["box", "side", "keypoints", "keep"]),
        lambda dataset: dataset.ignore(range(40)),
    ):
        (of, values), (true_of, true_values) = rows_of(got), rows_of(wanted)
        assert np.array_equal(of, true_of)
        np.testing.assert_equal(values, true_values)


def test_hands_that_lack_something_are_unknown_and_rows_that_lack_an_image_corrupt(cache: Path, tmp_path: Path) -> None:
    hand = {"box": [1.0, 2, 3, 4], "keypoints": [[5.0, 6, 1]] * 2, "side": 1}
    table = pa.table(
        {
            "hands": [[hand, hand | {"keypoints": None}], None, [hand | {"keypoints": [[7.0, 8, 1]] * 2}]],
            "image": pa.array([b"a", None, b"c"]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    dataset = Dataset.of([tmp_path / "a.parquet"], cache)
    of, hands = dataset.hands([0, 1, 2], ["box", "keypoints", "side"])
    assert of.tolist() == [0, 0, 2]
    assert hands["keypoints"][:, 0, 0].tolist() == pytest.approx([5, np.nan, 7], nan_ok=True)
    assert hands["box"].shape == (3, 4)
    assert bytes(dataset.shards[0].image(2)) == b"c"
    with pytest.raises(CorruptSampleError, match="row 1 has no image"):
        dataset.shards[0].image(1)
    with pytest.raises(ValueError, match=r"the hands of .*a.parquet have no column 'keep'"):
        dataset.hands([2], ["box", "keep"])


def test_no_rows_have_no_hands(shards: Callable[..., list[Path]], cache: Path) -> None:
    """A batch of several datasets may hold nothing of one of them."""
    dataset = Dataset.of(shards(1), cache)
    of, hands = dataset.hands([], ["box", "keypoints"])
    assert (of.shape, hands["box"].shape, hands["keypoints"].shape) == ((0,), (0, 4), (0, 21, 3))
    assert hands["box"].dtype == np.float32
    assert dataset.ignore([])[1].shape == (0, 4)


def test_what_is_no_shard_is_named(cache: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"hands": [[1.0]], "image": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a.parquet has images of type string and hands of type list<.*: they must be JPEG bytes and lists"
    ):
        Dataset.of([tmp_path / "a.parquet"], cache)


def listed(paths: Any) -> Any:
    """Write the index beside the split's folder."""
    folder = paths[0].parents[1]
    entries = [{"path": f"train/{p.name}", "split": "train", "bytes": p.stat().st_size} for p in paths]
    (folder / "index.json").write_text(json.dumps({"shards": entries}))
    return folder


def test_a_missing_shard_is_named(shards: Callable[..., list[Path]], cache: Path) -> None:
    paths = shards()
    folder = listed(paths)
    paths[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"train-1.parquet is missing.*fetch it again"):
        Dataset.open(folder, "train", cache)


def test_a_truncated_shard_is_named(shards: Callable[..., list[Path]], cache: Path) -> None:
    paths = shards()
    folder = listed(paths)
    paths[2].write_bytes(paths[2].read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"train-2.parquet has \d+ bytes, .* says \d+: fetch it again"):
        Dataset.open(folder, "train", cache)
    with pytest.raises(ValueError, match=r"train-2.parquet is damaged"):
        Dataset.of(paths, cache)


def test_another_schema_is_refused(tmp_path: Path, cache: Path) -> None:
    table = rows(0, 4)
    path = write(tmp_path / "old.parquet", table.replace_schema_metadata({"schema_version": "0"}))
    with pytest.raises(ValueError, match="schema version 0, this code reads"):
        Dataset.of([path], cache)
    path = write(tmp_path / "other.parquet", table.drop_columns("hands"))
    with pytest.raises(ValueError, match="has no column hands"):
        Dataset.of([path], cache)


def test_an_empty_split_is_refused(shards: Callable[..., list[Path]], cache: Path) -> None:
    folder = listed(shards())
    with pytest.raises(ValueError, match="nothing to train on"):
        Dataset.open(folder, "val", cache)


def test_a_folder_that_is_not_there_is_named(cache: Path, tmp_path: Path) -> None:
    for wanted in (Dataset.open, lambda folder: Dataset.held_out([folder])):
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*mistyped: name one of shards"):
            wanted(tmp_path / "mistyped")


def test_without_an_index_only_training_takes_a_folder_as_it_is(shards: Callable[..., list[Path]], cache: Path) -> None:
    (path,) = shards(1)
    assert len(Dataset.open(path.parent, "train", cache)) == 40
    with pytest.raises(ValueError, match="nothing to train on"):
        Dataset.open(path.parent, "val", cache)
