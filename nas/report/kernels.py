"""Time by kind of kernel, as the page shows it: a table a device. Not for working it out (`LatencyModel.support`)."""

from __future__ import annotations

from dataclasses import dataclass

from latency_models.support import Support
from nas.report.run import Run
from nas.report.words import ms, percent
from nas.run.result import DeviceLatency

LEAST = 5e-4  # of the time; kernels with less are put together


@dataclass(frozen=True)
class KernelRow:
    """All kernels of one kind and size: their time, its share of 1, what its price rests on, and the interval's."""

    name: str
    time: str
    share: float
    share_words: str
    price: str
    width: str
    derived: bool


@dataclass(frozen=True)
class KernelTable:
    """The kernels of the network on one device, the longest time first."""

    device: str
    predicted: str
    derived: str
    rows: tuple[KernelRow, ...]


def kernel_tables(run: Run) -> list[KernelTable]:
    """A table for every device of which the file says it, the one searched for first."""
    latency = run.result.latency
    return [
        _table(device, latency[device], support, run.predicted_words(device))
        for device in run.devices
        if device in latency and (support := latency[device].support) is not None
    ]


def _table(device: str, found: DeviceLatency, support: Support, predicted: str) -> KernelTable:
    kernels = sorted(support.kernels, key=lambda kernel: -kernel.share)
    rows = [
        KernelRow(
            name=kernel.name,
            time=ms(kernel.share * found.latency_ms),
            share=kernel.share,
            share_words=percent(kernel.share),
            price=kernel.origin + (f", {kernel.rows} row{'s' * (kernel.rows != 1)}" if not kernel.derived else ""),
            width=percent(kernel.width),
            derived=kernel.derived,
        )
        for kernel in kernels
        if kernel.share >= LEAST
    ]
    small = [kernel for kernel in kernels if kernel.share < LEAST]
    if small:
        share, width = sum(k.share for k in small), sum(k.width for k in small)
        time = ms(share * found.latency_ms) if share else "0 ms"
        names = ", ".join(dict.fromkeys(k.name for k in small))
        rows.append(KernelRow(names, time, share, percent(share, 2), "–", percent(width), False))
    rest = 1 - sum(kernel.share for kernel in kernels)
    if rest >= LEAST:
        width = max(0.0, 1 - sum(kernel.width for kernel in kernels))
        price = "of the whole network"
        time = ms(rest * found.latency_ms)
        rows.append(KernelRow("beside the kernels", time, rest, percent(rest), price, percent(width), False))
    return KernelTable(device, predicted, percent(support.derived, 0), tuple(rows))
