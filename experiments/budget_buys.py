"""What a latency budget buys: the largest network within it, by MACs and by parameters, on every device.

Question   How large a network do 25, 30 and 50 ms leave room for, in `quadranet` and in `quadranet_lite`? Size alone is
           asked, not accuracy: scores of the exact choice are MACs, or parameters, in place of gates.
Command    python -m experiments.budget_buys [spaces=quadranet,quadranet_lite] [devices=cpu,cpu_int8,vpu,gpu]
           [budgets=25,30,50]
           python -m experiments.budget_buys show
Cost       Half a minute of one core; nothing is trained or timed.
Expected   More in `quadranet_lite` wherever LayerNorm and GELU are no single operators.
Reading    224 pixels, 1000 classes, the shipped profiles. `above 7x7`: the share of MACs in layers whose output is
           larger than 7 x 7 pixels. Where LayerNorm and GELU are dear, MACs are cheapest where pixels are few.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from experiments.command import run_experiment
from experiments.results import Results, Row, earlier_profiles, markdown, profile_digests, shown, take_provenance
from search_space import lower
from search_space.errors import UserError

if TYPE_CHECKING:
    from latency_models import LatencyModel, LatencyTable
    from latency_models.options import Options
    from nas.choose.limits import Limits
    from search_space import Architecture, Segment

SPACES = ("quadranet", "quadranet_lite")
DEVICES = ("cpu", "cpu_int8", "vpu", "gpu", "gpu_eager_fp32")
BUDGETS = {"gpu": (0.5, 0.75, 1.0), "gpu_eager_fp32": (3.0, 4.0, 6.0)}  # in place of the others' on faster devices
OTHERS = (25.0, 30.0, 50.0)
RESOLUTION, NUM_CLASSES = 224, 1000
LAST_MAP = 7  # pixels a side of the last stage's maps
OPTIONS = {
    "spaces": f"which, commas between (default: {','.join(SPACES)})",
    "devices": f"which, commas between (default: {','.join(DEVICES)})",
    "budgets": "ms, commas between, on every device (default: 25,30,50, on gpu 0.5,0.75,1, on gpu_eager_fp32 3,4,6)",
}
HEADER = ("device, budget", "space", "MACs", "parameters", "blocks", "predicted ms", "90 % interval",
          "derived time", "MACs above 7x7", "most parameters", "network")  # fmt: skip


def largest(score: str, limits: Limits, table: LatencyTable, budget_ms: float) -> Architecture:
    """The network within a budget with most of `score`, 'macs' or 'params'. Raises `UserError` if none is so fast."""
    from nas.choose.derive import derive

    [found] = derive(limits.space, table, limits.slots[score], budget_ms, use_at_least=0.0)
    return limits.space.architecture(found.path)


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: the first budget of the first device alone."""
    from device_profiles import load_profile
    from latency_models import fit_latency_model, latency_table
    from nas.choose.limits import limits_of
    from nas.run.settings import LimitSettings
    from search_space import load_space

    spaces, devices = options.names("spaces", SPACES), options.names("devices", DEVICES)[: 1 if quick else None]
    rows: list[Row] = []
    for name in spaces:
        limits = limits_of(load_space(name), RESOLUTION, NUM_CLASSES, LimitSettings())
        for device in devices:
            model = fit_latency_model(load_profile(device))
            table = latency_table(model, limits.space, RESOLUTION, NUM_CLASSES)
            for budget_ms in _budgets(options, device)[: 1 if quick else None]:
                rows.append({"space": name, "device": device, **bought(limits, model, table, budget_ms)})
    return Results("budget_buys", take_provenance(command, "cpu"), dict(profile_digests(devices)), tuple(rows))


def bought(limits: Limits, model: LatencyModel, table: LatencyTable, budget_ms: float) -> Row:
    """A row without its space and device; only `fastest_ms` beside the budget where no network is so fast."""
    from search_space import cost_of

    row: Row = {"budget_ms": budget_ms, "fastest_ms": round(table.minimum_ms, 6)}
    if table.minimum_ms > budget_ms:
        return row
    network = largest("macs", limits, table, budget_ms)
    segments = lower(network, RESOLUTION, NUM_CLASSES)
    cost, prediction = cost_of(segments), model.predict(segments)
    return {
        **row,
        "macs": cost.macs,
        "params": cost.params,
        "blocks": sum(map(len, network.stages)),
        "predicted_ms": round(prediction.latency_ms, 6),
        "low_ms": round(prediction.low_ms, 6),
        "high_ms": round(prediction.high_ms, 6),
        "coverage": prediction.coverage,
        "derived": round(model.support(segments).derived, 6),
        "above": round(macs_above(segments) / cost.macs, 6),
        "network": str(network),
        "most_params": cost_of(lower(largest("params", limits, table, budget_ms), RESOLUTION, NUM_CLASSES)).params,
    }


def macs_above(segments: Sequence[Segment], side: int = LAST_MAP) -> int:
    """MACs of the layers whose output has more than `side` x `side` pixels."""
    specs = (node.spec for node in chain.from_iterable(segment.nodes for segment in segments))
    return sum(spec.macs for spec in specs if spec.out_height > side)


def _budgets(options: Options, device: str) -> list[float]:
    given = options.names("budgets", tuple(map(str, BUDGETS.get(device, OTHERS))))
    try:
        found = [float(budget) for budget in given]
    except ValueError:
        found = []
    if not found or not all(0 < budget < math.inf for budget in found):
        raise UserError(f"budgets={','.join(given)}: numbers of ms above 0 are needed, commas between")
    return found


def render(results: Results) -> str:
    """A line for every budget and space, devices together."""
    devices = list(dict.fromkeys(str(row["device"]) for row in results.rows))
    rows = sorted(results.rows, key=lambda row: (devices.index(str(row["device"])), row["budget_ms"]))
    coverage = {f"{row['device']} {shown(row['coverage'], 0, 100)} %" for row in rows if "coverage" in row}
    earlier = earlier_profiles(results.settings)
    return (
        f"{markdown(HEADER, map(_line, rows))}\n\n"
        "The largest network within the budget by MACs; `most parameters` is of another network, the largest by them. "
        f"{RESOLUTION} pixels, {NUM_CLASSES} classes. Intervals claim to hold: {', '.join(sorted(coverage))}."
        f"{earlier and f' {earlier}'}\n{results.provenance}"
    )


def _line(row: Row) -> list[str]:
    start = [f"{row['device']}, {row['budget_ms']:g} ms", str(row["space"])]
    if "macs" not in row:
        return [*start, f"none: the fastest takes {shown(row['fastest_ms'], 1)} ms", *["-"] * (len(HEADER) - 3)]
    digits = 2 if float(row["predicted_ms"] or 0) < 10 else 1
    return [
        *start,
        f"{shown(row['macs'], 0, 1e-6)}M",
        f"{shown(row['params'], 2, 1e-6)}M",
        shown(row["blocks"]),
        shown(row["predicted_ms"], digits),
        f"{shown(row['low_ms'], digits)}..{shown(row['high_ms'], digits)}",
        f"{shown(row['derived'], 0, 100)} %",
        f"{shown(row['above'], 0, 100)} %",
        f"{shown(row['most_params'], 2, 1e-6)}M",
        f"`{str(row['network']).replace('|', '/')}`",
    ]


def main(arguments: Sequence[str]) -> int:
    """Work it out, or show what was found; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("budget_buys", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
