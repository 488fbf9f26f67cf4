"""Two images and their labels made one: mixup and CutMix. Not for changing single images: see `nas.data`."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def mix(
    images: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv 1710.09412) or CutMix (arXiv 1905.04899), an even chance where both are on.

    images: (N, 3, R, R), labels: (N,) -> images, labels or their mixture (N, classes). mixup, cutmix: the parameter
    of the Beta distribution that the share is drawn from, 0 for off. rng: equal in all processes.
    """
    if not (mixup or cutmix):
        return images, labels
    both = bool(mixup and cutmix)
    cut = bool(cutmix) and (not both or bool(torch.rand((), generator=rng) < 0.5))
    strength = cutmix if cut else mixup
    # Beta(a, a) from two gamma draws, on the generator so that a run repeats
    a, b = torch._standard_gamma(torch.full((2,), strength, dtype=torch.float64), generator=rng).tolist()
    share = a / (a + b) if a + b else 0.5
    other = _neighbours(len(images)).to(images.device)
    if cut:
        size = images.shape[-1]
        side = round(size * math.sqrt(1 - share))
        top, left = (int(torch.randint(0, size - side + 1, (), generator=rng)) for _ in range(2))
        images = images.clone()
        images[..., top : top + side, left : left + side] = images[other][..., top : top + side, left : left + side]
        share = 1 - (side / size) ** 2
    else:
        images = share * images + (1 - share) * images[other]
    one_hot = F.one_hot(labels, classes).float()
    return images, share * one_hot + (1 - share) * one_hot[other]


def _neighbours(count: int) -> Tensor:
    """(count,) for every image of a batch its partner: 1, 0, 3, 2, ...; an odd last one is its own.

    Batches are shuffled already, and pairs stay whole where several processes have even parts of a batch: they then
    mix just as one process does.
    """
    return (torch.arange(count) ^ 1).clamp(max=count - 1)
