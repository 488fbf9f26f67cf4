"""The page of one search or training: self-contained HTML that opens offline, from the files of the run's folder alone.

Its words are in templates/page.html, its drawings in `nas.report.figures`. Not for measuring or predicting: what the
files do not say stands on the page as "not measured".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latency_models.support import RESTS_ON_LITTLE
from nas.report.answers import Answers
from nas.report.figures.course import MOST_POINTS, draw_course
from nas.report.figures.devices import draw_devices, draw_gauge
from nas.report.figures.front import NARROW
from nas.report.figures.gates import draw_gates
from nas.report.figures.network import draw_network
from nas.report.figures.time import draw_time
from nas.report.frame import render
from nas.report.kernels import kernel_tables
from nas.report.run import Run, load_run
from nas.run.result import BASELINE, SearchResult
from search_space.files import write_whole

MOST_IN_LINE = 8  # values of a group among the facts; larger groups are folded


def render_report(run: Run) -> str:
    """A run's page. Equal runs give equal pages."""
    return render(
        "page.html",
        run=run,
        gauges={"wide": draw_gauge(run), "narrow": draw_gauge(run, NARROW)},
        network=draw_network(run),
        time=draw_time(run),
        charts=draw_course(run),
        most_points=MOST_POINTS,
        gates=draw_gates(run),
        devices=draw_devices(run),
        provenance=_provenance(run),
        answers=Answers.of(run.result.accuracy, run.confusion),
        kernels=kernel_tables(run),
        baseline=BASELINE,
        rests_on_little=RESTS_ON_LITTLE,
    )


def write_report(folder: Path) -> Path:
    """Write FOLDER/report.html, whole or not at all, and return its path. Raises `BadFile`, `CannotWrite`."""
    path = folder / "report.html"
    write_whole(path, render_report(load_run(folder)))
    return path


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: facts of a line, and large groups of settings by name, which the page folds."""

    facts: list[tuple[str, str]]
    folded: dict[str, list[tuple[str, str]]]


def _provenance(run: Run) -> Provenance:
    facts = [
        ("network", str(run.result.architecture)),
        ("space", run.result.architecture.space.name),
        ("input", ", ".join(_input_words(run.result))),
    ]
    folded = {}
    for key, value in run.result.provenance.items():
        name, values = re.sub(r" s$", " (s)", key.replace("_", " ")), list(_flat(value))
        if len(values) > MOST_IN_LINE:
            folded[name] = values
        else:
            facts.append((name, ", ".join(" ".join(pair).strip() for pair in values) or "not recorded"))
    return Provenance(facts, folded)


def _input_words(result: SearchResult) -> Iterable[str]:
    """What a picture must be made into for the network, and how training varied it."""
    given, pixels = result.input, result.resolution.training
    shown = given.preprocessing
    if shown is None:
        yield "crop not recorded"
    else:
        part = f"the middle square, {shown.crop_share:g} of the shorter side" if shown.crop == "centre" else "all of it"
        yield f"{part}, resized to {pixels} × {pixels} ({shown.resize}), {shown.colours}"
        yield f"transparent parts on {shown.ground}"
    yield f"mean {' '.join(map(str, given.mean))}, std {' '.join(map(str, given.std))}"
    if shown is not None:
        flip = "mirrored at random" if shown.training_flip else "not mirrored"
        yield f"in training crop {shown.training_crop} and {flip}"


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """A JSON value as ('outer.inner', 'value') pairs; null is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif value is not None:
        yield name, str(value)
