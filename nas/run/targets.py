"""The targets in the options of one search: a budget on a device each. No torch here.

device=vpu budget_ms=30                                one
budget_ms=[20,30,40]                                   three budgets on one device
device=[cpu,vpu] budget_ms=[25,30]                     one budget a device
device=[cpu,vpu,gpu] budget_ms=[[20,25],[30],[0.5]]    a list a device
budget_ms=null limits.macs=3e8                         limits alone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nas.run.settings import NO_BUDGET_MS, SearchSettings, settings_from_dict
from search_space.errors import UserError
from search_space.files import plain_name


def settings_of(options: Mapping[str, Any]) -> tuple[SearchSettings, ...]:
    """The settings of every target that the options name, in order; they differ in device and budget alone.

    Raises `UserError` where lists do not fit together, where a target is asked for twice, and for bad options.
    """
    each = tuple(settings_from_dict(SearchSettings, target) for target in each_target(options))
    names = [target_name(settings) for settings in each]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"the target {twice[0]} is asked for twice")
    return each


def each_target(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of one target each, in order. Raises `UserError` where lists do not fit together."""
    devices = options.get("device", SearchSettings.device)
    budgets = options.get("budget_ms", SearchSettings.budget_ms)
    if not isinstance(devices, list | tuple):
        devices, budgets = [devices], [budgets]
    if not isinstance(budgets, list | tuple) or len(budgets) != len(devices):
        raise UserError(
            f"budget_ms={budgets} does not say a budget for each of device={list(devices)}; "
            "write one number, or one list of numbers, a device: device=[cpu,vpu] budget_ms=[[20,25],[30]]"
        )
    pairs = []
    for device, wanted in zip(devices, budgets, strict=True):
        pairs += [(device, budget_ms) for budget_ms in (wanted if isinstance(wanted, list | tuple) else [wanted])]
    if not pairs:
        raise UserError(f"device={list(devices)} budget_ms={budgets} names no target")
    return [
        {**options, "device": device, "budget_ms": NO_BUDGET_MS if budget_ms is None else budget_ms}
        for device, budget_ms in pairs
    ]


def options_of(each: Sequence[SearchSettings]) -> dict[str, Any]:
    """The options that `settings_of` turns into these settings: what a run keeps for `resume=`."""
    budgets: dict[str, list[float | None]] = {}
    for settings in each:
        asked = None if settings.budget_ms == NO_BUDGET_MS else settings.budget_ms
        budgets.setdefault(settings.device, []).append(asked)
    shared = {**asdict(each[0]), "budget_ms": budgets[each[0].device][0]}
    if len(each) == 1:
        return shared
    return {**shared, "device": list(budgets), "budget_ms": list(budgets.values())}


def target_name(settings: SearchSettings) -> str:
    """Of a target's folder and of its gates in the checkpoint: 'vpu-30ms'."""
    return f"{plain_name(settings.device)}-{settings.budget_ms:g}ms"
