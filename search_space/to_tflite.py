"""From lowered layers and weights to a TensorFlow Lite file, without a converter: numpy and flatbuffers alone.

Written as litert-torch 0.10 converts the same network, operator for operator, so that a kernel timed alone is the one
that a deployed file runs: NHWC, norms and ReLU6 merged into the convolution before them, a PAD where TensorFlow would
pad a strided window on other sides, LayerNorm as the operators of its formula. Layer scales are folded as for ONNX.
The schema: tensorflow/compiler/mlir/lite/schema/schema.fbs, of which the numbers below are those that are used.
Not for preprocessing and softmax, which a deployed file has too (`nas.deploy`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_space.errors import UserError
from search_space.layer import Kind, LayerSpec, Node
from search_space.lower import Segment
from search_space.to_onnx import Array, fold_scales, input_shapes

IDENTIFIER, SCHEMA_VERSION = b"TFL3", 3
LAYER_NORM_EPS = 1e-6
ALIGNMENT = 16  # bytes, of constants in the file
Range = tuple[float, float]


class Op(IntEnum):
    """BuiltinOperator."""

    ADD = 0
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    FULLY_CONNECTED = 9
    MUL = 18
    RELU6 = 21
    RESHAPE = 22
    PAD = 34
    MEAN = 40
    SUB = 41
    RSQRT = 76
    SQUARED_DIFFERENCE = 99
    HARD_SWISH = 117
    GELU = 150


class Type(IntEnum):
    """TensorType."""

    FLOAT32 = 0
    INT32 = 2
    INT8 = 9


OPTIONS = {  # operator -> number of its table in the union BuiltinOptions, and the table's fields in their order
    Op.ADD: (11, {"activation": "Int8"}),
    Op.CONV_2D: (1, {"padding": "Int8", "stride_w": "Int32", "stride_h": "Int32", "activation": "Int8"}),
    Op.DEPTHWISE_CONV_2D: (
        2,
        {"padding": "Int8", "stride_w": "Int32", "stride_h": "Int32", "multiplier": "Int32", "activation": "Int8"},
    ),
    Op.FULLY_CONNECTED: (8, {"activation": "Int8"}),
    Op.MUL: (21, {"activation": "Int8"}),
    Op.RESHAPE: (17, {}),
    Op.PAD: (22, {}),
    Op.MEAN: (27, {"keep_dims": "Bool"}),
    Op.SUB: (28, {"activation": "Int8"}),
    Op.SQUARED_DIFFERENCE: (76, {}),
    Op.HARD_SWISH: (91, {}),
    Op.GELU: (116, {"approximate": "Bool"}),
}
SAME, VALID = 0, 1
RELU6 = 3  # ActivationFunctionType


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (stored - zero_point). scales: one, or one a channel of dimension `axis`."""

    scales: NDArray[np.float32]
    zero_point: int = 0
    axis: int = 0


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    type: Type
    data: NDArray[Any] | None = None
    quantisation: Quantisation | None = None


@dataclass(frozen=True)
class _Operator:
    op: Op
    inputs: tuple[int, ...]
    output: int
    options: Mapping[str, int] = field(default_factory=dict)


def to_tflite(
    segments: Sequence[Segment], weights: Mapping[str, Array], ranges: Callable[[str], Range] | None = None
) -> bytes:
    """A whole network at batch 1: images (1, H, W, 3) to logits (1, classes).

    weights: float32 by 'segment.layer.parameter', as a `Network`'s state dict names them. ranges: for int8; the lowest
    and highest value of the tensor that a layer ('segment.layer') makes, and of 'images'; inputs and outputs are int8
    too then. Without them the file is in fp32. Raises `UserError` for a kind of layer that no space exports.
    """
    writer = _Writer(weights, ranges)
    first = segments[0].nodes[0].spec
    value = start = writer.input("images", (first.in_channels, first.height, first.width))
    for segment in segments:
        value = writer.nodes_of(segment.name, segment.nodes, [value])
    return writer.file([start], value)


def nodes_to_tflite(
    nodes: Sequence[Node], weights: Mapping[str, Array], ranges: Callable[[str], Range] | None = None
) -> bytes:
    """A list of layers alone at batch 1: inputs for what they read at -1, -2, ..., in that order.

    weights: by 'layer.parameter'. ranges: as in `to_tflite`, by 'layer', and of 'x0', 'x1', ...
    """
    writer = _Writer(weights, ranges)
    inputs = [writer.input(f"x{i}", shape) for i, shape in enumerate(input_shapes(nodes))]
    return writer.file(inputs, writer.nodes_of("", nodes, inputs))


class _Writer:
    def __init__(self, weights: Mapping[str, Array], ranges: Callable[[str], Range] | None) -> None:
        self.weights, self.ranges = weights, ranges
        self.tensors: list[_Tensor] = []
        self.operators: list[_Operator] = []

    # tensors

    def input(self, name: str, shape: tuple[int, int, int]) -> int:
        """shape: (C, H, W)."""
        channels, height, width = shape
        return self.activation(name, (1, height, width, channels))

    def activation(self, name: str, shape: tuple[int, ...], least: float = -np.inf) -> int:
        """least: what no value of it is below, whatever the ranges say."""
        quantisation = None
        if self.ranges is not None:
            low, high = self.ranges(name)
            quantisation = _of_range(max(low, least), high)
        self.tensors.append(_Tensor(name, shape, self.type, None, quantisation))
        return len(self.tensors) - 1

    def constant(self, name: str, data: NDArray[Any], quantisation: Quantisation | None = None) -> int:
        kinds = {np.dtype(np.float32): Type.FLOAT32, np.dtype(np.int32): Type.INT32, np.dtype(np.int8): Type.INT8}
        self.tensors.append(_Tensor(name, data.shape, kinds[data.dtype], data, quantisation))
        return len(self.tensors) - 1

    def factors(self, name: str, values: NDArray[Any]) -> int:
        """Constants of a sum or product, quantised as activations are."""
        values = np.asarray(values, np.float32)
        if self.ranges is None:
            return self.constant(name, values)
        own = _of_range(float(values.min()), float(values.max()))
        stored = np.clip(np.round(values / own.scales) + own.zero_point, -128, 127).astype(np.int8)
        return self.constant(name, stored, own)

    def integers(self, values: Sequence[int] | NDArray[Any], name: str = "axes") -> int:
        return self.constant(name, np.asarray(values, np.int32))

    @property
    def type(self) -> Type:
        return Type.FLOAT32 if self.ranges is None else Type.INT8

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self.tensors[tensor].shape

    # operators

    def add(
        self, op: Op, inputs: Sequence[int], name: str, shape: tuple[int, ...], least: float = -np.inf, **options: int
    ) -> int:
        """The tensor that it makes; least: as in `activation`."""
        output = self.activation(name, shape, least)
        self.operators.append(_Operator(op, tuple(inputs), output, options))
        return output

    def moved(self, op: Op, inputs: Sequence[int], name: str, shape: tuple[int, ...]) -> int:
        """Of an operator that moves values as they are: quantised as its input."""
        source = self.tensors[inputs[0]]
        self.tensors.append(_Tensor(name, shape, source.type, None, source.quantisation))
        self.operators.append(_Operator(op, tuple(inputs), len(self.tensors) - 1))
        return len(self.tensors) - 1

    def reshaped(self, tensor: int, shape: tuple[int, ...], name: str) -> int:
        return self.moved(Op.RESHAPE, [tensor, self.integers(shape, f"{name}.shape")], name, shape)

    def nodes_of(self, block: str, nodes: Sequence[Node], inputs: Sequence[int]) -> int:
        """Write a list of layers that reads `inputs` at -1, -2, ...; the tensor of its output."""
        prefix = f"{block}." if block else ""
        factors = fold_scales(nodes, lambda name: self.weights[f"{prefix}{name}.weight"])
        merged = _merged(nodes)
        made = {-1 - i: tensor for i, tensor in enumerate(inputs)}
        for i, node in enumerate(nodes):
            read = [made[x] for x in node.inputs]
            if i in merged or (node.spec.kind is Kind.SCALE and i not in factors):
                made[i] = read[0]  # within the convolution before it, or folded
            else:
                after = [(nodes[x], factors.get(x)) for x, leader in merged.items() if leader == i]
                made[i] = self.layer(prefix, node, read, factors.get(i), after)
        return made[len(nodes) - 1]

    def layer(
        self,
        prefix: str,
        node: Node,
        inputs: list[int],
        factor: Array | None,
        after: Sequence[tuple[Node, Array | None]],
    ) -> int:
        """Write one layer. factor: (out channels,), multiplies its output; after: what merges into it."""
        spec, name = node.spec, f"{prefix}{node.name}"
        same = self.shape(inputs[0])
        match spec.kind:
            case Kind.CONV | Kind.DWCONV:
                return self._convolution(prefix, node, inputs[0], factor, after)
            case Kind.LINEAR:
                parameters = self._weights(
                    name, self._parameter(name, "weight"), self._parameter(name, "bias"), inputs[0]
                )
                return self.add(
                    Op.FULLY_CONNECTED, [inputs[0], *parameters], name, (1, spec.out_channels), activation=0
                )
            case Kind.LAYER_NORM:
                return self._layer_norm(name, inputs[0])
            case Kind.BATCH_NORM:
                weight, bias = self._affine(name, node.eps, factor)
                product = self.add(
                    Op.MUL, [inputs[0], self.factors(f"{name}.w", weight)], f"{name}.mul", same, activation=0
                )
                return self.add(Op.ADD, [product, self.factors(f"{name}.b", bias)], name, same, activation=0)
            case Kind.SCALE:
                return self.add(
                    Op.MUL,
                    [inputs[0], self.factors(f"{name}.w", self._parameter(name, "weight"))],
                    name,
                    same,
                    activation=0,
                )
            case Kind.ADD | Kind.MUL:
                return self.add(Op.ADD if spec.kind is Kind.ADD else Op.MUL, inputs, name, same, activation=0)
            case Kind.RELU6:
                return self.add(Op.RELU6, inputs, name, same)
            case Kind.HARD_SWISH:
                return self.add(Op.HARD_SWISH, inputs, name, same)
            case Kind.GELU:
                return self.add(Op.GELU, inputs, name, same, approximate=0)
            case Kind.GLOBAL_POOL:
                return self.add(Op.MEAN, [*inputs, self.integers([1, 2])], name, (1, spec.out_channels), keep_dims=0)
            case _:
                raise UserError(f"no space exports a layer of kind '{spec.kind}'; it can be priced only")

    def _parameter(self, name: str, part: str) -> Array:
        return np.asarray(self.weights[f"{name}.{part}"], np.float32)

    def _affine(self, name: str, eps: float, factor: Array | None) -> tuple[Array, Array]:
        """A BatchNorm as x * weight + bias, (channels,) each."""
        weight = self._parameter(name, "weight") / np.sqrt(self._parameter(name, "running_var") + np.float32(eps))
        bias = self._parameter(name, "bias") - self._parameter(name, "running_mean") * weight
        factor = np.float32(1) if factor is None else factor  # type: ignore[assignment]
        return weight * factor, bias * factor

    def _convolution(
        self, prefix: str, node: Node, source: int, factor: Array | None, after: Sequence[tuple[Node, Array | None]]
    ) -> int:
        spec, name = node.spec, f"{prefix}{node.name}"
        weight = self._parameter(name, "weight")  # (out, in, k, k)
        bias = self._parameter(name, "bias") if spec.bias else np.zeros(spec.out_channels, np.float32)
        if factor is not None:
            weight, bias = weight * factor[:, None, None, None], bias * factor
        for norm, own in after:
            name = f"{prefix}{norm.name}"  # of the tensor that is made
            if norm.spec.kind is Kind.BATCH_NORM:
                scale, offset = self._affine(name, norm.eps, own)
                weight, bias = weight * scale[:, None, None, None], bias * scale + offset
        activation = RELU6 if any(norm.spec.kind is Kind.RELU6 for norm, _ in after) else 0
        if same := _same_padding(spec):
            padded = source
        else:
            edge = [spec.padding] * 2
            _, height, width, channels = self.shape(source)
            shape = (1, height + 2 * spec.padding, width + 2 * spec.padding, channels)
            pads = self.integers(np.array([[0, 0], edge, edge, [0, 0]]), f"{name}.pads")
            padded = self.moved(Op.PAD, [source, pads], f"{name}.padded", shape) if spec.padding else source
        depthwise = spec.kind is Kind.DWCONV
        layout = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        parameters = self._weights(name, weight.transpose(layout), bias, padded, axis=3 if depthwise else 0)
        return self.add(
            Op.DEPTHWISE_CONV_2D if depthwise else Op.CONV_2D,
            [padded, *parameters],
            name,
            (1, spec.out_height, spec.out_width, spec.out_channels),
            padding=SAME if same else VALID,
            stride_w=spec.stride,
            stride_h=spec.stride,
            activation=activation,
            **({"multiplier": 1} if depthwise else {}),
        )

    def _weights(self, name: str, weight: Array, bias: Array, source: int, axis: int = 0) -> tuple[int, int]:
        """Constants of weights and bias; int8 and int32 with a scale an output channel where ranges are given."""
        weight, bias = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
        quantisation = self.tensors[source].quantisation
        if quantisation is None:
            return self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)
        others = tuple(i for i in range(weight.ndim) if i != axis)
        scales = np.maximum(np.abs(weight).max(others), np.finfo(np.float32).tiny * 2**16) / np.float32(127)
        along = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        stored = np.clip(np.round(weight / along), -127, 127).astype(np.int8)
        of_bias = scales * quantisation.scales
        summed = np.clip(np.round(bias / of_bias.astype(np.float64)), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        return (
            self.constant(f"{name}.weight", stored, Quantisation(scales, axis=axis)),
            self.constant(f"{name}.bias", summed, Quantisation(of_bias)),
        )

    def _layer_norm(self, name: str, source: int) -> int:
        """Over the last dimension of (1, H, W, C) or (1, C)."""
        shape, channels = self.shape(source), self.shape(source)[-1]
        pixels = int(np.prod(shape)) // channels
        whole, column, flat = (1, pixels, channels), (1, pixels, 1), (pixels,)
        rows = self.reshaped(source, whole, f"{name}.rows")
        axis = self.integers([2])
        mean = self.add(Op.MEAN, [rows, axis], f"{name}.mean", flat, keep_dims=0)
        column_mean = self.reshaped(mean, column, f"{name}.mean_column")
        squares = self.add(Op.SQUARED_DIFFERENCE, [rows, column_mean], f"{name}.squares", whole, least=0)
        variance = self.add(Op.MEAN, [squares, axis], f"{name}.variance", flat, least=0, keep_dims=0)
        eps = self.factors(f"{name}.eps", np.array(LAYER_NORM_EPS, np.float32))
        raised = self.add(Op.ADD, [variance, eps], f"{name}.raised", flat, least=0, activation=0)
        scale = self.add(Op.RSQRT, [raised], f"{name}.scale", flat, least=0)
        product = self.add(Op.MUL, [mean, scale], f"{name}.shift", flat, activation=0)
        zero = self.factors(f"{name}.zero", np.array(0, np.float32))
        offset = self.add(Op.SUB, [zero, product], f"{name}.offset", flat, activation=0)
        scale, offset = (self.reshaped(x, column, f"{name}.column{i}") for i, x in enumerate((scale, offset)))
        scaled = self.add(Op.MUL, [rows, scale], f"{name}.scaled", whole, activation=0)
        normed = self.add(Op.ADD, [scaled, offset], f"{name}.normed", whole, activation=0)
        for op, part in ((Op.MUL, "weight"), (Op.ADD, "bias")):
            constant = self.factors(f"{name}.{part}", self._parameter(name, part))
            normed = self.add(op, [normed, constant], f"{name}.{part}ed", whole, activation=0)
        return self.reshaped(normed, shape, name)

    # the file

    def file(self, inputs: Sequence[int], output: int) -> bytes:
        """The flatbuffer."""
        return _flatbuffer(self.tensors, self.operators, inputs, output)


def _merged(nodes: Sequence[Node]) -> dict[int, int]:
    """Position of every BatchNorm and ReLU6 that merges into a convolution -> the convolution's."""
    readers = Counter(x for node in nodes for x in node.inputs)
    readers[len(nodes) - 1] += 1  # the next block
    found: dict[int, int] = {}
    for i, node in enumerate(nodes):
        before = node.inputs[0]
        leader = found.get(before, before)
        if before < 0 or readers[before] > 1 or nodes[leader].spec.kind not in (Kind.CONV, Kind.DWCONV):
            continue
        activated = before != leader and nodes[before].spec.kind is Kind.RELU6
        if node.spec.kind in (Kind.BATCH_NORM, Kind.RELU6) and not activated:
            found[i] = leader
    return found


def _same_padding(spec: LayerSpec) -> bool:
    """Whether TensorFlow's SAME pads as many zeros, and on both sides alike."""

    def total(size: int) -> int:
        return max((-(-size // spec.stride) - 1) * spec.stride + spec.kernel_size - size, 0)

    return spec.padding > 0 and total(spec.height) == total(spec.width) == 2 * spec.padding


def _of_range(low: float, high: float) -> Quantisation:
    """int8 over a range, which 0 is put into."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255) or np.float32(1)
    return Quantisation(np.array([scale], np.float32), int(np.clip(round(-128 - low / float(scale)), -128, 127)))


def _flatbuffer(
    tensors: Sequence[_Tensor], operators: Sequence[_Operator], inputs: Sequence[int], output: int
) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(4096 + sum(t.data.nbytes + 64 for t in tensors if t.data is not None))

    def table(*fields: tuple[int, str, Any]) -> int:
        """fields: slot, type, and value; an offset that is None is left out."""
        builder.StartObject(1 + max((slot for slot, *_ in fields), default=-1))
        for slot, kind, value in fields:
            if kind != "Offset":
                getattr(builder, f"Prepend{kind}Slot")(slot, value, None)
            elif value is not None:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        offset: int = builder.EndObject()
        return offset

    def vector(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        end: int = builder.EndVector()
        return end

    def numbers(values: Any, kind: type[np.generic] = np.int32) -> int:
        offset: int = builder.CreateNumpyVector(np.atleast_1d(np.asarray(values, kind)))
        return offset

    def buffer(data: NDArray[Any] | None) -> int:
        if data is None:
            return table()
        content = data.astype(data.dtype.newbyteorder("<")).tobytes()
        builder.Prep(ALIGNMENT, len(content))
        return table((0, "Offset", builder.CreateByteVector(content)))

    def quantisation(of: Quantisation) -> int:
        zeros = np.full(len(of.scales), of.zero_point)
        return table(
            (2, "Offset", numbers(of.scales, np.float32)),
            (3, "Offset", numbers(zeros, np.int64)),
            (6, "Int32", of.axis),
        )

    def tensor(one: _Tensor, number: int) -> int:
        fields = [
            (0, "Offset", numbers(one.shape) if one.shape else None),
            (1, "Int8", one.type),
            (2, "Uint32", number),
            (3, "Offset", builder.CreateString(one.name)),
            (4, "Offset", quantisation(one.quantisation) if one.quantisation else None),
        ]
        return table(*fields)

    def operator(one: _Operator) -> int:
        union, fields = OPTIONS.get(one.op, (0, {}))
        given = [(slot, kind, one.options[name]) for slot, (name, kind) in enumerate(fields.items())]
        options = [(3, "Uint8", union), (4, "Offset", table(*given))] if union else []
        read, made = numbers(one.inputs), numbers([one.output])
        return table((0, "Uint32", codes.index(one.op)), (1, "Offset", read), (2, "Offset", made), *options)

    constants = [t.data for t in tensors if t.data is not None]
    places = {id(data): 1 + i for i, data in enumerate(constants)}  # buffer 0 is empty, as the schema asks
    codes = sorted({one.op for one in operators})
    buffers = vector([buffer(data) for data in (None, *constants)])
    graph = table(
        (0, "Offset", vector([tensor(t, places[id(t.data)] if t.data is not None else 0) for t in tensors])),
        (1, "Offset", numbers(inputs)),
        (2, "Offset", numbers([output])),
        (3, "Offset", vector([operator(one) for one in operators])),
    )
    kinds = vector([table((0, "Int8", min(op, 127)), (2, "Int32", 1), (3, "Int32", op)) for op in codes])
    model = table(
        (0, "Uint32", SCHEMA_VERSION), (1, "Offset", kinds), (2, "Offset", vector([graph])), (4, "Offset", buffers)
    )
    builder.Finish(model, IDENTIFIER)
    return bytes(builder.Output())
