"""What a penalty is: the force by which one target's budget acts on its gates. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from latency_models import LatencyTable
    from nas.run.settings import PenaltySettings
    from nas.supernet.gates import Gates


class Penalty(Protocol):
    """One form, made for one target's latency table and budget."""

    def loss(self, loss: Tensor, latency_ms: Tensor) -> Tensor:
        """The loss of an architecture step: scalars, both differentiable by the gates' probabilities."""

    def constrain(self, gates: Gates) -> None:
        """Called once before the first architecture step and after each: move the gates where they must be."""

    def observe(self, latency_ms: float) -> None:
        """Called after every architecture step with the expected latency over all candidates."""

    @property
    def strength(self) -> float | None:
        """For the log: the factor on the relative excess that the form found by itself; None if it finds none."""

    def state(self) -> dict[str, Any]:
        """What the next steps depend on, as JSON holds it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""


PenaltyForm = Callable[["PenaltySettings", "LatencyTable", float], Penalty]
"""(settings, table, budget in ms) -> Penalty. Raises `UserError` for a budget that the form cannot work with; called
before torch is imported, so a form's module imports no torch."""
