"""The page of one search or training: self-contained HTML that opens offline, from the files of the run's folder alone.

Its words are in templates/page.html, its drawings in `nas.report.figures`. Not for measuring or predicting: what the
files do not say stands on the page as "not measured".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas.report.figures.course import MOST_POINTS, draw_course
from nas.report.figures.devices import draw_devices, draw_gauge
from nas.report.figures.gates import draw_gates
from nas.report.figures.network import draw_network
from nas.report.figures.time import draw_time
from nas.report.frame import render
from nas.report.run import Run, load_run
from nas.report.words import percent
from nas.run.result import BASELINE, Accuracy, SearchResult
from search_space.files import write_whole

MOST_CLASSES = 20  # in the table of accuracies


def render_report(run: Run) -> str:
    """A run's page. Equal runs give equal pages."""
    return render(
        "page.html",
        run=run,
        gauge=draw_gauge(run),
        network=draw_network(run),
        time=draw_time(run),
        charts=draw_course(run),
        most_points=MOST_POINTS,
        gates=draw_gates(run),
        devices=draw_devices(run),
        provenance_rows=_provenance_rows(run),
        class_rows=class_rows(run.result.accuracy),
        baseline=BASELINE,
    )


def class_rows(accuracy: Accuracy | None) -> list[tuple[str, str]]:
    """Classes with their accuracy in words, in their order; of more than `MOST_CLASSES` the worst and the best ones."""
    shares = dict(accuracy.by_class) if accuracy else {}
    if len(shares) <= MOST_CLASSES:
        return [(name, percent(share)) for name, share in shares.items()]
    ranked = sorted(shares.items(), key=lambda item: item[1])
    worst, best = ranked[: MOST_CLASSES // 2], ranked[-MOST_CLASSES // 2 :]
    between = (f"{len(ranked) - MOST_CLASSES} classes between them", "–")
    return [*((name, percent(share)) for name, share in worst), between, *((n, percent(share)) for n, share in best)]


def write_report(folder: Path) -> Path:
    """Write FOLDER/report.html, whole or not at all, and return its path. Raises `BadFile`, `CannotWrite`."""
    path = folder / "report.html"
    write_whole(path, render_report(load_run(folder)))
    return path


def _provenance_rows(run: Run) -> Iterable[tuple[str, str]]:
    yield "network", str(run.result.architecture)
    yield "space", run.result.architecture.space.name
    yield "input", ", ".join(_input_words(run.result))
    for name, value in run.result.provenance.items():
        yield re.sub(r" s$", " (s)", name.replace("_", " ")), ", ".join(_flat(value)) or "not recorded"


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


def _flat(value: Any, name: str = "") -> Iterable[str]:
    """A JSON value as 'outer.inner value' words; null is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif value is not None:
        yield f"{name} {value}".strip()
