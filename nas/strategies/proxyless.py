"""ProxylessNAS (arXiv 1812.00332): a supernet with binary gates, trained by gradient.

Warm-up trains weights on paths drawn from the gates as they start; then weight steps (train images, gates fixed) and
architecture steps (validation images, weights frozen) alternate, the latter with the latency
penalty. The final path is the exact best under the budget, re-ranked by validation accuracy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from nas.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, part, under
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

PHASE = "search"  # of checkpoints; warm-up included


def total_steps(plan: Plan, data: DataSet) -> int:
    return weight_steps(plan, data)


def search(plan: Plan, data: DataSet, log: SearchLog, progress: SearchProgress) -> Found:
    """Goes on from the log's checkpoints, if they are of this phase. Raises `NotFinite`."""
    settings = plan.settings
    supernet = new_supernet(plan, data)
    run = _Run(plan, data, supernet, log, progress)
    if saved := log.checkpoints.going_on(PHASE):
        run.restore(saved)
    progress.skip(run.weights.step)
    with log.checkpoints.stopping_between_steps():
        for epoch in range(run.weights.step // run.weights.epoch_steps, settings.warmup.epochs + settings.epochs):
            run.epoch(epoch)
    log.save_supernet(supernet.state_dict(), run.gates.alpha)
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
        self.gate_steps = 0
        self.validation_batches = self._validation_batches()

    def state(self) -> Checkpoint:
        """Between two steps, everything that the next ones depend on."""
        weights = self.weights.state()
        return Checkpoint(
            tensors={
                **under("weights", weights.tensors),
                **under("gates", self.gates.state_dict()),
                **under("gate_optimizer", optimizer_tensors(self.gate_optimizer)),
                "draws": self.draws.get_state(),
            },
            facts={
                "weights": weights.facts,
                "gate_steps": self.gate_steps,
                "multiplier": asdict(self.multiplier),
                "figures": asdict(self.figures),
            },
        )

    def restore(self, saved: Checkpoint) -> None:
        self.weights.restore(Checkpoint(part(saved.tensors, "weights"), saved.facts["weights"]))
        self.gates.load_state_dict(part(saved.tensors, "gates"))
        load_optimizer(self.gate_optimizer, part(saved.tensors, "gate_optimizer"))
        self.draws.set_state(saved.tensors["draws"])
        self.gate_steps = saved.facts["gate_steps"]
        self.multiplier = Multiplier(**saved.facts["multiplier"])
        self.figures = _Figures(**saved.facts["figures"])

    def epoch(self, epoch: int) -> None:
        """From where the run is in it to its end."""
        phase = "warmup" if epoch < self.settings.warmup.epochs else "search"
        for images, labels in self.weights.batches(epoch):
            self.weights.train_path(images, labels, self.gates.sample_path(self.draws), epoch)
            if phase == "search" and self.weights.step % self.settings.gates.every == 0:
                self._gate_step(*next(self.validation_batches), epoch)
            self._report(phase, epoch)
            if self.weights.step % self.weights.epoch_steps == 0:
                self._end_of_epoch(phase, epoch)
            self.log.checkpoints.keep(PHASE, self.weights.step, self.state)

    def _validation_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Without end, from the first that no architecture step has seen."""
        s, split = self.settings, self.data.validation
        first, done = divmod(self.gate_steps, self.data.steps(split, s.train.batch_size))
        for epoch in itertools.count(first):
            yield from self.data.batches(
                split, s.data.resolution, s.train.batch_size, s.seed + 1, epoch, training=True, start=done
            )
            done = 0

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
        self.gate_steps += 1

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
        """Measure the most probable path on all validation images."""
        with torch.no_grad():
            probabilities = self.gates.probabilities()
        path = GatePath(tuple(probabilities.argmax(1).tolist()))
        batches = self.data.batches(self.data.validation, self.settings.data.resolution, 128)
        self.figures.val_accuracy = accuracy(lambda images: self.supernet(images, path), batches)
        self.log.add(self._row(phase, epoch, self.figures.val_accuracy))
        self.log.add_gates(self.weights.step, self.plan.space, probabilities)
        self.log.save_meanwhile()
