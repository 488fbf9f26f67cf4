"""What a profile was fitted to: the range of its networks and, kind by kind, of its rows, for `fitted_range` fields.

Not for saying that a prediction lies outside (`latency_models.support`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from device_profiles import Kernel, KindModel
from latency_models.features import SHAPES
from search_space.lower import Segment, image_side

Ends = tuple[float, float]


def networks_range(networks: Iterable[tuple[Sequence[Segment], float]]) -> dict[str, Ends]:
    """The `fitted_range` of a header: of networks and their times in ms; empty without any."""
    known = list(networks)
    sides = [image_side(segments) for segments, _ in known]
    times = [ms for _, ms in known]
    return {"network_ms": (min(times), max(times)), "resolution": (min(sides), max(sides))} if known else {}


def kernels_range(kernels: Iterable[Kernel]) -> dict[str, Ends]:
    """The `fitted_range` of one kind whose measured rows are these kernels; empty without any."""
    rows = list(kernels)
    values = {name: [read(kernel) for kernel in rows] for name, read in SHAPES.items()}
    return {name: (float(min(found)), float(max(found))) for name, found in values.items() if found}


def with_ranges(models: Mapping[str, KindModel], measured: Iterable[Kernel]) -> dict[str, KindModel]:
    """The models with the range of the measured kernels of their kinds; kinds without any are left as they are."""
    by_kind: dict[str, list[Kernel]] = {}
    for kernel in measured:
        by_kind.setdefault(kernel.price_kind, []).append(kernel)
    return {kind: replace(m, fitted_range=kernels_range(by_kind.get(kind, ()))) for kind, m in models.items()}
