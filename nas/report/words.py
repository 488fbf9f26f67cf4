"""Numbers as the pages word them: milliseconds, counts, shares. Not for values that are computed with."""

from __future__ import annotations

from nas.run.result import DeviceLatency

NOT_MEASURED = "not measured"


def ms(value: float | None) -> str:
    """'29.71 ms', or 'not measured'."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.1f} ms" if value >= 100 else f"{value:.2f} ms" if value >= 1 else f"{value:.3g} ms"


def count(value: float) -> str:
    """'312.0 M' and its like."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {unit}" if value < 10 * factor else f"{value / factor:.1f} {unit}"
    return f"{value:g}"


def mebibytes(value: float) -> str:
    """'4.02 MiB' of a number of bytes."""
    return f"{value / 2**20:.2f} MiB"


def percent(value: float | None, digits: int = 1) -> str:
    """'98.9 %' of a share of 1, or 'not measured'."""
    return NOT_MEASURED if value is None else f"{100 * value:.{digits}f} %"


def interval(latency: DeviceLatency | None) -> str:
    """'24.10 to 38.00 ms (90 %)', or 'not measured'."""
    if latency is None:
        return NOT_MEASURED
    return f"{ms(latency.low_ms).removesuffix(' ms')} to {ms(latency.high_ms)} ({100 * latency.coverage:g} %)"
