"""`make bench-loader`: samples a second of our loader and of its peers, the same pictures, two cores, one run.

Each loader's batches are measured `--repeats` times in turn, so that whatever else the machine does falls on all of them; ratios are
of the medians. A peer's batches hold pictures only, ours their labels too. The limit is what the cores decode when they do nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.loading.loader_pictures import write_files, write_parquet
from benchmarks.machine import describe
from training.data.dataset import Dataset
from training.data.loader import Loader
from training.data.samples import Crops, Frames

HERE = Path(__file__).parent
THREADS, BATCH = 2, 32
OTHER_ENVIRONMENT = ("webdataset", "mosaic", "litdata")
"""Peers of .env-loaders; mosaicml-streaming and datasets need different versions of huggingface-hub."""


def main() -> None:
    """Write benchmarks/results/loader.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("data/bench-loader"))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results" / "loader.json")
    arguments = parser.parse_args()
    machine = describe()
    folder = arguments.folder / str(arguments.pictures)
    files = write_files(folder / "files", arguments.pictures)
    shards = sorted((folder / "parquet").glob("*.parquet")) or write_parquet(files, folder / "parquet")
    runs: dict[str, list[dict[str, float]]] = {}
    for repeat in range(arguments.repeats):
        runs.setdefault("ours", []).append(ours(shards, folder / "cache", epoch=repeat))
        for name in (*OTHER_ENVIRONMENT, "huggingface", "pyarrow"):
            told = peer(name, folder)
            if told:
                runs.setdefault(name, []).append(told)
        print(json.dumps({name: {key: round(value) for key, value in told[-1].items()} for name, told in runs.items()}), flush=True)
    rates = {name: {key: statistics.median(told[key] for told in many) for key in many[0]} for name, many in runs.items()}
    figures = {
        "machine": machine,
        "pictures": arguments.pictures,
        "repeats": arguments.repeats,
        "cores": THREADS,
        **ratios(rates, "detector"),
    }
    figures |= {"regressor": ratios(rates, "regressor"), "samples_per_s": rates}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


def ratios(rates: dict[str, dict[str, float]], source: str) -> dict[str, float]:
    """Ours over each peer's and over the decoder's alone."""
    mine = rates["ours"][source]
    against = {f"vs_{name}": round(mine / told[source], 3) for name, told in rates.items() if name != "ours"}
    return against | {"share_of_decode_limit": round(mine / rates["ours"]["decode_limit"], 3)}


def ours(shards: list[Path], cache: Path, epoch: int) -> dict[str, float]:
    """Bytes and decoded pictures one after the other, batches of both products, and the decoder alone."""
    dataset = Dataset.of(shards, cache)
    rng, told = np.random.default_rng(epoch), dict[str, float]()
    for order, rows in (("sequential", np.arange(len(dataset))), ("shuffled", rng.permutation(len(dataset)))):
        told[order] = _rate(rows, lambda row: np.frombuffer(_bytes(dataset, row), np.uint8)[::512].sum())
        told[f"{order}_decoded"] = _rate(rows, lambda row: _decode(_bytes(dataset, row)))
    for name, source in (("detector", Frames(dataset=dataset)), ("regressor", Crops.of(dataset))):
        loader = Loader(sources=[source], batch_size=BATCH, num_threads=THREADS)
        batches = loader.epoch(epoch)
        before, count = time.perf_counter(), 0
        for batch in batches:
            count += len(batch.images)
            if count >= len(dataset):
                break
        told[name] = count / (time.perf_counter() - before)
        batches.close()
    held = [bytes(_bytes(dataset, row)) for row in range(len(dataset))]
    handfuls = [held[start : start + BATCH] for start in range(0, len(held), BATCH)]
    before = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda some: [_decode(data) for data in some], handfuls))
    return told | {"decode_limit": len(held) / (time.perf_counter() - before)}


def _bytes(dataset: Dataset, row: int) -> memoryview:
    shard, at = dataset.place(int(row))
    return shard.image(at)


def _decode(data: memoryview | bytes) -> int:
    return int(simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True).size)


def _rate(rows: np.ndarray, read: object) -> float:
    before = time.perf_counter()
    for row in rows:
        read(row)  # type: ignore[operator]
    return len(rows) / (time.perf_counter() - before)


def peer(name: str, folder: Path) -> dict[str, float] | None:
    """A peer's figures, by its own environment; None, with a word on why, where it cannot run."""
    python = Path(".env-loaders/bin/python") if name in OTHER_ENVIRONMENT else Path(sys.executable)
    if not python.exists():
        raise FileNotFoundError(f"{name} needs {python}: make env-loaders")
    command = [str(python), str(HERE / "loader_peer.py"), name, str(folder.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        print(f"{name} left out: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}", flush=True)
        return None
    told: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return told


if __name__ == "__main__":
    main()
