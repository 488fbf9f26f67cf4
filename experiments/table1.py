"""Table I: cost and speed of QuadraNets beside attention and other high-order networks.

Question   Do the five QuadraNets have the published size and work, and are they as much faster than Swin,
           ConvNeXt and HorNet here as the paper says (36-T: 1.49x Swin-T, 1.01x ConvNeXt-T, 1.57x HorNet-T)?
Command    python -m experiments.table1 [models=swin-t,quadranet36-t] [batch=64] [minutes=5]
           python -m experiments.table1 show
Cost       A GPU: some minutes. A CPU: minutes=, of which one pass of every network to warm up; 4 GiB of memory.
Expected   Counted equals published to the digits given but for QuadraNet36-S and 25-B, whose published
           parameters are inconsistent. Order on a GPU as published. On a CPU speed follows the MACs (60 to 67 a
           nanosecond for all four T networks on two cores): 36-T 1.15x Swin-T, 1.01x ConvNeXt-T, 0.98x HorNet-T.
Missing    PVT-S and T2T-ViT-14 are in no library used here; DeiT-S and TNT-S need timm (`.[baselines]`).
           Top-1 is the paper's: nothing here was trained on ImageNet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from experiments.command import run_experiment
from experiments.results import Results, Row, Value, markdown, ratio, shown, spread_shown, take_provenance
from search_space.errors import UnknownName
from search_space.family import NUM_CLASSES, PUBLISHED, RESOLUTION, TABLE1, counted, family_architecture
from search_space.lower import lower

if TYPE_CHECKING:
    from torch import nn

    from latency_models.options import Options

OPTIONS = {
    "models": "names with commas between (default: all that can be built here)",
    "batch": "images a pass (default: 64 on a GPU, 8 on a CPU)",
    "minutes": "how long a CPU measures (default: 5)",
}
HEADER = (
    "network",
    "blocks",
    "params M",
    "published",
    "GMACs",
    "published",
    "top-1 published",
    "img/s published (A100)",
    "img/s here (quartiles)",
)
RIVALS = ("swin", "convnext", "hornet")
NEED_TIMM, IN_NO_LIBRARY = ("deit-s", "tnt-s"), ("pvt-s", "t2t-vit-14")


@dataclass(frozen=True, slots=True)
class Line:
    """A row of Table I. size: T, S or B, within which ratios are taken; images_per_second on an A100."""

    size: str
    params_m: float
    gmacs: float
    blocks: int
    top1: float
    images_per_second: int


def _quadranet(name: str, size: str, blocks: int) -> Line:
    p = PUBLISHED[name]
    assert p.images_per_second is not None
    return Line(size, p.params_m, p.gmacs, blocks, p.top1, p.images_per_second)


LINES: Mapping[str, Line] = {
    "swin-t": Line("T", 29, 4.5, 12, 81.3, 1321),
    "deit-s": Line("T", 22, 4.6, 12, 79.8, 1621),
    "tnt-s": Line("T", 23.8, 5.2, 12, 81.5, 657),
    "pvt-s": Line("T", 24.5, 3.8, 16, 79.8, 1433),
    "t2t-vit-14": Line("T", 21.5, 4.8, 14, 81.5, 1376),
    "convnext-t": Line("T", 28, 4.5, 18, 82.1, 1944),
    "hornet-t": Line("T", 22, 4.0, 25, 82.8, 1254),
    "quadranet25-t": _quadranet("quadranet25-t", "T", 25),
    "quadranet36-t": _quadranet("quadranet36-t", "T", 36),
    "swin-s": Line("S", 50, 8.7, 24, 83.0, 827),
    "convnext-s": Line("S", 50, 8.7, 36, 83.1, 1275),
    "hornet-s": Line("S", 50, 8.8, 25, 83.8, 813),
    "quadranet36-s": _quadranet("quadranet36-s", "S", 36),
    "swin-b": Line("B", 88, 15.4, 24, 83.5, 662),
    "convnext-b": Line("B", 89, 15.4, 36, 83.8, 969),
    "hornet-b": Line("B", 87, 15.6, 25, 84.2, 641),
    "quadranet25-b": _quadranet("quadranet25-b", "B", 25),
    "quadranet36-b": _quadranet("quadranet36-b", "B", 36),
}


def builders(resolution: int) -> dict[str, Callable[[], nn.Module]]:
    """What builds each network of the table that can be built, timm's too where timm is missing."""
    from experiments.baselines.zoo import TIMM, convnext, hornet, swin, timm_model
    from search_space.build import Network

    made: dict[str, Callable[[], nn.Module]] = {}
    for size in ("T", "S", "B"):
        made[f"swin-{size.lower()}"] = partial(swin, size, resolution=resolution)
        made[f"convnext-{size.lower()}"] = partial(convnext, size)
        made[f"hornet-{size.lower()}"] = partial(hornet, size)
    made |= {name: partial(timm_model, name, resolution) for name in TIMM}
    for name in TABLE1:
        made[name] = partial(Network, lower(family_architecture(name), resolution, NUM_CLASSES))
    return {name: made[name] for name in LINES if name in made}


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: the T group at 64 pixels, one image a pass."""
    from experiments.baselines.zoo import TIMM, has_timm
    from experiments.counting import count
    from experiments.throughput import (
        measure_throughput,
        protocol_settings,
        read_protocol,
        spread_columns,
        times_as_fast,
    )

    protocol = read_protocol(options, quick, cpu_batch=8)
    make = builders(protocol.resolution)
    available = [name for name in make if name not in TIMM or has_timm()]
    names = options.names("models", [n for n in available if not quick or LINES[n].size == "T"])
    for name in names:
        if name not in make:
            raise UnknownName("model", name, make)
    provenance = take_provenance(command, protocol.device)
    rates = measure_throughput({name: make[name]() for name in names}, protocol)
    counts = {n: count(m) for n, m in builders(RESOLUTION).items() if n in available and n not in TABLE1}
    rows = []
    for name, line in LINES.items():
        cost = counted(family_architecture(name)) if name in TABLE1 else counts.get(name)
        row: dict[str, Value] = {
            "network": name,
            "size": line.size,
            "blocks": line.blocks,
            "params": cost.params if cost else None,
            "published_params_m": line.params_m,
            "macs": cost.macs if cost else None,
            "published_gmacs": line.gmacs,
            "published_top1": line.top1,
            "published_images_per_second": line.images_per_second,
            **spread_columns("images_per_second", rates.get(name)),
        }
        if name in TABLE1:
            for rival in RIVALS:
                speedup = times_as_fast(rates.get(name), rates.get(_of_size(rival, line.size)))
                row |= spread_columns(f"times_{rival}", speedup)
        rows.append(row)
    return Results("table1", provenance, protocol_settings(protocol, rates, quick), tuple(rows))


def render(results: Results) -> str:
    """Both tables of a results file as Markdown."""
    by_name = {str(row["network"]): row for row in results.rows}
    cost = markdown(
        HEADER,
        [
            (
                str(row["network"]),
                shown(row["blocks"]),
                shown(row["params"], 2, 1e-6),
                f"{row['published_params_m']}",
                shown(row["macs"], 2, 1e-9),
                f"{row['published_gmacs']}",
                f"{row['published_top1']}",
                shown(row["published_images_per_second"]),
                spread_shown(row, "images_per_second"),
            )
            for row in results.rows
        ],
    )
    speed = markdown(
        ("times as fast as", *(f"{rival}, {source}" for rival in RIVALS for source in ("published", "here"))),
        [
            (name, *(cell for rival in RIVALS for cell in _speedups(by_name, name, rival)))
            for name in by_name
            if name in TABLE1
        ],
    )
    return f"{results.settings['protocol']}\n{results.provenance}\n\n{cost}\n\n{speed}\n\n" + "\n".join(_notes(results))


def _notes(results: Results) -> Iterator[str]:
    """Published figures that counting contradicts, and why networks are missing."""
    for name in TABLE1:
        if note := PUBLISHED[name].note:
            yield f"- {name}: {note}"
    missing = [str(row["network"]) for row in results.rows if row["params"] is None]
    for reason, names in (("not here without timm", NEED_TIMM), ("in no library used here", IN_NO_LIBRARY)):
        if absent := [name for name in names if name in missing]:
            yield f"- {', '.join(absent)}: {reason}"


def _speedups(by_name: Mapping[str, Row], name: str, rival: str) -> tuple[str, str]:
    """Two cells: how many times as fast as its rival of the same size a network is, as published and here."""
    row, other = by_name[name], by_name[_of_size(rival, str(by_name[name]["size"]))]
    published = "published_images_per_second"
    return shown(ratio(row[published], other[published]), 2), spread_shown(row, f"times_{rival}")


def _of_size(rival: str, size: str) -> str:
    return f"{rival}-{size.lower()}"


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("table1", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
