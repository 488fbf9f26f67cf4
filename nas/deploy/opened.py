"""A file of a trained network, opened by the runtime that its ending names, with what it says of its input. No torch.

Both kinds are read: a run's model.onnx, and what `nas.deploy` makes of it. Not for making files.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_models.measure.timing import without_telemetry
from nas.deploy import FORM
from search_space.bounds import TEXT_BYTES
from search_space.errors import BadFile, UserError, one_line
from search_space.sums import require_sum

ENDINGS = {".onnx": "onnxruntime", ".tflite": "LiteRT", ".xml": "OpenVINO"}
STEM = "model"
Network = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Opened:
    """path: the file. said: its metadata. ask: one picture -> (classes,).

    The picture is (1, 3, R, R) float32, normalised, and the answer logits; of a deployed file (1, R, R, 3) uint8, and
    probabilities.
    """

    path: Path
    said: Mapping[str, str]
    ask: Network

    @property
    def deployed(self) -> bool:
        """Whether normalisation and softmax are inside."""
        return self.said.get("input") == FORM


def open_network(model: Path) -> Opened:
    """A file, or that in the folder of a run or of a deployment.

    Raises `BadFile`, and `UserError` where the runtime is not installed.
    """
    path = model
    if model.is_dir():
        path = next((p for ending in ENDINGS if (p := model / f"{STEM}{ending}").is_file()), model / f"{STEM}.onnx")
    try:
        content = path.read_bytes()
        require_sum(path, content)
    except FileNotFoundError as error:
        raise BadFile(f"no file '{path}'; give the folder of a finished run, or its {STEM}.onnx") from error
    except IsADirectoryError as error:
        raise BadFile(f"'{path}' is a folder; give the folder of a finished run, or its {STEM}.onnx") from error
    runtime = ENDINGS.get(path.suffix, "onnxruntime")
    opener = {"LiteRT": _litert, "OpenVINO": _openvino}.get(runtime, _onnxruntime)
    try:
        said, ask = opener(path, content)
    except UserError:
        raise
    except Exception as error:  # runtimes raise kinds of their own
        raise BadFile(f"{runtime} cannot load '{path}': {one_line(error)}") from error
    return Opened(path, said, ask)


def _onnxruntime(path: Path, content: bytes) -> tuple[Mapping[str, str], Network]:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (name,) = (taken.name for taken in session.get_inputs())
    return session.get_modelmeta().custom_metadata_map, lambda picture: session.run(None, {name: picture})[0][0]


def _litert(path: Path, content: bytes) -> tuple[Mapping[str, str], Network]:
    _require("ai_edge_litert", "ai-edge-litert", path)
    from nas.deploy.litert import LiteRtSession

    session = LiteRtSession(content, 1)
    return _metadata_of_tflite(path), lambda picture: session(picture)[0].copy()


def _metadata_of_tflite(path: Path) -> Mapping[str, str]:
    """What `nas.deploy.litert` put into the archive behind the file; empty where another program wrote it."""
    try:
        with zipfile.ZipFile(path) as archive:
            about = archive.getinfo("metadata.json")
            said = json.loads(archive.read(about)) if about.file_size <= TEXT_BYTES else {}
    except (zipfile.BadZipFile, KeyError):
        return {}
    return said if isinstance(said, dict) and all(isinstance(value, str) for value in said.values()) else {}


def _openvino(path: Path, content: bytes) -> tuple[Mapping[str, str], Network]:
    _require("openvino", "openvino", path)
    without_telemetry()
    import openvino

    from nas.deploy.openvino import OpenVinoSession

    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise BadFile(f"'{path}' has no weights beside it: no file '{weights}'")
    files = {".xml": content, ".bin": weights.read_bytes()}
    require_sum(weights, files[".bin"])
    session = OpenVinoSession(files, 1)
    read = openvino.Core().read_model(files[".xml"], files[".bin"])
    info = read.get_rt_info(["model_info"]).value if read.has_rt_info(["model_info"]) else {}
    said = {name: str(getattr(value, "value", value)) for name, value in info.items()}
    return said, lambda picture: session(np.asarray(picture))[0]


def _require(module: str, package: str, path: Path) -> None:
    if find_spec(module) is None:
        raise UserError(f"'{path}' needs the package '{package}', which is not installed: pip install {package}")
