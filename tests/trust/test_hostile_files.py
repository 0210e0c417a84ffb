"""Files of strangers: bounded before they are believed, nothing of them run, no path of theirs followed out of its folder."""

import errno
import io
import json
import os
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fitting.files import below, read_arrays
from hands.metrics.labels import FORMAT, load_labels
from pipeline.dataset.card import table_cell
from pipeline.engine.durable import StoreError
from pipeline.engine.store import Store
from pipeline.engine.verdicts import change_verdicts
from stages.detectors.weights import BadWeights, load_checkpoint
from stages.errors import one_line
from training.data.dataset import opened
from training.data.pages import extents, map_file
from training.data.remote import entries_of
from training.data.samples import cut, decode_jpeg, squared
from training.data.shard import CorruptSampleError, open_shard
from training.detector.inference import read
from training.run.checkpoint import FORMAT as CHECKPOINT_FORMAT
from training.run.checkpoint import Checkpoint


def peak_kb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "", "a\0b", 5, None])
def test_no_path_of_a_list_leads_out_of_its_folder(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match="is no path below"):
        below(tmp_path, name)
    assert below(tmp_path, "a/b.jpg") == tmp_path / "a/b.jpg"


@pytest.mark.parametrize("path", ["/etc/passwd", "../../x.mp4"])
@pytest.mark.parametrize("field", ["video", "jpeg"])
def test_labels_name_files_of_their_folder_alone(tmp_path: Path, field: str, path: str) -> None:
    image = {"id": "a", "width": 4, "height": 4, "hands": [], field: path}
    (tmp_path / "labels.json").write_text(json.dumps({"format": FORMAT, "images": [image]}))
    with pytest.raises(ValueError, match=r"labels\.json: image 0 \(a\).*is no path below"):
        load_labels(tmp_path / "labels.json")


@pytest.mark.parametrize(
    "index",
    [
        {"shards": [1]}, [], {"shards": {}}, {}, {"shards": [{"split": "train", "path": "../../x", "bytes": 1, "sha256": "0" * 64}]},
        {"shards": [{"split": "train", "path": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}]},
        {"shards": [{"split": "train", "path": "x", "bytes": 1, "sha256": "../../victim/x"}]},
        {"shards": [{"split": "train", "path": "x", "bytes": "1", "sha256": "0" * 64}]}, {"shards": [{"split": "train"}]},
    ],
)  # fmt: skip
def test_an_index_of_anything_else_is_named(tmp_path: Path, index: object) -> None:
    (tmp_path / "index.json").write_text(json.dumps(index))
    if index == {"shards": {}}:
        assert not opened(tmp_path, "train")
        return
    with pytest.raises(ValueError, match=r"index\.json lists no shards"):
        opened(tmp_path, "train")


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=6), inner)
    )
)
def test_any_json_is_an_index_or_one_clear_line(value: object) -> None:
    try:
        entries = entries_of(json.dumps({"shards": value}).encode(), "index.json", "train")
    except ValueError as error:
        said = str(error)
    else:
        assert isinstance(entries, list)
        return
    assert "index.json" in said


def shard(path: Path, images: list[bytes]) -> None:
    table = pa.table({"image": pa.array(images, pa.binary())}, schema=pa.schema([pa.field("image", pa.binary(), nullable=False)]))
    pq.write_table(table, path, compression="none", use_dictionary=False, column_encoding={"image": "PLAIN"}, write_page_checksum=True)


def varint(value: int) -> bytes:
    """A number as Thrift's compact protocol writes it, zigzag."""
    value, written = value << 1, b""
    while value > 0x7F:
        written += bytes([value & 0x7F | 0x80])
        value >>= 7
    return written + bytes([value])


def page_header(num_bytes: int, num_values: int) -> bytes:
    sizes = b"\x15\x00\x15" + varint(num_bytes) + b"\x15" + varint(num_bytes)
    return sizes + b"\x2c\x15" + varint(num_values) + b"\x15\x00\x15\x06\x15\x06\x00\x00"


HOSTILE_HEADERS = {
    "more values than the footer says": page_header(20 << 20, 5 << 20),
    "a list of 2^34 booleans": b"\x19\xf1\x80\x80\x80\x80\x40",
    "a text of 2^40 bytes": b"\x18\x80\x80\x80\x80\x80\x20" + b"x" * 40,
    "a number without end": b"\x15" + b"\xff" * 60,
    "structs in structs": b"\x1c" * 60,
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_page_header_is_bounded_before_it_is_believed(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.parquet"
    shard(path, [bytes(24 << 20)])
    at = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[at : at + len(HOSTILE_HEADERS[name])] = HOSTILE_HEADERS[name]
    path.write_bytes(data)
    before = peak_kb()
    with pytest.raises(ValueError, match="row group 0"):
        extents(path, "image", map_file(path))
    assert peak_kb() - before < 50_000


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=40))
def test_any_page_header_is_read_or_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.parquet"
    if not path.exists():
        shard(path, [b"x" * 100] * 40)
    data = bytearray(path.read_bytes())
    at = pq.read_metadata(path).row_group(0).column(0).data_page_offset
    data[at : at + len(header)] = header
    spoilt = tmp_path / "b.parquet"
    spoilt.write_bytes(data)
    try:
        found = extents(spoilt, "image", map_file(spoilt))
    except ValueError:
        return
    assert found is None or int((found.offset + found.size).max()) <= len(data)


def test_a_jpeg_that_declares_more_than_a_camera_takes_is_quarantined() -> None:
    data = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    before = peak_kb()
    with pytest.raises(CorruptSampleError, match="65500 x 65500"):
        decode_jpeg(memoryview(bytes(data)))
    assert peak_kb() - before < 100_000


def test_a_box_far_beyond_its_image_costs_no_memory() -> None:
    image = np.full((100, 120, 3), 200, np.uint8)
    out = np.zeros((64, 64, 3), np.uint8)
    before = peak_kb()
    cut(image, (120, 100), squared(np.array([-30_000.0, -30_000, 30_000, 30_000]), 64, 3.0), out)
    assert peak_kb() - before < 100_000
    assert (out == 114).mean() > 0.99
    box = np.array([-400.0, -400, 520, 500])  # 9 times the image, and nothing less: where both ways meet
    near, far = np.zeros_like(out), np.zeros_like(out)
    cut(image, (120, 100), squared(box, 64, 1.0), near)
    cut(image, (120, 100), squared(box * 1.1, 64, 1.0), far)
    assert abs(float(near.mean()) - float(far.mean())) < 2


def checkpoint(path: Path) -> None:
    fields = {"settings": {}, "network": {"w": torch.zeros(4)}, "average": {}, "optimizer": {}, "progress": {}, "data": "", "rival": {}}
    torch.save({"format": CHECKPOINT_FORMAT, "kind": "detector", **fields}, path)


def test_a_checkpoint_that_bursts_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    checkpoint(tmp_path / "best.pt")
    assert Checkpoint.load(tmp_path / "best.pt").kind == "detector"
    with zipfile.ZipFile(tmp_path / "best.pt") as whole, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb:
        for record in whole.infolist():
            content = bytes(64 << 20) if record.filename.endswith("data/0") else whole.read(record)
            bomb.writestr(record.filename, content)
    before = peak_kb()
    for load in (Checkpoint.load, load_checkpoint):
        with pytest.raises(ValueError, match="unpack"):
            load(tmp_path / "bomb.pt")
    assert peak_kb() - before < 50_000
    torch.save({"format": CHECKPOINT_FORMAT, "network": {"w": torch.zeros(1).expand(1 << 40)}}, tmp_path / "thin.pt")
    with pytest.raises(ValueError, match="larger than their data"):
        Checkpoint.load(tmp_path / "thin.pt")


@pytest.mark.parametrize(
    "field",
    [
        {"network": [1]}, {"network": {"w": 1}}, {"average": {1: torch.zeros(1)}}, {"settings": []}, {"progress": {"epoch": "x"}},
        {"progress": {"step": -1}}, {"progress": {"nonsense": 1}}, {"optimizer": None}, {"rival": 5}, {"data": 3}, {"kind": {}},
        {"progress": {"best": {"ap": "high"}}},
    ],
)  # fmt: skip
def test_a_checkpoint_of_other_kinds_of_values_is_refused(tmp_path: Path, field: dict[str, object]) -> None:
    checkpoint(tmp_path / "best.pt")
    torch.save(torch.load(tmp_path / "best.pt") | field, tmp_path / "wild.pt")
    with pytest.raises(ValueError, match=r"wild\.pt is no checkpoint of this version"):
        Checkpoint.load(tmp_path / "wild.pt")


@pytest.mark.parametrize("settings", [{"size": float("nan")}, {"image": 10**40}, {"num_bins": "x" * 999}, {"nonsense": 1}])
def test_a_checkpoint_of_wild_settings_is_refused(tmp_path: Path, settings: dict[str, object]) -> None:
    checkpoint(tmp_path / "best.pt")
    torch.save(torch.load(tmp_path / "best.pt") | {"settings": settings}, tmp_path / "wild.pt")
    with pytest.raises(ValueError, match=r"wild\.pt holds a detector that this version cannot build"):
        read(tmp_path / "wild.pt")


@pytest.mark.parametrize("images", [["text"], [[]], [{"id": 1, "width": 1e400}], [{"id": "a", "video": 5}], {"a": 1}, "x", 5, None])
def test_labels_of_other_kinds_of_values_are_named(tmp_path: Path, images: object) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"format": FORMAT, "images": images}))
    with pytest.raises(ValueError, match=r"labels\.json: (image 0|its 'images')"):
        load_labels(tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="is not JSON"):
        load_labels(tmp_path / "labels.json")


def test_what_a_person_is_told_is_one_line() -> None:
    assert one_line(ValueError("Couldn't deserialize thrift:\nPage header failed.\n")) == "Couldn't deserialize thrift: Page header failed."
    assert len(one_line(ValueError("x" * 10**6)) or "") <= 2000
    assert (one_line(OSError(errno.ENOSPC, "No space left on device")) or "").startswith("no room left on the disk of what is written:")


@pytest.mark.parametrize("array", [np.array([{}], object), np.zeros(3, "V4"), np.zeros(3, "M8[s]")])
def test_odd_arrays_of_a_checkpoint_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    torch.save({"state_dict": {"w": array}}, tmp_path / "odd.pt")
    with pytest.raises(BadWeights):
        load_checkpoint(tmp_path / "odd.pt")


def test_an_npz_is_bounded_and_holds_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, w=np.zeros(1000))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 0xF0000000)  # bytes that it says to unpack to
    path.write_bytes(data)
    with pytest.raises(ValueError, match="unpack to"):
        read_arrays(path, ["w"])
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    unclosed, octal = (header.getvalue().replace(*change) for change in ((b"}", b" "), (b"(1", b"(01")))  # numpy lets these faults out
    for content in (header.getvalue(), b"\x93NUMPY\x01\x00v\x00{'descr':", b"", unclosed, octal):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("w.npy", content)
        with pytest.raises(ValueError, match="is damaged"):
            read_arrays(path, ["w"])
    for odd in (np.array([{}], object), np.zeros(2, "V3"), np.zeros(2, "M8[s]")):
        np.savez(path, w=odd)
        with pytest.raises(ValueError, match="is damaged"):
            read_arrays(path, ["w"])


class Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_no_pickle_of_a_checkpoint_runs(tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"format": CHECKPOINT_FORMAT, "network": Runs(mark)}, path)
    for load in (Checkpoint.load, load_checkpoint):
        with pytest.raises(ValueError, match=r"evil\.pt"):
            load(path)
    path.write_bytes(pickle.dumps(Runs(mark)))
    for load in (Checkpoint.load, load_checkpoint):
        with pytest.raises(ValueError, match=r"evil\.pt"):
            load(path)
    assert not mark.exists()


def test_a_title_is_text_in_the_card() -> None:
    for title in (
        *("![](http://evil/x.png)", "[a](http://evil)", "<img src=x>", "<http://evil>", "`code`", "a|b", "http://evil/x"),
        *("www.evil.org", "&#33;[](http://evil)", "\u202egnp.x"),
    ):
        shown = table_cell(title)
        assert not set("![]<`\u202e") & set(shown)
        assert "|" not in shown.replace("\\|", "")
        assert "://" not in shown
        assert "www." not in shown
    assert table_cell("手話 – my_video") == "手話 – my_video"


def lock_data(data: Path) -> None:
    with Store(data).lock():
        pass


def decide(data: Path) -> None:
    change_verdicts(Store(data), "a", lambda verdicts: verdicts)


@pytest.mark.parametrize(("name", "write"), [(".lock", lock_data), ("verdicts/.lock", decide)])
@pytest.mark.parametrize("what", ["link", "folder", "fifo"])
def test_a_lock_that_is_no_file_of_ours_is_refused(tmp_path: Path, what: str, name: str, write: Callable[[Path], None]) -> None:
    victim, data = tmp_path / "victim", tmp_path / "data"
    victim.write_text("precious")
    lock = data / name
    lock.parent.mkdir(parents=True)
    {"link": lambda: lock.symlink_to(victim), "folder": lock.mkdir, "fifo": lambda: os.mkfifo(lock)}[what]()
    with pytest.raises(StoreError, match=r"\.lock is no file of ours"):
        write(data)
    assert victim.read_text() == "precious"


def test_labels_of_another_file_are_never_taken_for_its_own(tmp_path: Path) -> None:
    """Two shards of one fingerprint and one size: the second is read with its own labels, whichever was opened first."""
    row = {"hands": [{"box": [1.0, 2.0, 3.0, 4.0]}], "image": b"x" * 64}
    schema = pa.schema(
        [pa.field("image", pa.binary(), nullable=False), ("hands", pa.list_(pa.struct([("box", pa.list_(pa.float32(), 4))])))],
        metadata={"fingerprint": "f" * 64},
    )
    for name, left in (("good", 1.0), ("other", 9.0)):
        row["hands"][0]["box"][0] = left  # type: ignore[index]
        pq.write_table(
            pa.Table.from_pylist([row] * 4, schema=schema), tmp_path / f"{name}.parquet", compression="none", use_dictionary=False
        )
    sizes = {(tmp_path / f"{name}.parquet").stat().st_size for name in ("good", "other")}
    assert len(sizes) == 1
    cache = tmp_path / "cache"
    for _ in range(2):
        for name, left in (("other", 9.0), ("good", 1.0)):
            assert open_shard(tmp_path / f"{name}.parquet", cache).columns["box"][0, 0] == left
