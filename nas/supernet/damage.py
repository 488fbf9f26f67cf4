"""What every candidate costs a supernet that starts from a trained network, before any training: gates start by it.

One slot at a time is changed in the largest path, so the sums over slots that the exact choice works with are an
estimate of what several changes do together. Not for choosing: see `nas.supernet.gates` and `nas.choose`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.supernet.network import SeparateSlot, SharedSlot, Supernet


@torch.no_grad()
def damage(supernet: Supernet, images: Tensor) -> Tensor:
    """(slots, candidates): how far a candidate alone moves the largest path's answers, 0 for padding.

    It is the mean Kullback-Leibler divergence on the images (N, 3, R, R), in nats.
    """
    space = supernet.space
    largest = space.path(space.largest())
    widest = max(len(slot.candidates) for slot in space.slots)
    found = torch.zeros(len(space.slots), widest)
    answers = supernet(images, largest).log_softmax(1)
    x = images
    for number, (segment, piece) in enumerate(zip(supernet.segments, supernet.children(), strict=True)):
        if segment.slot is None:
            x = piece(x) if number < len(supernet.segments) - 1 else x
            continue
        assert isinstance(piece, SeparateSlot | SharedSlot)
        for choice, nodes in enumerate(segment.candidates):
            if choice == largest.choices[segment.slot]:
                continue
            y = piece.run(choice, x) if nodes else x
            changed = supernet.finish(y, number + 1, largest).log_softmax(1)
            found[segment.slot, choice] = float(F.kl_div(changed, answers, log_target=True, reduction="batchmean"))
        x = piece.run(largest.choices[segment.slot], x)
    return found
