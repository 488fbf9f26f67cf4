"""Weight steps of a supernet: a batch of train images through one path. Shared by all strategies; not for gates."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.data import DataSet
from nas.preflight import Plan
from nas.supernet import Supernet
from nas.training import checked, make_optimizer, set_cosine_lr
from search_space import GatePath
from search_space.build import to_channels_last


def weight_steps(plan: Plan, data: DataSet) -> int:
    """Weight steps of a whole search."""
    settings = plan.settings
    return (settings.warmup.epochs + settings.epochs) * data.steps(data.train, settings.train.batch_size)


def new_supernet(plan: Plan, data: DataSet) -> Supernet:
    """With the first weights that the settings' seed gives."""
    settings = plan.settings
    torch.manual_seed(settings.seed)
    supernet = Supernet(
        plan.space, settings.data.resolution, data.num_classes, share_weights=settings.train.share_weights
    )
    to_channels_last(supernet)
    return supernet


class WeightTraining:
    """The optimizer of a supernet's weights and how far it is; the caller draws the paths.

    step: weight steps done; loss: the last one's.
    """

    def __init__(self, plan: Plan, data: DataSet, supernet: Supernet) -> None:
        self.settings, self.data, self.supernet = plan.settings, data, supernet
        self.optimizer = make_optimizer(supernet, self.settings.train.lr, self.settings.train.weight_decay)
        self.total = weight_steps(plan, data)
        self.step = 0
        self.loss: float | None = None

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Train images (N, 3, R, R) and labels (N,) of an epoch, in an order of the seed and the epoch."""
        s = self.settings
        return self.data.batches(self.data.train, s.data.resolution, s.train.batch_size, s.seed, epoch, training=True)

    def train_path(self, images: Tensor, labels: Tensor, path: GatePath, epoch: int) -> None:
        """One step of the weights on the path. Raises `NotFinite`."""
        s = self.settings.train
        set_cosine_lr(self.optimizer, self.step, self.total, s.lr, warmup=min(50, self.total // 10), final=0.1 * s.lr)
        logits = self.supernet(images, path)
        loss = F.cross_entropy(logits, labels, label_smoothing=s.label_smoothing)
        self.loss = checked(loss, f"weight step {self.step} (epoch {epoch + 1})")
        loss.backward()
        active = list(self.supernet.path_parameters(path))
        norm = nn.utils.clip_grad_norm_(active, s.gradient_clip)
        checked(norm, f"weight step {self.step} (epoch {epoch + 1})", "gradient")
        self.optimizer.step()
        for parameter in active:  # the only ones that have a gradient
            parameter.grad = None
        self.step += 1
