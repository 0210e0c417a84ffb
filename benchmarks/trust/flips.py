"""Single bits flipped in every kind of file: of a finished folder, each is to be found by `whim verify`; a checkpoint and a cache of
labels are to be refused, or to say what they said before."""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.trust.bench import Bench
from benchmarks.trust.training import undisturbed
from pipeline.engine.verify import files_of, verify
from training.data.shard import open_shard
from training.run.checkpoint import Checkpoint

FOLDER, CHECKPOINTS, CACHES = 2600, 250, 250
AT_ONCE = 4


def flip(bench: Bench) -> None:
    """Flip bits until so many have been flipped, a kind of file as often as another."""
    _folder(bench)
    _checkpoints(bench)
    _caches(bench)


def turn(path: Path, bit: int) -> None:
    """Turn one bit of a file over; twice, and it is as it was."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """A file with one bit turned over, as it was afterwards."""
    turn(path, bit)
    try:
        yield
    finally:
        turn(path, bit)


def kind_of(name: Path) -> str:
    """Kind of a data folder's file, by its path."""
    if name.parts[0] in ("shards", "media", "runs", "studio"):
        return f"{name.parts[0]}/*{''.join(name.suffixes[-2:]) if name.parts[0] == 'media' else name.suffix}"
    return f"tables/{name.parts[0]}" if name.suffix == ".parquet" and len(name.parts) > 1 else str(name)


def _folder(bench: Bench) -> None:
    data = bench.work / "flipped/data"
    shutil.rmtree(data, ignore_errors=True)
    shutil.copytree(bench.reference, data)
    kinds: dict[str, list[Path]] = defaultdict(list)
    for path in files_of(data):
        if path.stat().st_size:
            kinds[kind_of(path.relative_to(data))].append(path)
    while (done := sum(n for name, n in bench.figures.items() if name.startswith("flips.folder"))) < bench.wanted(FOLDER):
        hit = [bench.dice.choice(kinds[kind]) for kind in bench.dice.sample(sorted(kinds), AT_ONCE)]
        bits = [bench.dice.randrange(8 * path.stat().st_size) for path in hit]
        for path, bit in zip(hit, bits, strict=True):
            turn(path, bit)
        verdict = verify(data)
        named = {data / name for name in verdict.corrupt}
        untold = {data / name for name in verdict.unknown}  # both it and all that state its sha256 were hit
        for path, bit in zip(hit, bits, strict=True):
            bench.figures[f"flips.folder: {kind_of(path.relative_to(data))}"] += 1
            bench.count(of_which_nobody_can_tell=int(path in untold))
            if path not in named | untold:
                bench.count(silent_wrong=1)
                bench.note(f"bit {bit} of {path.relative_to(data)} is not found")
            turn(path, bit)
        for path in named - set(hit):
            bench.count(silent_wrong=1)
            bench.note(f"{path} is named, and is sound")
        if done % 400 < AT_ONCE:
            bench.keep()


def _checkpoints(bench: Bench) -> None:
    path = bench.work / "flipped.pt"
    shutil.copy(undisturbed(bench) / "last.pt", path)
    whole = Checkpoint.load(path)
    while bench.figures["flips.checkpoint"] < bench.wanted(CHECKPOINTS):
        bit = bench.dice.randrange(8 * min(path.stat().st_size, 1 << (10 + bench.dice.randrange(18))))
        if bench.dice.random() < 0.3:  # the list of records, at the end of the file
            bit = 8 * path.stat().st_size - 1 - bit % (8 << 15)
        with flipped(path, bit):
            bench.count(flips__checkpoint=1)
            try:
                found = Checkpoint.load(path, "detector")
            except ValueError:
                continue
            if not _same(found, whole):
                bench.count(silent_wrong=1)
                bench.note(f"bit {bit} of a checkpoint changes it, and it is read")
    bench.keep()


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    tables = all(
        mine.keys() == yours.keys() and all(torch.equal(values, yours[name]) for name, values in mine.items())
        for mine, yours in ((one.network, other.network), (one.ema, other.ema))
    )
    states = (one.optimizer["state"], other.optimizer["state"])
    steps = all(torch.equal(values, states[1][key][name]) for key, state in states[0].items() for name, values in state.items())
    return tables and steps and (one.settings, one.progress, one.data) == (other.settings, other.progress, other.data)


def _caches(bench: Bench) -> None:
    shard = next((bench.reference / "shards").glob("*/*.parquet"))
    cache = bench.work / "cache"
    whole = {name: np.array(values) for name, values in open_shard(shard, cache).columns.items()}
    while bench.figures["flips.cache of labels"] < bench.wanted(CACHES):
        path = bench.dice.choice(sorted(path for path in cache.rglob("*") if path.is_file() and path.stat().st_size))
        bit = bench.dice.randrange(8 * path.stat().st_size)
        turn(path, bit)
        bench.figures["flips.cache of labels"] += 1
        opened = open_shard(shard, cache)
        if any(not np.array_equal(values, opened.columns[name], equal_nan=values.dtype.kind == "f") for name, values in whole.items()):
            bench.count(silent_wrong=1)
            bench.note(f"bit {bit} of {path.relative_to(cache)}, of a cache of labels, changes what is read")
            shutil.rmtree(cache)
            open_shard(shard, cache)
    bench.keep()
