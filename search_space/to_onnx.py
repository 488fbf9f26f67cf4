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
from search_space.errors import UserError
from search_space.layer import SEGMENT_INPUT, Kind, LayerSpec, Node
from search_space.lower import Segment

OPSET, IR_VERSION = 17, 8
"""What runtimes since 2022 read, OpenVINO 2022.3 (the last with Myriad) and onnxruntime 1.13 among them.

17 is the first opset with LayerNormalization; Gelu, which came with 20, is written as the operators that runtimes merge
into one again.
"""
Array = NDArray[np.float32]


def to_onnx(
    segments: Sequence[Segment],
    weights: Mapping[str, Array],
    metadata: Mapping[str, str] | None = None,
    compact: bool = False,
) -> onnx.ModelProto:
    """The checked graph from images (N, 3, H, W) float32 to logits (N, classes).

    weights: arrays by 'segment.layer.parameter', as a `Network`'s state dict names them. compact: see `_Writer`.
    """
    first, last = segments[0].nodes[0].spec, segments[-1].nodes[-1].spec
    writer = _Writer(weights, compact)
    value = "images"
    for segment in segments:
        value = writer.nodes_of(segment.name, segment.nodes, [value])
    images = _tensor("images", ["N", first.in_channels, first.height, first.width])
    return writer.model([images], value, _tensor("logits", ["N", last.out_channels]), metadata or {})


def nodes_to_onnx(nodes: Sequence[Node], weights: Mapping[str, Array], compact: bool = False) -> onnx.ModelProto:
    """A list of layers alone at batch 1: inputs 'x0', 'x1', ... for what they read at -1, -2, ...; output 'y'.

    weights: arrays by 'layer.parameter'.
    """
    shapes = input_shapes(nodes)
    last = nodes[-1].spec
    shape = [1, last.out_channels] if last.kind is Kind.LINEAR else [1, *_out_shape(last)]
    names = [f"x{i}" for i in range(len(shapes))]
    writer = _Writer(weights, compact)
    value = writer.nodes_of("", nodes, names)
    inputs = [_tensor(name, [1, *shape]) for name, shape in zip(names, shapes, strict=True)]
    return writer.model(inputs, value, _tensor("y", shape), {})


def input_shapes(nodes: Sequence[Node]) -> list[tuple[int, int, int]]:
    """(channels, height, width) of what a list of layers reads from outside: at position -1, -2, and so on."""
    read = {x: node.spec for node in reversed(nodes) for x in node.inputs if x < 0}
    return [(s.in_channels, s.height, s.width) for _, s in sorted(read.items(), reverse=True)]


def _out_shape(spec: LayerSpec) -> tuple[int, int, int]:
    return spec.out_channels, spec.out_height, spec.out_width


def _tensor(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


class _Writer:
    """`compact`: an array of one value is written as that value, and the runtime unrolls it when it loads the file."""

    def __init__(self, weights: Mapping[str, Array], compact: bool) -> None:
        self.weights, self.compact = weights, compact
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        value: str,
        output: onnx.ValueInfoProto,
        metadata: Mapping[str, str],
    ) -> onnx.ModelProto:
        """The checked model; `value` becomes its output."""
        self.add("Identity", [value], output.name)
        graph = helper.make_graph(self.nodes, "network", inputs, [output], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        return model

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, array: NDArray[Any]) -> str:
        if self.compact and array.size > 1 and (array == array.flat[0]).all():
            shape = numpy_helper.from_array(np.array(array.shape, np.int64), f"{name}.shape")
            self.initializers.append(shape)
            value = numpy_helper.from_array(array.ravel()[:1])
            return self.add("ConstantOfShape", [shape.name], name, value=value)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def scalar(self, value: float) -> str:
        """A constant that the whole graph shares."""
        name = f"constant_{value:.6g}"
        if all(one.name != name for one in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def nodes_of(self, block: str, nodes: Sequence[Node], inputs: Sequence[str]) -> str:
        """Write a list of layers that reads `inputs` at -1, -2, ...; the name of its output."""
        names = {SEGMENT_INPUT - i: name for i, name in enumerate(inputs)}
        prefix = f"{block}." if block else ""
        factors = fold_scales(nodes, lambda name: self.weights[f"{prefix}{name}.weight"])
        for i, node in enumerate(nodes):
            read = [names[x] for x in node.inputs]
            if node.spec.kind is Kind.SCALE and i not in factors:
                names[i] = read[0]  # folded
            else:
                names[i] = self.layer(f"{prefix}{node.name}", node, read, factors.get(i))
        return names[len(nodes) - 1]

    def layer(self, name: str, node: Node, inputs: list[str], factor: Array | None) -> str:
        """Write one layer; `factor` (out channels,) multiplies its output through its weights."""
        spec = node.spec

        def parameter(part: str) -> Array:
            return np.asarray(self.weights[f"{name}.{part}"], dtype=np.float32)

        def scaled(part: str) -> str:
            value = parameter(part)
            value = value if factor is None else value * factor.reshape(-1, *[1] * (value.ndim - 1))
            return self.constant(f"{name}.{part}", value)

        match spec.kind:
            case Kind.CONV | Kind.DWCONV:
                inputs += [scaled(part) for part in (("weight", "bias") if spec.bias else ("weight",))]
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
                affine = [scaled(part) for part in ("weight", "bias")]
                seen = [self.constant(f"{name}.{p}", parameter(p)) for p in ("running_mean", "running_var")]
                return self.add("BatchNormalization", [*inputs, *affine, *seen], name, epsilon=node.eps)
            case Kind.RELU6:
                low = self.constant(f"{name}.min", np.array(0, np.float32))
                high = self.constant(f"{name}.max", np.array(6, np.float32))
                return self.add("Clip", [*inputs, low, high], name)
            case Kind.GELU:
                root, one, half = (self.scalar(value) for value in (2**0.5, 1.0, 0.5))
                erf = self.add("Erf", [self.add("Div", [*inputs, root], f"{name}.div")], f"{name}.erf")
                product = self.add("Mul", [*inputs, self.add("Add", [erf, one], f"{name}.add")], f"{name}.mul")
                return self.add("Mul", [product, half], name)
            case Kind.HARD_SWISH:
                return self.add("HardSwish", inputs, name)
            case Kind.SCALE:
                per_pixel = self.constant(f"{name}.weight", parameter("weight")[:, None, None])
                return self.add("Mul", [*inputs, per_pixel], name)
            case Kind.ADD:
                return self.add("Add", inputs, name)
            case Kind.MUL:
                return self.add("Mul", inputs, name)
            case Kind.GLOBAL_POOL:
                return self.add("GlobalAveragePool", inputs, name)
            case _:
                raise UserError(f"no space exports a layer of kind '{spec.kind}'; it can be priced only")


def fold_scales(nodes: Sequence[Node], scale_of: Callable[[str], Array]) -> dict[int, Array]:
    """Where each layer scale goes: factors per channel by the position of the layer they fold into.

    A scale that cannot be folded stays, listed under its own position.
    """
    factors: dict[int, Array] = {}
    for i, node in enumerate(nodes):
        if node.spec.kind is Kind.SCALE:
            factor = np.asarray(scale_of(node.name), dtype=np.float32)
            for target in scalable(nodes, node.inputs[0]) or [i]:
                factors[target] = factor * factors.get(target, np.float32(1))
    return factors
