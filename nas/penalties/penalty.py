"""Latency in the loss of an architecture step: expected latency, the paper's two forms, a multiplier.

Everything is a differentiable function of the gate probabilities and the additive latency table.
Not for the final choice: `nas.choose.derive` keeps the budget whatever these did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from latency_models import LatencyTable
from search_space import UserError


class ExpectedLatency:
    """E[lat] = fixed + sum over slots and candidates of p * ms (arXiv 1812.00332, eq. 5)."""

    def __init__(self, table: LatencyTable, device: torch.device | None = None) -> None:
        slot_ms = torch.from_numpy(table.slot_ms.copy()).nan_to_num(0.0)
        self.slot_ms = slot_ms.to(device=device, dtype=torch.float32)
        self.fixed_ms = table.fixed_ms

    def __call__(self, probabilities: Tensor) -> Tensor:
        """probabilities: (slots, candidates) -> scalar ms, differentiable."""
        return self.fixed_ms + (probabilities * self.slot_ms).sum()


def add_linear(loss: Tensor, latency_ms: Tensor, budget_ms: float, strength: float = 0.1) -> Tensor:
    """loss + strength * (E[lat] - T) / T."""
    return loss + strength * (latency_ms - budget_ms) / budget_ms


def mul_log(loss: Tensor, latency_ms: Tensor, budget_ms: float, alpha: float = 0.2, beta: float = 0.3) -> Tensor:
    """alpha * loss * (ln E[lat] / ln T) ** beta, ProxylessNAS' default.

    Raises `UserError` at 1 ms or below, where the logarithm changes sign and slower would look better.
    """
    if budget_ms <= 1 or float(latency_ms.detach()) <= 1:
        raise UserError(
            f"penalty.form=mul_log only works above 1 ms (budget {budget_ms:g} ms, expected "
            f"{float(latency_ms.detach()):.3g} ms); use penalty.form=multiplier"
        )
    return alpha * loss * (torch.log(latency_ms) / math.log(budget_ms)) ** beta


@dataclass
class Multiplier:
    """loss + strength * (E[lat] / T - 1) with a strength that finds itself.

    strength = max(0, accumulated + proportional * error) with error = E[lat] / T - 1, which is the gradient of the
    augmented Lagrangian max(0, accumulated + proportional * error)^2 / (2 * proportional); `accumulated` integrates
    the error at a rate of its own and is never negative, so that it cannot wind up. Relative errors and Adam on
    alpha make one pair of rates fit every device and budget.
    """

    integral: float = 3.0
    proportional: float = 50.0
    accumulated: float = 0.0
    strength: float = 0.0

    def loss(self, loss: Tensor, latency_ms: Tensor, budget_ms: float) -> Tensor:
        return loss + self.strength * (latency_ms / budget_ms - 1)

    def update(self, latency_ms: float, budget_ms: float) -> None:
        """Call once after every architecture step with the expected latency over all candidates."""
        error = latency_ms / budget_ms - 1
        self.accumulated = max(0.0, self.accumulated + self.integral * error)
        self.strength = max(0.0, self.accumulated + self.proportional * error)
