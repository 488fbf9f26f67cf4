"""A published network as a plain network of this project, made of its state dict.

State dicts are recognised by the names and shapes of their tensors. Symmetric padding (half the kernel) stands where
TensorFlow pads unevenly; batch norms of another epsilon than the space's have it folded into their factors.
Not for where state dicts come from (`nas.pretrained.sources`), nor for choosing parts of such a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from nas.data.settings import Colour
from nas.pretrained.networks import layouts, published
from search_space import Architecture, SearchSpace, lower
from search_space.build import Network
from search_space.errors import BadFile

CLASSIFIER = "head.classifier"
COUNTED = "num_batches_tracked"  # of every norm; files of old versions of torch lack it


@dataclass(frozen=True)
class Trained:
    """A plain network with its weights, and what a user of them must know.

    name: as in networks.yaml. source: in words, where the weights were read. licence: of the weights, in words.
    state: of `Network(lower(architecture, resolution, classes))`. mean, std: images are (image / 255 - mean) / std.
    resolution: pixels a side that it was trained at. kernels: of a supernet with learned kernel transforms, the smaller
    kernels of a depthwise weight, (C, 1, k, k) by k; empty for others, whose smaller kernels are the centres.
    """

    name: str
    source: str
    licence: str
    architecture: Architecture
    state: Mapping[str, Tensor]
    classes: int
    resolution: int
    mean: Colour
    std: Colour
    kernels: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict)

    def network(self) -> Network:
        """The network with copies of these weights, in evaluation mode."""
        network = Network(lower(self.architecture, self.resolution, self.classes))
        network.load_state_dict(dict(self.state))
        return network.eval()


def trained_from(state: Mapping[str, Tensor], where: str, names: Sequence[str] = ()) -> Trained:
    """The network whose names and shapes a state dict has. where: for messages, and the value's `source`.

    names: of the networks that may be meant; of all where it is empty. Raises `BadFile` naming the first tensor that
    does not fit the nearest network, or that holds what no weights can be.
    """
    fits = [_Fit(name, state) for name in names or published()]
    fitting = [fit for fit in fits if not fit.fault]
    if not fitting:
        nearest = max(fits, key=lambda fit: fit.agreeing)
        if not nearest.agreeing:
            first = next(iter(state), "")
            raise BadFile(f"{where} is of no known layout, beginning with '{first}'; known: {', '.join(layouts())}")
        raise BadFile(f"{where} is no known network; the nearest is {nearest.name}, but the file {nearest.fault}")
    # timm's own training and its conversion of TensorFlow's have the same names and shapes, but other constants
    converted = not any(bool(value.any()) for key, value in state.items() if key.endswith(f".{COUNTED}"))
    return next((fit for fit in fitting if fit.network.converted is converted), fitting[0]).trained(where)


class _Fit:
    """A published network held against a state dict.

    agreeing: how many tensors have the name and shape that they should. fault: what the file lacks or has wrong
    first, in words; '' where it fits.
    """

    def __init__(self, name: str, state: Mapping[str, Tensor]) -> None:
        self.name, self.network = name, published()[name]
        self.layout = layouts()[self.network.layout]
        self.space = self.network.load_space()
        self.state = {self.layout.renamed(key): value for key, value in state.items()}
        modules = self.layout.modules(self.space)
        classifier = self.state.get(f"{modules[CLASSIFIER]}.weight")
        self.classes = len(classifier) if classifier is not None and classifier.ndim == 2 else 1000
        self.names: dict[str, str] = {}  # here -> there
        shapes: dict[str, tuple[int, ...]] = {}  # there
        for ours, shape in _shapes(self.space).items():
            module, _, part = ours.rpartition(".")
            self.names[ours] = f"{modules[module]}.{part}"
            shapes[self.names[ours]] = (self.classes, *shape[1:]) if module == CLASSIFIER else shape
        self.matrices = self.layout.matrices(self.space)
        for matrices in self.matrices.values():
            shapes |= {theirs: (smaller**2, smaller**2) for (_, smaller), theirs in matrices.items()}
        self.agreeing = sum(key in self.state and self.state[key].shape == shape for key, shape in shapes.items())
        self.fault = self._first_fault(shapes)

    def _first_fault(self, shapes: Mapping[str, tuple[int, ...]]) -> str:
        for key, shape in shapes.items():
            if key not in self.state:
                if not key.endswith(f".{COUNTED}"):
                    return f"lacks '{key}'"
            elif self.state[key].shape != shape:
                return f"has '{key}' of {tuple(self.state[key].shape)} instead of {shape}"
        return next((f"has '{key}' besides" for key in self.state if key not in shapes), "")

    def trained(self, where: str) -> Trained:
        """The network's weights under this project's names, in float32. Raises `BadFile` for values of no weights."""
        for key, value in self.state.items():
            if not (value.is_floating_point() or key.endswith(f".{COUNTED}")):
                raise BadFile(f"{where}: '{key}' holds {str(value.dtype).removeprefix('torch.')}, not weights")
            if not bool(value.isfinite().all()):
                raise BadFile(f"{where}: '{key}' holds values that are not finite")
            if key.endswith(".running_var") and bool((value < 0).any()):
                raise BadFile(f"{where}: '{key}' holds variances below 0")
        found = {ours: self.state[key] for ours, key in self.names.items() if key in self.state}
        state = {key: value.float().clone() for key, value in found.items() if not key.endswith(f".{COUNTED}")}
        architecture = self.space.largest()
        network = Network(lower(architecture, self.network.resolution, self.classes))
        for name, norm in network.named_modules():
            if isinstance(norm, nn.BatchNorm2d):
                state[f"{name}.{COUNTED}"] = found.get(f"{name}.{COUNTED}", torch.tensor(0)).long()
                if norm.eps != self.network.norm_eps:
                    state[f"{name}.weight"] *= _factor(state[f"{name}.running_var"], self.network.norm_eps, norm.eps)
        return Trained(
            name=self.name,
            source=where,
            licence=self.network.licence,
            architecture=architecture,
            state={key: state[key] for key in self.names},
            classes=self.classes,
            resolution=self.network.resolution,
            mean=self.network.mean,
            std=self.network.std,
            kernels={f"{layer}.weight": self._kernels(layer) for layer in self.matrices},
        )

    def _kernels(self, layer: str) -> dict[int, Tensor]:
        """The smaller kernels (C, 1, k, k) by k, each its matrix times the centre of the next larger one."""
        found = {}
        kernel = self.state[self.names[f"{layer}.weight"]].float()
        for (larger, smaller), matrix in self.matrices[layer].items():
            border = (larger - smaller) // 2
            centre = kernel[..., border : border + smaller, border : border + smaller].flatten(1)
            kernel = (centre @ self.state[matrix].float().T).view(-1, 1, smaller, smaller)
            found[smaller] = kernel
        return found


def _factor(variance: Tensor, there: float, here: float) -> Tensor:
    """(C,): what a norm's factors are multiplied by where the epsilon beside its running variance changes."""
    exact = variance.double()
    return ((exact + here) / (exact + there)).sqrt().float()


@cache
def _shapes(space: SearchSpace) -> dict[str, tuple[int, ...]]:
    """Of the tensors of the space's largest network for 1000 classes, by name."""
    with torch.device("meta"):
        state = Network(lower(space.largest(), 224, 1000)).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}
