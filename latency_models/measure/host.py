"""Times this machine: always the kernels that the predictor needs most, and whole networks between them.

Not for the protocol (`timing`) and not for the files of the profile (`to_profile`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from pathlib import Path
from typing import Any

from latency_models.fit.kernels import FEWEST_NETWORKS, fit_kinds
from latency_models.measure.adaptive import next_kernels, predictor_error, seed_kernels
from latency_models.measure.kernel_onnx import kernel_name
from latency_models.measure.progress import TimingProgress
from latency_models.measure.timing import ROUNDS, Bench, Record, pinned
from latency_models.measure.to_profile import kernel_rows, results
from latency_models.measure.workload import Workload

NETWORK_SHARE = 0.3  # of the time
KERNEL_BATCH, NETWORK_BATCH = 12, 6  # items whose passes are interleaved


@dataclass(frozen=True)
class Limits:
    """When to stop: kernels at the predictor's `error` (a share), everything after so many minutes."""

    minutes: float
    error: float


@dataclass(frozen=True)
class Timings:
    """What was taken. error: of the predictor on kernels that it has not seen."""

    facts: Mapping[str, Any]
    records: Sequence[Record]
    error: float
    minutes: float


@dataclass(frozen=True)
class Step:
    """Names of the items to time next, none at the end; and the predictor's error so far, infinite at first."""

    names: Sequence[str]
    error: float


def time_host(
    workload: Workload, path: Path, limits: Limits, accept_noise: bool, say: Callable[[str], None]
) -> Timings:
    """Time this machine; resuming from what `path` holds already. Raises `Refused` where it is busy.

    say: is told where the least that a fit needs takes longer than the limit.
    """
    begin = time.monotonic()
    total = len(workload.items)
    with pinned(workload.settings.threads), TimingProgress(total) as progress:
        facts = {"manifest": workload.digest, "export": workload.export_facts()}
        bench = Bench(workload.settings, workload.reference, path, facts, workload.items, accept_noise)
        before = len(bench.records)

        def report(name: str, error: float) -> None:
            spent, done = time.monotonic() - begin, len(bench.records)
            needed = spent / (done - before) * (total * ROUNDS - done) if done > before else inf
            phase = "networks" if name in workload.networks else "kernels"
            left = min(needed, limits.minutes * 60 - spent)
            progress.show(phase, done // ROUNDS, left, None if error == inf else error)

        def measure(step: Step) -> None:
            bench.measure([workload.items[name] for name in step.names], lambda name: report(name, step.error))

        error = run_steps(workload, bench.records, measure, limits, time.monotonic, say)
    return Timings(bench.facts, bench.records, error, (time.monotonic() - begin) / 60)


def run_steps(
    workload: Workload,
    records: Sequence[Record],
    measure: Callable[[Step], None],
    limits: Limits,
    clock: Callable[[], float],
    say: Callable[[str], None] = lambda line: None,
) -> float:
    """Measure until nothing is needed or the time is over; the predictor's last error. clock: seconds."""
    begin, on_networks, items = clock(), 0.0, 0
    while True:
        now = clock()
        spent, left = now - begin, 60 * limits.minutes - (now - begin)
        step = next_step(workload, records, limits.error, on_networks / spent if spent > 0 else 0.0, late=left <= 0)
        if not step.names:
            return step.error
        if items and left > 0:  # no more than fit into the time that is left
            step = replace(step, names=step.names[: max(1, ceil(left * items / spent))])
        measure(step)
        if items == 0 and (note := _too_long(workload, records, step, clock() - begin, limits.minutes)):
            say(note)
        items += len(step.names)
        if step.names[0] in workload.networks:
            on_networks += clock() - now


def _too_long(workload: Workload, records: Sequence[Record], first: Step, seconds: float, minutes: float) -> str | None:
    """What to say where the kernels and networks that a fit needs do not fit into the time, by the first ones' time."""
    timed = results(records)
    seeds = sum(kernel_name(kernel) not in timed for kernel in seed_kernels(list(workload.kernels.values())))
    networks = max(0, FEWEST_NETWORKS - sum(name in timed for name in workload.networks))
    needed = seconds * (1 + (seeds + networks) / len(first.names)) / 60
    if needed <= 1.1 * minutes:
        return None
    return (
        f"a profile needs {seeds} more kernels and {networks} networks at least, which take about {needed:.1f} minutes "
        f"here, longer than minutes={minutes:g}; it goes on (Ctrl-C stops, the same command resumes)"
    )


def next_step(workload: Workload, records: Sequence[Record], wanted: float, network_share: float, late: bool) -> Step:
    """What to time after `records`.

    wanted: error at which kernels are enough; network_share: of the time spent so far; late: whether the time is over,
    so that only what a fit cannot do without is still taken.
    """
    timed = results(records)
    rows = kernel_rows(workload, timed)
    kernels = list(workload.kernels.values())
    if seeds := [kernel_name(k) for k in seed_kernels(kernels) if kernel_name(k) not in timed]:
        return Step(seeds[:KERNEL_BATCH], inf)
    models = fit_kinds(rows)
    error = predictor_error(rows, models, workload.counts)
    networks = [name for name in workload.networks if name not in timed]
    if late:
        return Step(networks[: max(0, FEWEST_NETWORKS - (len(workload.networks) - len(networks)))], error)
    wants_kernels = error > wanted and len(rows) < len(kernels)
    if networks and (not wants_kernels or network_share < NETWORK_SHARE):
        return Step(networks[:NETWORK_BATCH], error)
    chosen = next_kernels(kernels, rows, models, workload.counts, KERNEL_BATCH) if wants_kernels else []
    return Step([kernel_name(kernel) for kernel in chosen], error)
