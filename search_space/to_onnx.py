"""From lowered layers and weights to an ONNX graph, without tracing: exact, fast, deterministic.

The same layers that are counted and timed are written, node by node, for inference. Layer scales
are folded into the weights before them. Tests hold the graph equal to torch in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from search_space.branches import scalable
from search_space.layer import SEGMENT_INPUT, Kind, Node
from search_space.lower import Segment

OPSET = 20  # the first with Gelu
Array = NDArray[np.float32]


def to_onnx(
    segments: Sequence[Segment], weights: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """images (N, 3, H, W) float32 -> logits (N, classes).

    weights: arrays by 'segment.layer.parameter', as a `Network`'s state dict names them.
    """
    first, last = segments[0].nodes[0].spec, segments[-1].nodes[-1].spec
    writer = _Writer(weights)
    value = "images"
    for segment in segments:
        value = writer.segment(segment, value)
    writer.add("Identity", [value], "logits")
    graph = helper.make_graph(
        writer.nodes,
        "network",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.FLOAT, ["N", first.in_channels, first.height, first.width]
            )
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", last.out_channels])],
        writer.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


class _Writer:
    def __init__(self, weights: Mapping[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def segment(self, segment: Segment, value: str) -> str:
        names = {SEGMENT_INPUT: value}
        factors = fold_scales(segment.nodes, lambda name: self.weights[f"{segment.name}.{name}.weight"])
        for i, node in enumerate(segment.nodes):
            inputs = [names[x] for x in node.inputs]
            if node.spec.kind is Kind.SCALE and i not in factors:
                names[i] = inputs[0]  # folded
            else:
                names[i] = self.layer(f"{segment.name}.{node.name}", node, inputs, factors.get(i))
        return names[len(segment.nodes) - 1]

    def layer(self, name: str, node: Node, inputs: list[str], factor: Array | None) -> str:
        """Write one layer; `factor` (out channels,) multiplies its output through its weights."""
        spec = node.spec

        def parameter(part: str) -> Array:
            return np.asarray(self.weights[f"{name}.{part}"], dtype=np.float32)

        match spec.kind:
            case Kind.CONV | Kind.DWCONV:
                weight = parameter("weight") if factor is None else parameter("weight") * factor[:, None, None, None]
                inputs.append(self.constant(f"{name}.weight", weight))
                if spec.bias:
                    bias = parameter("bias") if factor is None else parameter("bias") * factor
                    inputs.append(self.constant(f"{name}.bias", bias))
                return self.add(
                    "Conv",
                    inputs,
                    name,
                    kernel_shape=[spec.kernel_size] * 2,
                    strides=[spec.stride] * 2,
                    pads=[spec.padding] * 4,
                    group=spec.in_channels if spec.kind is Kind.DWCONV else 1,
                )
            case Kind.LINEAR:
                flat = self.add("Flatten", inputs, f"{name}.flat", axis=1)
                constants = [self.constant(f"{name}.{p}", parameter(p)) for p in ("weight", "bias")]
                return self.add("Gemm", [flat, *constants], name, transB=1)
            case Kind.LAYER_NORM:
                last = self.add("Transpose", inputs, f"{name}.channels_last", perm=[0, 2, 3, 1])
                constants = [self.constant(f"{name}.{p}", parameter(p)) for p in ("weight", "bias")]
                normed = self.add("LayerNormalization", [last, *constants], f"{name}.normed", axis=-1, epsilon=1e-6)
                return self.add("Transpose", [normed], name, perm=[0, 3, 1, 2])
            case Kind.BATCH_NORM:
                parts = ("weight", "bias", "running_mean", "running_var")
                constants = [self.constant(f"{name}.{p}", parameter(p)) for p in parts]
                return self.add("BatchNormalization", [*inputs, *constants], name, epsilon=1e-3)
            case Kind.RELU6:
                low = self.constant(f"{name}.min", np.array(0, np.float32))
                high = self.constant(f"{name}.max", np.array(6, np.float32))
                return self.add("Clip", [*inputs, low, high], name)
            case Kind.GELU:
                return self.add("Gelu", inputs, name)
            case Kind.SCALE:
                per_pixel = self.constant(f"{name}.weight", parameter("weight")[:, None, None])
                return self.add("Mul", [*inputs, per_pixel], name)
            case Kind.ADD:
                return self.add("Add", inputs, name)
            case Kind.MUL:
                return self.add("Mul", inputs, name)
            case Kind.GLOBAL_POOL:
                return self.add("GlobalAveragePool", inputs, name)


def fold_scales(nodes: Sequence[Node], scale_of: Callable[[str], Array]) -> dict[int, Array]:
    """Where each layer scale goes: factors per channel by the position of the convolution they fold into.

    A scale that cannot be folded stays, listed under its own position.
    """
    factors: dict[int, Array] = {}
    for i, node in enumerate(nodes):
        if node.spec.kind is Kind.SCALE:
            factor = np.asarray(scale_of(node.name), dtype=np.float32)
            for target in scalable(nodes, node.inputs[0]) or [i]:
                factors[target] = factor * factors.get(target, np.float32(1))
    return factors
