"""From a trained network to files: weights and ONNX graphs, checked against torch.

Not for searching, nor for what the files are worth: `nas.run.conclude` measures model.onnx in onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from nas.run.chosen import Chosen
from nas.run.result import FOR_TIMING, InputFormat, SearchResult
from search_space import Segment, UserError, lower
from search_space.build import Network
from search_space.errors import BadFile, one_line
from search_space.files import write_whole
from search_space.sums import require_sum
from search_space.to_onnx import to_onnx

CLASSIFIER = "head.classifier.weight"  # (classes, features)
TOLERANCE = 1e-4  # largest difference allowed between onnxruntime's and torch's logits, or share of the largest


class ParityError(UserError):
    """The exported graph does not compute what the network computes."""


def export_network(
    folder: Path,
    network: Network,
    chosen: Chosen,
    inputs: InputFormat,
    images: Tensor,
) -> None:
    """Write weights.safetensors, model.onnx and latency_<R>.onnx, once the graph is shown to be the network.

    images: (N, 3, R, R) real ones at training resolution. Raises `ParityError`, and writes nothing,
    if onnxruntime and torch differ on them by more than `TOLERANCE`.
    """
    network.eval()
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    arrays = {key: value.numpy() for key, value in state.items()}
    common = {
        "architecture": str(chosen.architecture),
        "space": chosen.architecture.space.name,
        **inputs.metadata(),
    }

    def graph(segments: tuple[Segment, ...], pixels: int, purpose: str) -> bytes:
        metadata = {**common, "purpose": purpose, "resolution": str(pixels)}
        return to_onnx(segments, arrays, metadata).SerializeToString(deterministic=True)

    trained, deployed = chosen.resolution.training, chosen.resolution.deployment
    model = graph(chosen.training_segments, trained, "trained and accurate at this resolution")
    with torch.no_grad():
        expected = network(images)
        difference = float((OnnxPredictor(model)(images) - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ParityError(f"the ONNX graph differs from torch by {difference:.2e}, more than {allowed:.0e}")
    write_whole(folder / "weights.safetensors", save(state, {"architecture": str(chosen.architecture)}))
    write_whole(folder / "model.onnx", model)
    timing = graph(chosen.segments, deployed, FOR_TIMING)
    write_whole(folder / f"latency_{deployed}.onnx", timing)


class OnnxPredictor:
    """(N, 3, R, R) -> (N, classes) through onnxruntime on the CPU."""

    def __init__(self, model: bytes) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        """images: (N, 3, R, R) -> (N, classes)."""
        return torch.from_numpy(self.session.run(None, {"images": images.contiguous().numpy()})[0])


def onnx_predictor(path: Path) -> OnnxPredictor:
    """Run a file in onnxruntime. Raises `BadFile`."""
    try:
        return OnnxPredictor(path.read_bytes())
    except Exception as error:  # onnxruntime raises its own unexported kinds
        raise BadFile(f"onnxruntime cannot load '{path}': {one_line(error)}") from error


def load_network(result: SearchResult, weights: Path | None) -> Network:
    """The network of a result, with weights from a safetensors file. Raises `BadFile`."""
    network = Network(lower(result.architecture, result.resolution.training, result.num_classes))
    if weights is not None:
        load_weights(network, weights)
    return network.eval()


def classes_in(weights: Path) -> int | None:
    """How many classes the weights of a safetensors file are for; None where it cannot be told."""
    try:
        with safe_open(weights, framework="pt") as file:
            return int(file.get_slice(CLASSIFIER).get_shape()[0]) if CLASSIFIER in file.keys() else None  # noqa: SIM118
    except (SafetensorError, OSError):
        return None


def load_weights(network: Network, weights: Path, classes_of: str = "the architecture") -> None:
    """Fill a network from a safetensors file, every name and shape matching. Raises `BadFile`.

    classes_of: in words, what says how many classes the network has.
    """
    try:
        require_sum(weights)
        state = load_file(weights)
        held, own = (len(s[CLASSIFIER]) if CLASSIFIER in s else None for s in (state, network.state_dict()))
        if None not in (held, own) and held != own:
            raise BadFile(f"the weights in '{weights}' have {held} classes, {classes_of} has {own}")
        network.load_state_dict(state)
    except FileNotFoundError as error:
        raise BadFile(f"no file '{weights}'") from error
    except OSError as error:
        raise BadFile(f"cannot read '{weights}': {one_line(error)}") from error
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadFile(f"'{weights}' does not fit the architecture: {reason}") from error
