"""Scores of networks that were never trained: naswot and synflow. Not for scores that need training.

naswot (arXiv 2006.04647): how differently a batch's images switch the activations on and off. log det of the matrix of
agreements between images; where an activation does not switch (GELU, hard-swish), the sign of its input stands for it,
and in a network without any the sign of each product. synflow (arXiv 2006.05467): how much of an input of ones
flows through the absolute weights, sum |w dR/dw|, norms left out; its logarithm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def started(network: nn.Module, seed: int) -> None:
    """Draw torch's default weights: residual branches that start at zero would be missing from both scores."""
    import torch

    torch.manual_seed(seed)
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def naswot(network: nn.Module, images: Tensor) -> float:
    """images: (N, 3, R, R); the network as it is, in training mode (norms by the batch)."""
    import torch
    from torch import nn

    from search_space.build import Mul

    activations = nn.ReLU | nn.ReLU6 | nn.GELU | nn.Hardswish
    switches: list[nn.Module] = [m for m in network.modules() if isinstance(m, activations)]
    switches = switches or [m for m in network.modules() if isinstance(m, Mul)]
    agreements = torch.zeros(len(images), len(images), dtype=torch.float64)

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal agreements
        on = (inputs[0].flatten(1) > 0).float()
        agreements = agreements + (on @ on.T + (1 - on) @ (1 - on).T).double()

    hooks = [module.register_forward_pre_hook(look) for module in switches]
    try:
        with torch.no_grad():
            network.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return float(torch.linalg.slogdet(agreements)[1])


def synflow(network: nn.Module, resolution: int) -> float:
    """Changes the network: weights lose their signs, norms become identities."""
    import torch
    from torch import nn

    for parent in list(network.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                setattr(parent, name, nn.Identity())
    network.double().eval()
    for parameter in network.parameters():
        parameter.data.abs_()
    network(torch.ones(1, 3, resolution, resolution, dtype=torch.float64)).sum().backward()
    flows = [(p.detach() * p.grad).abs().sum() for p in network.parameters() if p.grad is not None]
    return float(torch.stack(flows).sum().log())
