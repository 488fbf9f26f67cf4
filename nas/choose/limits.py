"""Hard limits beside the latency budget: parameters, MACs and peak activation of every candidate of a space.

MACs and parameters of a network are sums over its blocks, peak activation is the largest of them. No torch here:
what cannot be kept is known before a search begins. Not for latency: see `latency_models.LatencyTable`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from latency_models import LatencyTable
from nas.choose.knapsack import Sum, best_first
from nas.run.settings import LimitSettings
from search_space import Cost, GatePath, SearchSpace, Segment, UserError, cost_of, lower_space

UNITS = {"params": "parameters", "macs": "MACs", "peak_activation": "bytes of peak activation"}
FIELDS = {"params": "params", "macs": "macs", "peak_activation": "peak_activation_bytes"}  # of `Cost`


@dataclass(frozen=True, eq=False)
class Limits:
    """What a network may cost at most, on top of its latency budget.

    most: the limits asked for, by option. fixed, slots: by option, what every network pays (stem, transitions,
    head) and (slots, most candidates) float64, NaN where a slot has no such candidate.
    """

    space: SearchSpace
    most: Mapping[str, float]
    fixed: Mapping[str, float]
    slots: Mapping[str, NDArray[np.float64]]

    def __bool__(self) -> bool:
        return bool(self.most)

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """(slots, candidates): those that exist and keep the limit on peak activation."""
        peaks = self.slots["peak_activation"]
        most = self.most.get("peak_activation", np.inf)
        return np.isfinite(peaks) & (np.nan_to_num(peaks) <= (most if self.fixed["peak_activation"] <= most else -1))

    @property
    def summed(self) -> list[str]:
        """Which limits asked for are on sums over slots."""
        return [name for name in ("params", "macs") if name in self.most]

    @property
    def sums(self) -> list[Sum]:
        """The limits that are sums over slots, what is fixed taken off."""
        return [Sum(np.nan_to_num(self.slots[name]), self.most[name] - self.fixed[name]) for name in self.summed]

    def total(self, name: str, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, slots) choices -> (N,): parameters, MACs or bytes of peak activation of whole networks."""
        each = self.slots[name][np.arange(len(self.slots[name])), networks]
        if name == "peak_activation":
            return np.maximum(self.fixed[name], each.max(axis=1))
        total: NDArray[np.float64] = self.fixed[name] + each.sum(axis=1)
        return total

    def range(self, name: str) -> tuple[float, float]:
        """The least and the most that a network of the space can have."""
        least, most = np.nanmin(self.slots[name], axis=1), np.nanmax(self.slots[name], axis=1)
        together = np.max if name == "peak_activation" else np.sum
        fixed = self.fixed[name]
        if name == "peak_activation":
            return max(fixed, float(together(least))), max(fixed, float(together(most)))
        return fixed + float(together(least)), fixed + float(together(most))

    def check(self, cost: Cost) -> None:
        """The last word on a chosen network, by the count that stands in its result."""
        for name, most in self.most.items():
            if getattr(cost, FIELDS[name]) > most:
                raise AssertionError(f"the chosen network has {getattr(cost, FIELDS[name])} {UNITS[name]} of {most}")


def limits_of(space: SearchSpace, resolution: int, num_classes: int, settings: LimitSettings) -> Limits:
    """For (3, resolution, resolution) images. Raises `UserError` where the space does not fit the resolution."""
    shape = (len(space.slots), max(len(slot.candidates) for slot in space.slots))
    slots = {name: np.full(shape, np.nan) for name in FIELDS}
    fixed = []
    for segment in lower_space(space, resolution, num_classes):
        if segment.slot is None:
            fixed.append(segment)
            continue
        for candidate, nodes in enumerate(segment.candidates):
            cost = cost_of([Segment(segment.name, (nodes,))])
            for name, field in FIELDS.items():
                slots[name][segment.slot, candidate] = getattr(cost, field)
    paid = cost_of(fixed)
    most = {name: value for name, value in asdict(settings).items() if value is not None}
    return Limits(space, most, {name: float(getattr(paid, field)) for name, field in FIELDS.items()}, slots)


def fastest_within(limits: Limits, table: LatencyTable) -> GatePath | None:
    """The fastest network that keeps the limits; None if there is none."""
    slot_ms = np.nan_to_num(table.slot_ms)
    anything = Sum(slot_ms, float(slot_ms.max(1).sum()))
    return next((GatePath(choices) for choices in best_first(-slot_ms, limits.allowed, anything, limits.sums)), None)


def check_feasible(limits: Limits, table: LatencyTable, budget_ms: float, on_device: str) -> None:
    """Raise `UserError` if no network keeps the budget and all limits, with the least and the most of each.

    on_device: the device and what is kept there, in words.
    """
    for name, most in limits.most.items():
        least, largest = limits.range(name)
        if most < least:
            raise UserError(
                f"limits.{name}={most:g} cannot be met: networks of '{limits.space.name}' have {least:,.0f} to "
                f"{largest:,.0f} {UNITS[name]}"
            )
    fastest = fastest_within(limits, table)
    if fastest is None or table.path_ms(fastest) > budget_ms:
        asked = ", ".join(f"limits.{name}={most:g}" for name, most in limits.most.items())
        each = ", ".join(f"{limits.range(name)[0]:,.0f} {UNITS[name]}" for name in limits.most)
        alone = f"{table.minimum_ms:.4g} ms on {on_device}, {each}"
        within = "no network keeps the limits" if fastest is None else (
            f"the fastest network within the limits takes {table.path_ms(fastest):.4g} ms"
        )  # fmt: skip
        raise UserError(
            f"budget_ms={budget_ms:g} and {asked} cannot be met together in '{limits.space.name}': {within} "
            f"(each alone can go down to {alone})"
        )
