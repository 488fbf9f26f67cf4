"""ProxylessNAS (arXiv 1812.00332): a supernet with binary gates, trained by gradient.

Warm-up trains weights on paths drawn from the gates as they start; then weight steps (train images, gates fixed) and
architecture steps (validation images, weights frozen) alternate, the latter with the latency
penalty. The final path is the exact best under the budget, re-ranked by validation accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.data import DataSet
from nas.gates import Gates, GateSample
from nas.log import LOG_EVERY, Row, SearchLog
from nas.penalty import ExpectedLatency, Multiplier, add_linear, mul_log
from nas.preflight import Plan
from nas.progress import SearchProgress
from nas.settings import SearchSettings
from nas.strategies.base import Found, choose
from nas.supernet import Supernet, frozen
from nas.training import accuracy, checked, make_optimizer, set_cosine_lr
from search_space import GatePath
from search_space.build import to_channels_last


def total_steps(plan: Plan, data: DataSet) -> int:
    settings = plan.settings
    return (settings.warmup.epochs + settings.epochs) * data.steps(data.train, settings.train.batch_size)


def search(plan: Plan, data: DataSet, log: SearchLog, progress: SearchProgress) -> Found:
    """Raises `NotFinite` with the last good state in the log's folder."""
    settings = plan.settings
    torch.manual_seed(settings.seed)
    supernet = Supernet(
        plan.space, settings.data.resolution, data.num_classes, share_weights=settings.train.share_weights
    )
    to_channels_last(supernet)
    run = _Run(plan, data, supernet, log, progress)
    for epoch in range(settings.warmup.epochs):
        run.warmup_epoch(epoch)
    for epoch in range(settings.warmup.epochs, settings.warmup.epochs + settings.epochs):
        run.search_epoch(epoch)
    return choose(plan, data, supernet, run.gates)


@dataclass
class _Figures:
    """The latest values, for the bar and the log."""

    train_loss: float | None = None
    gate_loss: float | None = None
    val_accuracy: float | None = None


class _Run:
    """The two kinds of steps and what they share."""

    def __init__(self, plan: Plan, data: DataSet, supernet: Supernet, log: SearchLog, progress: SearchProgress) -> None:
        self.plan, self.data, self.supernet, self.log, self.progress = plan, data, supernet, log, progress
        self.settings: SearchSettings = plan.settings
        self.draws = torch.Generator().manual_seed(self.settings.seed)
        self.gates = Gates(plan.space, self.draws)
        self.expected = ExpectedLatency(plan.table)
        if self.settings.gates.start == "budget":
            self.gates.start_within(self.expected.slot_ms, plan.table.fixed_ms, self.settings.budget_ms)
        self.multiplier = Multiplier()
        self.weight_optimizer = make_optimizer(supernet, self.settings.train.lr, self.settings.train.weight_decay)
        self.gate_optimizer = torch.optim.Adam(self.gates.parameters(), lr=self.settings.gates.lr, betas=(0.0, 0.999))
        self.total = total_steps(plan, data)
        self.step = 0
        self.figures = _Figures()
        self.validation_batches = self._endless_validation()

    def warmup_epoch(self, epoch: int) -> None:
        for images, labels in self._train_batches(epoch):
            self._weight_step(images, labels, self.gates.sample_path(self.draws), epoch)
            self._report("warmup", epoch)
        self._end_of_epoch("warmup", epoch)

    def search_epoch(self, epoch: int) -> None:
        for images, labels in self._train_batches(epoch):
            self._weight_step(images, labels, self.gates.sample_path(self.draws), epoch)
            if self.step % self.settings.gates.every == 0:
                self._gate_step(*next(self.validation_batches), epoch)
            self._report("search", epoch)
        self._end_of_epoch("search", epoch)

    def _train_batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        s = self.settings
        return self.data.batches(self.data.train, s.data.resolution, s.train.batch_size, s.seed, epoch, training=True)

    def _endless_validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        s = self.settings
        for epoch in itertools.count():
            yield from self.data.batches(
                self.data.validation, s.data.resolution, s.train.batch_size, s.seed + 1, epoch, training=True
            )

    def _weight_step(self, images: Tensor, labels: Tensor, path: GatePath, epoch: int) -> None:
        s = self.settings.train
        set_cosine_lr(
            self.weight_optimizer, self.step, self.total, s.lr, warmup=min(50, self.total // 10), final=0.1 * s.lr
        )
        logits = self.supernet(images, path)
        loss = F.cross_entropy(logits, labels, label_smoothing=s.label_smoothing)
        self.figures.train_loss = checked(loss, f"weight step {self.step} (epoch {epoch + 1})")
        loss.backward()
        active = list(self.supernet.path_parameters(path))
        norm = nn.utils.clip_grad_norm_(active, s.gradient_clip)
        checked(norm, f"weight step {self.step} (epoch {epoch + 1})", "gradient")
        self.weight_optimizer.step()
        for parameter in active:  # the only ones that have a gradient
            parameter.grad = None
        self.step += 1

    def _gate_step(self, images: Tensor, labels: Tensor, epoch: int) -> None:
        budget_ms = self.settings.budget_ms
        sample = self.gates.sample(self.settings.gates.mode, self.draws)
        with frozen(list(self.supernet.path_parameters(sample.path))):
            logits = self.supernet(images, sample.path, sample)
        loss = F.cross_entropy(logits, labels)
        self.figures.gate_loss = checked(loss, f"architecture step {self.step} (epoch {epoch + 1})")
        self.gate_optimizer.zero_grad()
        self._with_penalty(loss, sample).backward()
        before = self.gates.alpha.detach().clone()
        self.gate_optimizer.step()
        if self.settings.gates.mode == "two":
            self.gates.keep_unsampled(sample, before)
        self.multiplier.update(self._expected_ms(), budget_ms)

    def _with_penalty(self, loss: Tensor, sample: GateSample) -> Tensor:
        penalty, budget_ms = self.settings.penalty, self.settings.budget_ms
        latency_ms = self.expected(sample.probabilities)
        if penalty.form == "add_linear":
            return add_linear(loss, latency_ms, budget_ms, penalty.strength)
        if penalty.form == "mul_log":
            return mul_log(loss, latency_ms, budget_ms, penalty.alpha, penalty.beta)
        return self.multiplier.loss(loss, latency_ms, budget_ms)

    def _expected_ms(self) -> float:
        with torch.no_grad():
            return float(self.expected(self.gates.probabilities()))

    def _report(self, phase: str, epoch: int) -> None:
        expected_ms = self._expected_ms()
        self.progress.advance(
            phase,
            loss=self.figures.train_loss,
            accuracy=self.figures.val_accuracy,
            expected_ms=expected_ms,
            budget_ms=self.settings.budget_ms,
        )
        if self.step % LOG_EVERY == 0:
            self.log.add(self._row(phase, epoch))

    def _row(self, phase: str, epoch: int, val_accuracy: float | None = None) -> Row:
        follows = phase == "search" and self.settings.penalty.form == "multiplier"
        return Row(
            step=self.step,
            phase=phase,
            epoch=epoch + 1,
            train_loss=self.figures.train_loss,
            gate_loss=self.figures.gate_loss,
            val_accuracy=val_accuracy,
            expected_ms=self._expected_ms(),
            budget_ms=self.settings.budget_ms,
            multiplier=self.multiplier.strength if follows else None,
            gate_entropy=self.gates.entropy(),
        )

    def _end_of_epoch(self, phase: str, epoch: int) -> None:
        """Measure the most probable path on all validation images; save the last good state."""
        with torch.no_grad():
            probabilities = self.gates.probabilities()
        path = GatePath(tuple(probabilities.argmax(1).tolist()))
        batches = self.data.batches(self.data.validation, self.settings.data.resolution, 128)
        self.figures.val_accuracy = accuracy(lambda images: self.supernet(images, path), batches)
        self.log.add(self._row(phase, epoch, self.figures.val_accuracy))
        self.log.add_gates(self.step, self.plan.space, probabilities)
        state = {f"supernet.{key}": value.contiguous() for key, value in self.supernet.state_dict().items()}
        self.log.save({**state, "gates.alpha": self.gates.alpha.detach()})
