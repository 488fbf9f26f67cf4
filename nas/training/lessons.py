"""What a network learns from the training images: labels, with a teacher soft labels too, and the loss by both.

Not for making soft labels: that is `nas.training.teacher`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data import Split


@dataclass(frozen=True)
class Lessons:
    """The training images with their labels and, where there is a teacher, its soft labels.

    split: the training images; where soft labels are worked out once, its labels are the images' positions.
    """

    split: Split
    labels: Tensor | None = None
    soft: Tensor | None = None
    teacher: Callable[[Tensor], Tensor] | None = None

    def labels_of(self, given: Tensor) -> Tensor:
        """(N,) classes of a batch, from what the split gave as its labels."""
        return given if self.labels is None else self.labels[given]

    def soft_labels(self, given: Tensor, images: Tensor) -> Tensor | None:
        """(N, classes) probabilities; images: (N, 3, R, R) as the network is shown them; None without a teacher."""
        if self.soft is not None:
            return self.soft[given]
        if self.teacher is not None:
            with torch.no_grad():
                return self.teacher(images).softmax(1)
        return None


def taught_loss(
    logits: Tensor, targets: Tensor, soft: Tensor | None, teacher_share: float, label_smoothing: float
) -> Tensor:
    """Cross-entropy to the labels and, in the share asked for, to a teacher's soft labels (N, classes).

    logits: (N, classes); targets: (N,), or (N, classes) where labels are mixed. Without a teacher it is all labels'.
    """
    loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if soft is None:
        return loss
    return (1 - teacher_share) * loss + teacher_share * F.cross_entropy(logits, soft)
