"""Works out the small integer tensors of a graph, the sizes and axes that exporters compute on the way.

onnx's own shape inference follows only some of this arithmetic. Not for weights, and nothing is executed but it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Shape = tuple[int, ...]
MOST_KEPT = 1024  # elements of a constant whose values are kept: those of shapes and axes are fewer
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def fold_sizes(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> bool:
    """Replace, in place, operators whose results are small integers by constants; whether there was one.

    shapes: of tensors, by name, those that are known.
    """
    known = {tensor.name: value for tensor in graph.initializer if (value := _value(tensor)) is not None}
    outputs, kept, folded = {value.name for value in graph.output}, list[onnx.NodeProto](), False
    for node in graph.node:
        made = _result(node, known, shapes) if len(node.output) == 1 and node.output[0] not in outputs else None
        if made is None or made.size > MOST_KEPT:
            kept.append(node)
            continue
        known[node.output[0]], folded = made, True
        graph.initializer.append(numpy_helper.from_array(made, node.output[0]))
    if folded:
        del graph.node[:]
        graph.node.extend(kept)
    return folded


def _value(tensor: TensorProto) -> Array | None:
    if tensor.data_type not in _WHOLE or tensor.data_location == TensorProto.EXTERNAL or prod(tensor.dims) > MOST_KEPT:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError):
        return None  # emptied, or of another length than it says


def _result(node: onnx.NodeProto, known: Mapping[str, Array], shapes: Mapping[str, Shape]) -> Array | None:
    try:
        made = _worked_out(node, known, shapes)
    except (ArithmeticError, DecodeError, LookupError, TypeError, ValueError):
        return None  # the operator is not sound; shape inference says so
    return made if made is not None and made.dtype.kind in "ib" else None


def _worked_out(node: onnx.NodeProto, known: Mapping[str, Array], shapes: Mapping[str, Shape]) -> Array | None:
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Shape":
        shape = shapes.get(node.input[0]) if node.input else None
        return None if shape is None else np.array(shape[given.get("start", 0) : given.get("end")], np.int64)
    if node.op_type == "Constant":
        return _value(given["value"]) if isinstance(given.get("value"), TensorProto) else None
    work = _WORK.get(str(node.op_type))
    if work is None or not all(name in known for name in node.input):
        return None
    return np.asarray(work([known[name] for name in node.input], given))


def _gather(x: Sequence[Array], given: Mapping[str, Any]) -> Array:
    return np.asarray(np.take(x[0], x[1], axis=given.get("axis", 0)))


def _divided(x: Sequence[Array], given: Mapping[str, Any]) -> Array:
    if not x[1].all():
        raise ZeroDivisionError
    return np.asarray(np.trunc(x[0] / x[1]).astype(np.int64))


def _unsqueezed(x: Sequence[Array], given: Mapping[str, Any]) -> Array:
    return np.expand_dims(x[0], tuple(int(axis) for axis in (x[1].ravel() if len(x) > 1 else given["axes"])))


def _squeezed(x: Sequence[Array], given: Mapping[str, Any]) -> Array:
    axes = x[1].ravel() if len(x) > 1 else given.get("axes")
    return np.squeeze(x[0], None if axes is None else tuple(int(axis) for axis in axes))


def _cast(x: Sequence[Array], given: Mapping[str, Any]) -> Array:
    return x[0].astype(helper.tensor_dtype_to_np_dtype(given["to"]))


def _filled(x: Sequence[Array], given: Mapping[str, Any]) -> Array:
    if prod(x[0].tolist()) > MOST_KEPT:
        raise ValueError("too large")
    value = given.get("value")
    return np.full(x[0].tolist(), np.zeros(1) if value is None else numpy_helper.to_array(value))


_WORK: Mapping[str, Callable[[Sequence[Array], Mapping[str, Any]], Array]] = {
    "Add": lambda x, given: np.add(*x),
    "Cast": _cast,
    "Concat": lambda x, given: np.concatenate(x, given["axis"]),
    "ConstantOfShape": _filled,
    "Div": _divided,
    "Equal": lambda x, given: np.equal(*x),
    "Gather": _gather,
    "Identity": lambda x, given: x[0],
    "Mul": lambda x, given: np.multiply(*x),
    "Squeeze": _squeezed,
    "Sub": lambda x, given: np.subtract(*x),
    "Unsqueeze": _unsqueezed,
    "Where": lambda x, given: np.where(*x),
}
