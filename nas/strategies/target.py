"""One budget on one device within a search: gates of its own, and the force that keeps their expected latency.

Several targets share one supernet. What an architecture step on one path tells about the gates is the same for
all of them, so that every target learns from every step. Not for weights: see `nas.strategies.weights`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nas.penalties import penalty_form
from nas.penalties.multiplier import Multiplier
from nas.run.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, part, under
from nas.run.log import Row, SearchLog
from nas.run.plan import Plan
from nas.supernet.expected_latency import ExpectedLatency, ExpectedSum
from nas.supernet.gates import Gates, GateSample
from nas.supernet.origin import is_published, origin_of
from nas.supernet.saved import load_gates


class Target:
    """Gates that are led to a plan's budget by a penalty, and to its limits on sums by a multiplier each.

    expected_ms: the expected latency of the gates as they are.
    """

    def __init__(self, plan: Plan, log: SearchLog, draws: torch.Generator, damage: Tensor | None = None) -> None:
        """damage: (slots, candidates), what the gates start by, where it is known."""
        self.plan, self.log = plan, log
        settings = plan.settings
        self.budget_ms = settings.budget_ms
        self.gates = Gates(plan.space, draws)
        if settings.init is not None and not is_published(settings.init):
            origin = origin_of(settings.init)
            if origin.gates is not None:
                load_gates(origin.path, self.gates, origin.gates)
        self.expected = ExpectedLatency(plan.table)
        self.penalty = penalty_form(settings.penalty.form)(settings.penalty, plan.table, self.budget_ms)
        limits = plan.limits
        self.expected_costs = {name: ExpectedSum(limits.fixed[name], limits.slots[name]) for name in limits.summed}
        self.multipliers = {name: Multiplier(limits.most[name]) for name in limits.summed}
        self.optimizer = torch.optim.Adam(self.gates.parameters(), lr=settings.gates.lr, betas=(0.0, 0.999))
        follow = settings.warmup.epochs + settings.epochs > 0  # without steps, gates choose as they were left
        if follow:
            if settings.gates.start == "budget":
                if damage is not None:
                    self.gates.prefer_harmless(damage)
                for name in limits.summed:
                    self.gates.keep_sum_within(limits.fixed[name], limits.slots[name], limits.most[name])
                self.gates.keep_within(plan.table, self.budget_ms)
            self.penalty.constrain(self.gates)
        self.expected_ms = self._expected_ms()

    def state(self) -> Checkpoint:
        """Between two steps, everything that the next ones depend on."""
        tensors = {**under("gates", self.gates.state_dict()), **under("optimizer", optimizer_tensors(self.optimizer))}
        limits = {name: multiplier.state() for name, multiplier in self.multipliers.items()}
        return Checkpoint(tensors, {"penalty": self.penalty.state(), "limits": limits})

    def restore(self, saved: Checkpoint) -> None:
        """Put back what `state` gave."""
        self.gates.load_state_dict(part(saved.tensors, "gates"))
        load_optimizer(self.optimizer, part(saved.tensors, "optimizer"))
        self.penalty.restore(saved.facts["penalty"])
        for name, multiplier in self.multipliers.items():
            multiplier.restore(saved.facts["limits"][name])
        self.expected_ms = self._expected_ms()

    def step(self, loss: Tensor, gate_gradient: Tensor, sample: GateSample) -> None:
        """An optimizer step on alpha; the sample may be drawn from another target's gates.

        loss: scalar, the task's on the sampled path; gate_gradient: (slots, candidates), its gradient by the gates,
        0 where none was involved.
        """
        settings = self.plan.settings
        probabilities = self.gates.log_probabilities(sample.involved).exp()
        task = loss.detach() + (gate_gradient * (probabilities - probabilities.detach())).sum()
        self.optimizer.zero_grad()
        whole = self.penalty.loss(task, self.expected(probabilities))
        for name, multiplier in self.multipliers.items():
            whole = multiplier.loss(whole, self.expected_costs[name](probabilities))
        whole.backward()
        before = self.gates.alpha.detach().clone()
        self.optimizer.step()
        if settings.gates.mode == "two":
            self.gates.keep_unsampled(sample, before)
        self.penalty.constrain(self.gates)
        self.expected_ms = self._expected_ms()
        self.penalty.observe(self.expected_ms)
        for name, multiplier in self.multipliers.items():
            multiplier.observe(self._now(self.expected_costs[name]))

    def _expected_ms(self) -> float:
        return self._now(self.expected)

    def _now(self, expected: ExpectedSum) -> float:
        """By the gates as they are."""
        with torch.no_grad():
            return float(expected(self.gates.probabilities()))

    def row(self, step: int, phase: str, epoch: int, **figures: float | None) -> Row:
        """A row of the log; figures: those of `Row` that belong to the supernet."""
        return Row(
            step=step,
            phase=phase,
            epoch=epoch,
            expected_ms=self.expected_ms,
            budget_ms=self.budget_ms,
            multiplier=self.penalty.strength if phase == "search" else None,
            gate_entropy=self.gates.entropy(),
            **figures,
        )
