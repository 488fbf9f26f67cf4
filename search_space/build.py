"""From lowered layers to plain torch modules: an interpreter over a segment's nodes.

One `Block` runs one list of nodes; a `Network` is a chain of blocks. Used for exported networks,
for the supernet's candidates and for full training alike. Not for choosing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_space.branches import branch_ends
from search_space.errors import UserError
from search_space.layer import SEGMENT_INPUT, Kind, Node
from search_space.lower import Segment
from search_space.operators import depthwise_cpu
from search_space.operators.lean import Gelu, Norm, autocast_dtype, is_plain, lean_layer, plain_layer
from search_space.operators.linear_maps import Convolution, LinearMap, Pointwise
from search_space.operators.patterns import LeanNodes, Step, with_lean_layers

NORM_EPS = 1e-6
RECOMPUTE_FROM = 2**17  # elements of a map; on CPUs, recomputing from a smaller one costs more than it is worth


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (N, C, H, W), eps 1e-6 (QuadraNet's and ConvNeXt's).

    Moving the channels last costs nothing for channels_last tensors, and torch's fused kernel
    saves fewer activations than element-wise formulas would.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Scale(nn.Module):
    """Learnable factor per channel (layer scale)."""

    def __init__(self, channels: int, initial: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, H, W)."""
        return x * self.weight.view(-1, 1, 1)


class ResidualAdd(nn.Module):
    """skip + branch, the branch dropped per image with probability `drop_rate` while training."""

    def __init__(self, drop_rate: float) -> None:
        super().__init__()
        self.drop_rate = drop_rate

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """skip, branch: (N, C, H, W) -> (N, C, H, W)."""
        if self.training and self.drop_rate > 0:
            keep = 1.0 - self.drop_rate
            mask = torch.empty(len(branch), 1, 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(keep)
            branch = branch * (mask / keep)
        return skip + branch


class Add(nn.Module):
    """Element-wise sum of two maps."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y: (N, C, H, W) -> (N, C, H, W)."""
        return x + y


class Mul(nn.Module):
    """Element-wise product of two maps."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y: (N, C, H, W) -> (N, C, H, W)."""
        return x * y


class GlobalPool(nn.Module):
    """Mean over all pixels."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C, 1, 1)."""
        return x.mean((2, 3), keepdim=True)


class Classifier(nn.Linear):
    """A linear layer over maps of one pixel."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, 1, 1) -> (N, classes)."""
        return super().forward(x.flatten(1))


def build_layer(node: Node, layer_scale: float, drop_rate: float, batch_statistics: bool) -> nn.Module:
    """The torch module of one node; `batch_statistics`: BatchNorm keeps no running statistics."""
    spec = node.spec
    match spec.kind:
        case Kind.CONV | Kind.DWCONV:
            return nn.Conv2d(
                spec.in_channels,
                spec.out_channels,
                spec.kernel_size,
                spec.stride,
                spec.padding,
                groups=spec.in_channels if spec.kind is Kind.DWCONV else 1,
                bias=spec.bias,
            )
        case Kind.LINEAR:
            return Classifier(spec.in_channels, spec.out_channels, bias=spec.bias)
        case Kind.LAYER_NORM:
            return ChannelLayerNorm(spec.in_channels)
        case Kind.BATCH_NORM:
            norm = nn.BatchNorm2d(spec.in_channels, eps=node.eps, track_running_stats=not batch_statistics)
            if node.constant is not None:
                nn.init.zeros_(norm.weight)
                nn.init.constant_(norm.bias, node.constant)
            return norm
        case Kind.RELU6:
            return nn.ReLU6(inplace=True)
        case Kind.GELU:
            return nn.GELU()
        case Kind.HARD_SWISH:
            return nn.Hardswish()
        case Kind.SCALE:
            return Scale(spec.in_channels, layer_scale)
        case Kind.ADD:
            return ResidualAdd(drop_rate) if node.residual else Add()
        case Kind.MUL:
            return Mul()
        case Kind.GLOBAL_POOL:
            return GlobalPool()
        case _:
            raise UserError(f"no space builds a layer of kind '{spec.kind}'; it can be priced only")


class Interpreter:
    """Runs a list of nodes in order and drops every value after its last reader."""

    def __init__(self, nodes: Sequence[Node], lean: bool = False) -> None:
        """`lean`: nodes that one lean layer computes (`operators.patterns`) are one step."""
        steps: list[tuple[int, Step]] = with_lean_layers(nodes) if lean else [*enumerate(nodes)]
        last_use = {x: i for i, step in steps for x in step.inputs}
        self._steps = [(step, i, [x for x in {*step.inputs} if last_use[x] == i]) for i, step in steps]

    @property
    def lean_layers(self) -> list[LeanNodes]:
        """The steps that are lean layers, in order."""
        return [step for step, _, _ in self._steps if isinstance(step, LeanNodes)]

    def run(self, layer: Callable[..., Tensor], x: Tensor) -> Tensor:
        """layer(step, *inputs) computes one step; x: (N, C, H, W) -> the last one's output, or x if there is none."""
        values = {SEGMENT_INPUT: x}
        output = x
        for step, position, finished in self._steps:
            output = values[position] = layer(step, *[values[i] for i in step.inputs])
            for i in finished:
                del values[i]
        return output


def run_lean_layer(
    nodes: LeanNodes,
    x: Tensor,
    tensors_of: Callable[[Node], tuple[Tensor, Tensor | None]],
    recompute_from: int = RECOMPUTE_FROM,
) -> Tensor:
    """The nodes as one function; tensors_of(node): its weight and bias. x: (N, C, H, W) -> (N, C', H', W')."""
    spec = nodes.convolutions[0].spec
    linear: LinearMap = Pointwise()
    if (spec.kind, spec.kernel_size, spec.stride, spec.padding) != (Kind.CONV, 1, 1, 0):
        groups = spec.in_channels if spec.kind is Kind.DWCONV else 1
        linear = Convolution((spec.stride,) * 2, (spec.padding,) * 2, groups=groups)
    pre: Norm | Gelu = Gelu()
    if nodes.pre.spec.kind is Kind.LAYER_NORM:
        weight, bias = tensors_of(nodes.pre)
        assert bias is not None
        pre = Norm(weight, bias, NORM_EPS)
    factors = [t for node in nodes.convolutions for t in tensors_of(node)]
    scale = None if nodes.scale is None else tensors_of(nodes.scale)[0]
    if isinstance(pre, Norm) and x.numel() < recompute_from and _costs_calls(x, nodes):
        return plain_layer(x, linear, factors, pre, scale)
    return lean_layer(x, linear, factors, pre, scale)


def _costs_calls(x: Tensor, nodes: LeanNodes) -> bool:
    """Whether the plain steps of a neuron after a LayerNorm are worth what they store on a small map.

    Not for a quadratic 1x1 convolution, which would store two of the widest activations; nor for autocast's types,
    in which torch's backward of a large depthwise kernel is slower than `depthwise_cpu` on any map.
    """
    if x.device.type != "cpu":
        return False
    spec = nodes.convolutions[0].spec
    if spec.kind is Kind.DWCONV:
        return autocast_dtype(x) is None or not depthwise_cpu.usable(x, spec.kernel_size)
    return len(nodes.convolutions) == 1


class Block(nn.Module):
    """Runs a list of nodes; an empty list is the identity. Submodules carry the nodes' names.

    While training, what follows a LayerNorm or GELU is computed as layers that store their input only
    (`operators.lean`; on small maps both factors too), unless `lean` is False, a module of theirs was replaced or has
    hooks, or they compute in float16. Values and gradients are those of the modules, to rounding; there is no second
    derivative.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        layer_scale: float = 1.0,
        drop_rate: float = 0.0,
        batch_statistics: bool = False,
        lean: bool = True,
        recompute_from: int = RECOMPUTE_FROM,
    ) -> None:
        """Make the layers' modules.

        drop_rate: of residual branches while training. recompute_from: elements of the smallest map that a layer
        computes again on CPUs; 0 for every map, as in a large batch.
        """
        super().__init__()
        self.recompute_from = recompute_from
        self.branch_ends = [[nodes[i].name for i in ends] for ends in branch_ends(nodes)]
        self._plain = Interpreter(nodes)
        self._lean = Interpreter(nodes, lean=lean)
        for node in nodes:
            self.add_module(node.name, build_layer(node, layer_scale, drop_rate, batch_statistics))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, C', H', W'), or (N, classes) for a head."""
        return (self._lean if self.runs_lean(x) else self._plain).run(self._step, x)

    def _step(self, step: Step, *inputs: Tensor) -> Tensor:
        if isinstance(step, LeanNodes):
            return run_lean_layer(step, inputs[0], self.tensors_of, self.recompute_from)
        module = self._modules[step.name]
        assert module is not None
        output: Tensor = module(*inputs)
        return output

    def tensors_of(self, node: Node) -> tuple[Tensor, Tensor | None]:
        """The weight and bias of a layer."""
        module: Any = self._modules[node.name]
        return module.weight, getattr(module, "bias", None)

    def runs_lean(self, x: Tensor) -> bool:
        """Whether lean layers are used for x.

        They are in training, in types wide enough for small layer scales, and while their modules, run one by one,
        would give the same and do nothing else.
        """
        if not self.training or not torch.is_grad_enabled() or torch.float16 in (x.dtype, autocast_dtype(x)):
            return False
        parts = (self._modules[node.name] for step in self._lean.lean_layers for node in step.parts)
        return all(is_plain(part, nn.Conv2d, nn.GELU, ChannelLayerNorm, Scale) for part in parts)


class Network(nn.Module):
    """A plain network: its segments as named blocks, run in order."""

    def __init__(
        self,
        segments: Sequence[Segment],
        layer_scale: float = 1.0,
        drop_path: float = 0.0,
        paper_init: bool = False,
        lean: bool = True,
        recompute_from: int = RECOMPUTE_FROM,
    ) -> None:
        """`drop_path` is the last block's rate; it rises linearly from 0 over the blocks.

        lean, recompute_from: see `Block`.
        layer_scale=1e-6 with paper_init=True is the published family's start, for long training.
        """
        super().__init__()
        blocks = [s.name for s in segments if s.slot is not None]
        for segment in segments:
            depth = blocks.index(segment.name) / max(1, len(blocks) - 1) if segment.slot is not None else 0.0
            self.add_module(
                segment.name,
                Block(segment.nodes, layer_scale, drop_path * depth, lean=lean, recompute_from=recompute_from),
            )
        initialise(self, paper_init)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, 3, H, W) -> (N, classes)."""
        for block in self.children():
            x = block(x)
        return x


def initialise(model: nn.Module, paper_init: bool = False, branches: int | None = None) -> None:
    """Draw weights from torch's default generator; biases are zero.

    BatchNorm networks: He fan-out (ProxylessNAS). LayerNorm networks: `paper_init` is a truncated
    normal of std 0.02 (QuadraNet), which with tiny layer scales needs long training; otherwise fan-in
    variance. Unless `paper_init`, residual branches start small, so that a few hundred steps already teach
    something: their last convolutions divided by sqrt(number of branches), or the factors of their
    last batch norm at zero (Goyal et al., arXiv 1706.02677, sec. 5.1).
    """
    plain = not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if not plain and isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif paper_init or isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
            else:
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if not paper_init:
        blocks = [m for m in model.modules() if isinstance(m, Block)]
        count = sum(len(b.branch_ends) for b in blocks) if branches is None else branches
        for block in blocks:
            for name in (name for ends in block.branch_ends for name in ends):
                end = block.get_submodule(name)
                assert isinstance(end, nn.Conv2d | nn.BatchNorm2d)
                with torch.no_grad():
                    end.weight.mul_(0.0 if isinstance(end, nn.BatchNorm2d) else max(1, count) ** -0.5)


def to_channels_last(model: nn.Module) -> nn.Module:
    """The model with its convolution weights in channels_last, the fast layout on CPUs and GPUs."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
