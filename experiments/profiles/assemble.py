"""From fitted coefficients to a shipped profile's header models and table rows.

Not for fitting coefficients (`regression`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from device_profiles import FusionRules, Interval, KernelRow, KindModel, Lanes
from latency_models.features import FEATURES
from latency_models.fit.kind_model import WIDENING_RULE, Evidence, kind_model
from latency_models.fit.regression import Form
from latency_models.grid import grid_kernels
from search_space.layer import Kind
from search_space.space import SearchSpace
from search_space.space_file import available_spaces, load_space


def solved_model(
    kind: str, form: Form, coefficients: Mapping[str, float], evidence: Evidence, factors: tuple[float, float]
) -> KindModel:
    """The model of a kind whose form was fitted; terms that came out 0 are left out."""
    values = {feature: coefficients.get(name, 0.0) for feature, name in form[kind].items()}
    return kind_model({feature: value for feature, value in values.items() if value}, evidence, factors)


def network_interval(coverage: float, ratios: NDArray[np.float64], calibrated_on: str) -> Interval:
    """The interval of networks from held-out ones. ratios: predicted over measured, (N,)."""
    scores = tuple(sorted(float(f"{score:.4g}") for score in 1 / ratios))
    return Interval(
        coverage, calibrated_on, f"Rank quantiles of the held-out networks. {WIDENING_RULE}", scores, scores
    )


def tabled_spaces() -> list[SearchSpace]:
    """The shipped spaces that a profile's table lists the kernels of.

    Those that offer quadratic forms beside blocks of another are priced by the same models, and add nothing to a table.
    """
    spaces = map(load_space, available_spaces())
    return [space for space in spaces if all(choice.branches == 1 for choice in space.choices)]


def table_rows(models: Mapping[str, KindModel], rules: FusionRules, lanes: Lanes) -> list[KernelRow]:
    """One row for every distinct kernel of `tabled_spaces` at 224 pixels and 1000 classes."""
    rows = []
    for kernel in grid_kernels(tabled_spaces(), rules):
        model = models[kernel.price_kind]
        ms = sum(value * FEATURES[name](kernel, lanes) for name, value in model.coefficients.items())
        spread_ms = ms * (model.high_factor - model.low_factor) / 2
        count = model.count(kernel.spec.kernel_size)
        rows.append(KernelRow(kernel, ms, spread_ms, count, model.origin, f"models.{kernel.price_kind}"))
    return rows


def into(**kinds: Iterable[Kind]) -> dict[Kind, frozenset[Kind]]:
    """Fusion rules, written by leading kind."""
    return {Kind(name): frozenset(merged) for name, merged in kinds.items()}
