"""ProxylessNAS (arXiv 1812.00332): a supernet with binary gates, trained by gradient.

Warm-up trains weights on paths drawn from the gates as they start; then weight steps (train images, gates fixed) and
architecture steps (validation images, weights frozen) alternate, the latter with the latency
penalty. The final path is the exact best under the budget, re-ranked by validation accuracy.
Several targets share the supernet and every step; they take turns in drawing the path.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from nas.data import DataSet
from nas.run.checkpoint import Checkpoint, part, under
from nas.run.distributed import average
from nas.run.log import LOG_EVERY
from nas.run.plan import Plan
from nas.run.settings import SearchSettings
from nas.run.targets import target_name
from nas.strategies.base import Found, Task, choose
from nas.strategies.target import Target
from nas.strategies.untrained import weight_steps
from nas.strategies.weights import WeightTraining, first_supernet
from nas.supernet.network import Supernet, frozen
from nas.supernet.origin import CHECKPOINT, gates_key, trained_for
from nas.supernet.saved import save_supernet
from nas.training.lessons import taught_loss
from nas.training.loop import accuracy, checked, computing_in
from search_space import GatePath

PHASE = "search"  # of checkpoints; warm-up included


class Proxyless:
    """`strategy=proxyless`, for any number of targets."""

    def check(self, plans: Sequence[Plan]) -> None:
        """Nothing that it cannot do."""

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        """Weight steps; architecture steps come with them."""
        return weight_steps(plan, data)

    def search(self, task: Task) -> tuple[Supernet, list[Found]]:
        """Resumes from the run's checkpoints, if they are of this phase. Raises `NotFinite`."""
        settings, data = task.plan.settings, task.data
        run = _Run(task, first_supernet(task.plan, data, task.start))
        if saved := task.checkpoints.saved_in(PHASE):
            run.restore(saved)
        task.progress.skip(run.weights.step)
        with task.checkpoints.stopping_between_steps():
            for epoch in range(run.weights.step // run.weights.epoch_steps, settings.warmup.epochs + settings.epochs):
                run.epoch(epoch)
        run.weights.finish()
        if task.checkpoints.writes and run.weights.total:
            names = [target_name(plan.settings) for plan in task.plans] if len(task.plans) > 1 else [None]
            alphas = {gates_key(name): own.gates.alpha for name, own in zip(names, run.targets, strict=True)}
            purpose = trained_for(settings, data.inputs, data.digest)
            save_supernet(task.checkpoints.run_folder / CHECKPOINT, run.supernet, alphas, purpose)
        found = [choose(own.plan, data, run.supernet, own.gates) for own in run.targets]
        return run.supernet, found


strategy = Proxyless()


@dataclass
class _Figures:
    """The latest values, for the bar and the log."""

    gate_loss: float | None = None
    val_accuracy: float | None = None


class _Run:
    """The two kinds of steps and what they share."""

    def __init__(self, task: Task, supernet: Supernet) -> None:
        self.data, self.supernet, self.checkpoints, self.progress = (
            task.data,
            supernet,
            task.checkpoints,
            task.progress,
        )
        self.settings: SearchSettings = task.plan.settings  # what targets differ in is read from their own plans
        self.draws = torch.Generator().manual_seed(self.settings.seed)
        self.targets = [
            Target(plan, log, self.draws, task.start.damage if task.start else None)
            for plan, log in zip(task.plans, task.logs, strict=True)
        ]
        self.weights = WeightTraining(task.plan, task.data, supernet, task.start.lessons if task.start else None)
        self.figures = _Figures()
        self.gate_steps = 0
        self.validation_batches = self._validation_batches()

    @property
    def turn(self) -> Target:
        """The target whose gates draw the next path."""
        return self.targets[self.weights.step % len(self.targets)]

    def state(self) -> Checkpoint:
        """Between two steps, everything that the next ones depend on."""
        weights, targets = self.weights.state(), [target.state() for target in self.targets]
        tensors = {**under("weights", weights.tensors), "draws": self.draws.get_state()}
        for number, target in enumerate(targets):
            tensors |= under(f"target{number}", target.tensors)
        return Checkpoint(
            tensors=tensors,
            facts={
                "weights": weights.facts,
                "targets": [target.facts for target in targets],
                "gate_steps": self.gate_steps,
                "figures": asdict(self.figures),
            },
        )

    def restore(self, saved: Checkpoint) -> None:
        self.weights.restore(Checkpoint(part(saved.tensors, "weights"), saved.facts["weights"]))
        for number, (target, facts) in enumerate(zip(self.targets, saved.facts["targets"], strict=True)):
            target.restore(Checkpoint(part(saved.tensors, f"target{number}"), facts))
        self.draws.set_state(saved.tensors["draws"])
        self.gate_steps = saved.facts["gate_steps"]
        self.figures = _Figures(**saved.facts["figures"])

    def epoch(self, epoch: int) -> None:
        """From where the run is in it to its end."""
        phase = "warmup" if epoch < self.settings.warmup.epochs else "search"
        for images, labels in self.weights.batches(epoch):
            self.weights.train_path(images, labels, self.turn.gates.sample_path(self.draws), epoch)
            if phase == "search" and self.weights.step % self.settings.gates.every == 0:
                self._gate_step(*next(self.validation_batches), epoch)
            self._report(phase, epoch)
            if self.weights.step % self.weights.epoch_steps == 0:
                self._end_of_epoch(phase, epoch)
            self.checkpoints.keep(PHASE, self.weights.step, self.state)

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
        turn = self.targets[self.gate_steps % len(self.targets)]
        sample = turn.gates.sample(self.settings.gates.mode, self.draws)
        with (
            frozen(self.supernet.path_parameters(sample.path)),
            computing_in(self.settings.train.precision, images.device),
        ):
            logits = self.supernet(images, sample.path, sample)
            loss = taught_loss(logits, labels, None, 0, 0, self.weights.class_weights)
        (gate_gradient,) = torch.autograd.grad(loss, sample.values)
        loss, gate_gradient = average([loss.cpu(), gate_gradient])
        where = f"architecture step {self.weights.step} (epoch {epoch + 1})"
        self.figures.gate_loss, _ = checked(where, loss=loss, gradient=gate_gradient.abs().sum())
        for target in self.targets:
            target.step(loss, gate_gradient, sample)
        self.gate_steps += 1

    def _report(self, phase: str, epoch: int) -> None:
        self.progress.advance(
            phase,
            loss=self.weights.loss,
            accuracy=self.figures.val_accuracy,
            expected_ms=self.turn.expected_ms,
            budget_ms=self.turn.budget_ms,
            part=f"epoch {epoch + 1}",
        )
        if self.weights.step % LOG_EVERY == 0:
            for target in self.targets:
                target.log.add(target.row(self.weights.step, phase, epoch + 1, **self._losses()))

    def _losses(self) -> dict[str, float | None]:
        return {"train_loss": self.weights.loss, "gate_loss": self.figures.gate_loss}

    def _end_of_epoch(self, phase: str, epoch: int) -> None:
        """Measure the most probable path of one target, in turn, on all validation images."""
        measured = self.targets[epoch % len(self.targets)]
        with torch.no_grad():
            path = GatePath(tuple(measured.gates.probabilities().argmax(1).tolist()))
        batches = self.data.batches(self.data.validation, self.settings.data.resolution, 128)
        self.figures.val_accuracy = accuracy(lambda images: self.supernet(images, path), batches)
        for target in self.targets:
            val_accuracy = self.figures.val_accuracy if target is measured else None
            row = target.row(self.weights.step, phase, epoch + 1, **self._losses(), val_accuracy=val_accuracy)
            target.log.add(row)
            with torch.no_grad():
                target.log.add_gates(self.weights.step, target.plan.space, target.gates.probabilities())
            target.log.save_meanwhile()
