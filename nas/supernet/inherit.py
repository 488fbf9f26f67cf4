"""A supernet that starts from a trained network: every candidate of a slot is cut out of that network's block.

The trained network is the supernet's largest path, and stays what it was. Within every block the channels that matter
most come first, since narrower candidates keep the first ones; a smaller kernel is the centre of the larger; Zero
leaves a residual block out; the further convolutions of a quadratic form start like the trained one, by the factor of
a norm that is zero. BatchNorms keep the trained statistics: measured anew on photographs of ten classes they
cost a linear classifier on EfficientNet-Lite0's features 11 points (91.6 to 80.2 % on Imagenette). Not for training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nas.supernet.network import SharedSlot, Statistics, Supernet
from search_space import Architecture, GatePath, SearchSpace, lower
from search_space.errors import BadFile
from search_space.layer import SEGMENT_INPUT, Kind, Node
from search_space.operators.patterns import LeanNodes, Step

RANDOM_PATHS = 3  # measured before any training, beside the largest and the smallest
NEW_AXES = (Kind.CONV, Kind.LINEAR)


def inherit(supernet: Supernet, architecture: Architecture, state: Mapping[str, Tensor]) -> None:
    """Fill a supernet of shared weights and kept statistics from a trained network of its space.

    architecture: has a block in every slot, none larger than the slot's largest. state: of the plain network,
    `Network(lower(architecture, ...))`; a classifier of other classes is left out, the supernet's then stays as it is.
    Raises `BadFile`.
    """
    assert supernet.kept_statistics
    segments = {segment.name: segment for segment in lower(architecture, supernet.resolution, supernet.num_classes)}
    for segment, piece in zip(supernet.segments, supernet.children(), strict=True):
        if segment.name not in segments:
            raise BadFile(f"the trained network '{architecture}' has no block for {segment.name}")
        own = _of(state, segment.name)
        if segment.slot is None:
            fitting = {k: v for k, v in own.items() if v.shape == piece.state_dict()[k].shape}
            missing, _ = piece.load_state_dict(fitting, strict=False)
            if others := [name for name in missing if not name.startswith("classifier.")]:
                raise BadFile(f"the trained network has no fitting tensor '{segment.name}.{others[0]}'")
            continue
        assert isinstance(piece, SharedSlot)
        own = with_sorted_channels(segments[segment.name].nodes, own)
        alike = {node.name: node.like for nodes in segment.candidates for node in nodes if node.like}
        for name, parameter in piece.largest.named_parameters():
            layer, _, part = name.partition(".")
            if name in own:
                _embed(own[name], parameter, f"{segment.name}.{name}")
            elif layer in alike:
                _embed(_cut_to(own[f"{alike[layer]}.{part}"], parameter), parameter, f"{segment.name}.{name}")
        assert piece.statistics is not None
        for statistics in piece.statistics:
            assert isinstance(statistics, Statistics)
            for norm in (norm for norm in statistics.norms if f"{norm}.running_mean" in own):
                channels = len(statistics.of(norm)[0])
                given = (own[f"{norm}.running_mean"][:channels], own[f"{norm}.running_var"][:channels])
                statistics.put(norm, *given)


def _of(state: Mapping[str, Tensor], segment: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{segment}."): v for k, v in state.items() if k.startswith(f"{segment}.")}


def _cut_to(trained: Tensor, parameter: nn.Parameter) -> Tensor:
    """The first channels of a depthwise weight (C, 1, k, k), and the centre of its kernel, as far as it is larger."""
    border = max(0, trained.shape[-1] - parameter.shape[-1]) // 2
    return trained[: len(parameter), :, border : trained.shape[-1] - border, border : trained.shape[-1] - border]


def _embed(trained: Tensor, parameter: nn.Parameter, name: str) -> None:
    """Put a weight into one of the same size, or with a larger kernel, whose border becomes zero."""
    border = (parameter.shape[-1] - trained.shape[-1]) // 2 if parameter.ndim == 4 else 0
    if border > 0:
        trained = nn.functional.pad(trained, (border,) * 4)
    if trained.shape != parameter.shape:
        raise BadFile(f"the trained network's '{name}' is {tuple(trained.shape)}, not {tuple(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(trained)


def with_sorted_channels(nodes: Sequence[Node], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A block's state with its inner channels in the order of their importance; the block computes the same.

    A channel's importance is the sum of the magnitudes of the weights that read it, times the factor of the last
    BatchNorm before them. Channels of the block's input and output stay where they are.
    """
    axes = _axes(nodes)
    fixed = {axes[-1], SEGMENT_INPUT}
    found = dict(state)
    for axis in sorted(set(axes) - fixed):
        order = _importance(nodes, state, axes, axis).argsort(descending=True, stable=True)
        for place, node in enumerate(nodes):
            for key in [key for key in found if key.split(".")[0] == node.name and found[key].ndim > 0]:
                if axes[place] == axis:
                    found[key] = found[key][order]
                if node.spec.kind in NEW_AXES and _read(node, axes) == axis and found[key].ndim > 1:
                    found[key] = found[key][:, order]
    return found


def _read(node: Node, axes: Sequence[int]) -> int:
    return SEGMENT_INPUT if node.inputs[0] == SEGMENT_INPUT else axes[node.inputs[0]]


def _axes(nodes: Sequence[Node]) -> list[int]:
    """Of every node which channels it puts out: those that a convolution made, by its position, or the input's."""
    axes: list[int] = []
    for place, node in enumerate(nodes):
        axes.append(place if node.spec.kind in NEW_AXES else _read(node, axes))
        for x in node.inputs[1:]:  # a sum or product: its terms have the same channels
            other, own = SEGMENT_INPUT if x == SEGMENT_INPUT else axes[x], axes[place]
            axes = [min(other, own) if axis in (other, own) else axis for axis in axes]
    return axes


def _importance(nodes: Sequence[Node], state: Mapping[str, Tensor], axes: Sequence[int], axis: int) -> Tensor:
    """(channels,) of an axis."""
    found: Tensor | None = None
    factor: Tensor | float = 1.0
    for place, node in enumerate(nodes):
        if node.spec.kind is Kind.BATCH_NORM and axes[place] == axis:
            factor = state[f"{node.name}.weight"].abs()
        elif node.spec.kind in NEW_AXES and _read(node, axes) == axis:
            read = state[f"{node.name}.weight"].abs().flatten(2).sum((0, 2)) * factor
            found = read if found is None else found + read
    if found is not None:
        return found
    (made,) = (node for place, node in enumerate(nodes) if place == axis)  # nothing reads it
    return torch.ones(made.spec.out_channels)


@torch.no_grad()
def measure_statistics(supernet: Supernet, images: Tensor) -> None:
    """Give the BatchNorms of every candidate the statistics that the trained ones would have there.

    images: (N, 3, R, R), passed along the largest path. A norm of a smaller candidate is set so that what it puts out
    has, channel by channel, the mean and variance that the largest candidate's has on these images. What the images
    differ in from those that the network was trained on is left for later layers to see, as it is in the largest path.
    """
    x, whole = images, supernet.space.path(supernet.space.largest())
    for segment, piece in zip(supernet.segments, supernet.children(), strict=True):
        if segment.slot is None:
            x = piece(x) if segment.name != "head" else x
            continue
        assert isinstance(piece, SharedSlot) and piece.statistics is not None
        largest = whole.choices[segment.slot]
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        trained = piece.statistics[largest]
        assert isinstance(trained, Statistics)
        y = piece.plain[largest].run(partial(_noting, piece, trained, seen), x)
        for candidate, nodes in enumerate(segment.candidates):
            if candidate != largest and nodes:
                own = piece.statistics[candidate]
                assert isinstance(own, Statistics)
                piece.plain[candidate].run(partial(_adjusting, piece, own, trained, seen), x)
        x = y


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(channels,) mean and variance of (N, C, H, W)."""
    variance, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
    return mean, variance


def _noting(
    slot: SharedSlot, kept: Statistics, seen: dict[str, tuple[Tensor, Tensor]], step: Step, *inputs: Tensor
) -> Tensor:
    if not isinstance(step, LeanNodes) and step.spec.kind is Kind.BATCH_NORM:
        seen[step.name] = _moments(inputs[0])
    return slot.step(step, *inputs, kept=kept)


def _adjusting(
    slot: SharedSlot,
    own: Statistics,
    trained: Statistics,
    seen: Mapping[str, tuple[Tensor, Tensor]],
    step: Step,
    *inputs: Tensor,
) -> Tensor:
    if not isinstance(step, LeanNodes) and step.spec.kind is Kind.BATCH_NORM:
        mean, variance = _moments(inputs[0])
        if step.name in seen:
            norm, channels = slot.largest.get_submodule(step.name), len(mean)
            assert isinstance(norm, nn.BatchNorm2d)
            eps = norm.eps
            (large_mean, large_variance), (kept_mean, kept_variance) = seen[step.name], trained.of(step.name)
            ratio = (variance + eps) / (large_variance[:channels] + eps)
            mean = mean - ratio.sqrt() * (large_mean[:channels] - kept_mean[:channels])
            variance = ((kept_variance[:channels] + eps) * ratio - eps).clamp(min=0)
        own.put(step.name, mean, variance)
    return slot.step(step, *inputs, kept=own)


def some_paths(space: SearchSpace, seed: int) -> dict[str, GatePath]:
    """By name, the paths whose accuracy before any training tells what the inheritance is worth."""
    rng = random.Random(seed)
    paths = {"largest": space.path(space.largest()), "smallest": space.path(space.smallest())}
    return paths | {f"random {number}": space.random_path(rng) for number in range(1, RANDOM_PATHS + 1)}
