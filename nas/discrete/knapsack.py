"""The networks of a space whose table latency keeps a budget, counted by a knapsack and so drawn uniformly.

Latency is additive over slots. Rounded down to buckets, the ways to finish a network are counted from the last slot
to the first; a walk that follows those counts draws uniformly from a set that holds the region, and draws outside
of it by exact latency are rejected. Zeros stand at the end of their stage, so that a path is a network.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latency_models import LatencyTable
from nas.derive import LOWER_FLOORS
from search_space import SearchSpace, UserError, lower_space
from search_space.space import ZERO

BUCKETS = 10_000  # between the fastest network and the budget; changes speed, not results
ATTEMPTS = 10_000  # draws that may all be rejected before a region counts as empty


class Knapsack:
    """floor_ms <= latency <= budget_ms. Build it with `within_budget`, which knows that a network is there."""

    def __init__(
        self, space: SearchSpace, table: LatencyTable, budget_ms: float, floor_ms: float, resolution: int
    ) -> None:
        self.space, self.table = space, table
        self.budget_ms, self.floor_ms = budget_ms, floor_ms
        self.widths = tuple(len(slot.candidates) for slot in space.slots)
        self.zeros = tuple(slot.candidates.index(ZERO) if ZERO in slot.candidates else -1 for slot in space.slots)
        self.stages = np.array([slot.stage for slot in space.slots])
        least_ms = np.nanmin(table.slot_ms, axis=1, keepdims=True)
        spare_ms = min(budget_ms, table.maximum_ms) - table.minimum_ms
        width = max(spare_ms, 1e-12) / BUCKETS
        above = np.nan_to_num(table.slot_ms - least_ms) / width
        self.buckets = np.minimum(above + 1e-9, BUCKETS + 1).astype(np.int64)
        self.fixed_macs, self.slot_macs = _macs(space, resolution)
        self.ways = self._count((floor_ms - table.minimum_ms) / width - len(self.widths) - 1)

    def _count(self, first: float) -> list[NDArray[np.float64]]:
        """ways[s][ended, b]: networks from slot s on, with b buckets spent before it, that end between `first` and
        the budget; `ended`: whether this stage has had its Zero. Floats: exact to 16 digits."""
        last = np.zeros((2, BUCKETS + 1))
        last[:, max(0, int(np.ceil(first))) :] = 1.0
        ways = [last]
        for slot in reversed(range(len(self.widths))):
            after, here = ways[0], np.zeros_like(last)
            for choice in range(self.widths[slot]):
                shift = int(self.buckets[slot, choice])
                if shift <= BUCKETS:
                    following = after[int(choice == self.zeros[slot]), shift:]
                    here[self._entered(slot, choice), : BUCKETS + 1 - shift] += following
            ways.insert(0, here)
        return ways

    def _entered(self, slot: int, choice: int) -> list[int]:
        """From where a choice can be made: after a Zero a stage has Zeros only, the next stage starts afresh."""
        opens_stage = slot == 0 or self.stages[slot] != self.stages[slot - 1]
        return [0, 1] if opens_stage or choice == self.zeros[slot] else [0]

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """Raises `UserError` when every one of `ATTEMPTS` draws missed the region."""
        kept = np.empty((0, len(self.widths)), np.int64)
        attempts = 0
        while len(kept) < count and (len(kept) or attempts < ATTEMPTS) and self.ways[0][0, 0]:
            drawn = self._walk(rng, max(count, 100))
            attempts += len(drawn)
            kept = np.concatenate([kept, drawn[self.excess(drawn) <= 0]])
        if len(kept) < count:
            raise UserError(
                f"no network of '{self.space.name}' found between {self.floor_ms:.6g} and {self.budget_ms:.6g} ms"
            )
        return kept[:count]

    def _walk(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(count, S), following the counts; some outside the limits by less than the rounding."""
        spent, ended = np.zeros(count, np.int64), np.zeros(count, np.int64)
        columns = []
        for slot, width in enumerate(self.widths):
            weights = np.zeros((count, width))
            for choice in range(width):
                total = spent + self.buckets[slot, choice]
                open_to = np.isin(ended, self._entered(slot, choice)) & (total <= BUCKETS)
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
        latency_ms = self.table.paths_ms(networks)
        return np.maximum(latency_ms - self.budget_ms, self.floor_ms - latency_ms) / self.budget_ms

    def effort(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """MACs."""
        per_slot = self.slot_macs[np.arange(len(self.widths)), networks]
        return self.fixed_macs + per_slot.sum(axis=1)


def _macs(space: SearchSpace, resolution: int) -> tuple[int, NDArray[np.float64]]:
    """What every network has, and (slots, most candidates)."""
    segments = lower_space(space, resolution, num_classes=2)  # the classifier is the same for all
    slot_macs = np.zeros((len(space.slots), max(len(slot.candidates) for slot in space.slots)))
    for segment in segments:
        if segment.slot is not None:
            row = [sum(node.spec.macs for node in nodes) for nodes in segment.candidates]
            slot_macs[segment.slot, : len(row)] = row
    fixed = sum(node.spec.macs for segment in segments if segment.slot is None for node in segment.nodes)
    return fixed, slot_macs


def within_budget(
    space: SearchSpace,
    table: LatencyTable,
    budget_ms: float,
    use_at_least: float,
    resolution: int,
    rng: np.random.Generator,
) -> Knapsack:
    """The region between `use_at_least` of a binding budget and the budget; the floor lowered where nothing is there.

    Raises `UserError` if no network of the space is fast enough.
    """
    shares = [use_at_least, *(share for share in LOWER_FLOORS if share < use_at_least)]
    if budget_ms >= table.maximum_ms:
        shares = []
    for share in shares:
        region = Knapsack(space, table, budget_ms, share * budget_ms, resolution)
        try:
            region.sample(rng, 1)
        except UserError:
            continue
        return region
    region = Knapsack(space, table, budget_ms, 0.0, resolution)
    region.sample(rng, 1)
    return region
