"""Files for LiteRT: their bytes read back without the runtime, and what it computes with them where it is there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from flatbuffers import encode, number_types
from flatbuffers.table import Table
from numpy.typing import NDArray

from latency_models.grid import grid_kernels
from latency_models.measure.kernel_onnx import kernel_nodes, nodes_tflite, uniform_weights
from latency_models.measure.timing import make_settings
from latency_models.measure.workload import fusion_rules
from search_space import Kind, Segment, available_spaces, load_space, lower
from search_space.layer import LayerSpec, Node
from search_space.to_onnx import to_onnx
from search_space.to_tflite import Op, Type, nodes_to_tflite, to_tflite

MOVES = {Op.PAD, Op.RESHAPE}


@dataclass(frozen=True)
class Stored:
    shape: tuple[int, ...]
    type: Type
    data: NDArray[Any] | None
    scales: NDArray[np.float32]
    zero_point: int
    axis: int


@dataclass(frozen=True)
class Operation:
    op: Op
    inputs: list[Stored]
    output: Stored
    options: Table | None

    def option(self, slot: int) -> int:
        assert self.options is not None
        return field(self.options, slot, number_types.Int8Flags)


def field(table: Table, slot: int, kind: Any) -> int:
    place = table.Offset(4 + 2 * slot)
    return int(table.Get(kind, place + table.Pos)) if place else 0


def tables(table: Table, slot: int) -> list[Table]:
    place = table.Offset(4 + 2 * slot)
    start = table.Vector(place)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(table.VectorLen(place))]


def numbers(table: Table, slot: int, kind: Any) -> NDArray[Any]:
    place = table.Offset(4 + 2 * slot)
    return np.asarray(table.GetVectorAsNumpy(kind, place)) if place else np.array([])


def child(table: Table, slot: int) -> Table | None:
    place = table.Offset(4 + 2 * slot)
    return Table(table.Bytes, table.Indirect(place + table.Pos)) if place else None


def read(content: bytes) -> list[Operation]:
    """The operators in their order, by the schema's numbers of fields."""
    assert content[4:8] == b"TFL3"
    model = Table(content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0))
    codes = [Op(field(code, 3, number_types.Int32Flags)) for code in tables(model, 1)]
    (graph,) = tables(model, 2)
    buffers = [numbers(buffer, 0, number_types.Uint8Flags) for buffer in tables(model, 4)]
    assert len(buffers[0]) == 0
    dtypes = {Type.FLOAT32: np.float32, Type.INT32: np.int32, Type.INT8: np.int8}

    def stored(table: Table) -> Stored:
        kind, held = Type(field(table, 1, number_types.Int8Flags)), buffers[field(table, 2, number_types.Uint32Flags)]
        shape = tuple(int(n) for n in numbers(table, 0, number_types.Int32Flags))
        data = held.view(dtypes[kind]).reshape(shape) if len(held) else None
        own = child(table, 4)
        if own is None:
            return Stored(shape, kind, data, np.array([], np.float32), 0, 0)
        zeros = numbers(own, 3, number_types.Int64Flags)
        assert len(set(zeros)) == 1
        scales = numbers(own, 2, number_types.Float32Flags)
        return Stored(shape, kind, data, scales, int(zeros[0]), field(own, 6, number_types.Int32Flags))

    tensors = [stored(table) for table in tables(graph, 0)]

    def operation(table: Table) -> Operation:
        made = numbers(table, 2, number_types.Int32Flags)
        return Operation(
            codes[field(table, 0, number_types.Uint32Flags)],
            [tensors[i] for i in numbers(table, 1, number_types.Int32Flags)],
            tensors[made[0]],
            child(table, 4),
        )

    return [operation(table) for table in tables(graph, 3)]


def convolution(kind: Kind, kernel_size: int, stride: int, padding: int, size: int = 8) -> tuple[Node, ...]:
    """Six channels, with a BatchNorm and a ReLU6 behind it."""
    spec = LayerSpec(kind, 6, 6, size, size, kernel_size, stride, padding)
    after = (6, 6, spec.out_height, spec.out_width)
    return (
        Node("conv", spec, (-1,)),
        Node("norm", LayerSpec(Kind.BATCH_NORM, *after), (0,)),
        Node("act", LayerSpec(Kind.RELU6, *after), (1,)),
    )


def drawn(nodes: Sequence[Node], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Random weights; variances above 0."""
    draws = np.random.default_rng(seed)
    shapes = uniform_weights([("", nodes)])
    return {name: draws.uniform(0.1, 1.0, value.shape).astype(np.float32) for name, value in shapes.items()}


@pytest.mark.parametrize("kind", [Kind.CONV, Kind.DWCONV])
def test_a_norm_and_a_relu6_merge_into_the_convolution(kind: Kind) -> None:
    nodes = convolution(kind, 3, 1, 1)
    weights = drawn(nodes)
    (one,) = read(nodes_to_tflite(nodes, weights))
    factor = weights["norm.weight"] / np.sqrt(weights["norm.running_var"] + nodes[1].eps)
    layout = (1, 2, 3, 0) if kind is Kind.DWCONV else (0, 2, 3, 1)
    expected = (weights["conv.weight"] * factor[:, None, None, None]).transpose(layout)
    weight, bias = one.inputs[1].data, one.inputs[2].data
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
    np.testing.assert_allclose(bias, weights["norm.bias"] - weights["norm.running_mean"] * factor, rtol=1e-5, atol=1e-7)
    assert one.option(4 if kind is Kind.DWCONV else 3) == 3  # RELU6
    assert one.output.shape == (1, 8, 8, 6)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "size", "padded"),
    [(3, 1, 1, 8, False), (7, 1, 3, 8, False), (3, 2, 1, 8, True), (3, 2, 1, 7, False), (4, 4, 0, 8, False)],
)
def test_a_window_is_padded_on_both_sides_alike(
    kernel_size: int, stride: int, padding: int, size: int, padded: bool
) -> None:
    """TensorFlow pads an even map of stride 2 at its end only: there the zeros are written."""
    nodes = convolution(Kind.CONV, kernel_size, stride, padding, size)
    operations = read(nodes_to_tflite(nodes, drawn(nodes)))
    assert [one.op for one in operations] == [Op.PAD] * padded + [Op.CONV_2D]
    assert operations[-1].option(0) == (1 if padded or not padding else 0)  # VALID or SAME
    side = nodes[0].spec.out_height
    assert operations[-1].output.shape == (1, side, side, 6)


def test_int8_stands_for_the_ranges_that_were_given() -> None:
    nodes = convolution(Kind.CONV, 3, 2, 1)
    ranges = {"x0": (-2.0, 3.1), "act": (0.0, 6.0)}
    weights = drawn(nodes)
    pad, one = read(nodes_to_tflite(nodes, weights, ranges.__getitem__))
    of_input, weight, bias = one.inputs
    assert pad.inputs[0].scales == pad.output.scales == of_input.scales == np.float32(5.1 / 255)
    assert of_input.zero_point == -28 and one.output.zero_point == -128
    assert one.output.scales[0] * 255 == pytest.approx(6)
    assert {of_input.type, weight.type, one.output.type} == {Type.INT8} and bias.type is Type.INT32
    assert weight.data is not None and bias.data is not None
    assert len(weight.scales) == 6 and weight.axis == 0 and np.abs(weight.data).max() == 127
    np.testing.assert_allclose(bias.scales, weight.scales * of_input.scales, rtol=1e-6)
    (exact,) = (one for one in read(nodes_to_tflite(nodes, weights)) if one.op is Op.CONV_2D)
    real = weight.data * weight.scales[:, None, None, None]
    assert exact.inputs[1].data is not None
    assert np.abs(real - exact.inputs[1].data).max() <= weight.scales.max() / 2 * 1.001


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_merges_in_the_file_is_what_the_runtime_says(precision: str) -> None:
    """A kernel of the rules is one operator but for padding; a LayerNorm is the formula's."""
    rules = fusion_rules(make_settings("litert", precision=precision))
    kernels = grid_kernels(map(load_space, available_spaces()), rules, 64, 10)
    seen = set[Kind]()
    for kernel in {(k.spec.kind, k.spec.stride, k.fused, k.inputs): k for k in kernels}.values():
        operations = [one.op for one in read(nodes_tflite(kernel_nodes(kernel), precision)) if one.op not in MOVES]
        lengths = {Kind.LAYER_NORM: 11, Kind.BATCH_NORM: 2}
        assert len(operations) == lengths.get(kernel.spec.kind, 1), (kernel, operations)
        seen.add(kernel.spec.kind)
    assert {Kind.CONV, Kind.DWCONV, Kind.LINEAR, Kind.LAYER_NORM, Kind.GELU, Kind.MUL, Kind.GLOBAL_POOL} <= seen


def test_the_same_network_gives_the_same_bytes_with_aligned_constants() -> None:
    segments = lower(load_space("quadranet").smallest(), 32, 10)
    weights = uniform_weights([(segment.name, segment.nodes) for segment in segments])
    content = to_tflite(segments, weights)
    assert content == to_tflite(segments, weights)
    largest = max(weights.values(), key=lambda value: value.size)
    assert content.find(np.ascontiguousarray(largest).tobytes()) % 16 == 0


# --- in the runtime


def network(name: str, seed: int) -> tuple[tuple[Segment, ...], dict[str, NDArray[np.float32]]]:
    space = load_space(name)
    segments = lower(space.architecture(space.random_path(random.Random(seed))), 32, 10)
    shapes = uniform_weights([(segment.name, segment.nodes) for segment in segments])
    draws = np.random.default_rng(seed)
    weights = {}
    for name_, value in shapes.items():
        if name_.endswith(("running_var",)):
            weights[name_] = draws.uniform(0.8, 1.2, value.shape).astype(np.float32)
        elif value.ndim > 1:
            fan_in = np.prod(value.shape[1:])
            weights[name_] = (draws.standard_normal(value.shape) / np.sqrt(fan_in)).astype(np.float32)
        else:
            weights[name_] = (value + 0.1 * draws.standard_normal(value.shape)).astype(np.float32)
    return segments, weights


def run(content: bytes, *inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inputs and outputs in fp32 whatever the file's."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    for value, given in zip(interpreter.get_input_details(), inputs, strict=True):
        scale, zero = value["quantization"]
        stored = np.clip(np.round(given / scale + zero), -128, 127) if scale else given
        interpreter.set_tensor(value["index"], stored.astype(value["dtype"]))
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    scale, zero = output["quantization"]
    found = interpreter.get_tensor(output["index"]).astype(np.float32)
    return np.asarray((found - zero) * scale if scale else found, np.float32)


@pytest.mark.parametrize("name", ["quadranet", "proxyless"])
def test_the_runtime_computes_what_onnxruntime_does(name: str) -> None:
    segments, weights = network(name, 3)
    image = np.random.default_rng(0).standard_normal((1, 32, 32, 3)).astype(np.float32)
    session = onnxruntime.InferenceSession(to_onnx(segments, weights).SerializeToString())
    (expected,) = session.run(None, {"images": image.transpose(0, 3, 1, 2)})
    found = run(to_tflite(segments, weights), image)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [Kind.CONV, Kind.DWCONV])
def test_the_runtime_computes_int8_within_a_few_steps(kind: Kind) -> None:
    nodes = convolution(kind, 3, 2, 1)
    weights = drawn(nodes)
    values = np.random.default_rng(1).uniform(-0.2, 0.2, (1, 8, 8, 6)).astype(np.float32)
    exact = run(nodes_to_tflite(nodes, weights), values)
    found = run(nodes_to_tflite(nodes, weights, lambda name: (-0.2, 0.2) if name == "x0" else (0.0, 6.0)), values)
    assert exact.max() > 0.1
    assert np.abs(found - exact).max() < 3 * 6 / 255
