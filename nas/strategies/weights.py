"""Weight steps of a supernet: a batch of train images through one path. Shared by all strategies; not for gates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nas.data import DataSet
from nas.run.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, part, under
from nas.run.plan import Plan
from nas.strategies.start import Start, start_of
from nas.strategies.untrained import new_supernet, weight_steps
from nas.supernet.network import Supernet
from nas.supernet.origin import CHECKPOINT
from nas.supernet.saved import load_supernet
from nas.training.lessons import Lessons, class_weights, taught_loss
from nas.training.loop import computing_in, make_optimizer, set_cosine_lr, take_step
from nas.training.mixing import mix
from nas.training.moving_average import MovingAverage
from search_space import GatePath


def first_supernet(plan: Plan, data: DataSet, start: Start | None = None) -> Supernet:
    """As a search starts with it: new, or with the weights that `init` names. Raises `UserError`, `BadFile`.

    start: worked out for this plan and these images, if it was already; a start's supernet is given out, not copied.
    """
    if start is None and plan.settings.init is not None:
        start = start_of(plan, data)
    if start is not None and start.supernet is not None:
        return start.supernet
    return new_supernet(plan, data)


def trained_supernet(plan: Plan, data: DataSet, folder: Path) -> Supernet:
    """As the search of a run left it in its folder. Raises `BadFile`."""
    supernet = new_supernet(plan, data)
    load_supernet(folder / CHECKPOINT, supernet)
    return supernet


class WeightTraining:
    """The optimizer of a supernet's weights and how far it is; the caller draws the paths.

    step: weight steps done; loss: the last one's.
    """

    def __init__(self, plan: Plan, data: DataSet, supernet: Supernet, lessons: Lessons | None = None) -> None:
        """lessons: what is learned from the training images; their labels alone by default."""
        self.settings, self.data, self.supernet = plan.settings, data, supernet
        self.lessons = lessons or Lessons(data.train)
        self.optimizer = make_optimizer(supernet, self.settings.train.lr, self.settings.train.weight_decay)
        self.average = MovingAverage(supernet, self.settings.train.ema) if self.settings.train.ema else None
        weights = class_weights(data.train.labels, data.num_classes, self.settings.train.balance)
        self.class_weights = None if weights is None else weights.to(data.place.device)
        self.total = weight_steps(plan, data)
        self.epoch_steps = data.steps(data.train, self.settings.train.batch_size)
        self.step = 0
        self.loss: float | None = None

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Train images (N, 3, R, R) and what the lessons number them by (N,), of what is left of an epoch."""
        s, done = self.settings, self.step % self.epoch_steps
        return self.data.batches(
            self.lessons.split, s.data.resolution, s.train.batch_size, s.seed, epoch, training=True, start=done
        )

    def state(self) -> Checkpoint:
        """Between two steps, everything that the next ones depend on."""
        tensors = {
            **under("supernet", self.supernet.state_dict()),
            **under("optimizer", optimizer_tensors(self.optimizer)),
            **(under("average", self.average.state()) if self.average is not None else {}),
        }
        return Checkpoint(tensors, {"step": self.step, "loss": self.loss})

    def restore(self, saved: Checkpoint) -> None:
        """Put back what `state` gave."""
        self.supernet.load_state_dict(part(saved.tensors, "supernet"))
        load_optimizer(self.optimizer, part(saved.tensors, "optimizer"))
        if self.average is not None:
            self.average.restore(part(saved.tensors, "average"))
        self.step, self.loss = saved.facts["step"], saved.facts["loss"]

    def train_path(self, images: Tensor, given: Tensor, path: GatePath, epoch: int) -> None:
        """One step of the weights on the path, on a batch of `batches`. Raises `NotFinite`."""
        s = self.settings.train
        set_cosine_lr(self.optimizer, self.step, self.total, s.lr, warmup=min(50, self.total // 10), final=0.1 * s.lr)
        labels = self.lessons.labels_of(given)
        images, targets = mix(images, labels, self.data.num_classes, s.mixup, s.cutmix, self._draws())
        with computing_in(s.precision, images.device):
            soft = self.lessons.soft_labels(given, images)
            logits = self.supernet(images, path)
            loss = taught_loss(logits, targets, soft, s.teacher_share, s.label_smoothing, self.class_weights)
        loss.backward()
        active = self.supernet.path_parameters(path)  # the only ones that have a gradient
        where = f"weight step {self.step} (epoch {epoch + 1})"
        self.loss = take_step(self.optimizer, active, loss, s.gradient_clip, where)
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)

    def finish(self) -> None:
        """After the last step: the supernet gets its averaged weights, if it has any."""
        if self.average is not None:
            self.average.put_in()

    def _draws(self) -> torch.Generator:
        """What this step's mixing draws from: of the seed and the step alone, so that there is no state to keep."""
        (seed,) = np.random.SeedSequence((self.settings.seed, self.step)).generate_state(1)
        return torch.Generator().manual_seed(int(seed))
