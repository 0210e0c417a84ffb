"""One peer of the loader benchmark, run by the environment it is installed in: `python loader_peer.py NAME FOLDER`.

Reads the same pictures in the peer's own format (written first where they are not), once in order and once shuffled, without and
with decoding, then as batches of PyTorch's DataLoader with two workers; prints one line of JSON. Imports nothing of ours, so that it
runs where the peer does.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch

BATCH, WORKERS, SIZE = 32, 2, 640

cv2.setNumThreads(1)
torch.set_num_threads(1)
warnings.filterwarnings("ignore")


def decoded(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True)


def detector(data: bytes) -> torch.Tensor:
    """Letterboxed to a square."""
    image = decoded(data)
    square, top = np.full((SIZE, SIZE, 3), 114, np.uint8), (SIZE - image.shape[0]) // 2
    square[top : top + image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(square)


def regressor(data: bytes) -> torch.Tensor:
    """A crop as large as ours, resized."""
    return torch.from_numpy(cv2.resize(decoded(data)[30:330, 170:470], (256, 256), interpolation=cv2.INTER_LINEAR))


class Sample:
    """Picks the picture of a sample and makes a tensor of it; pickled to the workers."""

    def __init__(self, make: Callable[[bytes], torch.Tensor], name: str = "jpg") -> None:
        self.make, self.name = make, name

    def __call__(self, sample: Any) -> torch.Tensor:
        return self.make(bytes(sample[self.name]))


def webdataset(folder: Path, files: list[Path]) -> tuple[Callable[[bool], Iterable], Callable[[Sample], Iterable]]:
    import webdataset as wds

    if not folder.exists():
        folder.mkdir()
        with wds.ShardWriter(str(folder / "s-%05d.tar"), maxcount=max(1, len(files) // 10), verbose=0) as writer:
            for path in files:
                writer.write({"__key__": path.stem, "jpg": path.read_bytes()})
    tars = sorted(map(str, folder.glob("*.tar")))

    def read(shuffle: bool) -> Any:
        data = wds.WebDataset(tars, shardshuffle=100 if shuffle else False, seed=1)
        return data.shuffle(1000) if shuffle else data

    return read, lambda make: torch.utils.data.DataLoader(read(True).map(make), batch_size=BATCH, num_workers=WORKERS, prefetch_factor=4)


def mosaic(folder: Path, files: list[Path]) -> tuple[Callable[[bool], Iterable], Callable[[Sample], Iterable]]:
    import streaming

    if not folder.exists():
        with streaming.MDSWriter(out=str(folder), columns={"jpg": "bytes"}, size_limit=32 << 20) as writer:
            for path in files:
                writer.write({"jpg": path.read_bytes()})
    streaming.base.util.clean_stale_shared_memory()

    class Made(streaming.StreamingDataset):  # type: ignore[misc]
        make: Sample | None = None

        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            return self.make(sample) if self.make else sample

    def read(shuffle: bool) -> Any:
        streaming.base.util.clean_stale_shared_memory()
        return Made(local=str(folder), shuffle=shuffle, batch_size=BATCH, shuffle_seed=1)

    def batches(make: Sample) -> Iterable:
        data = read(True)
        data.make = make
        return streaming.StreamingDataLoader(data, batch_size=BATCH, num_workers=WORKERS, prefetch_factor=4)

    return read, batches


def read_bytes(path: str) -> dict[str, bytes]:
    return {"jpg": Path(path).read_bytes()}


def litdata(folder: Path, files: list[Path]) -> tuple[Callable[[bool], Iterable], Callable[[Sample], Iterable]]:
    import litdata as ld

    if not folder.exists():
        ld.optimize(fn=read_bytes, inputs=list(map(str, files)), output_dir=str(folder), chunk_bytes="32MB", num_workers=1)

    def read(shuffle: bool, make: Sample | None = None) -> Any:
        return ld.StreamingDataset(str(folder), shuffle=shuffle, seed=1, transform=make)

    def batches(make: Sample) -> Iterable:
        return ld.StreamingDataLoader(read(True, make), batch_size=BATCH, num_workers=WORKERS, prefetch_factor=4)

    return read, batches


def huggingface(folder: Path, files: list[Path]) -> tuple[Callable[[bool], Iterable], Callable[[Sample], Iterable]]:
    import datasets

    shards = sorted(map(str, (folder.parent / "parquet").glob("*.parquet")))

    def read(shuffle: bool) -> Any:
        data = datasets.load_dataset("parquet", data_files=shards, columns=["image"], split="train", streaming=True)
        return data.shuffle(seed=1, buffer_size=1000) if shuffle else data

    def batches(make: Sample) -> Iterable:
        made = Sample(make.make, "image")
        return torch.utils.data.DataLoader(
            read(True),
            batch_size=BATCH,
            num_workers=WORKERS,
            prefetch_factor=4,
            collate_fn=lambda rows: torch.stack([made(r) for r in rows]),
        )

    return read, batches


def pyarrow(folder: Path, files: list[Path]) -> tuple[Callable[[bool], Iterable], Callable[[Sample], Iterable]]:
    import pyarrow.parquet as pq

    shards = sorted((folder.parent / "parquet").glob("*.parquet"))

    def read(shuffle: bool, part: int = 0, parts: int = 1) -> Iterator[dict[str, bytes]]:
        """Row groups in order; shuffled: row groups in any order, and the rows of eight at a time."""
        rng = np.random.default_rng(1)
        groups = [(path, group) for path in shards for group in range(pq.ParquetFile(path).num_row_groups)]
        groups = [groups[k] for k in (rng.permutation(len(groups)) if shuffle else range(len(groups)))][part::parts]
        for start in range(0, len(groups), 8):
            some = [pq.ParquetFile(p, memory_map=True).read_row_group(g, columns=["image"])["image"] for p, g in groups[start : start + 8]]
            rows = [(column, k) for column in some for k in range(len(column))]
            for k in rng.permutation(len(rows)) if shuffle else range(len(rows)):
                column, row = rows[k]
                yield {"jpg": column[row].as_buffer()}

    class Rows(torch.utils.data.IterableDataset):
        def __init__(self, make: Sample) -> None:
            self.make = make

        def __iter__(self) -> Iterator[torch.Tensor]:
            worker = torch.utils.data.get_worker_info()
            return map(self.make, read(True, worker.id if worker else 0, worker.num_workers if worker else 1))

    return read, lambda make: torch.utils.data.DataLoader(Rows(make), batch_size=BATCH, num_workers=WORKERS, prefetch_factor=4)


PEERS = {"webdataset": webdataset, "mosaic": mosaic, "litdata": litdata, "huggingface": huggingface, "pyarrow": pyarrow}
PRODUCTS = {"detector": detector, "regressor": regressor}


def rate(items: Iterable, count: Callable[[Any], int]) -> float:
    """Samples a second."""
    before, total = time.perf_counter(), 0
    for item in items:
        total += count(item)
    return total / (time.perf_counter() - before)


def touched(sample: Any) -> int:
    """One sample, its bytes read."""
    data = np.frombuffer(sample["jpg"] if "jpg" in sample else sample["image"], np.uint8)
    return 1 + 0 * int(data[::512].sum())


def opened(sample: Any) -> int:
    return min(1, decoded(bytes(sample["jpg"] if "jpg" in sample else sample["image"])).size)


def main() -> None:
    """Measure one peer: every way of reading, and the batches of each product."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    read, batches = PEERS[name](folder / name, sorted((folder / "files").glob("*.jpg")))
    told: dict[str, float] = {}
    for shuffle in (False, True):
        order = "shuffled" if shuffle else "sequential"
        told[order] = rate(read(shuffle), touched)
        told[f"{order}_decoded"] = rate(read(shuffle), opened)
    for product, make in PRODUCTS.items():
        told[product] = rate(batches(Sample(make)), len)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
