"""loss + strength * (E[lat] / T - 1) with a strength that finds itself: an augmented Lagrangian."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from latency_models import LatencyTable
from nas.run.settings import PenaltySettings

if TYPE_CHECKING:
    from torch import Tensor

    from nas.supernet.gates import Gates


@dataclass
class Multiplier:
    """A multiplier on the relative excess over the budget.

    strength = max(0, accumulated + proportional * error) with error = E[lat] / T - 1, which is the gradient of the
    augmented Lagrangian max(0, accumulated + proportional * error)^2 / (2 * proportional); `accumulated` integrates
    the error at a rate of its own and is never negative, so that it cannot wind up. Relative errors and Adam on
    alpha make one pair of rates fit every device and budget.
    """

    budget_ms: float
    integral: float = 3.0
    proportional: float = 50.0
    accumulated: float = 0.0
    strength: float = 0.0

    def loss(self, loss: Tensor, latency_ms: Tensor) -> Tensor:
        """Scalars -> scalar."""
        return loss + self.strength * (latency_ms / self.budget_ms - 1)

    def constrain(self, gates: Gates) -> None:
        """Nothing: the gates may exceed the budget for a while."""

    def observe(self, latency_ms: float) -> None:
        """Follow the error of the gates as they are now."""
        error = latency_ms / self.budget_ms - 1
        self.accumulated = max(0.0, self.accumulated + self.integral * error)
        self.strength = max(0.0, self.accumulated + self.proportional * error)

    def state(self) -> dict[str, Any]:
        """Its numbers."""
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Put its numbers back."""
        self.__dict__.update(state)


def multiplier(settings: PenaltySettings, table: LatencyTable, budget_ms: float) -> Multiplier:
    """`penalty.form=multiplier`."""
    return Multiplier(budget_ms)
