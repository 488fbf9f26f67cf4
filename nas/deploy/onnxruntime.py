"""onnxruntime: one ONNX file, quantised by the tools that come with it. Needs nothing beside the project itself."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.deploy import Convertible, Delegation, Files, Pixels

if TYPE_CHECKING:
    import onnx

INPUT = "image"
NARROWEST = 1e-4  # range of a tensor; of a channel that is always 0 it would be none


class OnnxRuntime:
    """See `nas.deploy.Target`."""

    precisions: Sequence[str] = ("fp32", "fp16", "int8", "dynamic_int8")
    packages: Mapping[str, str] = {"onnxruntime": "onnxruntime"}
    extra = ""

    def convert(self, model: Convertible, precisions: Sequence[str], images: Sequence[Pixels]) -> Mapping[str, Files]:
        """See `nas.deploy.Target`."""
        return {precision: {".onnx": in_precision(model.onnx(), precision, images)} for precision in precisions}

    def open(self, files: Files, threads: int) -> OnnxSession:
        """See `nas.deploy.Target`."""
        return OnnxSession(files[".onnx"], threads)


class OnnxSession:
    """See `nas.deploy.Session`."""

    delegation: Delegation | None = None

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, image: Pixels) -> NDArray[np.float32]:
        """See `nas.deploy.Session`."""
        found: NDArray[np.float32] = self._session.run(None, {INPUT: image})[0]
        return found


def in_precision(model: bytes, precision: str, images: Sequence[Pixels]) -> bytes:
    """A float graph with an input 'image' in another precision; images: to measure ranges on, for int8."""
    if precision == "fp32":
        return model
    if precision == "fp16":
        return _with_half_weights(model)
    return _quantised(model, images if precision == "int8" else None)


def _quantised(model: bytes, images: Sequence[Pixels] | None) -> bytes:
    """int8 by QuantizeLinear and DequantizeLinear with ranges from images; without, by ranges found while it runs."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, pixels: Sequence[Pixels]) -> None:
            self.left: Iterator[Pixels] = iter(pixels)

        def get_next(self) -> Any:
            image = next(self.left, None)
            return None if image is None else {INPUT: image}

    logging.getLogger().addFilter(_without_advice)
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
            folded = _with_norms_folded(model, Path(folder, "folded.onnx"))
            before.write_bytes(folded)
            common = {
                "per_channel": True,
                "weight_type": QuantType.QInt8,
                "nodes_to_exclude": _left_in_fp32(onnx.load_from_string(folded).graph.node),
                "extra_options": {"MinimumRealRange": NARROWEST},
            }
            if images is None:
                quantize_dynamic(before, after, **common)
            else:
                options = {"activation_type": QuantType.QUInt8, "quant_format": QuantFormat.QDQ}
                quantize_static(before, after, Reader(images), **common, **options)
            return _with_metadata_of(model, after.read_bytes())
    finally:
        logging.getLogger().removeFilter(_without_advice)


def _left_in_fp32(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Normalisation, softmax, and the parts of every GELU, which the runtime merges only as they are."""
    maker = {name: node for node in nodes for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    left = [node.name for node in nodes if node.name.startswith(f"{INPUT}.") or node.op_type == "Softmax"]
    for erf in (node for node in nodes if node.op_type == "Erf"):
        parts = [maker[erf.input[0]], erf]
        while len(parts) < 5:  # x / sqrt(2), erf, + 1, * x, / 2
            (reader,) = readers[parts[-1].output[0]]
            parts.append(reader)
        left += [part.name for part in parts]
    return left


def _without_advice(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR  # the tools advise what was done, and warn of norms that they leave alone


def _with_norms_folded(model: bytes, path: Path) -> bytes:
    """The graph as onnxruntime writes it after its basic optimisations, which merge BatchNorms into convolutions."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(path), 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return path.read_bytes()


def _with_metadata_of(model: bytes, changed: bytes) -> bytes:
    import onnx

    before, after = onnx.load_from_string(model), onnx.load_from_string(changed)
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    content: bytes = after.SerializeToString(deterministic=True)
    return content


def _with_half_weights(model: bytes) -> bytes:
    """Weights stored in fp16 and made fp32 when the file is loaded: half the size at the same speed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph_of: onnx.ModelProto = onnx.load_from_string(model)
    graph, casts = graph_of.graph, []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and (values := numpy_helper.to_array(tensor)).size > 1:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            casts.append(helper.make_node("Cast", [tensor.name], [name], name=name, to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(graph_of)
    content: bytes = graph_of.SerializeToString(deterministic=True)
    return content


TARGET = OnnxRuntime()
