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
from torch import Tensor
from torch.nn import functional as F

from nas.data import DataSet
from nas.gates import Gates, GateSample
from nas.log import LOG_EVERY, Row, SearchLog
from nas.penalty import ExpectedLatency, Multiplier, add_linear, mul_log
from nas.preflight import Plan
from nas.progress import SearchProgress
from nas.settings import SearchSettings
from nas.strategies.base import Found, choose
from nas.strategies.weights import WeightTraining, new_supernet, weight_steps
from nas.supernet import Supernet, frozen
from nas.training import accuracy, checked
from search_space import GatePath


def total_steps(plan: Plan, data: DataSet) -> int:
    return weight_steps(plan, data)


def search(plan: Plan, data: DataSet, log: SearchLog, progress: SearchProgress) -> Found:
    """Raises `NotFinite` with the last good state in the log's folder."""
    settings = plan.settings
    supernet = new_supernet(plan, data)
    run = _Run(plan, data, supernet, log, progress)
    for epoch in range(settings.warmup.epochs):
        run.warmup_epoch(epoch)
    for epoch in range(settings.warmup.epochs, settings.warmup.epochs + settings.epochs):
        run.search_epoch(epoch)
    return choose(plan, data, supernet, run.gates)


@dataclass
class _Figures:
    """The latest values, for the bar and the log."""

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
        self.weights = WeightTraining(plan, data, supernet)
        self.gate_optimizer = torch.optim.Adam(self.gates.parameters(), lr=self.settings.gates.lr, betas=(0.0, 0.999))
        self.figures = _Figures()
        self.validation_batches = self._endless_validation()

    def warmup_epoch(self, epoch: int) -> None:
        for images, labels in self.weights.batches(epoch):
            self.weights.train_path(images, labels, self.gates.sample_path(self.draws), epoch)
            self._report("warmup", epoch)
        self._end_of_epoch("warmup", epoch)

    def search_epoch(self, epoch: int) -> None:
        for images, labels in self.weights.batches(epoch):
            self.weights.train_path(images, labels, self.gates.sample_path(self.draws), epoch)
            if self.weights.step % self.settings.gates.every == 0:
                self._gate_step(*next(self.validation_batches), epoch)
            self._report("search", epoch)
        self._end_of_epoch("search", epoch)

    def _endless_validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        s = self.settings
        for epoch in itertools.count():
            yield from self.data.batches(
                self.data.validation, s.data.resolution, s.train.batch_size, s.seed + 1, epoch, training=True
            )

    def _gate_step(self, images: Tensor, labels: Tensor, epoch: int) -> None:
        budget_ms = self.settings.budget_ms
        sample = self.gates.sample(self.settings.gates.mode, self.draws)
        with frozen(list(self.supernet.path_parameters(sample.path))):
            logits = self.supernet(images, sample.path, sample)
        loss = F.cross_entropy(logits, labels)
        self.figures.gate_loss = checked(loss, f"architecture step {self.weights.step} (epoch {epoch + 1})")
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
            loss=self.weights.loss,
            accuracy=self.figures.val_accuracy,
            expected_ms=expected_ms,
            budget_ms=self.settings.budget_ms,
        )
        if self.weights.step % LOG_EVERY == 0:
            self.log.add(self._row(phase, epoch))

    def _row(self, phase: str, epoch: int, val_accuracy: float | None = None) -> Row:
        follows = phase == "search" and self.settings.penalty.form == "multiplier"
        return Row(
            step=self.weights.step,
            phase=phase,
            epoch=epoch + 1,
            train_loss=self.weights.loss,
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
        self.log.add_gates(self.weights.step, self.plan.space, probabilities)
        state = {f"supernet.{key}": value.contiguous() for key, value in self.supernet.state_dict().items()}
        self.log.save({**state, "gates.alpha": self.gates.alpha.detach()})
