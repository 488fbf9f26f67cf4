"""The page of one search run: self-contained HTML that opens offline, from the files of the run's folder alone.

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
from nas.report.words import count, interval, mebibytes, percent
from search_space.files import write_whole

FILES = {
    "model.onnx": "the trained network, at the training resolution",
    "weights.safetensors": "its weights",
    "latency_{resolution}.onnx": "the same graph at deployment resolution, for timing: not trained for it",
    "architecture.json": "the network as a value, its cost, predictions and provenance",
    "search.csv": "one row per logged step",
    "gates.csv": "the gate probabilities, once per epoch",
    "trials.csv": "the networks that were tried, with their accuracy",
}


def render_report(run: Run) -> str:
    """A run's page. Equal runs give equal pages."""
    return render(
        "page.html",
        run=run,
        gauge=draw_gauge(run),
        tiles=_tiles(run),
        network=draw_network(run),
        time=draw_time(run),
        charts=draw_course(run),
        most_points=MOST_POINTS,
        gates=draw_gates(run),
        devices=draw_devices(run),
        device_rows=_device_rows(run),
        provenance_rows=_provenance_rows(run),
        files=_files(run),
    )


def write_report(folder: Path) -> Path:
    """Write FOLDER/report.html, whole or not at all, and return its path. Raises `BadFile`, `CannotWrite`."""
    path = folder / "report.html"
    write_whole(path, render_report(load_run(folder)))
    return path


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """The key figures: a name, a value and what it is for."""
    result, accuracy, limits = run.result, run.result.accuracy, run.budget.limits
    at = f"at {result.resolution.deployment} pixels"
    tested = f"at {result.resolution.training} pixels"
    if accuracy:
        tested = f"{accuracy.test_images} test images of {accuracy.data}, {accuracy.measured_on}, {tested}"

    def limited(name: str) -> str:
        if name not in limits:
            return ""
        return f"; limit {mebibytes(limits[name]) if name == 'peak_activation' else count(limits[name])}"

    return [
        ("Test accuracy", percent(accuracy.test if accuracy else None), tested),
        ("MACs", count(result.cost.macs), at + limited("macs")),
        ("Parameters", count(result.cost.params), f"{result.num_classes} classes{limited('params')}"),
        ("Peak activation", mebibytes(result.cost.peak_activation_bytes), f"batch 1, {at}{limited('peak_activation')}"),
    ]


def _device_rows(run: Run) -> Iterable[tuple[str, ...]]:
    for device in run.devices:
        found = run.result.latency.get(device)
        about = (found.title, found.runtime, found.precision) if found else (percent(None),) * 3
        budget = run.budget_words if device == run.budget.device else "–"
        yield (device, *about, run.predicted_words(device), interval(found), budget)


def _provenance_rows(run: Run) -> Iterable[tuple[str, str]]:
    yield "network", str(run.result.architecture)
    yield "space", run.result.architecture.space.name
    for name, value in run.result.provenance.items():
        yield re.sub(r" s$", " (s)", name.replace("_", " ")), ", ".join(_flat(value)) or "not recorded"


def _flat(value: Any, name: str = "") -> Iterable[str]:
    """A JSON value as 'outer.inner value' words; null is left out."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    elif value is not None:
        yield f"{name} {value}".strip()


def _files(run: Run) -> dict[str, str]:
    """The files of such a run, and what each is; trials.csv is of discrete strategies only."""
    named = {name.format(resolution=run.result.resolution.deployment): about for name, about in FILES.items()}
    return {name: about for name, about in named.items() if name != "trials.csv" or name in run.files}
