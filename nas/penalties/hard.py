"""No term in the loss: after every step the gates are moved to the nearest ones whose E[lat] keeps the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latency_models import LatencyTable
from nas.run.settings import PenaltySettings

if TYPE_CHECKING:
    from torch import Tensor

    from nas.supernet.gates import Gates


@dataclass(frozen=True)
class Hard:
    """A projection, by `Gates.keep_within`."""

    table: LatencyTable
    budget_ms: float
    strength: None = None

    def loss(self, loss: Tensor, latency_ms: Tensor) -> Tensor:
        """The task's loss as it is."""
        return loss

    def constrain(self, gates: Gates) -> None:
        """Tilt the gates until their expected latency is at most the budget."""
        gates.keep_within(self.table, self.budget_ms)

    def observe(self, latency_ms: float) -> None:
        """Nothing: the gates are within the budget."""

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


def hard(settings: PenaltySettings, table: LatencyTable, budget_ms: float) -> Hard:
    """`penalty.form=hard`."""
    return Hard(table, budget_ms)
