"""The exact final choice: the most probable network within the budget.

Latency is additive over slots, so choosing one candidate per slot is a multiple-choice knapsack:
maximise sum log p subject to floor <= latency <= budget. Best-first search (A*) whose bound is a
knapsack table on rounded-down latencies solves it exactly and lists the n best distinct
networks in order. Not for accuracy: re-ranking by validation images is the strategy's business.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_models import LatencyTable
from search_space import GatePath, SearchSpace, UserError

GRID = 20_000  # buckets of the bound's table between 0 and the budget; changes speed, not results
LOWER_FLOORS = (0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # tried in turn when no network is nearer to the budget
MAX_EXPANSIONS = 200_000  # a bound on time when very many networks are equally probable


@dataclass(frozen=True)
class Derived:
    """A choice for every slot: its latency and the sum of its log gate probabilities."""

    path: GatePath
    latency_ms: float
    log_probability: float


def derive(
    space: SearchSpace,
    table: LatencyTable,
    log_probabilities: NDArray[np.float64],
    budget_ms: float,
    use_at_least: float = 0.97,
    count: int = 1,
) -> list[Derived]:
    """The `count` most probable distinct architectures with use_at_least * T <= latency <= T, best first.

    log_probabilities: (slots, candidates), -inf or NaN for padding. Where no network lies between, the
    floor is lowered until one does; where T exceeds the space's maximum there is no floor. Latency
    never exceeds `budget_ms`.
    Raises `UserError` if no network of the space is fast enough.
    """
    if not budget_ms >= table.minimum_ms:
        raise UserError(
            f"no network of '{space.name}' takes {budget_ms:g} ms or less; the fastest takes {table.minimum_ms:.4g} ms"
        )
    binding = budget_ms < table.maximum_ms
    shares = [use_at_least, *(share for share in LOWER_FLOORS if share < use_at_least)]
    for floor_ms in [*(share * budget_ms for share in shares if binding), 0.0]:
        found = _best_first(space, table, log_probabilities, budget_ms, floor_ms, count)
        if found:
            return found
    fastest = GatePath(
        tuple(int(j) for j in np.nanargmin(table.slot_ms, axis=1))
    )  # only if every bound on time was hit
    score = float(log_probabilities[np.arange(len(space.slots)), list(fastest.choices)].sum())
    return [Derived(fastest, table.path_ms(fastest), score)]


def _best_first(
    space: SearchSpace,
    table: LatencyTable,
    log_probabilities: NDArray[np.float64],
    budget_ms: float,
    floor_ms: float,
    count: int,
) -> list[Derived]:
    # Fixed parts are paid first; what remains is [low, high] for the slots.
    high = min(budget_ms, table.maximum_ms) - table.fixed_ms
    low = floor_ms - table.fixed_ms
    scores = np.where(np.isfinite(log_probabilities), log_probabilities, -1e9)
    options = [
        [(j, float(table.slot_ms[s, j]), float(scores[s, j])) for j in range(len(slot.candidates))]
        for s, slot in enumerate(space.slots)
    ]
    width = max(high, 1e-12) / GRID
    bound = _bounds(options, width)

    def best_rest(slot: int, spent: float) -> float:
        """Upper bound of the score that slots from `slot` on can add within what is left."""
        if spent > high * (1 + 1e-12):
            return -np.inf
        last = int((high - spent) / width) + 1
        first = max(0, int((low - spent) / width) - (len(options) - slot))
        return float(bound[slot][first : last + 1].max(initial=-np.inf))

    # Ties go to the deeper node, then to the earlier one: deterministic.
    order = itertools.count()
    heap: list[tuple[float, int, int, float, float, tuple[int, ...]]] = []
    heapq.heappush(heap, (-best_rest(0, 0.0), 0, next(order), 0.0, 0.0, ()))
    found: list[Derived] = []
    seen = set()
    for _ in range(MAX_EXPANSIONS):
        if not heap or len(found) == count:
            break
        negative, _, _, spent, score, choices = heapq.heappop(heap)
        if negative == np.inf:
            break
        slot = len(choices)
        if slot == len(options):
            path = GatePath(choices)
            architecture = space.architecture(path)
            latency_ms = table.path_ms(path)
            if architecture not in seen and floor_ms <= latency_ms <= budget_ms:
                seen.add(architecture)
                found.append(Derived(path, latency_ms, score))
            continue
        for j, ms, gain in options[slot]:
            estimate = score + gain + best_rest(slot + 1, spent + ms)
            if estimate > -np.inf:
                # rounded, so that sums that differ by floating-point noise are ties
                key = round(-estimate, 9)
                heapq.heappush(heap, (key, -slot, next(order), spent + ms, score + gain, (*choices, j)))
    return found


def _bounds(options: list[list[tuple[int, float, float]]], width: float) -> list[NDArray[np.float64]]:
    """bound[s][b]: the best score of slots s.. whose latencies, each rounded down, sum to b buckets."""
    table = np.full(GRID + 2, -np.inf)
    table[0] = 0.0
    bounds = [table]
    for slot in reversed(options):
        after = bounds[0]
        table = np.full_like(after, -np.inf)
        for _, ms, gain in slot:
            shift = int(ms / width)
            if shift < len(table):
                np.maximum(table[shift:], after[: len(table) - shift] + gain, out=table[shift:])
        bounds.insert(0, table)
    return bounds
