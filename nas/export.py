"""From a trained network to files: weights, the ONNX model with a parity check, its accuracy.

The accuracy is measured on model.onnx in onnxruntime, the file that a user deploys. Not for searching.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from nas.files import write_whole
from nas.result import InputFormat, SearchResult
from nas.training import accuracy
from search_space import Architecture, UserError, lower
from search_space.build import Network
from search_space.errors import BadFile
from search_space.to_onnx import to_onnx

TOLERANCE = 1e-4  # largest difference allowed between onnxruntime and torch, of the largest logit


class ParityError(UserError):
    """The exported graph does not compute what the network computes."""


def export_network(
    folder: Path,
    network: Network,
    architecture: Architecture,
    num_classes: int,
    training_resolution: int,
    deployment_resolution: int,
    input_format: InputFormat,
    batches: Iterable[tuple[Tensor, Tensor]],
) -> float:
    """Write weights.safetensors, model.onnx and latency_<R>.onnx; return model.onnx's accuracy on `batches`.

    Raises `ParityError` if onnxruntime and torch differ on the first batch by more than 1e-4.
    """
    network.eval()
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    arrays = {key: value.numpy() for key, value in state.items()}
    common = {
        "architecture": str(architecture),
        "space": architecture.space.name,
        "classes": "\n".join(input_format.class_names),
        "mean": " ".join(map(str, input_format.mean)),
        "std": " ".join(map(str, input_format.std)),
    }
    write_whole(folder / "weights.safetensors", save(state, {"architecture": str(architecture)}))
    for name, resolution, purpose in (
        ("model.onnx", training_resolution, "trained and accurate at this resolution"),
        (f"latency_{deployment_resolution}.onnx", deployment_resolution, "for timing, not trained"),
    ):
        metadata: Mapping[str, str] = {**common, "purpose": purpose, "resolution": str(resolution)}
        model = to_onnx(lower(architecture, resolution, num_classes), arrays, metadata)
        write_whole(folder / name, model.SerializeToString(deterministic=True))
    predict = onnx_predictor(folder / "model.onnx")
    _check_parity(network, predict, training_resolution)
    return accuracy(predict, batches)


def onnx_predictor(path: Path) -> OnnxPredictor:
    """Run a file in onnxruntime. Raises `BadFile`."""
    try:
        return OnnxPredictor(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]))
    except Exception as error:  # onnxruntime raises its own unexported kinds
        raise BadFile(f"onnxruntime cannot load '{path}': {str(error).splitlines()[0]}") from error


class OnnxPredictor:
    """(N, 3, R, R) -> (N, classes) through onnxruntime."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session

    def __call__(self, images: Tensor) -> Tensor:
        """images: (N, 3, R, R) -> (N, classes)."""
        return torch.from_numpy(self.session.run(None, {"images": images.contiguous().numpy()})[0])


def _check_parity(network: Network, predict: OnnxPredictor, resolution: int) -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((4, 3, resolution, resolution), dtype=np.float32))
    with torch.no_grad():
        expected = network(images)
    difference = float((predict(images) - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ParityError(
            f"model.onnx differs from torch by {difference:.2e}, more than {allowed:.0e}; nothing was claimed"
        )


def load_network(result: SearchResult, weights: Path | None) -> Network:
    """The network of a result, with weights from a safetensors file. Raises `BadFile`."""
    network = Network(lower(result.architecture, result.resolution.training, result.num_classes))
    if weights is not None:
        load_weights(network, weights)
    return network.eval()


def load_weights(network: Network, weights: Path) -> None:
    """Fill a network from a safetensors file, every name and shape matching. Raises `BadFile`."""
    try:
        network.load_state_dict(load_file(weights))
    except FileNotFoundError as error:
        raise BadFile(f"no file '{weights}'") from error
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadFile(f"'{weights}' does not fit the architecture: {reason}") from error
