"""Table V: what quadratic neurons across channels cost, which is why QuadraNet has them in space alone.

Question   How much larger, heavier and slower does QuadraNet36 get with a quadratic first FFN layer (+Conv1),
           and with both quadratic (+Conv1+Conv2)? The paper: 1.9x to 2.8x for at most 0.5 points of accuracy.
Command    python -m experiments.table5 [models=quadranet36-t,quadranet36-t-conv1] [batch=64] [minutes=5]
           python -m experiments.table5 show
Cost       A GPU: some minutes. A CPU: minutes=, of which one pass of every network to warm up; 4 GiB of memory.
Expected   Counted equals published: 23.60, 44.61, 65.57M for T and 90.45, 174.35, 258.14M for B. Speed falls
           nearly as the work grows (to 0.5 and 0.4). Top-1 is the paper's: nothing here was trained on ImageNet.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.command import run_experiment
from experiments.results import Results, Value, markdown, ratio, shown, spread_shown, take_provenance
from search_space.errors import UnknownName
from search_space.family import NUM_CLASSES, PUBLISHED, TABLE5, counted, family_architecture
from search_space.lower import lower

if TYPE_CHECKING:
    from latency_models.options import Options

OPTIONS = {
    "models": "names with commas between (default: all six)",
    "batch": "images a pass (default: 64 on a GPU, 4 on a CPU)",
    "minutes": "how long a CPU measures (default: 5)",
}
HEADER = (
    "network",
    "params M",
    "published",
    "x",
    "GMACs",
    "published",
    "x",
    "top-1 published",
    "img/s here (quartiles)",
    "x",
)


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: the T networks at 64 pixels, one image a pass."""
    from experiments.throughput import (
        measure_throughput,
        protocol_settings,
        read_protocol,
        spread_columns,
        times_as_fast,
    )
    from search_space.build import Network

    names = options.names("models", [n for n in TABLE5 if not quick or n.startswith("quadranet36-t")])
    for name in names:
        if name not in TABLE5:
            raise UnknownName("model", name, TABLE5)
    protocol = read_protocol(options, quick, cpu_batch=4)
    provenance = take_provenance(command, protocol.device)
    networks = {n: Network(lower(family_architecture(n), protocol.resolution, NUM_CLASSES)) for n in names}
    rates = measure_throughput(networks, protocol)
    rows = []
    for name in TABLE5:
        cost, published = counted(family_architecture(name)), PUBLISHED[name]
        plain = "-".join(name.split("-")[:2])
        row: dict[str, Value] = {
            "network": name,
            "plain": plain,
            "params": cost.params,
            "published_params_m": published.params_m,
            "macs": cost.macs,
            "published_gmacs": published.gmacs,
            "published_top1": published.top1,
            **spread_columns("images_per_second", rates.get(name)),
            **spread_columns("times_plain", times_as_fast(rates.get(name), rates.get(plain))),
        }
        rows.append(row)
    return Results("table5", provenance, protocol_settings(protocol, rates, quick), tuple(rows))


def render(results: Results) -> str:
    """The table of a results file as Markdown; 'x' columns are ratios to the same network without quadratic FFN."""
    plain = {row["network"]: row for row in results.rows}
    table = markdown(
        HEADER,
        [
            (
                str(row["network"]),
                shown(row["params"], 2, 1e-6),
                f"{row['published_params_m']}",
                shown(ratio(row["params"], plain[row["plain"]]["params"]), 2),
                shown(row["macs"], 2, 1e-9),
                f"{row['published_gmacs']}",
                shown(ratio(row["macs"], plain[row["plain"]]["macs"]), 2),
                f"{row['published_top1']}",
                spread_shown(row, "images_per_second"),
                spread_shown(row, "times_plain"),
            )
            for row in results.rows
        ],
    )
    return f"{results.settings['protocol']}\n{results.provenance}\n\n{table}"


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("table5", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
