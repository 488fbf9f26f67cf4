"""The kit for a device that cannot run this project: a folder goes there, one CSV comes back.

Not for the fit (`to_profile`) and not for what runs there (`timing`, copied as measure.py).
"""

from __future__ import annotations

import gzip
import inspect
import json
from importlib import resources
from pathlib import Path
from typing import Any

from latency_models.measure import timing
from latency_models.measure.timing import (
    MANIFEST,
    OWN_RUNTIME,
    RESULTS,
    Record,
    Refused,
    Runtime,
    find_runtime,
    make_settings,
)
from latency_models.measure.workload import Workload, workload_of
from search_space.errors import BadFile, UserError
from search_space.files import ensure_folder, write_whole

SCRIPT = "measure.py"
_README = """Timing a device
===============

This folder holds {kernels} kernels and {networks} whole networks, and a script that times them.
It needs Python {python} or newer and {packages}, nothing else:

    pip install {packages}
    python {script}              (--threads N for more cores, --busy accept on a machine that does other work{device})

It takes about {minutes} minutes on a small board, resumes where it stopped, and writes {results}.
Bring that one file back to where this folder was made:

    python -m latency_models.profile import={results} device=NAME
"""


def export_folder(folder: Path, workload: Workload) -> str:
    """Write the folder; what to do with it. Raises `UserError` where it holds other files or cannot be made."""
    if folder.exists() and any(ensure_folder(folder).iterdir()):
        raise UserError(f"export='{folder}' exists and is not empty; name a new folder")
    runtime = find_runtime(workload.settings.runtime)
    entries = []
    for name, item in {workload.reference.name: workload.reference, **workload.items}.items():
        if runtime.reads == "layers":
            entries.append({"name": name, "layers": list(item.layers)})
            continue
        kind = "networks" if name in workload.networks else "kernels"
        if runtime.reads == "tflite":  # weights of one value a tensor, which shrink to nothing
            file, content = f"{name}.tflite.gz", gzip.compress(item.tflite(workload.settings.precision), mtime=0)
        else:
            file, content = f"{name}.onnx", item.onnx()
        write_whole(ensure_folder(folder / kind) / file, content)
        entries.append({"name": name, "file": f"{kind}/{file}"})
    ensure_folder(folder)
    manifest = {
        "manifest": workload.digest,
        "export": workload.export_facts(),
        **workload.settings._asdict(),
        "reference": entries[0],
        "items": entries[1:],
    }
    write_whole(folder / SCRIPT, resources.files("latency_models.measure").joinpath("timing.py").read_bytes())
    if runtime.__module__ != timing.__name__:
        write_whole(folder / OWN_RUNTIME, _source(runtime))
    text = _README.format(
        kernels=len(workload.kernels),
        networks=len(workload.networks),
        python=getattr(runtime, "python", timing.PYTHON),
        packages=" ".join(("numpy", *(f"'{package}'" for package in runtime.packages))),
        device=", --device GPU or another processor" if hasattr(runtime, "processors") else "",
        script=SCRIPT,
        results=RESULTS,
        minutes=round(len(workload.kernels) * 0.02 + len(workload.networks) * 0.15 + 2),
    )
    write_whole(folder / "README.txt", text)
    write_whole(folder / MANIFEST, json.dumps(manifest, separators=(",", ":")))
    return (
        f"'{folder}' holds {len(workload.kernels)} kernels and {len(workload.networks)} networks of "
        f"{', '.join(space.name for space in workload.spaces)}: copy it to the device and run there\n"
        f"  python {SCRIPT}\n"
        f"then bring back {RESULTS}: python -m latency_models.profile import={RESULTS} device=NAME"
    )


def _source(runtime: type[Runtime]) -> bytes:
    file = inspect.getsourcefile(runtime)
    if file is None:
        raise UserError(f"runtime {runtime.__module__}.{runtime.__name__} has no source file to take to the device")
    return Path(file).read_bytes()


def read_results(path: Path) -> tuple[Workload, dict[str, Any], list[Record]]:
    """The workload, facts and timings of a file that came back.

    Raises `BadFile` naming the row at fault; for a file of another export; and for one that is not complete.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadFile(f"cannot read '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"'{path}' is not UTF-8 text at byte {error.start}") from error
    try:
        facts = timing.read_facts(text, path.name)
        workload = _workload(facts, path.name)
        records = timing.parse(text, path.name, workload.items)
    except Refused as error:
        raise BadFile(str(error)) from error
    expected = len(workload.items) * timing.ROUNDS
    if len(records) < expected:
        raise BadFile(
            f"{path.name} row {len(records) + 3}: the file ends after {len(records)} of {expected} timings; run "
            f"{SCRIPT} again in its folder, it resumes from there"
        )
    return workload, facts, records


def _workload(facts: dict[str, Any], where: str) -> Workload:
    needed = (
        "manifest",
        "export",
        "cpu",
        "cores",
        "clock",
        "date",
        "load_average",
        "system",
        "runtime_version",
        "busy",
    )
    if missing := [name for name in (*needed, *timing.Settings._fields[:4]) if name not in facts]:
        raise BadFile(f"{where} row 1: no fact '{missing[0]}'; was it written by {SCRIPT} of an export?")
    threads = facts["threads"]
    if type(threads) is not int or threads < 1:
        raise BadFile(f"{where} row 1: threads is {threads!r}, not an integer >= 1")
    # the other device's cores are not this one's
    settings = make_settings(facts["runtime"], facts["optimization"], facts["precision"])._replace(
        threads=threads, processor=str(facts.get("processor", ""))
    )
    try:
        workload = workload_of(facts["export"], settings)
        digest = workload.digest
    except UserError as error:
        raise BadFile(f"{where} row 1: {error}") from error
    if digest != facts["manifest"]:
        raise BadFile(
            f"{where} row 1: taken with manifest {facts['manifest']}, but the spaces it names give {digest} here; "
            "export again with this version and time that folder"
        )
    return workload
