"""Which layers the operators of an ONNX graph are: the shape arithmetic and every assumption about operators.

Not for which graphs are refused, nor for the messages (`onnx.reader`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt, prod

from latency_models.onnx.file import OnnxGraph, Operator
from latency_models.onnx.fold import Shape
from latency_models.onnx.patterns import Activation
from search_space.errors import BadFile, UserError
from search_space.layer import SEGMENT_INPUT, WEIGHTED, Kind, LayerSpec, Node

FREE = frozenset({"Flatten", "Reshape", "Identity", "Dropout", "Squeeze", "Unsqueeze", "Transpose", "Cast"})
FINAL = frozenset({"Softmax", "LogSoftmax"})  # free at the end; elsewhere a layer, or refused
AS_GELU = frozenset({"Sigmoid", "Swish"})
AS_PASS = frozenset(
    {"LeakyRelu", "PRelu", "HardSigmoid"}
)  # no runtime's convolution takes them along: a product's pass
AS_MOVED = frozenset({"Split", "Slice", "Gather"})  # elements copied to another tensor, as by a concatenation
APPROXIMATED = {
    **dict.fromkeys(AS_GELU, Kind.GELU),
    **dict.fromkeys(AS_PASS, Kind.MUL),
    **dict.fromkeys(AS_MOVED, Kind.CONCAT),
}
"""Operators -> the kind that they are priced as, which a note says."""
UNARY = {
    "Relu": Kind.RELU6,
    "Clip": Kind.RELU6,
    "Gelu": Kind.GELU,
    "HardSwish": Kind.HARD_SWISH,
    **{op: kind for op, kind in APPROXIMATED.items() if op not in AS_MOVED},
}
BINARY = {"Add": Kind.ADD, "Sub": Kind.ADD, "Mul": Kind.MUL, "Div": Kind.MUL}
WEIGHTS = frozenset({"Conv", "Gemm", "MatMul"})
NORMS = frozenset({"BatchNormalization", "LayerNormalization"})
POOLS = frozenset({"GlobalAveragePool", "ReduceMean", "MaxPool", "AveragePool"})
SUPPORTED = FREE | FINAL | UNARY.keys() | BINARY.keys() | WEIGHTS | NORMS | POOLS | AS_MOVED | {"Concat"}


class Refused(Exception):
    """Why an operator has no layer kind; follows its name in the message."""


@dataclass(frozen=True, slots=True)
class _Value:
    """Which node made a tensor, and which of its axes holds the channels; whole: all of them, none on other axes."""

    position: int
    axis: int
    whole: bool = True


class Translation:
    """Nodes under construction. sizes: of every tensor that is needed, by name."""

    def __init__(self, graph: OnnxGraph, sizes: Mapping[str, Shape]) -> None:
        self.sizes, self.static, self.values = sizes, graph.static, graph.values
        self.nodes: list[Node] = []
        self._made = {graph.image: _Value(SEGMENT_INPUT, _image_axis(sizes[graph.image]))}
        self._additive: set[int] = set()  # scales that add
        self._counts: Counter[str] = Counter()
        self._approximated: dict[Kind, Counter[str]] = {}
        self._readers: dict[str, list[Operator]] = {}
        for operator in graph.operators:
            for name in operator.inputs:
                self._readers.setdefault(name, []).append(operator)

    def activation(self, found: Activation, name: str) -> None:
        """Add an activation that patterns found."""
        if not found.exact:
            self._priced_as(found.kind, found.called)
        value = self._value(found.reads)
        self._made[found.makes] = self._append(name, self._unary_spec(found.kind, found.reads), (value,), value.axis)

    def _priced_as(self, kind: Kind, called: str) -> None:
        self._approximated.setdefault(kind, Counter())[called] += 1

    def pass_on(self, operator: Operator) -> None:
        """After a refusal: so that later operators can be looked at as well."""
        inputs = [self._made[name] for name in operator.inputs if name in self._made]
        position = inputs[0].position if inputs else SEGMENT_INPUT
        for name in filter(None, operator.outputs):
            self._made[name] = _Value(position, min(1, len(self._shape(name)) - 1))

    def layer(self, operator: Operator) -> None:
        """Append the layer of one operator. Raises `Refused`."""
        made = self._layer(operator)
        self._made |= dict.fromkeys(filter(None, operator.outputs), made)

    def _layer(self, operator: Operator) -> _Value:
        op, x = operator.op, operator.inputs[0]
        if op in BINARY:
            return self._binary(operator)
        if op == "Concat":
            return self._concat(operator)
        value = self._value(x)
        if op in FREE:
            return self._free(operator, value)
        if op in FINAL:
            return self._softmax(operator, value)
        if op in APPROXIMATED:
            self._priced_as(APPROXIMATED[op], op)
        if op in AS_MOVED:
            return self._moved(operator, value)
        if op in UNARY:
            return self._append(operator.name, self._unary_spec(UNARY[op], x), (value,), value.axis)
        match op:
            case "Conv":
                return self._conv(operator, value)
            case "Gemm" | "MatMul":
                return self._matrix(operator, value)
            case "BatchNormalization":
                value = _Value(value.position, 1)
                return self._append(operator.name, self._unary_spec(Kind.BATCH_NORM, x, 1), (value,), 1)
            case "LayerNormalization":
                last = len(self._shape(x)) - 1
                if operator.integer("axis", -1) not in (-1, last):
                    raise Refused("over more than the last axis")
                return self._append(operator.name, self._unary_spec(Kind.LAYER_NORM, x, last), (value,), last)
            case "GlobalAveragePool" | "ReduceMean":
                return self._global_pool(operator, value)
            case _:
                return self._pool(operator, value)

    def _free(self, operator: Operator, value: _Value) -> _Value:
        before, after = self._shape(operator.inputs[0]), self._shape(operator.outputs[0])
        if operator.op == "Transpose":
            return self._transpose(operator, value)
        if operator.op == "Cast":
            self._counts["Cast"] += 1
        if prod(before) != prod(after):
            raise UserError(
                f"'{operator.name}' makes {'x'.join(map(str, after))} of {'x'.join(map(str, before))}: the model is "
                "fixed to several images at once; export it for one image"
            )
        axis = _kept_axis(before, value.axis, after)
        return _Value(value.position, axis, value.whole and after[axis] == before[value.axis])

    def _transpose(self, operator: Operator, value: _Value) -> _Value:
        """Free where it only takes all channels past pixels, which is the layout that a runtime chooses for itself.

        Where axes of pixels, or parts of the channels, change places, as in a channel shuffle or between the heads of
        an attention, elements are moved in every layout.
        """
        shape = self._shape(operator.inputs[0])
        perm = operator.integers("perm", range(len(shape) - 1, -1, -1))
        if sorted(perm) != list(range(len(shape))):
            raise Refused("with axes that are not the tensor's")
        axis = perm.index(value.axis)
        ordered = [i for i in perm if shape[i] > 1 and not (value.whole and i == value.axis)]
        if ordered == sorted(ordered):
            self._counts["Transpose"] += 1
            return replace(value, axis=axis)
        if len(shape) == 5 and value.axis == 1:  # (1, groups, channels, height, width), read as the image it is of
            spec = _spec(Kind.TRANSPOSE, (1, shape[1] * shape[2], *shape[3:]), 1)
        else:
            spec = _spec(Kind.TRANSPOSE, shape, value.axis)
        return replace(self._append(operator.name, spec, (value,), axis), whole=value.whole)

    def _softmax(self, operator: Operator, value: _Value) -> _Value:
        if self._at_the_end(operator.outputs[0]):
            self._counts[operator.op] += 1
            return value
        if operator.op != "Softmax":
            raise Refused("inside the network")
        axis = operator.integer("axis", -1) % len(self._shape(operator.inputs[0]))
        return self._append(operator.name, self._unary_spec(Kind.SOFTMAX, operator.inputs[0], axis), (value,), axis)

    def _moved(self, operator: Operator, value: _Value) -> _Value:
        """What comes out is copied, of a split all of it."""
        axis, made = value.axis, self._shape(operator.outputs[0])
        if operator.op == "Split":
            spec = self._unary_spec(Kind.CONCAT, operator.inputs[0])
        else:
            axis = min(axis, len(made) - 1)  # a gathered axis may be gone
            spec = _spec(Kind.CONCAT, made, axis)
        return self._append(operator.name, spec, (value,), axis)

    def _conv(self, operator: Operator, value: _Value) -> _Value:
        x, weight = operator.inputs[:2]
        shape, kernel = self._shape(x), self._constant(weight)
        if len(shape) != 4:
            raise Refused(f"with {len(shape) - 2} spatial axes")
        out, per_group, *window = kernel
        groups = operator.integer("group", 1)
        _check_channels(operator, per_group * groups, shape[1])
        depthwise = groups > 1 and groups == shape[1] == out and per_group == 1
        if groups > 1 and not depthwise:
            raise Refused(f"with {groups} groups for {shape[1]} to {out} channels")
        kind = Kind.DWCONV if depthwise else Kind.CONV
        size, stride, padding = self._window(operator, window)
        spec = LayerSpec(kind, shape[1], out, shape[2], shape[3], size, stride, padding, len(operator.inputs) > 2)
        return self._append(operator.name, spec, (value,), 1)

    def _window(self, operator: Operator, window: Sequence[int]) -> tuple[int, int, int]:
        """Side, stride and padding of a square window. Uneven padding counts as even with the same output."""
        strides, dilations = operator.integers("strides", [1, 1]), operator.integers("dilations", [1, 1])
        if len(window) != 2 or len(set(window)) != 1 or len(strides) != 2 or len(set(strides)) != 1 or strides[0] < 1:
            raise Refused(f"with a window of {'x'.join(map(str, window))} at strides {'x'.join(map(str, strides))}")
        if any(d != 1 for d in dilations):
            raise Refused(f"with dilations {'x'.join(map(str, dilations))}")
        sizes, outs = self._shape(operator.inputs[0])[2:], self._shape(operator.outputs[0])[2:]
        size, stride = window[0], strides[0]
        pads = operator.integers("pads", [] if "auto_pad" in operator.attributes else [0])
        for padding in (max([0, *pads]), *range(size + 1)):
            if all((s + 2 * padding - size) // stride + 1 == o for s, o in zip(sizes, outs, strict=True)):
                if any(pad != padding for pad in pads):
                    self._counts["uneven"] += 1
                return size, stride, padding
        raise Refused("with a padding that no even padding stands for")

    def _matrix(self, operator: Operator, value: _Value) -> _Value:
        """A tensor (..., C) times constant weights (C, C'): a 1x1 convolution over the other axes, or linear."""
        x, weight = operator.inputs[:2]
        if weight not in self.static:
            return self._product(operator, value)
        shape = self._constant(weight)
        if operator.integer("transA", 0) or len(shape) != 2:
            raise Refused("with transposed inputs" if len(shape) == 2 else f"with weights of {len(shape)} axes")
        out = shape[0] if operator.integer("transB", 0) else shape[1]
        last = len(self._shape(x)) - 1
        c, h, w = _chw(self._shape(x), last)
        _check_channels(operator, prod(shape) // out, c)
        kind = Kind.LINEAR if h * w == 1 else Kind.CONV
        spec = LayerSpec(kind, c, out, h, w, bias=len(operator.inputs) > 2)
        return self._append(operator.name, spec, (value,), len(self._shape(operator.outputs[0])) - 1)

    def _product(self, operator: Operator, value: _Value) -> _Value:
        """Two computed tensors (..., M, K) and (..., K, N), as in attention: a 1x1 convolution over all rows."""
        x, other = operator.inputs[:2]
        if operator.op != "MatMul" or min(len(self._shape(x)), len(self._shape(other))) < 2:
            raise Refused("of two computed tensors")
        out, depth = self._shape(operator.outputs[0]), self._shape(x)[-1]
        spec = LayerSpec(Kind.CONV, depth, out[-1], prod(out[:-1]), 1)
        self._counts["product"] += 1
        return self._append(operator.name, spec, (value, self._value(other)), len(out) - 1)

    def _binary(self, operator: Operator) -> _Value:
        kind = BINARY[operator.op]
        computed = [name for name in operator.inputs if name not in self.static]
        out = self._shape(operator.outputs[0])
        widest = max(computed, key=lambda name: prod(self._shape(name)))
        values = [self._value(name) for name in computed]
        axis = self._value(widest).axis + len(out) - len(self._shape(widest))
        if operator.op == "Div" and operator.inputs[1] not in self.static:
            raise Refused("by a computed tensor")
        spec = _spec(kind, out, axis)
        if len(computed) == 2:
            if self._shape(computed[0]) != self._shape(computed[1]):
                self._counts["broadcast"] += 1
            return self._append(operator.name, spec, values, axis)
        (constant,) = (name for name in operator.inputs if name in self.static)
        sizes = self._constant(constant)
        sizes = (1,) * (len(out) - len(sizes)) + sizes
        if prod(sizes) == 1 or (prod(sizes) == sizes[axis] == out[axis] and out == self._shape(widest)):
            if kind is Kind.ADD:
                self._additive.add(len(self.nodes))
            return self._append(operator.name, replace(spec, kind=Kind.SCALE), values, axis)
        # a whole tensor of constants is read from outside, like the block's input
        return self._append(operator.name, spec, [*values, _Value(SEGMENT_INPUT, axis)], axis)

    def _concat(self, operator: Operator) -> _Value:
        values = [self._value(name) for name in operator.inputs if name not in self.static]
        axis = values[0].axis
        return self._append(operator.name, _spec(Kind.CONCAT, self._shape(operator.outputs[0]), axis), values, axis)

    def _global_pool(self, operator: Operator, value: _Value) -> _Value:
        x = operator.inputs[0]
        shape, axis = self._shape(x), 1 if operator.op == "GlobalAveragePool" else value.axis
        if operator.op == "ReduceMean":
            given: Sequence[int] = operator.integers("axes", [])
            if not given and len(operator.inputs) > 1:
                given = self.values.get(operator.inputs[1], ())
            if not given:
                raise Refused("over axes that are not fixed")
            axes = {a % len(shape) for a in given}
            pixels = {i for i, size in enumerate(shape) if i != axis and size > 1}
            if axis in axes or not pixels <= axes:
                raise Refused("over axes other than all pixels")
        spec = self._unary_spec(Kind.GLOBAL_POOL, x, axis)
        after = self._shape(operator.outputs[0])
        kept = _kept_axis((1, shape[axis]), 1, after)
        return self._append(operator.name, spec, (value,), kept)

    def _pool(self, operator: Operator, value: _Value) -> _Value:
        x = operator.inputs[0]
        shape, window = self._shape(x), operator.integers("kernel_shape", [])
        if len(shape) != 4:
            raise Refused(f"with {len(shape) - 2} spatial axes")
        _, c, h, w = shape
        if operator.op == "AveragePool" and window == [h, w] and self._shape(operator.outputs[0])[2:] == (1, 1):
            return self._append(operator.name, self._unary_spec(Kind.GLOBAL_POOL, x, 1), (value,), 1)
        spec = LayerSpec(Kind.POOL, c, c, h, w, *self._window(operator, window))
        return self._append(operator.name, spec, (value,), 1)

    def _append(self, name: str, spec: LayerSpec, inputs: Sequence[_Value], axis: int) -> _Value:
        self.nodes.append(Node(name, spec, tuple(value.position for value in inputs)))
        return _Value(len(self.nodes) - 1, axis)

    def _value(self, name: str) -> _Value:
        if name not in self._made:
            raise Refused("of constants")
        return self._made[name]

    def _shape(self, name: str) -> Shape:
        if name not in self.sizes:
            raise UserError(
                f"the size of tensor '{name}' cannot be worked out; export the model with fixed sizes (no dynamic axes)"
            )
        return self.sizes[name]

    def _constant(self, name: str) -> Shape:
        if name not in self.static:
            raise Refused("with computed weights")
        return self._shape(name)

    def _unary_spec(self, kind: Kind, name: str, axis: int | None = None) -> LayerSpec:
        return _spec(kind, self._shape(name), self._value(name).axis if axis is None else axis)

    def _at_the_end(self, tensor: str) -> bool:
        waiting = [tensor]
        while waiting:
            readers = self._readers.get(waiting.pop(), [])
            if any(reader.op not in FREE for reader in readers):
                return False
            waiting += [reader.outputs[0] for reader in readers]
        return True

    def finished(self) -> list[Node]:
        """The nodes; a constant factor or offset that does not fold into a convolution becomes a pass of its own."""
        nodes = self.nodes
        readers = Counter(x for node in nodes for x in set(node.inputs))
        for i, node in enumerate(nodes):
            if node.spec.kind is not Kind.SCALE:
                continue
            additive = i in self._additive
            if not _folds(nodes, readers, node.inputs[0], additive):
                nodes[i] = replace(node, spec=replace(node.spec, kind=Kind.ADD if additive else Kind.MUL))
        return nodes

    def notes(self) -> tuple[str, ...]:
        """What was approximated, a sentence each."""
        notes = []
        for kind, counts in self._approximated.items():
            listed = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items()))
            notes.append(f"{listed}: priced as {kind.value}")
        for op in ("Cast", "Transpose", *sorted(FINAL)):
            if self._counts[op]:
                reason = "a change of layout, " if op == "Transpose" else ""
                notes.append(f"{op} ({self._counts[op]}): {reason}counted as free")
        if self._counts["product"]:
            notes.append(f"{self._counts['product']} products of two computed tensors: priced as 1x1 convolutions")
        if self._counts["broadcast"]:
            notes.append(
                f"{self._counts['broadcast']} products or sums of unequal sizes: priced as of two full tensors"
            )
        if self._counts["uneven"]:
            notes.append(f"{self._counts['uneven']} windows with uneven padding: priced with even padding, same output")
        return tuple(notes)


def _folds(nodes: Sequence[Node], readers: Counter[int], position: int, additive: bool) -> bool:
    """Whether a factor or offset per channel on a node's output can be moved into weights before it.

    g * (a * b + c) scales a and c; an offset passes through factors alone.
    """
    waiting, seen = [position], set[int]()
    while waiting:
        position = waiting.pop()
        if position in seen:
            continue
        seen.add(position)
        if position == SEGMENT_INPUT or readers[position] != 1:
            return False
        node = nodes[position]
        kind = node.spec.kind
        if (kind in WEIGHTED and len(node.inputs) == 1) or kind is Kind.BATCH_NORM:
            continue
        if kind is Kind.SCALE or (kind is Kind.MUL and not additive):
            waiting.append(node.inputs[0])
        elif kind is Kind.ADD and not additive:
            waiting += node.inputs
        else:
            return False
    return True


def _check_channels(operator: Operator, weights: int, tensor: int) -> None:
    if weights != tensor:
        raise BadFile(f"'{operator.name}' has weights for {weights} channels where its input has {tensor}")


def _spec(kind: Kind, shape: Shape, axis: int) -> LayerSpec:
    c, h, w = _chw(shape, axis)
    return LayerSpec(kind, c, c, h, w)


def _chw(shape: Shape, axis: int) -> tuple[int, int, int]:
    """Channels, height and width of a tensor at batch 1. A row of pixels counts as a square where it is one."""
    others = [size for i, size in enumerate(shape) if i != axis and not (i == 0 and size == 1)]
    if len(others) == 2:
        return shape[axis], others[0], others[1]
    pixels = prod(others)
    side = isqrt(pixels)
    return (shape[axis], side, side) if side * side == pixels else (shape[axis], pixels, 1)


def _kept_axis(before: Shape, axis: int, after: Shape) -> int:
    """Where the channels are after a reshape; where they are mixed with pixels, everything counts as channels."""
    for i, size in enumerate(after):
        if size == before[axis] and prod(after[:i]) == prod(before[:axis]):
            return i
    return len(after) - 1 if len(after) < 3 else 1


def _image_axis(shape: Shape) -> int:
    return 3 if shape[3] <= 4 < shape[1] else 1
