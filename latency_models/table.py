"""The latencies of every candidate of a space, so that a network's time is a sum of table entries.

Exact, not an approximation: kernels never merge across blocks. Not for choosing among networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from latency_models.model import RUNTIME, LatencyModel, Prediction
from search_space.architecture import GatePath
from search_space.lower import lower_space
from search_space.space import SearchSpace


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """ms at batch 1. Arrays: (slots, most candidates) float64, NaN where a slot has no such candidate.

    fixed_ms: what every network pays (stem, transitions, head), by segment in `fixed_by_segment`.
    `low` and `high` are the ends of the interval with the given coverage; they add up like ms.
    """

    space: SearchSpace
    coverage: float
    fixed_ms: float
    fixed_low_ms: float
    fixed_high_ms: float
    fixed_by_segment: Mapping[str, float]
    slot_ms: NDArray[np.float64]
    slot_low_ms: NDArray[np.float64]
    slot_high_ms: NDArray[np.float64]

    def path_ms(self, path: GatePath) -> float:
        """Equals `predict(lower(space.architecture(path)))`. Raises `UserError` for a path of another space."""
        self.space.check_path(path)
        return self.fixed_ms + _chosen(self.slot_ms, path)

    def path_prediction(self, path: GatePath) -> Prediction:
        """The interval as well."""
        self.space.check_path(path)
        return Prediction(
            self.fixed_ms + _chosen(self.slot_ms, path),
            self.fixed_low_ms + _chosen(self.slot_low_ms, path),
            self.fixed_high_ms + _chosen(self.slot_high_ms, path),
            self.coverage,
        )

    def paths_ms(self, choices: NDArray[np.integer]) -> NDArray[np.float64]:
        """Many paths at once. choices: (N, slots) integers -> (N,) ms; NaN for a candidate that does not exist."""
        per_slot = self.slot_ms[np.arange(len(self.slot_ms)), choices]
        total: NDArray[np.float64] = self.fixed_ms + per_slot.sum(axis=1)
        return total

    def upper_end(self) -> LatencyTable:
        """The same table with every time at the upper end of its interval, for keeping a budget with confidence."""
        return replace(
            self, fixed_ms=self.fixed_high_ms, fixed_by_segment=self._fixed_high(), slot_ms=self.slot_high_ms
        )

    def _fixed_high(self) -> dict[str, float]:
        factor = self.fixed_high_ms / self.fixed_ms
        return {name: ms * factor for name, ms in self.fixed_by_segment.items()}

    @property
    def minimum_ms(self) -> float:
        """Of the fastest network."""
        return self.fixed_ms + float(np.nanmin(self.slot_ms, axis=1).sum())

    @property
    def maximum_ms(self) -> float:
        """Of the slowest network."""
        return self.fixed_ms + float(np.nanmax(self.slot_ms, axis=1).sum())


def _chosen(slot_ms: NDArray[np.float64], path: GatePath) -> float:
    return float(slot_ms[np.arange(len(slot_ms)), list(path.choices)].sum())


def latency_table(model: LatencyModel, space: SearchSpace, resolution: int, num_classes: int) -> LatencyTable:
    """Price every candidate of every slot of a space for (3, resolution, resolution) images.

    Raises `UserError` where the space does not fit the resolution or a kernel has no model.
    """
    width = max(len(slot.candidates) for slot in space.slots)
    table = np.full((3, len(space.slots), width), np.nan)
    fixed = model.runtime_price
    fixed_by_segment = {RUNTIME: fixed.ms} if fixed.ms else {}
    for segment in lower_space(space, resolution, num_classes):
        if segment.slot is None:
            price = model.block_price(segment.nodes)
            fixed += price
            fixed_by_segment[segment.name] = price.ms
            continue
        for candidate, nodes in enumerate(segment.candidates):
            price = model.block_price(nodes)
            table[:, segment.slot, candidate] = price.ms, price.low_ms, price.high_ms
    return LatencyTable(
        space=space,
        coverage=model.coverage,
        fixed_ms=fixed.ms,
        fixed_low_ms=fixed.low_ms,
        fixed_high_ms=fixed.high_ms,
        fixed_by_segment=fixed_by_segment,
        slot_ms=table[0],
        slot_low_ms=table[1],
        slot_high_ms=table[2],
    )
