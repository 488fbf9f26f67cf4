"""The exact final choice: the most probable network within the budget.

Latency is additive over slots, so choosing one candidate per slot is a multiple-choice knapsack:
maximise sum log p subject to floor <= latency <= budget and to the hard limits on cost. `nas.choose.knapsack` solves it
exactly and lists the n best distinct networks in order. Where gates follow the latency so closely that this would take
minutes, it takes the best of those that stay some thousandths of the budget away from both ends; with limits, and where
there is none such, it solves integer programs. Not for accuracy: re-ranking is the strategy's business.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from latency_models import LatencyTable
from nas.choose.knapsack import Sum, TooManyNodes, best_first, by_programs
from nas.choose.limits import Limits, fastest_within
from search_space import GatePath, SearchSpace, UserError

LOWER_FLOORS = (0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)  # tried in turn when no network is nearer to the budget
MAX_SOLUTIONS = 50_000  # paths looked at: where Zeros may stand anywhere, many paths are one network
MAX_NODES = 10_000  # partial paths looked at before networks at the very ends are passed over
MAX_PROGRAMS = 200  # integer programs solved after that, a path each


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
    limits: Limits | None = None,
) -> list[Derived]:
    """The `count` most probable distinct architectures with use_at_least * T <= latency <= T, best first.

    log_probabilities: (slots, candidates), -inf or NaN for padding. Where no network lies between, the floor is lowered
    until one does; with limits, which may be what binds then, it is given up. Where T exceeds the space's maximum there
    is no floor. Latency never exceeds `budget_ms`, nor cost `limits`.
    Raises `UserError` if no network of the space is fast enough and within the limits.
    """
    if not budget_ms >= table.minimum_ms:
        raise UserError(
            f"no network of '{space.name}' takes {budget_ms:g} ms or less; the fastest takes {table.minimum_ms:.4g} ms"
        )
    lower = () if limits else tuple(share for share in LOWER_FLOORS if share < use_at_least)
    shares = (use_at_least, *lower) if budget_ms < table.maximum_ms else ()
    for floor_ms in [*(share * budget_ms for share in shares), 0.0]:
        if found := _best(space, table, log_probabilities, budget_ms, floor_ms, count, limits):
            return found
    fastest = fastest_within(limits, table) if limits else None
    takes = f"; the fastest takes {table.path_ms(fastest):.4g} ms" if fastest else ""
    raise UserError(f"no network of '{space.name}' within the limits takes {budget_ms:g} ms or less{takes}")


def _best(
    space: SearchSpace,
    table: LatencyTable,
    log_probabilities: NDArray[np.float64],
    budget_ms: float,
    floor_ms: float,
    count: int,
    limits: Limits | None,
) -> list[Derived]:
    high_ms = min(budget_ms, table.maximum_ms)
    slack = 1e-12 * high_ms  # sums in another order differ so much; the table's own sum decides
    latency = Sum(np.nan_to_num(table.slot_ms), high_ms - table.fixed_ms + slack, floor_ms - table.fixed_ms - slack)
    allowed = np.isfinite(table.slot_ms) if limits is None else limits.allowed
    others = limits.sums if limits else ()
    found: dict[object, Derived] = {}
    asked = (log_probabilities, allowed, latency, others)
    nearly = partial(best_first, rounded=True, nodes=10 * MAX_NODES)
    for search in (partial(best_first, nodes=MAX_NODES), *(() if others else (nearly,)), by_programs):
        try:
            for choices in itertools.islice(search(*asked), MAX_PROGRAMS if search is by_programs else MAX_SOLUTIONS):
                path = GatePath(choices)
                latency_ms = table.path_ms(path)
                if floor_ms <= latency_ms <= budget_ms:
                    derived = Derived(path, latency_ms, _score(log_probabilities, path))
                    found.setdefault(space.architecture(path), derived)
                if len(found) == count:
                    break
            else:
                if search is nearly and not found:
                    continue
            break
        except TooManyNodes:
            if search is nearly and found:
                break
    return sorted(found.values(), key=lambda derived: -derived.log_probability)


def _score(log_probabilities: NDArray[np.float64], path: GatePath) -> float:
    chosen = np.nan_to_num(log_probabilities, neginf=-1e9)[np.arange(len(path.choices)), list(path.choices)]
    return float(chosen.sum())
