"""The command that predicts the latency of any ONNX classifier on a profiled device, at batch 1.

    python -m latency_models.predict device=NAME model=FILE.onnx [calibration=measured] [confidence=0.9]
        [resolution=224]

Not for reading the file (`onnx.reader`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_profiles import Kernel, load_profile
from latency_models.fuse import fuse
from latency_models.model import LatencyModel, fit_latency_model
from latency_models.onnx.reader import read_onnx
from latency_models.options import Options, run
from latency_models.scenario import assume
from search_space.family import RESOLUTION
from search_space.layer import WEIGHTED
from search_space.lower import Segment

OPTIONS = {
    "device": "a profiled device",
    "model": "the ONNX file of a classifier",
    "calibration": "a scale named in the device's profile (default: measured)",
    "confidence": "share of networks below the interval's upper end, in (0.5, 1) (default: the profile's)",
    "resolution": "pixels a side, where the model leaves height and width free",
}
LEFT = (0, 1, 5)  # columns of words
USAGE = "usage: python -m latency_models.predict device=NAME model=FILE.onnx [calibration=NAME] [confidence=0.9]"


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A kernel and how often it occurs; ms of all its occurrences. rows: measured rows behind its time."""

    kernel: Kernel
    count: int
    ms: float
    origin: str
    rows: int


def kernel_times(model: LatencyModel, segments: Sequence[Segment]) -> tuple[KernelTime, ...]:
    """Every distinct kernel of a network, the dearest first; with the runtime's price they sum to the prediction.

    Raises `UserError` for a kernel that the profile does not price.
    """
    counts = Counter(kernel for segment in segments for kernel in fuse(segment.nodes, model.fusion))
    times = []
    for kernel, count in counts.items():
        ms, row, kind = model.kernel_price(kernel).ms, model.profile.by_kernel.get(kernel), model.kind_model(kernel)
        support = row.count if row else kind.count(kernel.spec.kernel_size)
        times.append(
            KernelTime(
                kernel, count, count * ms, row.origin if row else kind.origin_of(kernel.spec.kernel_size), support
            )
        )
    return tuple(sorted(times, key=lambda time: -time.ms))


def predict(
    device: str,
    path: Path,
    calibration: str = "measured",
    confidence: float | None = None,
    resolution: int | None = None,
) -> str:
    """The table of kernels, the total with its interval and what was assumed, as text. Raises `UserError`."""
    model = fit_latency_model(load_profile(device), calibration, confidence)
    network = read_onnx(path, resolution)
    times, total = kernel_times(model, network.segments), model.predict(network.segments)
    support = model.support(network.segments)
    profile, first = model.profile, network.segments[0].nodes[0].spec
    head = f"{path.name} on {profile.name} ({profile.title}; {profile.runtime}; {profile.precision}), batch 1, "
    lines = [head + f"{first.in_channels}x{first.height}x{first.width}", ""]
    cells: list[tuple[str, ...]] = [("kernel", "sizes", "times", "ms", "share", "origin", "rows behind it")]
    cells += [_cells(time, total.latency_ms) for time in times]
    if runtime_ms := model.runtime_price.ms:
        cells.append(("runtime", "", "1", f"{runtime_ms:.4g}", f"{runtime_ms / total.latency_ms:.1%}", "", ""))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        pairs = enumerate(zip(row, widths, strict=True))
        padded = [cell.ljust(width) if i in LEFT else cell.rjust(width) for i, (cell, width) in pairs]
        lines.append("  ".join(padded).rstrip())
    lines += [
        "",
        f"total {total.latency_ms:.4g} ms, {total.low_ms:.4g}..{total.high_ms:.4g} ms holds {total.coverage:.0%} of "
        f"networks like those it was set on ({profile.header.interval.networks})"
        + (f"; {support.words}" if support.words else ""),
        f"derived prices: {100 * support.derived:.0f} % of the time (neither measured nor fitted on this device)",
        *_scenarios(model, network.segments, total.latency_ms),
        *(
            f"note: {note}"
            for note in (
                *support.notes(profile.name),
                *network.notes_on(profile.name, profile.precision),
                *(f"{profile.name}: {caveat}" for caveat in profile.header.caveats),
            )
        ),
    ]
    return "\n".join(lines)


def _scenarios(model: LatencyModel, segments: Sequence[Segment], total_ms: float) -> Iterator[str]:
    """The totals under the profile's other guesses, where those change this network's."""
    for name, scenario in model.profile.header.scenarios.items():
        assumed = LatencyModel(assume(model.profile, name), model.scale, model.coverage).predict(segments)
        if assumed.latency_ms != total_ms:
            ends = f"{assumed.latency_ms:.4g} ms, {assumed.low_ms:.4g}..{assumed.high_ms:.4g} ms"
            yield f"scenario {name}: {ends}, if {scenario.reason}"


def _cells(time: KernelTime, total_ms: float) -> tuple[str, ...]:
    s = time.kernel.spec
    kind = "+".join((time.kernel.price_kind, *(kind.value for kind in time.kernel.fused)))
    sizes = f"{s.in_channels}x{s.height}x{s.width}"
    if s.kind in WEIGHTED or s.kernel_size > 1:
        sizes += f" -> {s.out_channels}x{s.out_height}x{s.out_width} k{s.kernel_size} s{s.stride}"
    share = f"{time.ms / total_ms:.1%}"
    return kind, sizes, str(time.count), f"{time.ms:.4g}", share, time.origin, str(time.rows)


def _predict(options: Options) -> str:
    return predict(
        options.text("device"),
        Path(options.text("model")),
        options.text("calibration", "measured"),
        options.number("confidence") if options.given("confidence") else None,
        options.integer("resolution", RESOLUTION) if options.given("resolution") else None,
    )


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_predict, OPTIONS, USAGE, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
