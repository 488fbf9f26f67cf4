"""alpha * loss * (ln E[lat] / ln T) ** beta, ProxylessNAS' default for mobile latencies (its released code)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latency_models import LatencyTable
from nas.run.settings import PenaltySettings
from search_space import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from nas.supernet.gates import Gates


@dataclass(frozen=True)
class MulLog:
    """`penalty.alpha` and `penalty.beta`; works above 1 ms, where the logarithm is positive."""

    alpha: float
    beta: float
    budget_ms: float
    strength: None = None

    def loss(self, loss: Tensor, latency_ms: Tensor) -> Tensor:
        """Scalars -> scalar. Raises `UserError` at 1 ms or below, where slower networks would look better."""
        if self.budget_ms <= 1 or float(latency_ms.detach()) <= 1:
            raise UserError(
                f"penalty.form=mul_log only works above 1 ms (budget {self.budget_ms:g} ms, expected "
                f"{float(latency_ms.detach()):.3g} ms); use penalty.form=multiplier"
            )
        return self.alpha * loss * (latency_ms.log() / math.log(self.budget_ms)) ** self.beta

    def constrain(self, gates: Gates) -> None:
        """Nothing: the gates may exceed the budget."""

    def observe(self, latency_ms: float) -> None:
        """Nothing: alpha and beta are given."""

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


def mul_log(settings: PenaltySettings, table: LatencyTable, budget_ms: float) -> MulLog:
    """`penalty.form=mul_log`. Raises `UserError` where the budget or the fastest network is at 1 ms or below."""
    if min(budget_ms, table.minimum_ms) <= 1:
        raise UserError(
            f"penalty.form=mul_log only works above 1 ms; '{table.space.name}' starts at {table.minimum_ms:.3g} ms "
            f"and the budget is {budget_ms:g} ms; use penalty.form=multiplier"
        )
    return MulLog(settings.alpha, settings.beta, budget_ms)
