"""What a network learns from the training images: labels, with a teacher soft labels too, and the loss by both.

Not for making soft labels: that is `nas.training.teacher`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
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


def class_weights(labels: NDArray[np.int64], classes: int, balance: float) -> Tensor | None:
    """(classes,) what an image of each class counts in the loss, in proportion to n ** -balance for n images.

    labels: (n,) of the training images, over which the weights have the mean 1. None for a balance of 0.
    """
    if not balance:
        return None
    counts = np.bincount(labels, minlength=classes)
    weights = np.maximum(counts, 1) ** -float(balance)
    return torch.from_numpy(weights * counts.sum() / (weights * counts).sum()).float()


def taught_loss(
    logits: Tensor,
    targets: Tensor,
    soft: Tensor | None,
    teacher_share: float,
    label_smoothing: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy to the labels and, in the share asked for, to a teacher's soft labels (N, classes).

    logits: (N, classes); targets: (N,), or (N, classes) where labels are mixed. Without a teacher it is all labels'.
    weights: see `class_weights`; None counts all images alike.
    """
    if weights is None:
        loss = F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
        if soft is None:
            return loss
        return (1 - teacher_share) * loss + teacher_share * F.cross_entropy(logits, soft)
    of_image = F.cross_entropy(logits, targets, label_smoothing=label_smoothing, reduction="none")
    if soft is not None:
        of_image = (1 - teacher_share) * of_image + teacher_share * F.cross_entropy(logits, soft, reduction="none")
    return (of_image * (weights[targets] if targets.ndim == 1 else targets @ weights)).mean()
