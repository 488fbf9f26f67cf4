"""A published network computed straight from its file's names with torch's functions: what ours is held against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.nas.pretrained.facts import Sizes, State, block_modules, block_name, ends_and_first


def logits(state: State, sizes: Sizes, layout: str, eps: float, images: Tensor) -> Tensor:
    """(N, 3, R, R) -> (N, classes), with symmetric padding of half the kernel."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, active: bool = True) -> Tensor:
        weight = state[f"{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups)
        mean, var, scale, shift = (state[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        x = (x - mean[:, None, None]) / (var + eps).sqrt()[:, None, None] * scale[:, None, None] + shift[:, None, None]
        return x.clamp(0, 6) if active else x

    ends, first = ends_and_first(layout)
    named, own = block_name(layout), block_modules(layout)
    with torch.no_grad():
        x = layer(images, ends["conv"], ends["norm"], stride=2)
        at = named(0, 0, 0)
        x = layer(x, at + first["dw"], at + first["dw_norm"])
        x = layer(x, at + first["project"], at + first["project_norm"], active=False)
        for number, (stage, index, _, stride, _, _, _) in enumerate(sizes.blocks(), start=1):
            at = named(stage, index, number)
            y = layer(x, at + own["expand"], at + own["expand_norm"])
            y = layer(y, at + own["dw"], at + own["dw_norm"], stride)
            y = layer(y, at + own["project"], at + own["project_norm"], active=False)
            x = x + y if index else y
        x = layer(x, ends["mix"], ends["mix_norm"]).mean((2, 3))
        return F.linear(x, state[f"{ends['classifier']}.weight"], state[f"{ends['classifier']}.bias"])
