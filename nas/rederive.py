"""The command that chooses anew from a finished search, without training.

    python -m nas.rederive run=FOLDER [device=NAME] [budget_ms=NUMBER] [confidence=NUMBER] [calibration=NAME]

For a device whose profile was corrected (`latency_models.calibrate`), another budget, or another device.
The gates and weights are those that the search left in checkpoint.safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from latency_models.options import Options, run
from nas.run.result import load_result
from nas.run.settings import SearchSettings, settings_from_dict
from nas.supernet.origin import CHECKPOINT
from search_space.errors import BadFile

USAGE = "usage: python -m nas.rederive run=FOLDER [device=NAME] [budget_ms=NUMBER]"
OPTIONS = {
    "run": "folder of a finished search",
    "device": "another device than the run's",
    "budget_ms": "another budget",
    "confidence": "the upper end of the interval keeps the budget",
    "calibration": "a scale of the profile: measured, table3 or table3_nn_meter",
    "use_at_least": "share of a binding budget to use",
    "out": "where the files go (default: runs/TIME-DEVICE-BUDGET-SPACE)",
}


def rederive(run_folder: Path, changes: dict[str, Any]) -> tuple[Any, Path]:
    """The result and folder of a run's network chosen anew under changed settings; nothing is trained.

    Raises `BadFile` for a folder that is no finished search, `UserError` for an infeasible budget.
    """
    settings = _settings(run_folder, changes)
    from nas.run.plan import plan_search

    plan = plan_search(settings, load_result(run_folder / "architecture.json").num_classes)
    from nas.api import derive_from_checkpoint

    finished = derive_from_checkpoint(plan, run_folder)
    return finished.result, finished.folder


def _settings(folder: Path, changes: dict[str, Any]) -> SearchSettings:
    saved = load_result(folder / "architecture.json").provenance.get("settings")
    if not isinstance(saved, dict) or "gates" not in saved:
        raise BadFile(f"'{folder}' is not the folder of a search: its architecture.json has no search settings")
    if (strategy := saved.get("strategy")) != "proxyless":
        raise BadFile(f"'{folder}' was searched by strategy={strategy}, which leaves no gates to choose anew by")
    if saved.get("init") and not (folder / CHECKPOINT).is_file():
        raise BadFile(f"'{folder}' trained nothing; ask its supernet: python -m nas.search init={saved['init']}")
    saved = {**saved, "out": None, **changes}
    settings = settings_from_dict(SearchSettings, saved)
    return replace(settings, finetune=replace(settings.finetune, epochs=0))


def main(arguments: Sequence[str]) -> int:
    return run(_rederive, OPTIONS, USAGE, arguments)


def _rederive(options: Options) -> str:
    from nas.command.summary import summary

    numbers = {n: options.number(n) for n in ("budget_ms", "confidence", "use_at_least") if options.given(n)}
    texts = {n: options.text(n) for n in ("device", "calibration", "out") if options.given(n)}
    result, folder = rederive(Path(options.text("run")), {**numbers, **texts})
    return "\n".join([*(f"note: {note}" for note in result.notes), summary(result, folder)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
