"""The command: `python -m nas.search device=vpu budget_ms=30`. Options at the door, plain calls behind it."""

from __future__ import annotations

import sys
from typing import Any

from nas.door import run_command
from nas.settings import SearchSettings, settings_from_dict


def main() -> None:
    run_command("search", _search)


def _search(values: dict[str, Any]) -> None:
    values["data"].pop("epochs")  # already copied to where they act
    settings = settings_from_dict(SearchSettings, values)
    from nas.preflight import plan_search  # no torch up to here: a hopeless request is refused at once

    plan = plan_search(settings)
    table = plan.table
    print(
        f"space {plan.space.name}: {plan.space.architecture_count:.3g} networks, "
        f"{table.minimum_ms:.4g} to {table.maximum_ms:.4g} ms on {settings.device} ({plan.profile.title}, predicted); "
        f"budget {settings.budget_ms:g} ms",
        flush=True,
    )
    for note in plan.notes:
        print(f"note: {note}", flush=True)
    from nas.api import run_search

    command = " ".join(["python -m nas.search", *(a for a in sys.argv[1:] if not a.startswith("out="))])
    finished = run_search(plan, command=command, say=lambda line: print(line, flush=True))
    result, budget = finished.result, finished.result.budget
    assert budget is not None
    on_device = result.latency[budget.device]
    if on_device.high_ms > budget.budget_ms:
        timing = finished.folder / f"latency_{settings.deployment_resolution}.onnx"
        print(
            f"note: the prediction keeps the budget, but its {on_device.coverage:.0%} interval reaches "
            f"{on_device.high_ms:.3g} ms: time {timing} on the device"
        )
    print(
        f"{result.architecture}\n"
        f"{budget.device}: predicted {budget.predicted_ms:.4g} ms of {budget.budget_ms:g} ms ({budget.used:.1%} used; "
        f"{on_device.coverage:.0%} interval {on_device.low_ms:.3g}..{on_device.high_ms:.3g} ms), "
        f"{result.cost.macs / 1e6:.0f}M MACs, {result.cost.params / 1e6:.2f}M params, "
        f"{result.accuracy.data} test accuracy {result.accuracy.test:.1%} "
        f"(model.onnx, {result.accuracy.test_images} images) "
        f"-> {finished.folder}"
    )


if __name__ == "__main__":
    main()
