"""The networks of a space whose table latency keeps a budget, counted by a knapsack and so drawn uniformly.

Latency is additive over slots. Rounded down to buckets, the ways to finish a network are counted from the last slot
to the first; a walk that follows those counts draws uniformly from a set that holds the region, and draws outside
of it, by exact latency or by a limit on cost, are rejected. Zeros stand at the end of their stage, so that a path is
a network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latency_models import LatencyTable
from nas.choose.derive import derive
from nas.choose.limits import Limits
from search_space import SearchSpace, UserError
from search_space.space import ZERO

BUCKETS = 10_000  # between the fastest network and the budget; changes speed, not results
ATTEMPTS = 10_000  # draws that may all be rejected before a region counts as empty


class Budgeted:
    """The region floor_ms <= latency <= budget_ms within the hard limits.

    Make it by `within_budget`, which makes sure that it holds a network.
    """

    def __init__(self, table: LatencyTable, limits: Limits, budget_ms: float, floor_ms: float) -> None:
        self.table, self.limits = table, limits
        self.budget_ms, self.floor_ms = budget_ms, floor_ms
        space = table.space
        self.widths = tuple(len(slot.candidates) for slot in space.slots)
        self.zeros = tuple(slot.candidates.index(ZERO) if ZERO in slot.candidates else -1 for slot in space.slots)
        self.stages = np.array([slot.stage for slot in space.slots])
        least_ms = np.nanmin(table.slot_ms, axis=1, keepdims=True)
        spare_ms = min(budget_ms, table.maximum_ms) - table.minimum_ms
        width = max(spare_ms, 1e-12) / BUCKETS
        above = np.nan_to_num(table.slot_ms - least_ms) / width
        self.buckets = np.minimum(above + 1e-9, BUCKETS + 1).astype(np.int64)
        self.ways = self._count((floor_ms - table.minimum_ms) / width - len(self.widths) - 1)

    def _count(self, first: float) -> list[NDArray[np.float64]]:
        """How many ways there are to finish a network, by slot, from the last one back.

        ways[s][ended, b]: networks from slot s on, with b buckets spent before it, that end between `first` and
        the budget; `ended`: whether this stage has had its Zero. Floats: exact to 16 digits.
        """
        last = np.zeros((2, BUCKETS + 1))
        last[:, max(0, int(np.ceil(first))) :] = 1.0
        ways, allowed = [last], self.limits.allowed
        for slot in reversed(range(len(self.widths))):
            after, here = ways[0], np.zeros_like(last)
            for choice in range(self.widths[slot]):
                shift = int(self.buckets[slot, choice])
                if shift <= BUCKETS and allowed[slot, choice]:
                    following = after[int(choice == self.zeros[slot]), shift:]
                    here[self._entered(slot, choice), : BUCKETS + 1 - shift] += following
            ways.insert(0, here)
        return ways

    def _entered(self, slot: int, choice: int) -> list[int]:
        """From where a choice can be made: after a Zero a stage has Zeros only, the next stage starts afresh."""
        opens_stage = slot == 0 or self.stages[slot] != self.stages[slot - 1]
        return [0, 1] if opens_stage or choice == self.zeros[slot] else [0]

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(count, S), uniform over the region's networks by rejection from the counted walk.

        Raises `UserError` when every one of `ATTEMPTS` draws missed the region.
        """
        kept = np.empty((0, len(self.widths)), np.int64)
        attempts = 0
        while len(kept) < count and (len(kept) or attempts < ATTEMPTS) and self.ways[0][0, 0]:
            drawn = self._walk(rng, max(count, 100))
            attempts += len(drawn)
            kept = np.concatenate([kept, drawn[self.excess(drawn) <= 0]])
        if len(kept) < count:
            raise UserError(
                f"no network of '{self.table.space.name}' found between {self.floor_ms:.6g} and {self.budget_ms:.6g} ms"
            )
        return kept[:count]

    def _walk(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(count, S), following the counts; some outside the limits by less than the rounding."""
        spent, ended = np.zeros(count, np.int64), np.zeros(count, np.int64)
        columns, allowed = [], self.limits.allowed
        for slot, width in enumerate(self.widths):
            weights = np.zeros((count, width))
            for choice in range(width):
                total = spent + self.buckets[slot, choice]
                open_to = np.isin(ended, self._entered(slot, choice)) & (total <= BUCKETS) & allowed[slot, choice]
                ways = self.ways[slot + 1][int(choice == self.zeros[slot])]
                weights[open_to, choice] = ways[total[open_to]]
            edges = weights.cumsum(1)
            chosen = (edges <= rng.random((count, 1)) * edges[:, -1:]).sum(1)
            columns.append(chosen)
            spent += self.buckets[slot, chosen]
            ended = (chosen == self.zeros[slot]).astype(np.int64)
        return np.stack(columns, axis=1)

    def canonical(self, networks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Zeros moved to the end of their stage, the other blocks in their order."""
        left_out = (networks == np.array(self.zeros)).astype(np.int64)
        order = np.argsort(2 * self.stages + left_out, axis=1, kind="stable")
        return np.take_along_axis(networks, order, axis=1)

    def excess(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, S) -> (N,), the largest over budget, floor and hard limits, each as a share of its own bound."""
        latency_ms = self.table.paths_ms(networks)
        excess = np.maximum(latency_ms - self.budget_ms, self.floor_ms - latency_ms) / self.budget_ms
        for name, most in self.limits.most.items():
            excess = np.maximum(excess, self.limits.total(name, networks) / most - 1)
        return excess

    def effort(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, S) -> (N,), MACs."""
        return self.limits.total("macs", networks)


def within_budget(space: SearchSpace, table: LatencyTable, limits: Limits, budget_ms: float, floor: float) -> Budgeted:
    """The networks between `floor` of a binding budget and the budget; without a floor where none is there.

    Raises `UserError` if no network of the space is fast enough and within the limits.
    """
    (best,) = derive(space, table, np.zeros_like(table.slot_ms), budget_ms, floor, 1, limits)
    floor_ms = floor * budget_ms if budget_ms < table.maximum_ms else 0.0
    return Budgeted(table, limits, budget_ms, floor_ms if best.latency_ms >= floor_ms else 0.0)
