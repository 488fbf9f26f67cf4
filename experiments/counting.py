"""Parameters and multiply-accumulates of any torch network, counted while it runs on tensors without data.

A MAC is half a floating point operation of torch's counter: convolutions and matrix products, attention's
included, nothing else, as in the papers. Not for a `Network` alone: `search_space.cost_of` counts that unbuilt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class Counted(NamedTuple):
    """What a network has and does for one image: its parameters and its multiply-accumulates."""

    params: int
    macs: int


def count(make: Callable[[], nn.Module], resolution: int = 224) -> Counted:
    """Of what `make` builds, for one (3, R, R) image, R the resolution."""
    with torch.device("meta"):
        model = make().eval()
        images = torch.empty(1, 3, resolution, resolution)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return Counted(sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)
