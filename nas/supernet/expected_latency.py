"""The expected latency of gates, and the nearest gates whose expected latency keeps a budget.

Minimising KL(q || p) subject to E_q[lat] <= T over independent slots gives q ~ p * exp(-t * ms) with one t >= 0 for
all slots. E falls with t, so that t is the root of one equation. Not for the final choice: see `nas.choose.derive`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latency_models import LatencyTable

ROOM = 1e-6  # share of the budget left unused, so that rounding alpha to float32 does not cross it
FAR = 1e12  # a tilt (times the budget) that leaves the fastest candidates alone


def tilt_within(logits: NDArray[np.float64], slot_ms: NDArray[np.float64], fixed_ms: float, budget_ms: float) -> float:
    """The smallest t (per ms) that brings E[lat] under softmax(logits - t * ms) within the budget; 0 if it is there.

    logits: (slots, candidates), -inf for padding; slot_ms: the same shape, finite. Where even the fastest
    network exceeds the budget, a t that leaves it alone. Any other cost than latency will do, in a unit of its own.
    """
    fastest_ms = fixed_ms + float(np.where(np.isfinite(logits), slot_ms, np.inf).min(1).sum())
    goal_ms = budget_ms - min(ROOM * budget_ms, 0.5 * max(0.0, budget_ms - fastest_ms))
    ms, goal = slot_ms / budget_ms, (goal_ms - fixed_ms) / budget_ms
    t, low, high = 0.0, 0.0, np.inf
    while t < FAR:
        p = logits - t * ms
        p = np.exp(p - p.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        means = (p * ms).sum(1)
        excess = float(means.sum()) - goal
        if (t == 0.0 and excess <= 0) or -ROOM < excess <= 0 or high - low < 1e-12 * high:
            break
        low, high = (t, high) if excess > 0 else (low, t)
        variance = float((p * ms**2).sum() - (means**2).sum())  # -dE/dt
        t += excess / variance if variance > 0 else np.inf
        if not low < t < high:  # Newton's step leaves what is known to hold the root
            t = (low + high) / 2 if high < np.inf else 8 * low + 1
    return min(max(t, low), high) / budget_ms


class ExpectedSum:
    """E = fixed + sum over slots and candidates of p * value, of latency (arXiv 1812.00332, eq. 5) or another cost."""

    def __init__(self, fixed: float, values: NDArray[np.float64], device: torch.device | None = None) -> None:
        """fixed: what every network pays; values: (slots, candidates), NaN for padding, in the same unit."""
        self.values = torch.from_numpy(np.nan_to_num(values)).to(device=device, dtype=torch.float32)
        self.fixed = fixed

    def __call__(self, probabilities: Tensor) -> Tensor:
        """probabilities: (slots, candidates) -> scalar in the values' unit, differentiable."""
        return self.fixed + (probabilities * self.values).sum()


class ExpectedLatency(ExpectedSum):
    """In ms, by a latency table."""

    def __init__(self, table: LatencyTable, device: torch.device | None = None) -> None:
        super().__init__(table.fixed_ms, table.slot_ms, device)
