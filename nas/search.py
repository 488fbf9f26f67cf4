"""The command: `python -m nas.search device=vpu budget_ms=30`. Options at the door, plain calls behind it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.command.options import given, print_first, run_command
from nas.run.defaults import with_defaults
from nas.run.resume import Begun, options_to_go_on
from nas.run.settings import SearchSettings, settings_from_dict
from nas.run.targets import each_target, is_front

if TYPE_CHECKING:
    from nas.run.plan import Plan


def main() -> None:
    run_command("search", _search)


def _search(values: dict[str, Any]) -> None:
    values["data"].pop("epochs")  # already copied to where they act
    resume = values.pop("resume")
    begun, begun_in = None, Path(str(resume)).expanduser()
    if resume is not None:
        begun = Begun.load(begun_in, "search")
        if begun is None:
            _say_finished(begun_in)
            return
        values = options_to_go_on(begun.options, values, sys.argv[1:])
    elif values["init"] is not None:
        values = with_defaults(given(values, sys.argv[1:]))
    command = " ".join(["python -m nas.search", *(a for a in sys.argv[1:] if not a.startswith("out="))])
    going_on = (begun_in, begun) if begun else None
    from nas.run.plan import check_out, plan_search  # no torch up to here: a hopeless request is refused at once

    if begun is None:
        check_out(values["out"])
    if is_front(values):
        _search_front(values, command, going_on)
        return
    settings = settings_from_dict(SearchSettings, values)
    plan = plan_search(settings)
    _say_plan(plan)
    from nas.api import take_part
    from nas.command.summary import summary

    finished = take_part(plan, command=command, say=print_first, resume=going_on)
    if finished is not None:
        print_first(summary(finished.result, finished.folder))


def _search_front(values: dict[str, Any], command: str, going_on: tuple[Path, Begun] | None) -> None:
    each = [settings_from_dict(SearchSettings, options) for options in each_target(values)]
    from nas.run.plan import plan_front

    plans = plan_front(each)
    for plan in plans:
        _say_plan(plan)
    from nas.front import take_part
    from nas.report.front import front_table

    finished = take_part(plans, command=command, say=print_first, resume=going_on)
    if finished is not None:
        print_first(front_table(finished.folder))


def _say_plan(plan: Plan) -> None:
    from nas.run.plan import what_is_kept

    settings, table = plan.settings, plan.table
    print_first(
        f"space {plan.space.name}: {plan.space.architecture_count:.3g} networks, "
        f"{table.minimum_ms:.4g} to {table.maximum_ms:.4g} ms on {settings.device} ({plan.profile.title}, "
        f"{what_is_kept(settings)}); "
        f"budget {settings.budget_ms:g} ms"
    )
    for note in plan.notes:
        print_first(f"note: {note}")


def _say_finished(folder: Path) -> None:
    from nas.command.summary import summary
    from nas.run.result import load_result

    print_first(f"the run in {folder} has finished")
    if (folder / "front.json").is_file():
        from nas.report.front import front_table

        print_first(front_table(folder))
        return
    print_first(summary(load_result(folder / "architecture.json"), folder))


if __name__ == "__main__":
    main()
