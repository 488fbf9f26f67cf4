"""Several budgets, or several devices, in the options of one search. No torch here.

budget_ms=[20,30,40]                                   three budgets on one device
device=[cpu,vpu] budget_ms=[25,30]                     one budget a device
device=[cpu,vpu,gpu] budget_ms=[[20,25],[30],[0.5]]    a list a device
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.run.settings import SearchSettings
from search_space.errors import UserError


def is_front(options: Mapping[str, Any]) -> bool:
    """Whether options name their targets as lists."""
    return any(isinstance(options.get(name), list | tuple) for name in ("device", "budget_ms"))


def each_target(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of one plain search a target, in order. Raises `UserError` where lists do not fit together."""
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
        listed = wanted if isinstance(wanted, list | tuple) else [wanted]
        pairs += [(device, budget_ms) for budget_ms in listed]
    if not pairs:
        raise UserError(f"device={list(devices)} budget_ms={budgets} names no target")
    return [{**options, "device": device, "budget_ms": budget_ms} for device, budget_ms in pairs]


def target_name(settings: SearchSettings) -> str:
    """Of a target's folder and of its gates in the checkpoint: 'vpu-30ms'."""
    return f"{settings.device}-{settings.budget_ms:g}ms"
