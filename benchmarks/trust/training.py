"""A training that is killed while it saves a checkpoint: one that has its name is whole, and the end is that of an undisturbed training."""

import shutil
import time
from pathlib import Path

import torch

from benchmarks.trust.bench import Bench
from benchmarks.trust.runs import ERRORS, failing
from training.run.checkpoint import Checkpoint

KILLS, CALLS, KILLS_A_RUN = 32, 10, 8
EPOCHS = 2


def disturb(bench: Bench) -> None:
    """Kill trainings while `last.partial` or `best.partial` lies there, start them again, and compare the networks."""
    out, whole = bench.work / "training", undisturbed(bench)
    while bench.figures["kills.training while saving"] < bench.wanted(KILLS) or bench.figures["failed_calls.training"] < bench.wanted(
        CALLS
    ):
        shutil.rmtree(out, ignore_errors=True)
        for _ in range(KILLS_A_RUN):
            if bench.figures["kills.training while saving"] < bench.wanted(KILLS):
                running = bench.whim(*_words(bench, out))
                bench.figures["kills.training while saving"] += _saves(running, out, bench.dice.uniform(0, 0.02)) and running.kill()
            else:
                before = failing(out, bench.dice.randrange(30), bench.dice.choice(ERRORS))
                bench.whim(*_words(bench, out), before=before).wait()  # ends well where it can do without: a curve, an image
                bench.figures["failed_calls.training"] += bench.has_failed()
            for name in ("last.pt", "best.pt"):
                if (out / name).exists():
                    Checkpoint.load(out / name, "detector")
        if bench.whim(*_words(bench, out)).wait() != 0:
            bench.count(unfinished=1)
            bench.note(f"the training does not come to its end: {bench.log.read_text()[-1500:]}")
        bench.read_log()
        for name in ("last.pt", "best.pt"):
            one, other = (Checkpoint.load(folder / name) for folder in (out, whole))
            same = all(torch.equal(values, other.network[key]) for key, values in one.network.items())
            bench.count(silent_wrong=int(not same))
            if not same:
                bench.note(f"{name} is another network after kills")
        bench.keep()


def undisturbed(bench: Bench) -> Path:
    """The folder of a training that nobody disturbed."""
    whole = bench.work / "training-whole"
    if not (whole / "done").exists():
        shutil.rmtree(whole, ignore_errors=True)
        assert bench.whim(*_words(bench, whole)).wait() == 0, bench.log.read_text()[-2000:]
        (whole / "done").touch()
    return whole


def _words(bench: Bench, out: Path) -> tuple[str | Path, ...]:
    small = ("network.size=s", "image_px=64", "batch_size=4", "train.checkpoint_s=0.3", "train.warmup_steps=2")
    set_ = [word for one in small for word in ("--set", one)]
    shards = bench.reference / "shards"
    return "train", "detector", "--data", shards, "--out", out, "--epochs", str(EPOCHS), "--workers", "0", "--threads", "1", *set_


def _saves(running: "object", out: Path, later_s: float) -> bool:
    """Wait until a checkpoint is being written, and a moment longer; False when the training ended before."""
    while running.poll() is None:  # type: ignore[attr-defined]
        if any(out.glob("*.partial")):
            time.sleep(later_s)
            return True
        time.sleep(0.001)
    return False
