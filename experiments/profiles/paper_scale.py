"""The scales that put predictions at the level of the paper's Table III, one factor a device. Not reality.

factor = geometric mean, over the table's rows, of the published ms over the median prediction of random
networks of that row's space with that row's MACs. No search is involved. `table3` prices every kernel;
`table3_nn_meter` leaves out the kinds that nn-Meter, the likely source of the paper's CPU and VPU times, has no
predictor of: a guess at how the paper's quadratic networks were priced, which the table itself must bear out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from device_profiles import Calibration, DeviceProfile
from latency_models.fit.regression import round_significant
from latency_models.model import LatencyModel
from latency_models.table import latency_table
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.layer import Node
from search_space.lower import lower_space
from search_space.space import SearchSpace
from search_space.space_file import load_space

SCALES: dict[str, tuple[str, ...]] = {"table3": (), "table3_nn_meter": ("layer_norm", "gelu", "mul")}
"""Name -> the kernel kinds that cost nothing; none of them is in nn-Meter's list (Zhang et al., MobiSys 2021)."""
NETWORKS = 2000
TOLERANCE = 0.05  # of a row's MACs
DRAWS = 20_000


@dataclass(frozen=True)
class PublishedRow:
    """A row of Table III (QuadraNet, arXiv 2311.17956): ms by device; top-1 in per cent on ImageNet-1K."""

    name: str
    space: str
    macs: float
    latency_ms: dict[str, float]
    top1: float


TABLE_III = (
    PublishedRow("Proxyless-CPU", "proxyless", 333e6, {"cpu": 299.6, "vpu": 53.1, "gpu": 1.8}, 72.4),
    PublishedRow("Proxyless-VPU", "proxyless", 275e6, {"cpu": 379.1, "vpu": 29.9, "gpu": 1.7}, 72.7),
    PublishedRow("Proxyless-GPU", "proxyless", 1065e6, {"cpu": 1521.1, "vpu": 146.1, "gpu": 2.9}, 74.4),
    PublishedRow("QuadraNet-CPU", "quadranet", 279e6, {"cpu": 299.8, "vpu": 34.7, "gpu": 2.1}, 73.1),
    PublishedRow("QuadraNet-VPU", "quadranet", 312e6, {"cpu": 437.1, "vpu": 29.9, "gpu": 1.9}, 73.2),
    PublishedRow("QuadraNet-GPU", "quadranet", 948e6, {"cpu": 1334.2, "vpu": 117.5, "gpu": 2.9}, 76.7),
)


def table3_scales(profile: DeviceProfile) -> dict[str, Calibration]:
    """The calibrations of a device of the table, their factors to five digits."""
    found = {}
    for name, unpriced in SCALES.items():
        unscaled = LatencyModel(profile, Calibration(1.0, unpriced), profile.header.interval.coverage)
        ratios = [row.latency_ms[profile.name] / typical_ms(unscaled, row) for row in TABLE_III]
        found[name] = Calibration(round_significant(float(np.exp(np.mean(np.log(ratios))))), unpriced)
    return found


def typical_ms(model: LatencyModel, row: PublishedRow) -> float:
    """Median prediction of random networks of a row's space and MACs."""
    space = load_space(row.space)
    table = latency_table(model, space, RESOLUTION, NUM_CLASSES)
    return float(np.median(table.paths_ms(_drawn(row.space, row.macs))))


@cache
def _drawn(space: str, macs: float) -> NDArray[np.int64]:
    return random_choices(load_space(space), macs)


def random_choices(space: SearchSpace, macs: float, seed: int = 0) -> NDArray[np.int64]:
    """Gate paths drawn at random among networks within 5 % of `macs`: (2000, slots).

    Where the space has too few (its edge), the nearest of those drawn. Slots are drawn independently with candidates
    weighted by exp(t x MACs), t set so that the mean is `macs`: the most even distribution with that mean.
    """
    costs, fixed = _macs(space)
    rng = np.random.default_rng(seed)
    probabilities = _probabilities_of_mean(costs, macs - fixed)
    draws = np.stack([rng.choice(p.size, DRAWS, p=p) for p in probabilities], axis=1)
    totals = fixed + costs[np.arange(len(costs)), draws].sum(1)
    off = np.abs(totals / macs - 1)
    near = np.flatnonzero(off <= TOLERANCE)
    chosen = near[:NETWORKS] if near.size >= NETWORKS else np.argsort(off, kind="stable")[:NETWORKS]
    result: NDArray[np.int64] = draws[chosen]
    return result


def _macs(space: SearchSpace) -> tuple[NDArray[np.float64], float]:
    """(slots, candidates), NaN where there is none; and what every network has."""
    costs = np.full((len(space.slots), max(len(slot.candidates) for slot in space.slots)), np.nan)
    fixed = 0.0
    for segment in lower_space(space, RESOLUTION, NUM_CLASSES):
        sums = [_sum_macs(nodes) for nodes in segment.candidates]
        if segment.slot is None:
            fixed += sums[0]
        else:
            costs[segment.slot, : len(sums)] = sums
    return costs, fixed


def _sum_macs(nodes: Sequence[Node]) -> float:
    return float(sum(node.spec.macs for node in nodes))


def _probabilities_of_mean(costs: NDArray[np.float64], target: float) -> NDArray[np.float64]:
    """(slots, candidates) probabilities whose expected sum of costs is as near to `target` as can be."""
    scale = float(np.nanmax(costs))
    exists = ~np.isnan(costs)
    known = np.where(exists, costs, 0.0)

    def probabilities(strength: float) -> NDArray[np.float64]:
        logits = np.where(exists, strength * known / scale, -np.inf)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        result: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
        return result

    low, high = -100.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        below = float((probabilities(middle) * known).sum()) < target
        low, high = (middle, high) if below else (low, middle)
    return probabilities((low + high) / 2)
