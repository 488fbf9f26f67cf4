"""A trained network as it is handed over: a uint8 RGB picture of the right size in, class probabilities out.

Normalisation and softmax are inside. Cropping and resizing stay outside, as pictures come in every size; the metadata
say how. Not for one runtime's own form: see the targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nas.deploy import FORM, Pixels
from nas.run.result import InputFormat
from search_space import Segment
from search_space.build import Network
from search_space.to_onnx import to_onnx

IMAGE, PROBABILITIES = "image", "probabilities"


class Handed(nn.Module):
    """The network between normalisation and softmax."""

    def __init__(self, network: Network, inputs: InputFormat) -> None:
        super().__init__()
        self.network = network
        self.factor: Tensor
        self.offset: Tensor
        factor, offset = factors(inputs)
        self.register_buffer("factor", torch.from_numpy(factor))
        self.register_buffer("offset", torch.from_numpy(offset))

    def forward(self, image: Tensor) -> Tensor:
        """image: (N, R, R, 3) uint8 -> (N, classes)."""
        x = image.to(torch.float32).permute(0, 3, 1, 2) * self.factor + self.offset
        return torch.softmax(self.network(x), 1)


def factors(inputs: InputFormat) -> tuple[np.ndarray, np.ndarray]:
    """Normalisation as `x * factor + offset` of values 0 to 255; each (1, 3, 1, 1) float32."""
    mean, std = (np.array(values, np.float64).reshape(1, 3, 1, 1) for values in (inputs.mean, inputs.std))
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


@dataclass(frozen=True)
class Deployable:
    """See `nas.deploy.Convertible`. segments: of the network at `pixels` a side; purpose: what the file is for."""

    network: Network
    segments: tuple[Segment, ...]
    inputs: InputFormat
    pixels: int
    purpose: str

    @property
    def metadata(self) -> Mapping[str, str]:
        """The words of model.onnx, without the normalisation, which is inside."""
        said = {k: v for k, v in self.inputs.metadata().items() if k not in ("mean", "std")}
        return {**said, "resolution": str(self.pixels), "input": FORM, "output": PROBABILITIES, "purpose": self.purpose}

    @cached_property
    def _onnx(self) -> bytes:
        weights = {name: value.numpy() for name, value in self.network.state_dict().items()}
        model = to_onnx(self.segments, weights, self.metadata)
        graph, arrays = model.graph, dict(zip(("factor", "offset"), factors(self.inputs), strict=True))
        logits, classes = graph.output[0].name, graph.output[0].type.tensor_type.shape.dim[1].dim_value
        before = [
            helper.make_node("Cast", [IMAGE], ["image.float"], name="image.float", to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["image.float"], ["image.nchw"], name="image.nchw", perm=[0, 3, 1, 2]),
            helper.make_node("Mul", ["image.nchw", "factor"], ["image.scaled"], name="image.scaled"),
            helper.make_node("Add", ["image.scaled", "offset"], [graph.input[0].name], name="image.normalised"),
        ]
        nodes = [*before, *graph.node, helper.make_node("Softmax", [logits], [PROBABILITIES], name="softmax", axis=1)]
        shape = [1, self.pixels, self.pixels, 3]
        handed = helper.make_graph(
            nodes,
            "network",
            [helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [1, classes])],
            [*graph.initializer, *(numpy_helper.from_array(array, name) for name, array in arrays.items())],
        )
        model.graph.CopyFrom(handed)
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString(deterministic=True)
        return content

    def onnx(self) -> bytes:
        """See `nas.deploy.Convertible`."""
        return self._onnx

    def module(self) -> nn.Module:
        """See `nas.deploy.Convertible`."""
        return Handed(self.network, self.inputs).eval()

    def example(self) -> Pixels:
        """See `nas.deploy.Convertible`."""
        return np.zeros((1, self.pixels, self.pixels, 3), np.uint8)
