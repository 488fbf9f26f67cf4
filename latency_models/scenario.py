"""A profile with one of its scenarios taken for true, in memory: `assume`.

Not for choosing among them (`calibrate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from device_profiles import DeviceProfile, KernelRow
from latency_models.features import FEATURES
from search_space.errors import UnknownName


def assume(profile: DeviceProfile, name: str) -> DeviceProfile:
    """The profile as if the scenario `name` were known to hold: its kinds priced so, rows too, and none left open.

    The digest stays that of the files. Raises `UnknownName` for a scenario that the profile lacks.
    """
    header = profile.header
    if name not in header.scenarios:
        raise UnknownName(f"scenario of device '{profile.name}'", name, header.scenarios)
    priced = header.scenarios[name].coefficients
    models = {
        kind: replace(model, coefficients=priced.get(kind, model.coefficients)) for kind, model in header.models.items()
    }
    rows = [_repriced(row, profile, models[row.kernel.price_kind].coefficients) for row in profile.rows]
    return replace(profile, header=replace(header, models=models, scenarios={}), rows=tuple(rows))


def settle(profile: DeviceProfile) -> DeviceProfile:
    """The profile as if the guess that it prices by were known to hold."""
    return replace(profile, header=replace(profile.header, scenarios={}))


def _repriced(row: KernelRow, profile: DeviceProfile, coefficients: Mapping[str, float]) -> KernelRow:
    header, kernel = profile.header, row.kernel
    before = header.models[kernel.price_kind].coefficients
    if coefficients == before:
        return row
    old_ms, new_ms = (
        sum(c * FEATURES[name](kernel, header.lanes) for name, c in form.items()) for form in (before, coefficients)
    )
    return replace(row, latency_ms=row.latency_ms * new_ms / old_ms, spread_ms=row.spread_ms * new_ms / old_ms)
