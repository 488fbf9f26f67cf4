"""OpenVINO: a graph in .xml with its weights in .bin. Extra: [openvino].

int8 is read from the graph that onnxruntime's tools quantise, so that no further tool is needed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latency_models.measure.timing import without_telemetry
from nas.deploy import Convertible, Delegation, Files, Pixels
from nas.deploy.onnxruntime import in_precision


class OpenVino:
    """See `nas.deploy.Target`."""

    precisions: Sequence[str] = ("fp32", "fp16", "int8")
    packages: Mapping[str, str] = {"openvino": "openvino"}
    extra = "openvino"

    def convert(self, model: Convertible, precisions: Sequence[str], images: Sequence[Pixels]) -> Mapping[str, Files]:
        """See `nas.deploy.Target`."""
        without_telemetry()
        import openvino

        made: dict[str, Files] = {}
        for precision in precisions:
            graph = in_precision(model.onnx(), "int8" if precision == "int8" else "fp32", images)
            read = openvino.Core().read_model(graph)
            for name, value in model.metadata.items():
                read.set_rt_info(value, ["model_info", name])
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "model.xml")
                openvino.save_model(read, path, compress_to_fp16=precision == "fp16")
                made[precision] = {ending: path.with_suffix(ending).read_bytes() for ending in (".xml", ".bin")}
        return made

    def open(self, files: Files, threads: int) -> OpenVinoSession:
        """See `nas.deploy.Target`."""
        return OpenVinoSession(files, threads)


class OpenVinoSession:
    """See `nas.deploy.Session`. What is not int8 is computed in fp32, as OpenVINO may choose bf16 by itself."""

    delegation: Delegation | None = None

    def __init__(self, files: Files, threads: int) -> None:
        without_telemetry()
        import openvino

        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = openvino.Core()
        model = core.read_model(files[".xml"], files[".bin"])
        self._request = core.compile_model(model, "CPU", config).create_infer_request()

    def __call__(self, image: Pixels) -> NDArray[np.float32]:
        """See `nas.deploy.Session`."""
        found = self._request.infer([image])
        return np.asarray(next(iter(found.values())), np.float32)


TARGET = OpenVino()
