"""The command: `python -m nas.search device=vpu budget_ms=30`. Options at the door, plain calls behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nas.door import run_command
from nas.resume import Begun, check_unchanged
from nas.settings import SearchSettings, settings_from_dict


def main() -> None:
    run_command("search", _search)


def _search(values: dict[str, Any]) -> None:
    values["data"].pop("epochs")  # already copied to where they act
    resume = values.pop("resume")
    begun = None
    if resume is not None:
        begun = Begun.load(Path(resume), "search")
        if begun is None:
            _say_finished(Path(resume))
            return
        check_unchanged(begun.options, values, sys.argv[1:])
        values = dict(begun.options)
    settings = settings_from_dict(SearchSettings, values)
    from nas.preflight import plan_search, what_is_kept  # no torch up to here: a hopeless request is refused at once

    plan = plan_search(settings)
    table = plan.table
    print(
        f"space {plan.space.name}: {plan.space.architecture_count:.3g} networks, "
        f"{table.minimum_ms:.4g} to {table.maximum_ms:.4g} ms on {settings.device} ({plan.profile.title}, "
        f"{what_is_kept(settings)}); "
        f"budget {settings.budget_ms:g} ms",
        flush=True,
    )
    for note in plan.notes:
        print(f"note: {note}", flush=True)
    from nas.api import run_search
    from nas.summary import summary

    command = " ".join(["python -m nas.search", *(a for a in sys.argv[1:] if not a.startswith("out="))])
    finished = run_search(
        plan,
        command=command,
        say=lambda line: print(line, flush=True),
        resume=(Path(resume), begun) if begun else None,
    )
    print(summary(finished.result, finished.folder))


def _say_finished(folder: Path) -> None:
    from nas.result import load_result
    from nas.summary import summary

    print(f"the run in {folder} has finished")
    print(summary(load_result(folder / "architecture.json"), folder))


if __name__ == "__main__":
    main()
