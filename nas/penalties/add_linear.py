"""loss + strength * (E[lat] - T) / T, with a strength that the user gives (arXiv 1812.00332, eq. 6, made relative)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latency_models import LatencyTable
from nas.run.settings import PenaltySettings

if TYPE_CHECKING:
    from torch import Tensor

    from nas.supernet.gates import Gates


@dataclass(frozen=True)
class AddLinear:
    """`penalty.strength` is the factor on the relative excess over the budget."""

    factor: float
    budget_ms: float
    strength: None = None

    def loss(self, loss: Tensor, latency_ms: Tensor) -> Tensor:
        """Scalars -> scalar."""
        return loss + self.factor * (latency_ms - self.budget_ms) / self.budget_ms

    def constrain(self, gates: Gates) -> None:
        """Nothing: the gates may exceed the budget."""

    def observe(self, latency_ms: float) -> None:
        """Nothing: the strength is given."""

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


def add_linear(settings: PenaltySettings, table: LatencyTable, budget_ms: float) -> AddLinear:
    """`penalty.form=add_linear`."""
    return AddLinear(settings.strength, budget_ms)
