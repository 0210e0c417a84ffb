"""Files and answers as an attacker makes them, given to whoever reads their kind: refused in one line, or read; nothing of them is run."""

import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.trust.answers import web_answers
from benchmarks.trust.bench import Bench, child
from benchmarks.trust.spoil import WILD, as_json, spoilt, wild
from benchmarks.trust.training import undisturbed

EACH = 45
LIMIT_S, LIMIT_BYTES = 120.0, 3 << 30

Case = Callable[[Path, random.Random, Path], Callable[[], object]]
"""Writes one input into a folder, with a file that code of it would make, and gives who reads it."""


def feed(bench: Bench) -> None:
    """Give each reader as many inputs as is wanted. What it says is one line, it ends in time, and its memory is bounded."""
    mark = bench.work / "ran"
    undisturbed(bench)
    _plant(bench, mark)
    for kind, make in CASES.items():
        name = f"hostile_inputs.{kind}"
        while bench.figures[name] < bench.wanted(EACH):
            folder = bench.work / "hostile" / f"{kind} {bench.figures[name]}"
            folder.mkdir(parents=True, exist_ok=True)
            dice = random.Random(f"{kind} {bench.figures[name]} {bench.dice.random()}")
            read = make(folder, dice, mark)
            bench.read_log()
            status = child(lambda read=read: _read(read), bench.log).wait(LIMIT_S)  # type: ignore[misc]
            bench.figures[name] += 1
            said = bench.read_log()
            if status not in (0, 1, 2):
                bench.count(**({"hangs": 1} if status == -9 else {"odd_statuses": 1}))
                bench.note(f"{folder}: status {status}: {said[-600:]}")
            elif status == 1 and said.strip().count("\n") > 0:
                bench.count(several_lines=1)
                bench.note(f"{folder}: several lines: {said[-600:]}")
            if mark.exists():
                bench.count(code_run=1)
                bench.note(f"{folder}: its code was run")
                mark.unlink()
        bench.keep()


def _plant(bench: Bench, mark: Path) -> None:
    """Modules and a plugin where a careless program looks for them."""
    code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()\n"
    for path in ("here/yt_dlp.py", "here/stages.py", "home/.config/yt-dlp/plugins/any/yt_dlp_plugins/extractor/planted.py"):
        (bench.work / path).parent.mkdir(parents=True, exist_ok=True)
        (bench.work / path).write_text(code)
    bench.around = bench._surroundings()


def _read(read: Callable[[], object]) -> int:
    """Read within bounds; 1 where it is refused in one line, which is printed."""
    from stages.errors import one_line

    with Path("/proc/self/statm").open() as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + LIMIT_BYTES, held + LIMIT_BYTES))
    try:
        return int(read() or 0)  # type: ignore[call-overload]
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        return 1


def a_list(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """A list of videos."""
    fields = (
        "id=",
        "split=",
        "fps=",
        "frames=",
        "size=",
        "start=",
        "=",
        "id=../x",
        "id=.",
        "size=1x",
        "fps=nan",
        "frames=-3",
        "split=train/../../x",
    )
    sources = (
        "5-TyAsFwo40",
        "clip.mp4",
        "http://h/x.mp4",
        "~root/x",
        "https://u:p@h:1/x?token=1",
        "//h/x",
        "file:///etc/passwd",
        "-rf",
        "s3://b/x",
        "$(touch x)",
        "*",
    )
    lines = [
        " ".join((dice.choice(sources), *(dice.choice(fields) + str(dice.choice(WILD))[:500] for _ in range(dice.randrange(3)))))
        for _ in range(5)
    ]
    (folder / "list.txt").write_bytes(spoilt("\n".join(lines).encode("utf-8", "surrogatepass"), dice))
    return lambda: _whim("plan", "--videos", folder / "list.txt", "--data", folder / "data")


def a_label_file(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """A label file of hands on frames."""
    from hands.metrics.labels import FORMAT, load_labels

    hand = {"box": [1, 2, 30, 40], "side": "left", "keypoints": [[1, 2, 1]] * 21}
    image = {"id": "a", "video": "a.mp4", "frame": 3, "width": 64, "height": 48, "hands": [hand], "ignore": [[0, 0, 5, 5]]}
    content = as_json({"format": FORMAT, "images": [image, image | {"id": "b"}]}, dice)
    (folder / "labels.json").write_bytes(content)
    return lambda: load_labels(folder / "labels.json") and None


def a_page(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """A shard whose page headers, pages or footer say what they like."""
    import pyarrow.parquet as pq

    from training.data.dataset import Dataset

    whole = next((folder.parents[1] / "reference/data/shards").glob("*/*.parquet"))
    data, meta = whole.read_bytes(), pq.read_metadata(whole)
    group = meta.row_group(dice.randrange(meta.num_row_groups))
    column = group.column(dice.randrange(meta.num_columns))
    at = column.dictionary_page_offset if dice.random() < 0.3 and column.has_dictionary_page else column.data_page_offset
    header = dice.choice(
        (
            b"\x19\xf1\x80\x80\x80\x80\x40",
            b"\x19\xf2\x80\x80\x80\x80\x40",
            b"\x19\xfc" + b"\xff" * 9 + b"\x01",
            b"\x1b\xff\xff\xff\xff\x7f\x55",
            b"\x18\x80\x80\x80\x80\x80\x20",
            b"\x15" + b"\xff" * 60,
            b"\x1c" * 300,
            b"\x19\xf9" + b"\x19\xf9" * 200,
            bytes(dice.randrange(256) for _ in range(40)),
            b"\x19\xfb\xff\xff\xff\x7f",
        )
    )
    spoilt_data = bytearray(data)
    spoilt_data[at : at + len(header)] = header
    path = folder / "train" / "a.parquet"
    path.parent.mkdir()
    path.write_bytes(spoilt(data, dice) if dice.random() < 0.25 else spoilt_data)

    def read() -> None:
        opened = Dataset.of([path], folder / "cache")
        for row in range(min(len(opened), 20)):
            shard, at = opened.place(row)
            shard.image(at)

    return read


class Evil:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


def _gadget(dice: random.Random, mark: Path) -> Any:
    import functools
    import importlib
    import operator
    import subprocess

    touch = f"open({str(mark)!r}, 'w')"
    return dice.choice(
        (
            Evil(os.system, f"touch {mark}"),
            Evil(exec, touch),
            Evil(eval, touch),
            Evil(subprocess.run, ["touch", str(mark)]),
            Evil(Path.touch, mark),
            Evil(open, str(mark), "w"),
            Evil(getattr, Evil(importlib.import_module, "os"), "getpid"),
            Evil(functools.partial, os.system, f"touch {mark}"),
            Evil(map, os.system, [f"touch {mark}"]),
            Evil(operator.methodcaller, "touch"),
            Evil(np.load, str(mark)),
            Evil(np.fromfile, "/etc/passwd"),
            Evil(np.memmap, str(mark), "u1", "w+", 0, (10,)),
            Evil(bytearray, 1 << 42),
            Evil(range, 1 << 60),
            Evil(__import__, "antigravity"),
        )
    )


def a_pickle(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """A pickle as a checkpoint of torch's or as MANO's file."""
    import torch

    from fitting.hand.mano_pickle import SHAPES, read_mano_pickle
    from stages.detectors.weights import load_checkpoint
    from training.run.checkpoint import Checkpoint

    evil, path = _gadget(dice, mark), folder / "evil.pt"
    mano = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    value = dice.choice(
        (evil, {"state_dict": {"w": evil}}, {"network": evil, "format": 1}, mano | {dice.choice(sorted(mano)): evil}, [evil])
    )
    if dice.random() < 0.4:
        torch.save(value, path)
    else:
        path.write_bytes(pickle.dumps(value, protocol=dice.randrange(6)))
        if dice.random() < 0.3:
            path.write_bytes(spoilt(path.read_bytes(), dice))
    return dice.choice(
        (lambda: load_checkpoint(path) and None, lambda: Checkpoint.load(path) and None, lambda: read_mano_pickle(path) and None)
    )


def an_array_file(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """An npz as the hand model or the pose prior, or what a label cache holds."""
    from fitting.files import STANDIN, read_arrays
    from fitting.hand.mano import load_hand_model

    path = folder / "a.npz"
    if dice.random() < 0.5:
        path.write_bytes(spoilt(STANDIN.read_bytes(), dice))
        return lambda: load_hand_model(path) and None
    shape = dice.choice(((1 << 50,), (-1,), (1 << 31, 1 << 31), (0,) * 40, (3,), ("a",), (None,), (True, 2)))
    kind = dice.choice(("<f8", "|O", "<U100000000", "|V4", "<M8[s]", ">c16", "nonsense", [("a", "<f8")]))
    header = io.BytesIO()
    text = (
        repr({"descr": kind, "fortran_order": dice.choice((True, False, 1)), "shape": shape})
        + dice.choice(("", " " * 1000, "(" * 900))
        + "\n"
    )
    header.write(b"\x93NUMPY" + bytes([dice.choice((1, 2, 3, 9)), 0]) + struct.pack("<H", len(text)) + text.encode())
    pickled = pickle.dumps(_gadget(dice, mark)) if dice.random() < 0.5 else b"\0" * 64
    with zipfile.ZipFile(path, "w", dice.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        archive.writestr(dice.choice(("w.npy", "../w.npy", "w")), header.getvalue() + pickled)
    return lambda: read_arrays(path, ["w", "../w"]) and None


def small_files(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """A data folder with small files of another's make, a recipe file that `run.json` names among them."""
    import shutil

    from stages.digest import seal

    data = folder / "data"
    shutil.copytree(folder.parents[1] / "reference/data", data, ignore=shutil.ignore_patterns("*.jpg"))
    (data / "recipe.py").write_text(f"open({str(mark)!r}, 'w')\nfrom pipeline.recipes import whim as recipe\n")
    name = dice.choice(
        ("run.json", "shards/index.json", "shards/stats.json", "hashes.json", "left_out.json", "truth_score.json", "reviews/x.error.json")
    )
    try:
        value = json.loads((data / name).read_text())
        value.pop("sha256", None)
    except FileNotFoundError:
        value = {
            "files": [{"name": "a", "why": "b"}],
            "reason": "gone",
            "fingerprint": "f",
            "message": "m",
            "permanent": True,
            "attempts": 1,
        }
    if name == "run.json" and dice.random() < 0.5:
        value["recipe"] = dice.choice(
            (f"{data}/recipe.py:recipe", "recipe.py:recipe", "../data/recipe.py:recipe", "os:system", "whim.__class__")
        )
    else:
        value = wild(value, dice)
    if isinstance(value, dict) and dice.random() < 0.7:
        (data / name).write_text(seal(value), errors="replace")  # whoever makes the file can make its digest
    else:
        (data / name).write_bytes(as_json(value, dice))
    words = dice.choice((("status",), ("plan",), ("report",), ("run", "--local"), ("verify",), ("retry",)))
    return lambda: _whim(*words, "--data", data)


def a_checkpoint(folder: Path, dice: random.Random, mark: Path) -> Callable[[], object]:
    """A checkpoint whose archive, pickle or tensors are not what they were."""
    import torch

    whole = torch.load(folder.parents[1] / "training-whole/last.pt", weights_only=True)
    path = folder / "best.pt"
    small = {**whole, "network": dict(list(whole["network"].items())[:4]), "average": {}, "optimizer": {}}
    if dice.random() < 0.6:
        torch.save(wild(small, dice), path)
    else:
        torch.save(small, path)
        path.write_bytes(spoilt(path.read_bytes(), dice))
    words = dice.choice((("export", "detector", path, "--out", folder / "x.onnx"), ("evaluate", "detector", path, "--data", folder)))
    return lambda: _whim(*words)


CASES: dict[str, Case] = {
    "lists": a_list,
    "label files": a_label_file,
    "page headers": a_page,
    "pickles": a_pickle,
    "npy": an_array_file,
    "json": small_files,
    "checkpoints": a_checkpoint,
    "web answers": web_answers,
}


def _whim(*words: str | Path) -> int:
    import contextlib

    import whim

    with contextlib.redirect_stdout(io.StringIO()):
        return whim.main([str(word) for word in words])
