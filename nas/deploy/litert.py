"""LiteRT (TensorFlow Lite): one .tflite file, converted by litert-torch without TensorFlow. Extra: [litert].

The file is a ZIP archive too, as TensorFlow Lite's metadata are: `metadata.json` and `labels.txt` are read from it by
any ZIP reader.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.deploy import Convertible, Delegation, Files, Pixels
from search_space.errors import UserError

ENDING = ".tflite"


class LiteRt:
    """See `nas.deploy.Target`."""

    precisions: Sequence[str] = ("fp32", "fp16", "int8", "dynamic_int8")
    packages: Mapping[str, str] = {
        "litert_torch": "litert-torch",
        "ai_edge_litert": "ai-edge-litert",
        "ai_edge_quantizer": "ai-edge-quantizer",
    }
    extra = "litert"

    def convert(self, model: Convertible, precisions: Sequence[str], images: Sequence[Pixels]) -> Mapping[str, Files]:
        """See `nas.deploy.Target`. The graph is converted once, whatever the precisions."""
        with quiet(), tempfile.TemporaryDirectory() as folder:
            import litert_torch
            import torch

            path = Path(folder, f"float{ENDING}")
            litert_torch.convert(model.module(), (torch.from_numpy(model.example()),)).export(str(path))
            found = {p: path.read_bytes() if p == "fp32" else _in_precision(path, p, images) for p in precisions}
        return {precision: {ENDING: _with_metadata(content, model)} for precision, content in found.items()}

    def open(self, files: Files, threads: int) -> LiteRtSession:
        """See `nas.deploy.Target`."""
        return LiteRtSession(files[ENDING], threads)


class LiteRtSession:
    """See `nas.deploy.Session`. LiteRT's own delegate for CPUs, XNNPACK, is on, as it is by default."""

    def __init__(self, model: bytes, threads: int) -> None:
        with quiet():
            from ai_edge_litert.interpreter import Interpreter

            self._interpreter = Interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
        (self._input,) = (one["index"] for one in self._interpreter.get_input_details())
        (self._output,) = (one["index"] for one in self._interpreter.get_output_details())
        self.delegation: Delegation | None = delegation_of(self._interpreter._get_ops_details(), [self._output])

    def __call__(self, image: Pixels) -> NDArray[np.float32]:
        """See `nas.deploy.Session`."""
        self._interpreter.set_tensor(self._input, image)
        self._interpreter.invoke()
        found: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return found


def delegation_of(operators: Sequence[Mapping[str, Any]], outputs: Sequence[int]) -> Delegation:
    """What runs of a graph whose list of operators holds those that a delegate replaced as well.

    operators: as LiteRT tells them, with `op_name` and tensors in `inputs` and `outputs`. A tensor that a delegate
    makes is made by nobody else; what then leads to no output does not run.
    """
    makers: dict[int, int] = {}
    for number, operator in enumerate(operators):
        for tensor in operator["outputs"]:
            if operator["op_name"] == "DELEGATE" or int(tensor) not in makers:
                makers[int(tensor)] = number
    waiting, runs = [int(tensor) for tensor in outputs], set[int]()
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker not in runs:
            runs.add(maker)
            waiting += [int(tensor) for tensor in operators[maker]["inputs"]]
    names = Counter(str(operators[number]["op_name"]) for number in sorted(runs))
    return Delegation(names.pop("DELEGATE", 0), dict(sorted(names.items())))


def _in_precision(path: Path, precision: str, images: Sequence[Pixels]) -> bytes:
    """A float file in another precision; images: to measure ranges on, for int8. Probabilities stay float."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    quantised = quantizer.Quantizer(str(path))
    operation, algorithm = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
    if precision == "fp16":
        weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        config = qtyping.OpQuantizationConfig(
            weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
        )
        quantised.update_quantization_recipe(".*", operation.ALL_SUPPORTED, config, algorithm.FLOAT_CASTING)
    elif precision == "dynamic_int8":
        quantised.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    else:
        quantised.load_quantization_recipe(recipe.static_wi8_ai8())
        for left in (operation.SOFTMAX, operation.OUTPUT):
            quantised.update_quantization_recipe(".*", left, algorithm_key=algorithm.NO_QUANTIZE)
    ranges = quantised.calibrate(_calibration(path, images)) if quantised.need_calibration else {}
    for name, found in ranges.items():
        if not np.isfinite(np.asarray([found["min"], found["max"]], np.float64)).all():
            raise UserError(f"values of '{name}' are not finite on the training images")
    return bytes(quantised.quantize(ranges or None).quantized_model)


def _calibration(path: Path, images: Sequence[Pixels]) -> dict[str, list[dict[str, Pixels]]]:
    from ai_edge_litert.interpreter import Interpreter

    ((signature, tensors),) = Interpreter(str(path)).get_signature_list().items()
    return {signature: [{tensors["inputs"][0]: image} for image in images]}


def _with_metadata(content: bytes, model: Convertible) -> bytes:
    """A ZIP archive behind the file, which readers of .tflite pass over; always the same bytes for the same words."""
    file = io.BytesIO(content)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in (
            ("metadata.json", json.dumps(dict(model.metadata), indent=1)),
            ("labels.txt", model.metadata.get("classes", "")),
        ):
            archive.writestr(zipfile.ZipInfo(name), text)
    return file.getvalue()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the converter and its libraries print, in Python or not; their errors are raised all the same."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            with (
                warnings.catch_warnings(),
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                warnings.simplefilter("ignore")
                yield
        finally:
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)


TARGET = LiteRt()
