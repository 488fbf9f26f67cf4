"""The over-parameterised network: every candidate of every slot, one path of activations.

The path is an argument of the call and never a state of the modules. An architecture step passes
the sampled gates too; the candidates that are not active then run in the backward pass, one at a
time and without a graph, so activation memory does not depend on the number of candidates
(ProxylessNAS 'full_v2'; with two candidates involved it is the paper's 'two'). Not for training loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nas.gates import GateSample
from search_space import GatePath, SearchSpace, Segment, lower, lower_space
from search_space.build import Block, Network, initialise


class _Gate(torch.autograd.Function):
    """Identity on the active candidate's output whose backward yields dL/dg_j = <dL/dy, o_j(x)>."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        gates: Tensor,
        candidates: nn.ModuleList,
        active: int,
        involved: list[int],
    ) -> Tensor:
        """x: (N, C, H, W) into the slot; y: (N, C', H', W') out of it; gates: (candidates,)."""
        ctx.save_for_backward(x, y)
        ctx.candidates, ctx.active, ctx.involved = candidates, active, involved
        ctx.width = len(gates)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, y = ctx.saved_tensors
        products = torch.zeros(ctx.width, dtype=grad.dtype, device=grad.device)
        with torch.no_grad():
            for j in ctx.involved:
                output = y if j == ctx.active else ctx.candidates[j](x)
                products[j] = (grad * output).sum()
        return None, grad, products, None, None, None


class Supernet(nn.Module):
    """All candidates of a space with separate weights.

    LayerNorms need nothing special under path sampling; BatchNorms use the batch's statistics and
    keep no running ones, since those would mix paths: `extract` gives a network whose statistics
    are then measured on its own path.
    """

    def __init__(self, space: SearchSpace, resolution: int, num_classes: int, layer_scale: float = 1.0) -> None:
        super().__init__()
        self.space = space
        self.resolution = resolution
        self.num_classes = num_classes
        self.segments: tuple[Segment, ...] = lower_space(space, resolution, num_classes)
        for segment in self.segments:
            blocks = [Block(nodes, layer_scale, batch_statistics=True) for nodes in segment.candidates]
            self.add_module(segment.name, nn.ModuleList(blocks) if segment.slot is not None else blocks[0])
        initialise(self)

    def forward(self, x: Tensor, path: GatePath, sample: GateSample | None = None) -> Tensor:
        """x: (N, 3, H, W) -> (N, classes), along one path.

        With `sample` (an architecture step) its path must be `path`; gradients then reach
        `sample.values`, whatever is active, Zero included.
        """
        rows = sample.values.unbind(0) if sample is not None else ()
        involved = _indices(sample.involved) if sample is not None else []
        for segment in self.segments:
            module = self._modules[segment.name]
            if segment.slot is None:
                assert isinstance(module, Block)
                x = module(x)
                continue
            assert isinstance(module, nn.ModuleList)
            choice = path.choices[segment.slot]
            y = module[choice](x)
            if sample is not None:
                y = _Gate.apply(x, y, rows[segment.slot], module, choice, involved[segment.slot])
            x = y
        return x

    def path_parameters(self, path: GatePath) -> Iterator[nn.Parameter]:
        """The parameters that a path uses, fixed pieces included."""
        for segment in self.segments:
            module = self._modules[segment.name]
            assert module is not None
            if segment.slot is not None:
                assert isinstance(module, nn.ModuleList)
                module = module[path.choices[segment.slot]]
            yield from module.parameters()

    def extract(self, path: GatePath) -> Network:
        """The plain network of a path with copies of its weights, Zeros left out.

        Its BatchNorms, if any, start with empty running statistics: see `nas.train.recalibrate`.
        """
        segments = lower(self.space.architecture(path), self.resolution, self.num_classes)
        network = Network(segments)
        targets = {s.name: s for s in segments}
        depth_in_stage: dict[int, int] = {}
        for segment in self.segments:
            module = self._modules[segment.name]
            assert module is not None
            name = segment.name
            if segment.slot is not None:
                assert isinstance(module, nn.ModuleList)
                if not segment.candidates[path.choices[segment.slot]]:
                    continue
                stage = self.space.slots[segment.slot].stage
                depth_in_stage[stage] = depth_in_stage.get(stage, 0) + 1
                name = f"stage{stage + 1}_block{depth_in_stage[stage]}"
                module = module[path.choices[segment.slot]]
            assert name in targets
            source = {key: value.clone() for key, value in module.state_dict().items()}
            missing, unexpected = getattr(network, name).load_state_dict(source, strict=False)
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
