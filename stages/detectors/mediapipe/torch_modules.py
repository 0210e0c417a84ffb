"""MediaPipe's networks as torch modules: every weight read from the very `.tflite` file, trainable, at any size that 32 divides.

Convention. Channels first here, last in the file; images RGB in [0, 1]. Operators are numbered as in the file, and a parameter is named
by its operator: `operators.150.weight`. In float32 the answers are LiteRT's to within 1e-4 of their largest number; bfloat16 costs
two to three digits (convolutions of the first operators see differences of neighbouring pixels), fit for training, not for inference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8}
"""Types of numbers by the schema's TensorType, as far as these files use it."""
_RELU, _RELU6 = 1, 3
"""Values of the schema's ActivationFunctionType."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operator of the file: which values it reads and writes."""

    number: int
    inputs: tuple[int, ...]
    output: int


class TfliteNetwork(nn.Module):
    """The operators of a file up to the last one that is asked for; `taps` names operators by number, None those that give its outputs.

    Called with a batch, it answers with the output of each tap, in their order. Raises ValueError for an operator that none of MediaPipe's
    networks has.
    """

    def __init__(self, path: Path, taps: Sequence[int] | None = None) -> None:
        super().__init__()
        from ai_edge_litert import schema_py_generated as schema

        model = schema.Model.GetRootAsModel(bytearray(path.read_bytes()), 0)
        graph = model.Subgraphs(0)
        self.input = graph.Inputs(0)
        self.taps = _outputs(graph) if taps is None else tuple(taps)
        constants: dict[int, np.ndarray] = {}
        operators: list[_Operator] = []
        for number in range(max(self.taps) + 1):
            operator = _Operator.read(schema, model, graph, number, constants)
            if operator.name in ("DEQUANTIZE", "DENSIFY"):
                constants[operator.output] = operator.constant(0).astype(np.float32)
            else:
                operators.append(operator)
        needed = _needed(operators, self.taps)
        self.steps = [Step(number=one.number, inputs=one.variables, output=one.output) for one in needed]
        self.operators = nn.ModuleDict({str(one.number): one.module(path) for one in needed})

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        values, found = {self.input: images}, {}
        for step in self.steps:
            values[step.output] = self.operators[str(step.number)](*(values[given] for given in step.inputs))
            if step.number in self.taps:
                found[step.number] = values[step.output]
        return [found[tap] for tap in self.taps]


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: what is odd goes to the right and below."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, *, stride: int, groups: int, same: bool, activation: int) -> None:
        outputs, inputs, kernel, _ = weight.shape
        super().__init__(inputs * groups, outputs, kernel, stride, 0, groups=groups)
        self.same, self.activation = same and kernel > 1, activation
        self.weight, self.bias = nn.Parameter(torch.from_numpy(weight)), nn.Parameter(torch.from_numpy(bias))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o v u"]:
        if self.same:
            kernel, stride = self.kernel_size[0], self.stride[0]
            margins = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (x.shape[3], x.shape[2])]
            if margins[0] == margins[1] and margins[0] % 2 == 0:
                y = functional.conv2d(x, self.weight, self.bias, self.stride, margins[0] // 2, groups=self.groups)
                return _active(y, self.activation)
            x = functional.pad(x, [part for m in margins for part in (m // 2, m - m // 2)])
        return _active(super().forward(x), self.activation)


class Sum(nn.Module):
    """Two values added."""

    def __init__(self, activation: int) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return _active(a + b, self.activation)


class Margins(nn.Module):
    """Zeros about the image, and channels of zeros behind those that are there; `before` and `after` as in the file, channels last."""

    def __init__(self, margins: np.ndarray) -> None:
        super().__init__()
        _, rows, columns, channels = ((int(before), int(after)) for before, after in margins)
        self.margins = (*columns, *rows, *channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d v u"]:
        return functional.pad(x, self.margins)


class Unfolded(nn.Module):
    """Channels laid out as squares of pixels, which are the slower ones of a channel's number in the file."""

    def __init__(self, block: int) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d v u"]:
        count, channels, height, width = x.shape
        parts = x.reshape(count, self.block, self.block, channels // self.block**2, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(count, -1, height * self.block, width * self.block)


class Rows(nn.Module):
    """An image as rows of numbers, channels last, as a file's outputs are."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(map(int, shape[1:]))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        return x.permute(0, 2, 3, 1).reshape(len(x), -1, *self.shape[1:])


class Joined(nn.Module):
    """Rows one after the other."""

    def forward(self, *values: Tensor) -> Tensor:
        return torch.cat(values, 1)


class Twice(nn.Module):
    """The image enlarged by two, bilinear, as the file says where pixels lie."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c v u"]:
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=self.align_corners)


class ImageMean(nn.Module):
    """The mean over the image."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        return x.mean((2, 3))


class Dense(nn.Linear):
    """A full connection."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, *, activation: int) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        self.activation = activation
        self.weight, self.bias = nn.Parameter(torch.from_numpy(weight)), nn.Parameter(torch.from_numpy(bias))

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        return _active(super().forward(x.flatten(1)), self.activation)


class Slope(nn.PReLU):
    """PReLU, its slopes in the precision of what it is given."""

    def __init__(self, slopes: np.ndarray) -> None:
        super().__init__(len(slopes))
        self.weight = nn.Parameter(torch.from_numpy(slopes))

    def forward(self, x: Tensor) -> Tensor:
        return functional.prelu(x, self.weight.to(x.dtype))


def _active(x: Tensor, kind: int) -> Tensor:
    return functional.relu(x) if kind == _RELU else functional.relu6(x) if kind == _RELU6 else x


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operator:
    """An operator as the file has it."""

    name: str
    number: int
    given: tuple[np.ndarray | None, ...]
    """Its inputs as far as they are constants."""
    variables: tuple[int, ...]
    """Its other inputs."""
    output: int
    options: Any

    @classmethod
    def read(cls, schema: Any, model: Any, graph: Any, number: int, constants: Mapping[int, np.ndarray]) -> "_Operator":
        operator = graph.Operators(number)
        code = model.OperatorCodes(operator.OpcodeIndex())
        names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = [operator.Inputs(k) for k in range(operator.InputsLength())]
        given = tuple(constants[k] if k in constants else _constant(schema, model, graph.Tensors(k)) for k in inputs)
        variables = tuple(k for k, value in zip(inputs, given, strict=True) if value is None)
        return cls(
            name=name,
            number=number,
            given=given,
            variables=variables,
            output=operator.Outputs(0),
            options=_options(schema, name, operator.BuiltinOptions()),
        )

    def constant(self, k: int) -> np.ndarray:
        value = self.given[k]
        assert value is not None
        return value

    def module(self, path: Path) -> nn.Module:
        """The operator as a module, weights included."""
        if self.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            deep = self.name == "DEPTHWISE_CONV_2D"
            weight = _floats(self.constant(1)).transpose((3, 0, 1, 2) if deep else (0, 3, 1, 2)).copy()
            return SameConv(
                weight,
                _floats(self.constant(2)),
                stride=self.options.StrideH(),
                groups=len(weight) if deep else 1,
                same=self.options.Padding() == 0,
                activation=self.options.FusedActivationFunction(),
            )
        if self.name == "FULLY_CONNECTED":
            return Dense(_floats(self.constant(1)), _floats(self.constant(2)), activation=self.options.FusedActivationFunction())
        if self.name == "PRELU":
            return Slope(_floats(self.constant(1)).reshape(-1))
        if self.name == "PAD":
            return Margins(self.constant(1))
        if self.name == "RESHAPE":
            return Rows(self.constant(1).tolist())
        if self.name == "DEPTH_TO_SPACE":
            return Unfolded(self.options.BlockSize())
        if self.name == "RESIZE_BILINEAR":
            return Twice(bool(self.options.AlignCorners()))
        if self.name == "MAX_POOL_2D":
            return nn.MaxPool2d(self.options.FilterHeight(), self.options.StrideH())
        if self.name == "ADD":
            return Sum(self.options.FusedActivationFunction())
        plain = {"MEAN": ImageMean, "LOGISTIC": nn.Sigmoid, "CONCATENATION": Joined}.get(self.name)
        if plain is None:
            raise ValueError(f"{path}: operator {self.number} is {self.name}, which no network of MediaPipe here has")
        return plain()


def _needed(operators: Sequence[_Operator], taps: Sequence[int]) -> list[_Operator]:
    """The operators that lead to a tap, in order."""
    wanted = {operator.output for operator in operators if operator.number in taps}
    kept: list[_Operator] = []
    for operator in reversed(operators):
        if operator.output in wanted:
            kept.append(operator)
            wanted |= set(operator.variables)
    return kept[::-1]


def _floats(values: np.ndarray) -> np.ndarray:
    return np.array(values, np.float32)


def _outputs(graph: Any) -> tuple[int, ...]:
    """Numbers of the operators that give a file's outputs, in their order."""
    makers = {graph.Operators(number).Outputs(0): number for number in range(graph.OperatorsLength())}
    return tuple(makers[graph.Outputs(k)] for k in range(graph.OutputsLength()))


def _constant(schema: Any, model: Any, tensor: Any) -> np.ndarray | None:
    """The constant values of a tensor, None for one that is computed."""
    buffer = model.Buffers(tensor.Buffer())
    if not buffer.DataLength():
        return None
    values = buffer.DataAsNumpy().view(_TYPES[tensor.Type()])
    if tensor.Sparsity() is not None:
        return _dense(schema, tensor, values)
    return np.asarray(values.reshape([tensor.Shape(k) for k in range(tensor.ShapeLength())]) if tensor.ShapeLength() else values)


def _dense(schema: Any, tensor: Any, values: np.ndarray) -> np.ndarray:
    """A tensor of which only the numbers that are not 0 are stored: of each row of its last axis, which they are."""
    shape = [tensor.Shape(k) for k in range(tensor.ShapeLength())]
    about = tensor.Sparsity()
    row = about.DimMetadata(about.DimMetadataLength() - 1)
    starts = _indices(schema, row.ArraySegmentsType(), row.ArraySegments())
    columns = _indices(schema, row.ArrayIndicesType(), row.ArrayIndices())
    dense = np.zeros((len(starts) - 1, shape[-1]), values.dtype)
    dense[np.repeat(np.arange(len(dense)), np.diff(starts)), columns] = values
    return dense.reshape(shape)


def _indices(schema: Any, kind: int, table: Any) -> np.ndarray:
    """Whole numbers of any width, as the schema's SparseIndexVector has them."""
    vector = {1: schema.Int32Vector, 2: schema.Uint16Vector, 3: schema.Uint8Vector}[kind]()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), np.int64)


def _options(schema: Any, name: str, table: Any) -> Any:
    """How an operator is set, None for those that need no telling."""
    kinds = {
        "CONV_2D": schema.Conv2DOptions,
        "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptions,
        "ADD": schema.AddOptions,
        "DEPTH_TO_SPACE": schema.DepthToSpaceOptions,
        "MAX_POOL_2D": schema.Pool2DOptions,
        "RESIZE_BILINEAR": schema.ResizeBilinearOptions,
        "FULLY_CONNECTED": schema.FullyConnectedOptions,
    }
    if name not in kinds or table is None:
        return None
    options = kinds[name]()
    options.Init(table.Bytes, table.Pos)
    return options
