"""What is timed, as models: a kernel alone and a whole network, in ONNX, as .tflite and as records of layers. No torch.

Weights are one value a tensor, written as that value: times do not depend on values, and a folder of models
stays small. No two tensors share a value, for equal layers would be merged by the runtime. Not for timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_profiles import Kernel
from latency_models.measure.timing import Item
from search_space.errors import UserError
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.layer import SEGMENT_INPUT, WEIGHTED, Kind, LayerSpec, Node
from search_space.lower import Segment, lower
from search_space.space_file import load_space
from search_space.to_onnx import nodes_to_onnx, to_onnx
from search_space.to_tflite import Range, nodes_to_tflite, to_tflite

Block = tuple[str, Sequence[Node]]  # a segment's name ('' for none) and its layers
STEP = 1e-3  # between the values of two tensors
VALUES = (-4.0, 4.0)  # what int8 stands for in every tensor: times depend on kinds and sizes


def kernel_name(kernel: Kernel) -> str:
    """Names the kernel and nothing else; fit for a file name."""
    s = kernel.spec
    kinds = "-".join((s.kind, *kernel.fused))
    return (
        f"{kinds}_{s.in_channels}x{s.height}x{s.width}_{s.out_channels}_k{s.kernel_size}_s{s.stride}_p{s.padding}"
        f"_i{kernel.inputs}"
    )


def kernel_nodes(kernel: Kernel) -> tuple[Node, ...]:
    """The layers of a kernel; what it reads from outside stands at -1, -2, ...

    Raises `UserError` for a kernel whose layers cannot read so many tensors.
    """
    spec = kernel.spec
    free = iter(range(SEGMENT_INPUT - 1, SEGMENT_INPUT - kernel.inputs, -1))  # beyond the first
    read = (SEGMENT_INPUT, next(free, SEGMENT_INPUT)) if spec.kind in (Kind.ADD, Kind.MUL) else (SEGMENT_INPUT,)
    leader = LayerSpec(**{**asdict(spec), "bias": spec.kind in WEIGHTED})
    nodes = [Node(spec.kind.value, leader, read)]
    after = LayerSpec(spec.kind, spec.out_channels, spec.out_channels, spec.out_height, spec.out_width)
    for position, kind in enumerate(kernel.fused):
        read = (position, next(free, min(read))) if kind in (Kind.ADD, Kind.MUL) else (position,)
        nodes.append(Node(f"{kind}{position}", LayerSpec(**{**asdict(after), "kind": kind}), read))
    if next(free, None) is not None:
        raise UserError(f"kernel {kernel} reads {kernel.inputs} tensors, more than its layers can")
    return tuple(nodes)


def nodes_model(nodes: Sequence[Node]) -> bytes:
    """ONNX of a list of layers alone."""
    model: bytes = nodes_to_onnx(nodes, uniform_weights([("", nodes)]), compact=True).SerializeToString()
    return model


def network_model(segments: Sequence[Segment]) -> bytes:
    """ONNX of a whole network."""
    weights = uniform_weights([(segment.name, segment.nodes) for segment in segments])
    model: bytes = to_onnx(segments, weights, compact=True).SerializeToString()
    return model


def nodes_tflite(nodes: Sequence[Node], precision: str) -> bytes:
    """A list of layers alone as a .tflite file in fp32 or int8."""
    return nodes_to_tflite(nodes, uniform_weights([("", nodes)]), _ranges(precision))


def network_tflite(segments: Sequence[Segment], precision: str) -> bytes:
    """A whole network as a .tflite file in fp32 or int8."""
    weights = uniform_weights([(segment.name, segment.nodes) for segment in segments])
    return to_tflite(segments, weights, _ranges(precision))


def _ranges(precision: str) -> Callable[[str], Range] | None:
    return (lambda name: VALUES) if precision == "int8" else None


def kernel_item(kernel: Kernel) -> Item:
    """A kernel to time alone."""
    nodes = kernel_nodes(kernel)
    return Item(kernel_name(kernel), partial(nodes_model, nodes), layer_records([nodes]), partial(nodes_tflite, nodes))


def network_item(name: str, segments: Sequence[Segment]) -> Item:
    """A whole network to time."""
    records = layer_records([segment.nodes for segment in segments])
    return Item(name, partial(network_model, segments), records, partial(network_tflite, segments))


def reference_item() -> Item:
    """Timed before and after every timing, to see drift.

    A whole network, a few ms on a laptop: on a shared machine networks drift by some percent against a kernel or two
    that stay in the cache, and far less against each other.
    """
    return network_item("reference", lower(load_space("quadranet").smallest(), RESOLUTION, NUM_CLASSES))


def uniform_weights(blocks: Iterable[Block]) -> dict[str, NDArray[np.float32]]:
    """A value a tensor, by 'block.layer.parameter': about 1 / fan-in for weights, 1 for factors, 0 for offsets."""
    weights: dict[str, NDArray[np.float32]] = {}
    for block, nodes in blocks:
        for node in nodes:
            for part, (value, shape) in _parameters(node.spec).items():
                name = f"{block}.{node.name}.{part}" if block else f"{node.name}.{part}"
                step = STEP * (len(weights) + 1)
                weights[name] = np.broadcast_to(np.float32(value * (1 + step) if value else step), shape)
    return weights


def layer_records(blocks: Iterable[Sequence[Node]]) -> list[dict[str, Any]]:
    """Lists of layers, each reading the one before, as one list of records for `timing.run_layers`."""
    records: list[dict[str, Any]] = []
    before = SEGMENT_INPUT
    for nodes in blocks:
        start = len(records)
        for node in nodes:
            inputs = [before if x == SEGMENT_INPUT else x if x < 0 else start + x for x in node.inputs]
            records.append({**asdict(node.spec), "kind": node.spec.kind.value, "inputs": inputs})
        before = len(records) - 1 if nodes else before
    return records


def _parameters(spec: LayerSpec) -> Mapping[str, tuple[float, tuple[int, ...]]]:
    """Parameter -> its value and shape."""
    channels = (spec.out_channels,)
    match spec.kind:
        case Kind.CONV | Kind.DWCONV | Kind.LINEAR:
            inputs = 1 if spec.kind is Kind.DWCONV else spec.in_channels
            window = () if spec.kind is Kind.LINEAR else (spec.kernel_size, spec.kernel_size)
            fan_in = inputs * spec.kernel_size**2
            bias = {"bias": (0.0, channels)} if spec.bias else {}
            return {"weight": (1 / fan_in, (spec.out_channels, inputs, *window)), **bias}
        case Kind.LAYER_NORM:
            return {"weight": (1.0, channels), "bias": (0.0, channels)}
        case Kind.BATCH_NORM:
            offsets = {"bias": (0.0, channels), "running_mean": (0.0, channels)}
            return {"weight": (1.0, channels), **offsets, "running_var": (1.0, channels)}
        case Kind.SCALE:
            return {"weight": (1.0, channels)}
        case _:
            return {}
