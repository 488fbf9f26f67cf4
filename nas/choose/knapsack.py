"""A multiple-choice knapsack with several sums, solved exactly, best solutions first.

One choice a slot; maximise the sum of scores while one sum (latency) stays between two ends and others stay below
their limits. Best-first search (A*); its bounds are knapsack tables on the first sum rounded down, with the
others left out, or priced into the score by multipliers (Lagrange), or asked for alone (can they still be
kept?). None of the bounds cuts off a solution, so that rounding changes speed and not results; but where scores
follow the first sum, very many nodes at its ends promise more than they hold. With `rounded` the question itself is
asked in buckets, which the tables answer without a detour.
Plain arrays: not for networks, see `nas.choose.derive`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = 20_000  # buckets of a table between 0 and the upper end of the first sum
COARSE = 2_000  # the same while multipliers are sought
GOLDEN, SECTIONS = (5**0.5 - 1) / 2, 10
IMPOSSIBLE = -1e9  # score of a candidate that is taken only if nothing else fits
EPSILON = 1e-9  # of a limit: sums that differ by floating-point noise are equal

Node = tuple[float, int, int, float, float, tuple[float, ...], tuple[int, ...]]
"""In the queue: minus its bound, minus its depth, a running number, first sum, score, shares left, choices."""


@dataclass(frozen=True, eq=False)
class Sum:
    """values: (slots, candidates); what they sum to must lie in [low, high]."""

    values: Array
    high: float
    low: float = 0.0


class TooManyNodes(Exception):
    """`best_first` took as many nodes as it may; there may be more solutions."""


def best_first(
    scores: Array,
    allowed: NDArray[np.bool_],
    first: Sum,
    others: Sequence[Sum] = (),
    rounded: bool = False,
    nodes: float = np.inf,
) -> Iterator[tuple[int, ...]]:
    """Choices in order of their sum of scores, ties in a fixed order; all values of sums must be >= 0.

    scores: (slots, candidates), -inf or NaN where a candidate is to be taken only if nothing else fits;
    allowed: the same shape, which candidates exist and may be taken. `others` have upper ends only.
    rounded: ask for the first sum in buckets, GRID of them; solutions within `slots` + 1 buckets of its ends are passed
    over. Raises `TooManyNodes` when more than `nodes` were taken from the queue.
    """
    slots = len(scores)
    if first.high <= 0 or any(s.high < 0 for s in others) or not allowed.any(1).all():
        return
    scores = np.where(np.isfinite(scores), scores, IMPOSSIBLE)
    # every other sum as a share of what is left for it
    shares = [s.values / s.high if s.high > 0 else np.where(s.values > 0, np.inf, 0.0) for s in others]
    for share in shares:
        allowed = allowed & (share <= 1 + EPSILON)
    if not allowed.any(1).all():
        return
    shares = [np.where(allowed, share, 0.0) for share in shares]
    options = [np.flatnonzero(row).tolist() for row in allowed]
    multipliers = _multipliers(scores, allowed, first, shares)
    grid = GRID
    if rounded:
        width, grid = first.high / GRID, GRID - slots
        first = Sum(np.floor(first.values / width), grid, np.ceil(first.low / width))
    bounds = [_Bound(scores, allowed, first, [], grid, rounded)]
    if multipliers.any():
        bounds.append(_Bound(scores, allowed, first, list(zip(multipliers, shares, strict=True)), grid, rounded))
    pairs = [[(1.0, share)] for share in shares] + ([[(1.0, share) for share in shares]] if len(shares) > 1 else [])
    prices = [[0.0] * len(shares), [float(m) for m in multipliers]]
    possible = [_Bound(np.zeros_like(scores), allowed, first, pair, grid, rounded) for pair in pairs]
    weights = [[1.0 if i == k else 0.0 for i in range(len(shares))] for k in range(len(shares))] + [[1.0] * len(shares)]

    ms, gain = first.values.tolist(), scores.tolist()
    parts = [share.tolist() for share in shares]
    ends = range(len(shares))

    def best(slot: int, spent: float, left: tuple[float, ...]) -> float:
        """Upper bound of what slots from `slot` on can add to the score; -inf where no solution is left."""
        if spent > first.high * (1 + 1e-12):
            return -np.inf
        for bound, weight in zip(possible, weights, strict=False):
            if bound(slot, spent) + sum(weight[k] * left[k] for k in ends) < -EPSILON:
                return -np.inf
        return min(
            bound(slot, spent) + sum(price[k] * left[k] for k in ends)
            for bound, price in zip(bounds, prices, strict=False)
        )

    order = itertools.count()  # ties go to the deeper node, then to the earlier one
    none_spent = tuple(1.0 for _ in shares)

    heap: list[Node] = [(-best(0, 0.0, none_spent), 0, next(order), 0.0, 0.0, none_spent, ())]
    taken = 0
    while heap:
        negative, _, _, spent, score, left, choices = heapq.heappop(heap)
        if negative == np.inf:
            return
        slot = len(choices)
        if slot == slots:
            if spent >= first.low:
                yield choices
            continue
        if (taken := taken + 1) > nodes:
            raise TooManyNodes
        for j in options[slot]:
            after = tuple(left[k] - parts[k][slot][j] for k in ends)
            estimate = score + gain[slot][j] + best(slot + 1, spent + ms[slot][j], after)
            if estimate > -np.inf:
                key = round(-estimate, 9)  # sums that differ by floating-point noise are ties
                node: Node = (key, -slot, next(order), spent + ms[slot][j], score + gain[slot][j], after, (*choices, j))
                heapq.heappush(heap, node)


class _Bound:
    """What the slots still to be chosen can add at most.

    bound(slot, spent): at least the best that slots from `slot` on add, priced sums taken off, when the first
    sum stands at `spent`; -inf where it cannot end within its ends. rounded: it is in buckets already.
    """

    def __init__(
        self,
        scores: Array,
        allowed: NDArray[np.bool_],
        first: Sum,
        priced: Sequence[tuple[float, Array]],
        grid: int,
        rounded: bool,
    ) -> None:
        gains = scores - sum((price * share for price, share in priced), np.zeros_like(scores))
        self.high, self.width, self.above = first.high, max(first.high, 1e-12) / grid, 0 if rounded else 1
        window = int(first.high - first.low) + 1 if rounded else _window(first, self.width, len(gains))
        self.tables = [_sliding_max(table, window) for table in _tables(gains, allowed, first.values, self.width, grid)]

    def __call__(self, slot: int, spent: float) -> float:
        return float(self.tables[slot][int((self.high - spent) / self.width) + self.above])


def _window(first: Sum, width: float, slots: int) -> int:
    """How many buckets up to the upper end may hold a solution: sums are rounded down once a slot."""
    return int((first.high - first.low) / width) + 3 + slots


def _tables(gains: Array, allowed: NDArray[np.bool_], values: Array, width: float, grid: int) -> list[Array]:
    """table[s][b]: the best of slots s.. whose values, each rounded down, sum to b buckets."""
    table = np.full(grid + 2, -np.inf)
    table[0] = 0.0
    tables = [table]
    for gain, possible, value in zip(gains[::-1], allowed[::-1], values[::-1], strict=True):
        after, table = table, np.full(grid + 2, -np.inf)
        for j in np.flatnonzero(possible):
            shift = int(value[j] / width)
            if shift < len(table):
                np.maximum(table[shift:], after[: len(table) - shift] + gain[j], out=table[shift:])
        tables.append(table)
    return tables[::-1]


def _sliding_max(values: Array, window: int) -> Array:
    """out[i] = the maximum of the `window` values that end at i."""
    if window >= len(values):
        return np.maximum.accumulate(values)
    out, span = values.copy(), 1
    while span < window:
        step = min(span, window - span)
        out[step:] = np.maximum(out[step:], out[:-step])
        span += step
    return out


def _multipliers(scores: Array, allowed: NDArray[np.bool_], first: Sum, shares: Sequence[Array]) -> Array:
    """What a whole limit is worth in score: where the bound on the best solution is lowest.

    The bound is convex in all multipliers together: a golden section over each, the next one within it.
    """
    found = np.zeros(len(shares))

    def lowest(k: int) -> float:
        """The bound at `found[:k]`, the others at their best and left so in `found`."""
        if k == len(shares):
            gains = scores - sum(m * share for m, share in zip(found, shares, strict=True))
            table = _tables(gains, allowed, first.values, first.high / COARSE, COARSE)[0]
            window = _window(first, first.high / COARSE, len(scores))
            return float(table[-window:].max() + found.sum())

        def at(value: float) -> float:
            found[k] = value
            return lowest(k + 1)

        high, here, beyond = 1.0, at(1.0), at(2.0)
        while beyond < here and high < 1e4:
            high, here, beyond = 2 * high, beyond, at(4 * high)
        low, high = 0.0, 2 * high
        a, b = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_a, at_b = at(a), at(b)
        for _ in range(SECTIONS):
            if at_a <= at_b:
                high, b, at_b = b, a, at_a
                a = high - GOLDEN * (high - low)
                at_a = at(a)
            else:
                low, a, at_a = a, b, at_b
                b = low + GOLDEN * (high - low)
                at_b = at(b)
        best = min((at(0.0), 0.0), (at_a, a), (at_b, b))[1]
        return at(best)

    lowest(0)
    return found
