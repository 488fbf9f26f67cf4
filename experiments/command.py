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
from search_space.files import write_whole

Measure = Callable[[Options, bool, str], Results]
"""(options, whether this is a quick trial, the command line) -> what was found."""


def results_file(name: str, options: Options) -> Path:
    """Where an experiment's results lie, or will."""
    return Path(options.text("out", str(FOLDER / f"{name}.json")))


def run_experiment(
    name: str,
    known: Mapping[str, str],
    measure: Measure,
    render: Callable[[Results], str],
    arguments: Sequence[str],
    draw: Callable[[Results], bytes] | None = None,
) -> int:
    """The exit status. known: option -> what it means; out= is added to them, and figure= where `draw` makes an SVG."""
    flags = [argument for argument in arguments if argument in ("show", "--quick")]
    rest = [argument for argument in arguments if argument not in flags]
    usage = f"python -m experiments.{name} [show] [--quick] [option=value ...]"
    of_any_run = {"out": f"the results file (default: {FOLDER.name}/{name}.json beside this module)"}
    if draw is not None:
        of_any_run["figure"] = "an SVG file to draw the results into"

    def task(options: Options) -> str:
        path, quick = results_file(name, options), "--quick" in flags
        if "show" in flags:
            if unused := sorted(options.values.keys() - of_any_run):
                raise UserError(f"'show' measures nothing and takes no {unused[0]}=")
            results = load_results(path, name)
        else:
            if options.given("out") and path.exists():
                load_results(path, name)  # another file is not written over
                if quick:
                    raise UserError(f"'{path}' exists; a quick trial writes over no results")
            results = measure(options, quick, " ".join([f"python -m experiments.{name}", *arguments]))
        parts = [render(results)]
        if "show" not in flags:
            if quick and not options.given("out"):
                parts.append("A quick trial, not written (out=FILE writes it).")
            else:
                save_results(path, results)
                parts.append(f"-> {path}")
        if draw is not None and options.given("figure"):
            write_whole(Path(options.text("figure")), draw(results))
        return "\n\n".join(parts)

    return run(task, {**known, **of_any_run}, usage, rest)
