"""What a search strategy is: the role, what it gets and returns, and the final choice that strategies share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch

from nas.choose.derive import derive
from nas.data import DataSet
from nas.run.checkpoint import Checkpoints
from nas.run.log import SearchLog
from nas.run.plan import Plan
from nas.run.progress import SearchProgress
from nas.strategies.start import Start
from nas.supernet.gates import Gates
from nas.supernet.network import Supernet
from nas.training.loop import accuracy
from search_space import GatePath


@dataclass(frozen=True)
class Found:
    """A strategy's answer for one target.

    path: the chosen one; validation_accuracy: its share of right answers with inherited weights, None without images.
    """

    path: GatePath
    validation_accuracy: float | None


@dataclass(frozen=True)
class Task:
    """What a strategy works on: targets that share images and all settings but device and budget.

    logs: one a target, in the order of the plans. checkpoints: the run's; a strategy saves its state there under a
    phase of its own and resumes from it. start: what weights start from and learn from; None: at random, from labels.
    """

    plans: Sequence[Plan]
    data: DataSet
    logs: Sequence[SearchLog]
    checkpoints: Checkpoints
    progress: SearchProgress
    start: Start | None = None

    @property
    def plan(self) -> Plan:
        """The first; its settings but for device and budget are those of all."""
        return self.plans[0]


class Strategy(Protocol):
    """Searches; never sees the test split's images."""

    def check(self, plans: Sequence[Plan]) -> None:
        """Raise `UserError` for what this strategy cannot do, such as several targets at once."""

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        """Steps that `search` will report to the progress bar."""

    def search(self, task: Task) -> tuple[Supernet, list[Found]]:
        """The supernet and what was found in it for every plan, in their order.

        Leaves `checkpoint.safetensors` in the run's folder where it trained anything. Raises `NotFinite`.
        """


def choose(plan: Plan, data: DataSet, supernet: Supernet, gates: Gates) -> Found:
    """The best of the few most probable feasible paths by accuracy on validation images.

    Without images the most probable one.
    """
    settings = plan.settings
    with torch.no_grad():
        log_probabilities = gates.log_probabilities().double().numpy()
    candidates = derive(
        plan.space,
        plan.table,
        log_probabilities,
        settings.budget_ms,
        settings.use_at_least,
        settings.rerank if data.at_hand else 1,
        plan.limits,
    )
    if not data.at_hand:
        return Found(candidates[0].path, None)
    scored = []
    for rank, candidate in enumerate(candidates):
        batches = data.batches(data.validation, settings.data.resolution, 128)
        if settings.trial_images is not None:
            batches = islice(batches, -(-settings.trial_images // 128))
        score = accuracy(lambda x, path=candidate.path: supernet(x, path), batches)  # type: ignore[misc]
        scored.append((score, -rank, candidate.path))
    validation, _, path = max(scored)
    return Found(path, validation)
