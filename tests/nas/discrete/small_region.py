"""A region of 96 networks in a table and an accuracy over it, for the tests of searchers."""

from __future__ import annotations

import numpy as np

from nas.discrete import Choices
from nas.discrete.tabular import TabularRegion

WIDTHS = (4, 3, 4, 2)
SIZE = int(np.prod(WIDTHS))


def region(seed: int = 0, budget_ms: float = 1.0) -> TabularRegion:
    """Two thirds of the networks are within."""
    latency_ms = np.random.default_rng(seed).random(SIZE) * 1.5
    return TabularRegion(WIDTHS, latency_ms, 1 + latency_ms, budget_ms)


def additive_accuracy(choices: Choices) -> float:
    """Best at (3, 2, 3, 1)."""
    return float(sum(c / (w - 1) for c, w in zip(choices, WIDTHS, strict=True)) / len(WIDTHS))
