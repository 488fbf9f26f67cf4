"""The over-parameterised network: every candidate of every slot, one path of activations.

The path is an argument of the call and never a state of the modules. An architecture step passes
the sampled gates too; the candidates that are not active then run in the backward pass, one at a
time and without a graph, so activation memory does not depend on the number of candidates
(ProxylessNAS 'full_v2'; with two candidates involved it is the paper's 'two'). Not for training loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.run.distributed import GlobalBatchNorm2d
from nas.supernet.gates import GateSample
from nas.training.loop import hold_statistics
from search_space import GatePath, SearchSpace, Segment, lower, lower_space
from search_space.build import Block, Interpreter, Network, initialise, run_lean_layer
from search_space.layer import SEGMENT_INPUT, Kind, LayerSpec, Node
from search_space.operators.lean import autocast_dtype
from search_space.operators.patterns import LeanNodes, Step


class _Gate(torch.autograd.Function):
    """Identity on the active candidate's output whose backward yields dL/dg_j = <dL/dy, o_j(x)>."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        gates: Tensor,
        slot: SeparateSlot | SharedSlot,
        active: int,
        involved: list[int],
    ) -> Tensor:
        """x: (N, C, H, W) into the slot; y: (N, C', H', W') out of it; gates: (candidates,)."""
        ctx.save_for_backward(x, y)
        ctx.slot, ctx.active, ctx.involved = slot, active, involved
        ctx.width, ctx.computed_in = len(gates), autocast_dtype(x)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, y = ctx.saved_tensors
        exact = torch.promote_types(grad.dtype, torch.float32)
        products = torch.zeros(ctx.width, dtype=exact, device=grad.device)
        cast = torch.autocast(x.device.type, ctx.computed_in, enabled=ctx.computed_in is not None)
        with torch.no_grad(), cast:
            for j in ctx.involved:
                output = y if j == ctx.active else ctx.slot.run(j, x)
                products[j] = (grad * output).sum(dtype=exact)
        return None, grad, products, None, None, None


class SeparateSlot(nn.Module):
    """A slot whose candidates each have weights of their own (ProxylessNAS)."""

    def __init__(self, segment: Segment, layer_scale: float) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(
            Block(nodes, layer_scale, batch_statistics=True) for nodes in segment.candidates
        )

    def run(self, candidate: int, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C', H', W')."""
        y: Tensor = self.candidates[candidate](x)
        return y

    def weights_of(self, candidate: int) -> Iterator[nn.Parameter]:
        """The parameters that a candidate computes with."""
        return self.candidates[candidate].parameters()

    def state_of(self, candidate: int) -> dict[str, Tensor]:
        """A candidate's weights as the state of a block of its own."""
        return self.candidates[candidate].state_dict()


class SharedSlot(nn.Module):
    """A slot whose candidates are slices of one block (Once-for-All, arXiv 1908.09791).

    A slice is the centre of the kernel and the first channels of the expansion. Every step trains every candidate.
    `largest`: a block each of whose layers is as large as the largest of its name in any candidate.
    """

    def __init__(self, segment: Segment, layer_scale: float, kept_statistics: bool = False) -> None:
        super().__init__()
        self.nodes = segment.candidates
        largest = _largest_layers(self.nodes)
        self.largest = Block(largest, layer_scale, batch_statistics=True)
        width = {node.name: node.spec.in_channels for node in largest}
        for node in (node for nodes in self.nodes for node in nodes):
            whole = node.spec.kind in (Kind.LAYER_NORM, Kind.SCALE, Kind.LINEAR)
            assert not whole or node.spec.in_channels == width[node.name], f"{node.name} cannot be a slice"
        self.plain = [Interpreter(nodes) for nodes in self.nodes]
        self.lean = [Interpreter(nodes, lean=True) for nodes in self.nodes]
        self.statistics = nn.ModuleList(map(Statistics, self.nodes)) if kept_statistics else None

    def run(self, candidate: int, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C', H', W')."""
        interpreters = self.lean if self.largest.runs_lean(x) else self.plain
        if self.statistics is None:
            return interpreters[candidate].run(self.step, x)
        kept = self.statistics[candidate]
        assert isinstance(kept, Statistics)
        return interpreters[candidate].run(partial(self.step, kept=kept), x)

    def step(self, step: Step, *inputs: Tensor, kept: Statistics | None = None) -> Tensor:
        """One layer of a candidate; kept: the statistics of its BatchNorms, None for the batch's."""
        if isinstance(step, LeanNodes):
            return run_lean_layer(step, inputs[0], self._tensors_of)
        spec, module = step.spec, self.largest.get_submodule(step.name)
        if isinstance(module, nn.Conv2d):
            weight, bias = self._tensors_of(step)
            groups = spec.in_channels if spec.kind is Kind.DWCONV else 1
            return F.conv2d(inputs[0], weight, bias, spec.stride, spec.padding, groups=groups)
        if isinstance(module, nn.BatchNorm2d):
            weight, bias = module.weight[: spec.in_channels], module.bias[: spec.in_channels]
            if kept is not None:
                return F.batch_norm(inputs[0], *kept.of(step.name), weight, bias, training=False, eps=module.eps)
            if isinstance(module, GlobalBatchNorm2d):
                return module.normalise(inputs[0], weight, bias)
            return F.batch_norm(inputs[0], None, None, weight, bias, training=True, eps=module.eps)
        y: Tensor = module(*inputs)
        return y

    def _tensors_of(self, node: Node) -> tuple[Tensor, Tensor | None]:
        """The weight and bias of a layer of a candidate."""
        weight, bias = self.largest.tensors_of(node)
        return _slice(weight, node.spec), None if bias is None else bias[: node.spec.out_channels]

    def weights_of(self, candidate: int) -> Iterator[nn.Parameter]:
        """The parameters that a candidate computes with."""
        names = {node.name for node in self.nodes[candidate]}
        return (p for key, p in self.largest.named_parameters() if key.split(".")[0] in names)

    def state_of(self, candidate: int) -> dict[str, Tensor]:
        """A candidate's weights as the state of a block of its own."""
        specs = {node.name: node.spec for node in self.nodes[candidate]}
        state = {key: (value, specs.get(key.split(".")[0])) for key, value in self.largest.state_dict().items()}
        found = {key: _slice(value, spec) for key, (value, spec) in state.items() if spec is not None}
        if self.statistics is not None:
            kept = self.statistics[candidate]
            assert isinstance(kept, Statistics)
            for norm in kept.norms:
                found[f"{norm}.running_mean"], found[f"{norm}.running_var"] = kept.of(norm)
        return found


class Statistics(nn.Module):
    """Mean and variance that the BatchNorms of one candidate normalise by; they are measured, never trained."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__()
        self.norms = [node.name for node in nodes if node.spec.kind is Kind.BATCH_NORM]
        for node in (node for node in nodes if node.name in self.norms):
            self.register_buffer(f"{node.name}_mean", torch.zeros(node.spec.in_channels))
            self.register_buffer(f"{node.name}_var", torch.ones(node.spec.in_channels))

    def of(self, norm: str) -> tuple[Tensor, Tensor]:
        """Mean and variance, (channels,) each; the tensors themselves."""
        return self.get_buffer(f"{norm}_mean"), self.get_buffer(f"{norm}_var")

    def put(self, norm: str, mean: Tensor, variance: Tensor) -> None:
        """Set them, (channels,) each."""
        for own, value in zip(self.of(norm), (mean, variance), strict=True):
            own.copy_(value)


def _largest_layers(candidates: Sequence[Sequence[Node]]) -> list[Node]:
    """The layers of all candidates by name, each as large as any candidate has it; the largest candidate's first.

    They make modules to slice from, not a block to run: layers that only smaller candidates have stand at the end.
    """
    found: dict[str, Node] = {}
    sizes: dict[str, dict[str, Any]] = {}
    for nodes in sorted(candidates, key=lambda nodes: -sum(node.spec.params for node in nodes)):
        for node in nodes:
            places = {name: place for place, name in enumerate(found)}
            inputs = tuple(x if x == SEGMENT_INPUT else places[nodes[x].name] for x in node.inputs)
            found.setdefault(node.name, replace(node, inputs=inputs))
            most = sizes.setdefault(node.name, {})
            for size in ("in_channels", "out_channels", "kernel_size", "padding"):
                most[size] = max(most.get(size, 0), getattr(node.spec, size))
    return [replace(node, spec=replace(node.spec, **sizes[name])) for name, node in found.items()]


def _slice(weight: Tensor, spec: LayerSpec) -> Tensor:
    """A layer's part of a larger layer's weight (out, in, k, k), or of a vector (channels,).

    Dimensions that already fit are left alone: every slice costs a zero-filled tensor in backward.
    """
    if weight.shape[0] > spec.out_channels:
        weight = weight[: spec.out_channels]
    if weight.ndim < 4:
        return weight
    inputs = 1 if spec.kind is Kind.DWCONV else spec.in_channels
    if weight.shape[1] > inputs:
        weight = weight[:, :inputs]
    if border := (weight.shape[-1] - spec.kernel_size) // 2:
        weight = weight[..., border:-border, border:-border]
    return weight


class Supernet(nn.Module):
    """All candidates of a space.

    LayerNorms need nothing special under path sampling; BatchNorms use the batch's statistics and
    keep no running ones, since those would mix paths: `extract` gives a network whose statistics
    are then measured on its own path. A supernet that starts from a trained network keeps that one's statistics
    instead, for every candidate its own (`nas.supernet.inherit`).
    """

    def __init__(
        self,
        space: SearchSpace,
        resolution: int,
        num_classes: int,
        layer_scale: float = 1.0,
        share_weights: bool = False,
        kept_statistics: bool = False,
    ) -> None:
        """share_weights: the candidates of a slot are slices of the largest one.

        kept_statistics: BatchNorms normalise by fixed statistics; with shared weights only.
        """
        super().__init__()
        self.space = space
        self.resolution = resolution
        self.num_classes = num_classes
        self.segments: tuple[Segment, ...] = lower_space(space, resolution, num_classes)
        assert share_weights or not kept_statistics
        self.kept_statistics = kept_statistics
        for segment in self.segments:
            piece: nn.Module
            if segment.slot is None:
                piece = Block(segment.nodes, layer_scale, batch_statistics=not kept_statistics)
            elif share_weights:
                piece = SharedSlot(segment, layer_scale, kept_statistics)
            else:
                piece = SeparateSlot(segment, layer_scale)
            self.add_module(segment.name, piece)
        hold_statistics(self)
        deepest = sum(max(sum(n.residual for n in nodes) for nodes in s.candidates) for s in self.segments)
        initialise(self, branches=deepest)

    def forward(self, x: Tensor, path: GatePath, sample: GateSample | None = None) -> Tensor:
        """x: (N, 3, H, W) -> (N, classes), along one path.

        With `sample` (an architecture step) its path must be `path`; gradients then reach
        `sample.values`, whatever is active, Zero included.
        """
        rows = sample.values.to(x.device).unbind(0) if sample is not None else ()
        involved = _indices(sample.involved) if sample is not None else []
        for segment, piece in zip(self.segments, self.children(), strict=True):
            if segment.slot is None:
                x = piece(x)
                continue
            assert isinstance(piece, SeparateSlot | SharedSlot)
            choice = path.choices[segment.slot]
            y = piece.run(choice, x) if segment.candidates[choice] else x
            if sample is not None:
                y = _Gate.apply(x, y, rows[segment.slot], piece, choice, involved[segment.slot])
            x = y
        return x

    def finish(self, x: Tensor, segment: int, path: GatePath) -> Tensor:
        """What the path makes of the output of the segments before this one; x: (N, C, H, W) -> (N, classes)."""
        for own, piece in list(zip(self.segments, self.children(), strict=True))[segment:]:
            if own.slot is None:
                x = piece(x)
            elif own.candidates[path.choices[own.slot]]:
                assert isinstance(piece, SeparateSlot | SharedSlot)
                x = piece.run(path.choices[own.slot], x)
        return x

    def path_parameters(self, path: GatePath) -> list[nn.Parameter]:
        """The parameters that a path uses, fixed pieces included."""
        chosen = (0 if segment.slot is None else path.choices[segment.slot] for segment in self.segments)
        return [p for own, choice in zip(self._parameters_of, chosen, strict=True) for p in own[choice]]

    @cached_property
    def _parameters_of(self) -> list[list[list[nn.Parameter]]]:
        """Of every segment's candidates, collected once: at every step it would take as long as all gates.

        From the first use on, the modules keep their parameters (`with_global_norms` comes before).
        """
        return [
            [list(piece.weights_of(choice)) for choice in range(len(segment.candidates))]
            if isinstance(piece, SeparateSlot | SharedSlot)
            else [list(piece.parameters())]
            for segment, piece in zip(self.segments, self.children(), strict=True)
        ]

    def extract(self, path: GatePath) -> Network:
        """The plain network of a path with copies of its weights, Zeros left out.

        Its BatchNorms, if any, start with empty running statistics (see `nas.training.loop.recalibrate`), unless the
        supernet keeps them.
        """
        segments = lower(self.space.architecture(path), self.resolution, self.num_classes)
        network = Network(segments)
        chosen = []
        for segment, piece in zip(self.segments, self.children(), strict=True):
            if segment.slot is None:
                chosen.append(piece.state_dict())
            elif segment.candidates[path.choices[segment.slot]]:
                assert isinstance(piece, SeparateSlot | SharedSlot)
                chosen.append(piece.state_of(path.choices[segment.slot]))
        for block, state in zip(network.children(), chosen, strict=True):
            missing, unexpected = block.load_state_dict(state, strict=False)
            statistics = ("running_mean", "running_var", "num_batches_tracked")
            assert not unexpected and all(key.endswith(statistics) for key in missing), (missing, unexpected)
        return network


def _indices(mask: Tensor) -> list[list[int]]:
    return [[j for j, on in enumerate(row) if on] for row in mask.tolist()]


@contextmanager
def frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, the parameters need no gradient, so that fewer activations are saved."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
