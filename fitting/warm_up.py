"""Compile the fit, once on a machine and for all its processes: `python -m fitting.warm_up`."""

import os
import time
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from fitting.backend import code_folder
from fitting.compiled import machine_code
from fitting.files import STANDIN
from fitting.fit import Fitter
from fitting.hand.mano import load_hand_model, pose_hand


def warm_up() -> str:
    """Compile what is not compiled yet; what was done, in one line. One process at a time does it, others wait for it."""
    folder = code_folder()
    if folder is None:
        return "the fit is compiled in every process anew: set NUMBA_CACHE_DIR to a folder that can be written"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / machine_code.LOCK_NAME):
        made = machine_code.marker(folder)
        if made.exists():
            return f"the fit is compiled: {folder}"
        start = time.perf_counter()
        _fit_a_hand()
        took = f"in {time.perf_counter() - start:.0f} s"
        with made.open("a") as file:
            file.write(f"compiled by process {os.getpid()} {took}\n")
        if "NUMBA_CACHE_DIR" in os.environ:  # where `machine_code.start_making` looks
            machine_code.marker(Path(os.environ["NUMBA_CACHE_DIR"])).touch()
    return f"the fit is compiled, {took}: {folder}"


def _fit_a_hand() -> None:
    """Fit the hand at rest, seen on a few frames of a track: it calls all that is compiled."""
    os.environ[machine_code.COMPILING] = "1"
    model, zero = load_hand_model(STANDIN), torch.zeros(1, 58)
    rest = pose_hand(model, zero[:, :10], zero[:, 10:13], zero[:, 13:]).joints[:, :, :2].numpy()
    seen = np.concatenate([1000 * rest, np.ones((1, 21, 1))], 2).repeat(4, 0)
    Fitter(model).fit(seen, track=np.zeros(4, np.int64), time_s=np.arange(4) / 30)


def main() -> None:
    """Compile, and say what was done."""
    print(warm_up())


if __name__ == "__main__":
    main()
