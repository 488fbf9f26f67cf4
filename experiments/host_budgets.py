"""Whether a network searched for this machine keeps its budget on this machine.

Question   Ten budgets that bind: is the measured median of the exported network within the budget, and how much of
           it is used?
Command    python -m latency_models.profile device=host space=quadranet       (first, about two minutes)
           python -m experiments.host_budgets [device=host] [space=quadranet] [n=10] [confidence=0.9] [busy=refuse]
           python -m experiments.host_budgets show [out=FILE]
Cost       Two CPU cores: about ten seconds a search with these short schedules, then half a minute of timing.
           A search of one epoch is enough for the question: only the choice under the budget is looked at.
Expected   Within the budget in at least 9 of 10, with at least 90 % of it used.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command import run_experiment
from experiments.results import Results, Row, Value, markdown, take_provenance

if TYPE_CHECKING:
    from latency_models.options import Options

OPTIONS = {
    "device": "a profile of this machine (default: host)",
    "space": "search space (default: quadranet)",
    "n": "how many budgets, evenly over what binds (default: 10)",
    "confidence": "the upper end of the prediction's interval keeps the budget so surely (default: 0.9)",
    "busy": "refuse (default) or accept a machine that does other work",
}
IMAGES = 200  # of the digits that come with scikit-learn
LOWEST, HIGHEST = 0.15, 0.85  # budgets lie between these shares of the space's range
USED = 0.9


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: two budgets."""
    from device_profiles import load_profile
    from latency_models import fit_latency_model, latency_table
    from latency_models.measure.kernel_onnx import network_item
    from latency_models.measure.timing import Refused
    from latency_models.verify import time_here
    from nas.api import search
    from search_space import UserError, load_space, lower
    from search_space.family import RESOLUTION

    device, space = options.text("device", "host"), options.text("space", "quadranet")
    n, confidence = (2 if quick else options.integer("n", 10)), options.number("confidence", 0.9)
    profile = load_profile(device)
    table = latency_table(
        fit_latency_model(profile, confidence=confidence), load_space(space), RESOLUTION, 10
    ).upper_end()
    span = table.maximum_ms - table.minimum_ms
    shares = [LOWEST + (HIGHEST - LOWEST) * (i + 0.5) / n for i in range(n)]
    rows: list[Row] = []
    items = []
    with tempfile.TemporaryDirectory() as folder:
        for i, share in enumerate(shares):
            budget_ms = round(table.minimum_ms + span * share, 2)
            run = search(
                device=device,
                space=space,
                budget_ms=budget_ms,
                confidence=confidence,
                seed=i,
                data={"limit": IMAGES},
                warmup={"epochs": 1},
                epochs=1,
                finetune={"epochs": 0},
                out=str(Path(folder) / str(i)),
                progress=False,
            )
            kept = run.result.budget
            assert kept is not None
            rows.append(
                {
                    "budget_ms": budget_ms,
                    "predicted_ms": kept.predicted_ms,
                    "upper_ms": kept.kept_ms,
                    "network": str(run.result.architecture),
                }
            )
            item = network_item(str(i), lower(run.result.architecture, RESOLUTION, run.result.num_classes))
            exported = (run.folder / "latency_224.onnx").read_bytes()  # LiteRT's own file is the item's
            items.append(item._replace(onnx=lambda exported=exported: exported))  # type: ignore[misc]
        what = f"{device} {space} {n} {confidence}"
        accept_noise = options.choice("busy", ("refuse", "accept")) == "accept"
        try:
            here = time_here(profile, items, what, Path(folder) / "timings.csv", accept_noise)
        except Refused as error:
            raise UserError(str(error)) from error
    measured = [
        {
            **row,
            "scaled_ms": here.scaled[str(i)].ms,
            "as_timed_ms": here.as_timed[str(i)].ms,
            "spread_ms": here.scaled[str(i)].spread_ms,
        }
        for i, row in enumerate(rows)
    ]
    settings: dict[str, Value] = {
        "device": f"{profile.title}, {profile.runtime}, {profile.header.threads} thread, profile {profile.digest}",
        "space": space,
        "confidence": confidence,
        "reference_ratio": round(here.reference_ratio, 4),
    }
    return Results("host_budgets", take_provenance(command, "cpu"), settings, tuple(measured))


def render(results: Results) -> str:
    """The table, and how many budgets were kept."""
    lines, kept, used = [], 0, 0
    for row in results.rows:
        budget, scaled = float(row["budget_ms"] or 0), float(row["scaled_ms"] or 0)
        kept += scaled <= budget
        used += scaled >= USED * budget
        names = ("budget_ms", "predicted_ms", "upper_ms", "scaled_ms", "spread_ms", "as_timed_ms")
        lines.append([*(f"{float(row[name] or 0):.2f}" for name in names), f"{scaled / budget:.1%}"])
    header = ("budget ms", "predicted", "upper end", "measured", "spread", "as timed", "of the budget")
    n = len(results.rows)
    return (
        f"{markdown(header, lines)}\n\n"
        f"Measured within the budget: {kept} of {n}; at least {USED:.0%} of it used: {used} of {n}. Measured times are "
        f"scaled to the reference's speed when the profile was taken (now {results.settings['reference_ratio']} of its "
        f"time then). Confidence {results.settings['confidence']}; {results.settings['device']}.\n{results.provenance}"
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("host_budgets", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
