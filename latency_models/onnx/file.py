"""Reads an ONNX file that nobody vouches for: its operators and the sizes of its tensors at batch 1.

Nothing is executed or unpickled, and no file beside the model is opened: weights' sizes are enough. Not for
what the operators mean (`onnx.reader`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper, shape_inference

from latency_models.onnx.fold import MOST_KEPT, Shape, fold_sizes
from search_space.errors import BadFile, UserError, one_line

LARGEST_BYTES = 2**31 - 1  # of one protobuf message; larger models keep their weights in other files
_ARITHMETIC = (
    "Add",
    "Cast",
    "Div",
    "Equal",
    "Floor",
    "Max",
    "Min",
    "Mul",
    "Range",
    "Reciprocal",
    "Sqrt",
    "Sub",
    "Where",
)
_SHAPING = ("Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
FOLDED = frozenset({"Constant", "ConstantOfShape", *_ARITHMETIC, *_SHAPING})
"""Operators that runtimes work out while loading where all their inputs are constants."""
PARAMETERISED = frozenset({"BatchNormalization", "Conv", "Gemm", "LayerNormalization", "PRelu"})
"""Operators whose inputs but the first are weights."""
QUANTISED = re.compile(r"QLinear|QuantizeLinear|QGemm|(Conv|MatMul)Integer")
PRECISIONS: Mapping[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


@dataclass(frozen=True)
class Operator:
    """A node of the graph.

    op: 'Conv', or 'domain.Name' outside the standard; inputs, outputs: names of tensors, empty where an optional one
    is left out.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def integer(self, name: str, default: int) -> int:
        """An attribute. Raises `BadFile` for one of another type."""
        value = self.attributes.get(name, default)
        if type(value) is not int:
            raise BadFile(f"attribute '{name}' of '{self.name}' is {value!r}, not a whole number")
        return value

    def integers(self, name: str, default: Sequence[int]) -> list[int]:
        """An attribute that is a list. Raises `BadFile` for one of another type."""
        values = self.attributes.get(name, list(default))
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            raise BadFile(f"attribute '{name}' of '{self.name}' is {values!r}, not whole numbers")
        return values


@dataclass(frozen=True)
class OnnxGraph:
    """The operators that the output depends on, in order; `image` is the name of the only input.

    static: tensors that do not depend on the image's values, such as weights and shapes; values: the
    numbers of small integer ones; precision: of its weights, 'fp32', 'fp16' or another.
    """

    where: str
    model: onnx.ModelProto
    operators: tuple[Operator, ...]
    image: str
    static: frozenset[str]
    values: Mapping[str, tuple[int, ...]]
    precision: str

    def sizes(self, resolution: int | None) -> dict[str, Shape]:
        """Sizes of tensors by name at batch 1, those that are fixed; `resolution` fills a free height and width.

        Raises `UserError` where the resolution is missing, `BadFile` where sizes do not fit together.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        image = next(v for v in model.graph.input if v.name == self.image)
        batch = _fix_image(image, self.where, resolution)
        if batch > 1:
            _reshape_to_one(model.graph, batch)
        del model.graph.value_info[:]  # they may speak of another batch size
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
        shapes = self._inferred(model, batch)
        while fold_sizes(model.graph, shapes):  # sizes that are known now may tell more
            shapes = self._inferred(model, batch)
        return shapes

    def _inferred(self, model: onnx.ModelProto, batch: int) -> dict[str, Shape]:
        """Sizes of tensors by name, those that onnx works out."""
        try:
            inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
        except Exception as error:  # onnx raises its own kinds, and plain ones
            text = " ".join(str(error).split()) or type(error).__name__
            if batch > 1:
                raise UserError(
                    f"'{self.where}' is fixed to {batch} images at once, which its operators cannot be read without; "
                    f"export it for one image: {text[:120]}"
                ) from error
            raise BadFile(f"'{self.where}': sizes do not fit together at batch 1: {text[:200]}") from error
        shapes: dict[str, Shape] = {}
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            if value.type.tensor_type.HasField("shape"):
                shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        return {name: shape for name, shape in shapes.items() if all(size > 0 for size in shape)}


def read_graph(path: Path) -> OnnxGraph:
    """Raises `BadFile` for a file that is no sound ONNX model, `UserError` for one that is no classifier of images."""
    model = _load(path)
    image = _image(model, str(path))
    _refuse_int8(model, str(path))
    if len(model.graph.output) != 1:
        names = ", ".join(f"'{value.name}'" for value in model.graph.output)
        raise UserError(f"'{path}': a classifier has one output, the scores; this model has {names}")
    operators = _needed(model, str(path), model.graph.output[0].name)
    values = {tensor.name: _integers(tensor) for tensor in model.graph.initializer}
    static = {tensor.name for tensor in model.graph.initializer} | {v.name for v in model.graph.input} - {image}
    for operator in operators:
        if operator.op in ("Shape", "Size") or (
            operator.op in FOLDED and static.issuperset(filter(None, operator.inputs))
        ):
            static.update(operator.outputs)
        if operator.op == "Constant":
            value = operator.attributes.get("value")
            listed = operator.attributes.get("value_ints")
            values[operator.outputs[0]] = _integers(value) if isinstance(value, TensorProto) else listed
    known = {name: tuple(value) for name, value in values.items() if value is not None}
    return OnnxGraph(str(path), model, operators, image, frozenset(static), known, _precision(model, image))


def _load(path: Path) -> onnx.ModelProto:
    """The file as a message, large weights emptied."""
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise BadFile(f"'{path}' has {size} bytes; an ONNX file has at most {LARGEST_BYTES}")
        model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except FileNotFoundError as error:
        raise BadFile(f"no file '{path}'") from error
    except IsADirectoryError as error:
        raise BadFile(f"'{path}' is a folder; name the .onnx file in it") from error
    except OSError as error:
        raise BadFile(f"cannot read '{path}': {error.strerror}") from error
    except DecodeError as error:
        raise BadFile(f"'{path}' is not an ONNX file, or is cut off") from error
    if not model.opset_import or not model.graph.node or not model.graph.output:
        raise BadFile(f"'{path}' is not an ONNX model with operators and an output")
    for tensor in _tensors(model):
        _check_beside(path, tensor)
        _empty_if_large(tensor)
    if len(model.functions):
        try:
            model = inliner.inline_local_functions(model)
        except Exception as error:  # the inliner's own kinds
            raise BadFile(f"'{path}': its functions cannot be inlined: {one_line(error)}") from error
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """All constants but those inside control flow, which nothing here prices."""
    yield from model.graph.initializer
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t


def _check_beside(path: Path, tensor: TensorProto) -> None:
    """Weights in other files are never read; a model that points out of its folder is refused all the same."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    parts = PurePosixPath(location.replace("\\", "/"))
    suspect = not location or "\0" in location or ":" in location or parts.is_absolute() or ".." in parts.parts
    if suspect or not (path.parent / location).resolve().is_relative_to(path.parent.resolve()):
        raise BadFile(f"'{path}': weight '{tensor.name}' lies outside the model's folder, in {location[:100]!r}")


def _empty_if_large(tensor: TensorProto) -> None:
    count = 1
    for size in tensor.dims:
        count *= size
    if count > MOST_KEPT:
        for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(field)


def _image(model: onnx.ModelProto, where: str) -> str:
    """The name of the only input that is no weight; weights may be inputs, too, in a file without their values."""
    given = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in PARAMETERISED:
            given.update(name for name in node.input[1:] if name)
    inputs = [value for value in model.graph.input if value.name not in given]
    if len(inputs) != 1 or not inputs[0].type.HasField("tensor_type"):
        names = ", ".join(f"'{value.name}'" for value in inputs) or "none"
        raise UserError(f"'{where}': a classifier has one input, the images; this model has {names}")
    return str(inputs[0].name)


def _refuse_int8(model: onnx.ModelProto, where: str) -> None:
    """A quantised graph has more operators than its layers, and runtimes merge them each in its own way."""
    operators = [str(node.op_type) for node in model.graph.node]  # protobuf gives bytes for what is not UTF-8
    found = dict.fromkeys(op for op in operators if QUANTISED.search(op))
    if found:
        raise UserError(
            f"'{where}' is a quantised model ({', '.join(found)}); give the float model that it was made of and price "
            "it with an int8 profile, such as device=cpu_int8"
        )


def _precision(model: onnx.ModelProto, image: str) -> str:
    """Of the weights: the type that most of their elements have."""
    elements: Counter[int] = Counter()
    for tensor in model.graph.initializer:
        elements[tensor.data_type] += prod(tensor.dims)
    for value in model.graph.input:
        if value.name != image:
            elements[value.type.tensor_type.elem_type] += prod(d.dim_value for d in value.type.tensor_type.shape.dim)
    known = [(count, PRECISIONS[kind]) for kind, count in elements.items() if kind in PRECISIONS]
    return max(known)[1] if known else "fp32"


def _reshape_to_one(graph: onnx.GraphProto, batch: int) -> None:
    """Constant shapes of Reshapes that begin with a multiple of the batch begin with that of one image from now on."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for number, node in enumerate(graph.node):
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        shape = list(_integers(constants[node.input[1]]) or ())
        if shape and shape[0] >= batch and shape[0] % batch == 0:
            name = f"{node.input[1]} of one image, {number}"
            graph.initializer.append(
                helper.make_tensor(name, TensorProto.INT64, [len(shape)], [shape[0] // batch, *shape[1:]])
            )
            node.input[1] = name


def _fix_image(image: onnx.ValueInfoProto, where: str, resolution: int | None) -> int:
    """Set the sizes of one image; how many there were at once, 0 for any number."""
    dims = image.type.tensor_type.shape.dim
    if len(dims) != 4:
        raise UserError(f"'{where}': input '{image.name}' has {len(dims)} axes; images have 4")
    channels = 3 if 1 <= dims[3].dim_value <= 4 and not 1 <= dims[1].dim_value <= 4 else 1
    pixels = [dims[i] for i in (1, 2, 3) if i != channels]
    if dims[channels].dim_value < 1:
        raise UserError(f"'{where}': input '{image.name}' has no fixed number of channels")
    free = [dim for dim in pixels if dim.dim_value < 1]
    if free and resolution is None:
        raise UserError(f"'{where}': input '{image.name}' has a free height or width; say resolution=224")
    fixed = "x".join(str(dim.dim_value) for dim in pixels)
    if not free and resolution is not None and fixed != f"{resolution}x{resolution}":
        raise UserError(f"'{where}' is fixed to {fixed} pixels; leave resolution={resolution} out")
    batch = max(0, int(dims[0].dim_value))
    for dim, size in [(dims[0], 1), *((dim, resolution or 1) for dim in free)]:
        dim.Clear()
        dim.dim_value = size
    return batch


def _needed(model: onnx.ModelProto, where: str, wanted: str) -> tuple[Operator, ...]:
    """The operators that a tensor depends on. Raises `BadFile` for a tensor that nothing makes in time."""
    needed, found = {wanted}, list[Operator]()
    for node in reversed(model.graph.node):
        if not needed.isdisjoint(filter(None, node.output)):
            needed.update(filter(None, node.input))
            found.append(_operator(node, where))
    found.reverse()
    made = {value.name for value in model.graph.input} | {tensor.name for tensor in model.graph.initializer}
    for operator in found:
        if missing := [name for name in operator.inputs if name and name not in made]:
            raise BadFile(f"'{where}': '{operator.name}' reads '{missing[0]}', which nothing before it makes")
        made.update(operator.outputs)
    if not found:
        raise BadFile(f"'{where}': no operator makes the output '{wanted}'")
    return tuple(found)


def _operator(node: onnx.NodeProto, where: str) -> Operator:
    op = str(node.op_type) if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    name = str(node.name or node.output[0])  # protobuf gives bytes for what is not UTF-8
    try:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    except (ValueError, DecodeError) as error:
        raise BadFile(f"'{where}': an attribute of '{name}' has no value") from error
    return Operator(op, name, tuple(node.input), tuple(node.output), attributes)


def _integers(tensor: TensorProto) -> Sequence[int] | None:
    """The values of a small integer tensor; None for others."""
    if tensor.data_type != TensorProto.INT64 or tensor.data_location == TensorProto.EXTERNAL:
        return None
    try:
        return [int(value) for value in np.atleast_1d(numpy_helper.to_array(tensor)).ravel()]
    except (ValueError, TypeError):
        return None  # emptied, or of another length than it says
