"""The latencies of every candidate of a space, so that a network's time is a sum of table entries.

Exact, not an approximation: kernels never merge across blocks. Not for choosing among networks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latency_models.model import LatencyModel
from search_space.lower import lower_space
from search_space.space import GatePath, SearchSpace


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """ms at batch 1. Arrays: (slots, most candidates) float64, NaN where a slot has no such candidate.

    fixed_ms: what every network pays (stem, transitions, head). `high` is the upper end of the interval; it adds up
    like ms.
    """

    space: SearchSpace
    fixed_ms: float
    fixed_high_ms: float
    slot_ms: NDArray[np.float64]
    slot_high_ms: NDArray[np.float64]

    def path_ms(self, path: GatePath) -> float:
        """Equals `predict(lower(space.architecture(path)))`. Raises `UserError` for a path of another space."""
        self.space.check_path(path)
        return self.fixed_ms + float(self.slot_ms[np.arange(len(self.slot_ms)), list(path.choices)].sum())

    def paths_ms(self, choices: NDArray[np.integer]) -> NDArray[np.float64]:
        """Many paths at once. choices: (N, slots) integers -> (N,) ms; NaN for a candidate that does not exist."""
        per_slot = self.slot_ms[np.arange(len(self.slot_ms)), choices]
        total: NDArray[np.float64] = self.fixed_ms + per_slot.sum(axis=1)
        return total

    def upper_end(self) -> LatencyTable:
        """The same table with every time at the upper end of its interval, for keeping a budget with confidence."""
        return replace(self, fixed_ms=self.fixed_high_ms, slot_ms=self.slot_high_ms)

    @property
    def minimum_ms(self) -> float:
        """Of the fastest network."""
        return self.fixed_ms + float(np.nanmin(self.slot_ms, axis=1).sum())

    @property
    def maximum_ms(self) -> float:
        """Of the slowest network."""
        return self.fixed_ms + float(np.nanmax(self.slot_ms, axis=1).sum())


def latency_table(model: LatencyModel, space: SearchSpace, resolution: int, num_classes: int) -> LatencyTable:
    """Price every candidate of every slot of a space for (3, resolution, resolution) images.

    Raises `UserError` where the space does not fit the resolution or a kernel has no model.
    """
    width = max(len(slot.candidates) for slot in space.slots)
    slot_ms, slot_high_ms = np.full((2, len(space.slots), width), np.nan)
    fixed = model.runtime_price
    for segment in lower_space(space, resolution, num_classes):
        if segment.slot is None:
            fixed += model.block_price(segment.nodes)
            continue
        for candidate, nodes in enumerate(segment.candidates):
            price = model.block_price(nodes)
            slot_ms[segment.slot, candidate], slot_high_ms[segment.slot, candidate] = price.ms, price.high_ms
    return LatencyTable(space, fixed.ms, fixed.high_ms, slot_ms, slot_high_ms)
