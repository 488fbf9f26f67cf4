"""From timings to a device's profile: rows, networks, the fit, the two files, and what to print of them.

The same for timings of this machine and for those that came back from another. Not for timing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from device_profiles import DeviceProfile, KernelRow, save_profile
from latency_models.fit.kernels import Facts, MeasuredNetwork, fit_device, other_paths
from latency_models.measure.timing import ROUNDS, Record, Result, relative_range, summarise
from latency_models.measure.workload import Workload
from latency_models.model import fit_latency_model
from latency_models.support import kernel_name
from latency_models.table import latency_table
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.space_file import available_spaces

COMMAND = "python -m latency_models.profile"


def results(records: Sequence[Record], reference_ms: float | None = None) -> dict[str, Result]:
    """Item -> result, for items with all their rounds. reference_ms: as in `timing.summarise`."""
    rounds = Counter(record.item for record in records)
    whole = summarise(records, reference_ms) if records else {}
    return {name: result for name, result in whole.items() if rounds[name] == ROUNDS}


def kernel_rows(workload: Workload, timed: Mapping[str, Result]) -> list[KernelRow]:
    """In the workload's order; `count` is the number of runs."""
    return [
        KernelRow(kernel, timed[name].ms, timed[name].spread_ms, timed[name].runs, "measured", "timed alone")
        for name, kernel in workload.kernels.items()
        if name in timed
    ]


def measured_networks(workload: Workload, timed: Mapping[str, Result]) -> list[MeasuredNetwork]:
    """The whole networks that were timed, in the workload's order."""
    return [
        MeasuredNetwork(name, segments, timed[name].ms, timed[name].spread_ms)
        for name, segments in workload.networks.items()
        if name in timed
    ]


def save_measured(
    device: str, out: Path, workload: Workload, facts: Mapping[str, Any], records: Sequence[Record]
) -> DeviceProfile:
    """Fit and write `out/device`. Raises `UserError` for fewer than five whole networks."""
    timed = results(records)
    rows = kernel_rows(workload, timed)
    header = fit_device(
        _facts(device, workload, facts, records), workload.rules, rows, measured_networks(workload, timed)
    )
    return save_profile(out / device, header, rows)


def summary(profile: DeviceProfile, workload: Workload, folder: Path) -> str:
    """What was found, and the next command."""
    header = profile.header
    lines = [
        f"{profile.name} {profile.digest} in '{folder}': {header.title}, {profile.runtime} "
        f"({header.runtime_options['optimization']}), {header.precision}",
        f"  kernels timed: {len(profile.rows)} of {len(workload.kernels)}; predicted without itself: "
        f"{header.accuracy['leave_one_kernel_out']}",
        f"  whole networks timed: {header.interval.networks}; predicted without itself: "
        f"{header.accuracy['leave_one_network_out']} at {header.interval.coverage:.0%} coverage",
    ]
    for kind, found in header.models.items():
        kernels = [row.kernel for row in profile.rows if row.kernel.price_kind == kind]
        for size, times in other_paths(found, kernels).items():
            lines.append(
                f"  another path in {header.runtime}: {kernel_name(kind, size)} takes {times:.2g} times what the "
                "cheapest other size's form gives it"
            )
    model = fit_latency_model(profile)
    for space in workload.spaces:
        table = latency_table(model, space, workload.resolution, NUM_CLASSES)
        named = space.name if space.name in available_spaces() else f"FILE of '{space.name}'"
        at = "" if workload.resolution == RESOLUTION else f" deployment_resolution={workload.resolution}"
        budget = (table.minimum_ms * table.maximum_ms) ** 0.5
        lines.append(
            f"  budgets from {table.minimum_ms:.3g} to {table.maximum_ms:.3g} ms bind in {space.name}: "
            f"python -m nas.search space={named} device={profile.name} budget_ms={budget:.2g}{at}"
        )
    return "\n".join(lines)


def _facts(device: str, workload: Workload, facts: Mapping[str, Any], records: Sequence[Record]) -> Facts:
    references = [record.reference_ms for record in records]
    settings = workload.settings
    spread = relative_range(references)
    noise = f"load average {facts['load_average']} of {facts['cores']} cores, reference's quartiles {spread:.1%} apart"
    accepted = "; a busy machine was accepted" if facts["busy"] == "accept" else ""
    return Facts(
        device=device,
        title=f"{facts['cpu']}, {settings.threads} thread{'s' if settings.threads > 1 else ''}",
        runtime=settings.runtime,
        runtime_version=str(facts["runtime_version"]),
        runtime_options={
            "optimization": settings.optimization,
            "cpu": str(facts["cpu"]),
            "resolution": str(workload.resolution),
            "reference_ms": f"{median(references):.6g}",
            **({"processor": settings.processor} if settings.processor else {}),
            **{name: str(value) for name, value in facts.get("flags", {}).items()},
        },
        precision=settings.precision,
        threads=settings.threads,
        clock=str(facts["clock"]),
        date=str(facts["date"]),
        measured_by=f"{COMMAND} on {facts['system']}; {noise}{accepted}",
    )
