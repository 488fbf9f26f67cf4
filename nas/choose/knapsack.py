"""A multiple-choice knapsack with several sums, solved exactly, best solutions first.

One choice a slot; maximise the sum of scores while one sum (latency) stays between two ends and others stay below
their limits. Best-first search (A*); its bounds are knapsack tables on the first sum rounded down, with the
others left out, or priced into the score by multipliers (Lagrange), or asked for alone (can they still be
kept?). None of the bounds cuts off a solution, so that rounding changes speed and not results; but where scores
follow the first sum, very many nodes at its ends promise more than they hold. With `rounded` the question itself is
asked in buckets, which the tables answer without a detour. Where few solutions keep all sums at once, no bound on
single sums sees it; `by_programs` asks scipy's solver of integer programs, which is slower at everything else.
Plain arrays: not for networks, see `nas.choose.derive`.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GRID = 20_000  # buckets of a table between 0 and the upper end of the first sum
COARSE = 2_000  # the same while multipliers are sought
GOLDEN, SECTIONS = (5**0.5 - 1) / 2, 6
SCALES = (1.0, 0.7, 1.4)  # of the multipliers: where part of the choices is made, others bound what is left better
PROGRAM_NODES = 5_000  # of the branch and bound that solves one integer program
IMPOSSIBLE = -1e9  # score of a candidate that is taken only if nothing else fits
EPSILON = 1e-9  # of a limit: sums that differ by floating-point noise are equal

Node = tuple[float, int, int, float, float, Array, tuple[int, ...]]
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
    counted = len(shares)
    stacked = np.array(shares).reshape(counted, *scores.shape)
    scales = SCALES if multipliers.any() else ()
    together = [np.ones(counted)] if counted > 1 else []
    kept, prices = [*np.eye(counted), *together], [np.zeros(counted), *(scale * multipliers for scale in scales)]
    paid = np.array([*kept, *prices])  # (tables, shares): first whether what is left can be kept, then what it is worth
    width, above = max(first.high, 1e-12) / grid, 0 if rounded else 1
    window = int(first.high - first.low) + 1 if rounded else _window(first, width, slots)
    bare = [np.zeros_like(scores)] * len(kept) + [scores] * len(prices)
    tables = np.array([
        [_sliding_max(t, window) for t in _tables(gain - np.tensordot(price, stacked, 1), allowed, first, width, grid)]
        for gain, price in zip(bare, paid, strict=True)
    ])  # fmt: skip
    slots_ms = [first.values[slot, options[slot]] for slot in range(slots)]
    gains = [scores[slot, options[slot]] for slot in range(slots)]
    parts = [stacked[:, slot, options[slot]] for slot in range(slots)]
    over = first.high * (1 + 1e-12)

    def best(slot: int, spent: Array, left: Array) -> Array:
        """(N,) sums, (shares, N) -> (N,): upper bounds of what slots from `slot` on add; -inf where none is left."""
        bucket = ((first.high - np.minimum(spent, first.high)) / width).astype(np.intp) + above
        each = tables[:, slot, bucket] + paid @ left
        least: Array = each[len(kept) :].min(axis=0)
        least[(spent > over) | (each[: len(kept)] < -EPSILON).any(axis=0)] = -np.inf
        return least

    order = itertools.count()  # ties go to the deeper node, then to the earlier one
    none_spent = np.ones(counted)

    start = best(0, np.zeros(1), none_spent[:, None])
    heap: list[Node] = [(-float(start[0]), 0, next(order), 0.0, 0.0, none_spent, ())]
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
        sums, reached, after = spent + slots_ms[slot], score + gains[slot], left[:, None] - parts[slot]
        estimates = reached + best(slot + 1, sums, after)
        keys = np.round(-estimates, 9).tolist()  # sums that differ by floating-point noise are ties
        for i in np.flatnonzero(estimates > -np.inf).tolist():
            node = (keys[i], -slot, next(order), sums[i], reached[i], after[:, i], (*choices, options[slot][i]))
            heapq.heappush(heap, node)


def by_programs(
    scores: Array, allowed: NDArray[np.bool_], first: Sum, others: Sequence[Sum] = ()
) -> Iterator[tuple[int, ...]]:
    """What `best_first` lists, by one integer program (HiGHS) a solution, found ones cut off; ties in any order.

    Ends where no solution is left, or where the solver has none after `PROGRAM_NODES` nodes.
    """
    if first.high <= 0 or any(s.high < 0 for s in others) or not allowed.any(1).all():
        return
    from scipy.optimize import Bounds, LinearConstraint, milp

    finite = np.isfinite(scores) & allowed
    span = sum(float(np.ptp(row[known])) for row, known in zip(scores, finite, strict=True) if known.any())
    last = float(scores[finite].min(initial=0.0)) - span - 1  # a candidate taken only if nothing else fits
    variables = np.argwhere(allowed)
    cost = -np.where(finite, scores, last)[allowed]
    one_a_slot = (variables[:, 0] == np.arange(len(scores))[:, None]).astype(float)
    kept = [LinearConstraint(one_a_slot, 1, 1)]
    for s in (first, *(replace(other, low=-np.inf) for other in others)):
        unit = s.high or 1.0
        kept.append(LinearConstraint(s.values[allowed] / unit, s.low / unit, s.high / unit))
    while True:
        options = {"mip_rel_gap": 0.0, "node_limit": PROGRAM_NODES}
        found = milp(cost, integrality=np.ones(len(cost)), bounds=Bounds(0, 1), constraints=kept, options=options)
        if found.x is None:
            return
        taken = found.x > 0.5
        kept.append(LinearConstraint(taken.astype(float), -np.inf, len(scores) - 1))
        # the solver keeps sums to a millionth only
        if first.low <= first.values[allowed][taken].sum() <= first.high and all(
            s.values[allowed][taken].sum() <= s.high for s in others
        ):
            yield tuple(variables[taken, 1].tolist())


def _window(first: Sum, width: float, slots: int) -> int:
    """How many buckets up to the upper end may hold a solution: sums are rounded down once a slot."""
    return int((first.high - first.low) / width) + 3 + slots


def _tables(gains: Array, allowed: NDArray[np.bool_], first: Sum, width: float, grid: int) -> list[Array]:
    """table[s][b]: the best of slots s.. whose values of `first`, each rounded down, sum to b buckets."""
    table = np.full(grid + 2, -np.inf)
    table[0] = 0.0
    tables = [table]
    for gain, possible, value in zip(gains[::-1], allowed[::-1], first.values[::-1], strict=True):
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
            table = _tables(gains, allowed, first, first.high / COARSE, COARSE)[0]
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
