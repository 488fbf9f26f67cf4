"""The command: `python -m nas.search device=vpu budget_ms=30`. Options at the door, plain calls behind it."""

from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.command.options import given, print_first, run_command
from nas.data.addresses import hidden_in, redacted
from nas.run.defaults import with_defaults
from nas.run.resume import AUTO, Begun, folder_to_resume, options_to_resume
from nas.run.settings import Resumable, settings_from_dict
from nas.run.targets import options_of, settings_of
from search_space.reading import to_plain

if TYPE_CHECKING:
    from nas.run.plan import Plan


def main() -> None:
    """Run the command."""
    run_command("search", _search)


def _search(values: dict[str, Any]) -> None:
    for group in ("data", "optuna"):
        values[group] = hidden_in(values[group])
    values["data"].pop("epochs")  # already copied to where they act
    resume = settings_from_dict(Resumable, {"resume": values.pop("resume")}).resume
    begun, begun_in = None, folder_to_resume(resume, values["out"])
    if begun_in is not None:
        begun = Begun.load(begun_in, "search")
        if begun is None:
            _say_finished(begun_in)
            return
        values = options_to_resume(begun.options, _kept(values) if resume == AUTO else values, sys.argv[1:])
    elif values["init"] is not None:
        values = with_defaults(given(values, sys.argv[1:]))
    from nas.run.plan import check_out, plan_targets  # no torch up to here: a hopeless request is refused at once

    each = settings_of(values)
    if begun is None:
        check_out(each[0].out)
    plans = plan_targets(each)
    _say_plans(plans)
    from nas.command.summary import summary
    from nas.run.search import carry_out

    command = " ".join(["python -m nas.search", *(redacted(a) for a in sys.argv[1:] if not a.startswith("out="))])
    finished = carry_out(
        plans, command=command, say=print_first, resume=(begun_in, begun) if begun_in and begun else None
    )
    if finished is not None:
        print_first(summary(finished))
        if plans[0].settings.deploy:
            from nas.deploy.finished import deploy_finished

            deploy_finished(finished, plans[0].settings, print_first, lambda line: print_first(f"warning: {line}"))


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    """What a run that these options begin keeps of them: completed, and every list as one."""
    if values["init"] is not None:
        values = with_defaults(given(values, sys.argv[1:]))
    kept: dict[str, Any] = to_plain(options_of(settings_of(values)))
    return kept


def _say_plans(plans: tuple[Plan, ...]) -> None:
    from nas.run.plan import what_is_kept

    for plan in plans:
        settings, table = plan.settings, plan.table
        print_first(
            f"space {plan.space.name}: {_rounded(plan.space.architecture_count)} networks, "
            f"{table.minimum_ms:.4g} to {table.maximum_ms:.4g} ms on {settings.device} ({plan.profile.title}, "
            f"{what_is_kept(settings)}); "
            f"budget {settings.budget_ms:g} ms"
        )
    for note in dict.fromkeys(note for plan in plans for note in plan.notes):
        print_first(f"note: {note}")


def _rounded(count: int) -> str:
    return f"{count:.3g}" if count < 1e300 else f"{Decimal(count):.3g}"


def _say_finished(folder: Path) -> None:
    from nas.command.summary import summary
    from nas.run.finished import load_finished

    print_first(f"the run in {folder} has finished")
    print_first(summary(load_finished(folder)))


if __name__ == "__main__":
    main()
