"""ONNX files opened on one core or on a GPU."""

from pathlib import Path
from typing import Any

from stages.detectors.weights import BadWeights


def open_session(path: Path, *, device: str, setting: str) -> Any:
    """The file's onnxruntime session, on a GPU if it has one and `device` is not cpu.

    Raises ValueError that names the `setting` when the device is cuda and onnxruntime has none, BadWeights when the file is damaged.
    """
    import onnxruntime

    on_gpu = device != "cpu" and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not on_gpu:
        raise ValueError(f"{setting} is cuda, which this onnxruntime cannot: pip install onnxruntime-gpu, or take auto or cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(path, options, ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises types of its own for damaged files
        raise BadWeights(f"{path} is no ONNX file, or cut short ({str(error).splitlines()[0]:.200})") from error
