"""The door of the experiments: `python -m experiments.NAME [show] [--quick] [option=value ...]`.

Without `show` it measures, writes the results and prints the table; with it, it prints the table of a results file.
`--quick` is a trial of seconds whose results are written only where out= says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.results import FOLDER, Results, load_results, save_results
from latency_models.options import Options, run
from search_space.errors import UserError

Measure = Callable[[Options, bool, str], Results]
"""(options, whether this is a quick trial, the command line) -> what was found."""


def run_experiment(
    name: str,
    known: Mapping[str, str],
    measure: Measure,
    render: Callable[[Results], str],
    arguments: Sequence[str],
) -> int:
    """The exit status. known: option -> what it means; out= is added to them."""
    flags = [argument for argument in arguments if argument in ("show", "--quick")]
    rest = [argument for argument in arguments if argument not in flags]
    usage = f"python -m experiments.{name} [show] [--quick] [option=value ...]"
    known = {**known, "out": f"the results file (default: {FOLDER.name}/{name}.json beside this module)"}

    def task(options: Options) -> str:
        path = Path(options.text("out")) if options.given("out") else FOLDER / f"{name}.json"
        if "show" in flags:
            if unused := sorted(options.values.keys() - {"out"}):
                raise UserError(f"'show' measures nothing and takes no {unused[0]}=")
            return render(load_results(path, name))
        quick = "--quick" in flags
        results = measure(options, quick, " ".join([f"python -m experiments.{name}", *arguments]))
        if quick and not options.given("out"):
            return f"{render(results)}\n\nA quick trial, not written (out=FILE writes it)."
        save_results(path, results)
        return f"{render(results)}\n\n-> {path}"

    return run(task, known, usage, rest)
