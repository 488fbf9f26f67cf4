"""The timing protocol: how one kernel or one network becomes milliseconds, here and on any other device.

This file stands alone (standard library and numpy; the runtime is imported when it is opened), because
`python -m latency_models.profile export=DIR` copies it as `measure.py` into a folder for a device that
cannot run the project. It needs Python 3.8 (`PYTHON`). Not for what to time, and not for what the times mean.

The protocol: the process is held to as many cores as threads; every item is warmed up and run until its
median is steady; all items are timed in five interleaved passes, so that drift hits all alike; before
and after every timing a reference is timed, and by how much its mean then differs from its median over the
whole run is divided out. The result of an item is the median over passes, its spread half their range.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import importlib
import importlib.util
import io
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from typing import TypeAlias

PYTHON = "3.8"  # the oldest that this file runs in
ROUNDS = 5
WARM_RUNS, WARM_MS = 2, 20.0
FEWEST_RUNS, FEWEST_MS = 10, 150.0  # a timing takes at least both,
MOST_RUNS, MOST_MS = 2000, 3000.0  # and at most one of these
REFERENCE_WARM_MS, REFERENCE_MS = 2.0, 20.0
NOISY = 0.2  # interquartile range of the reference's timings over their median; drift below it is divided out
WAITING = 0.1  # share of the time that this process waited for a core
WINDOW = 30  # timings over which noise is watched
PROBES = 15  # timings of the reference before anything else
LEFT_S = 60.0  # a file half written for so long is of a process that was killed
COLUMNS = ("item", "round", "ms", "runs", "reference_ms")
UNIT = "ms"
MANIFEST, RESULTS, OWN_RUNTIME = "manifest.json", "results.csv", "runtime.py"
SAME = ("manifest", "runtime", "runtime_version", "optimization", "precision", "threads", "processor", "cpu")
"""Facts that must agree for timings to stand in one file."""

Run: TypeAlias = "Callable[[], float]"
"""Runs a loaded item once and says how many ms that took."""
Merges: TypeAlias = "Mapping[str, Mapping[str, Sequence[str]]]"
"""Optimization -> kind of the leading layer -> kinds of layers that its kernel takes along."""


class Refused(ValueError):
    """What was asked cannot be done; the message is one line."""


def _no_tflite(precision: str) -> bytes:
    raise Refused(f"no {precision} .tflite of this item")


class Item(NamedTuple):
    """A kernel or a network to time.

    onnx: gives its model; layers: the same as records (a kind, its sizes and `inputs`: positions of earlier layers, -1
    the first input, -2 the second); tflite: gives its .tflite file in a precision.
    """

    name: str
    onnx: Callable[[], bytes]
    layers: Sequence[Mapping[str, Any]]
    tflite: Callable[[str], bytes] = _no_tflite


class Settings(NamedTuple):
    """What changes times. The first option of a runtime is its default; processor: '' is the runtime's own default."""

    runtime: str = "onnxruntime"
    optimization: str = "all"
    precision: str = "fp32"
    threads: int = 1
    processor: str = ""


class Record(NamedTuple):
    """One timing: the median ms of `runs` runs, and the reference's, the mean of just before and just after."""

    item: str
    round: int
    ms: float
    runs: int
    reference_ms: float


class Result(NamedTuple):
    """An item over all its rounds, the reference's drift divided out; `runs` in all."""

    ms: float
    spread_ms: float
    runs: int


class Runtime(Protocol):
    """A way to run items. The class itself says all that the project must know of it; an instance is one at work.

    optimizations: what each of them merges; kinds are those of `search_space.layer.Kind`. folded: kinds that cost
    nothing. packages: what is installed for it, beside numpy, with the oldest version it works with
    ('onnxruntime>=1.15'). reads: 'onnx', 'tflite' or 'layers', which of an item's forms. waits_here: whether it keeps
    this process's cores busy, so that a process that waits for a core means a busy machine. The first optimization and
    precision are the defaults. An instance may also have `flags`, texts by name: what else changes its times, for the
    profile's header; `machine`, facts of the machine that it runs on, if that is another. A class may have
    `processors`, names of what it can run on, the default first, where it has a choice; and `python`, the oldest that
    its packages come for, where that is newer than `PYTHON`.
    """

    optimizations: ClassVar[Merges]
    folded: ClassVar[Sequence[str]]
    precisions: ClassVar[Sequence[str]]
    packages: ClassVar[Sequence[str]]
    reads: ClassVar[str]
    waits_here: bool
    version: str

    def __init__(self, settings: Settings) -> None:
        """Open it. Raises `ImportError` where a package is missing, `ValueError` (one line) where it cannot run."""

    def load(self, item: Item) -> Run:
        """Ready to run, with random inputs."""


def make_settings(
    runtime: str, optimization: str = "", precision: str = "", threads: int = 1, processor: str = ""
) -> Settings:
    """Settings with the runtime's defaults for empty fields. Raises `Refused` naming the known ones."""
    own = find_runtime(runtime)
    optimizations, precisions = tuple(own.optimizations), tuple(own.precisions)
    processors = tuple(getattr(own, "processors", ()))
    for name, value, known in (
        ("optimization", optimization, optimizations),
        ("precision", precision, precisions),
        ("processor", processor.partition(".")[0], processors),
    ):
        if value and value not in known:
            raise Refused(f"{name}={value}: {runtime} knows {', '.join(known) or 'no such option'}")
    if not 1 <= threads <= len(_cores()):
        raise Refused(f"threads={threads}: this process may use 1 to {len(_cores())} cores")
    return Settings(runtime, optimization or optimizations[0], precision or precisions[0], threads, processor)


# --- the protocol


def sample(run: Run, warm_ms: float, fewest_ms: float) -> list[float]:
    """Time every run, in ms, after a warm-up of so many ms at least."""
    spent, runs = 0.0, 0
    while (runs < WARM_RUNS or spent < warm_ms) and runs < MOST_RUNS:
        spent, runs = spent + run(), runs + 1
    found: list[float] = []
    spent = 0.0
    while (len(found) < FEWEST_RUNS or spent < fewest_ms) and len(found) < MOST_RUNS and spent < MOST_MS:
        found.append(run())
        spent += found[-1]
    return found


def measure(
    items: Sequence[Item],
    load: Callable[[Item], Run],
    reference: Run,
    records: list[Record],
    save: Callable[[], None],
    accept_noise: bool = False,
    report: Callable[[str], None] = lambda name: None,
    since: int = 0,
    waited: Callable[[], float] = lambda: 0.0,
) -> None:
    """Time what `records` lacks of every item and round, and append it there; `save` after every timing.

    report: gets the name of what is timed next. since: how many records are of an earlier process. waited: the
    share of the time since its last call that this process did not run. Raises `Refused` when the reference's
    timings scatter too much or the process waits for a core too often; those timings are taken back.
    """
    finished = {(record.item, record.round) for record in records}
    waits: list[float] = []
    for round_ in range(ROUNDS):
        for item in items:
            if (item.name, round_) in finished:
                continue
            report(item.name)
            run = load(item)
            before_ms = time_reference(reference)
            waited()
            times = sample(run, WARM_MS, FEWEST_MS)
            waits.append(waited())
            reference_ms = (before_ms + time_reference(reference)) / 2
            records.append(Record(item.name, round_, median(times), len(times), reference_ms))
            recent = [record.reference_ms for record in records[since:][-WINDOW:]]
            kept = "its last timings are dropped, the earlier ones kept"
            if len(recent) == WINDOW and not accept_noise:
                text = _busy_text(recent, kept) if relative_range(recent) > NOISY else ""
                text = text or (
                    _waiting_text(median(waits[-WINDOW:]), kept) if median(waits[-WINDOW:]) > WAITING else ""
                )
                if text:
                    del records[-WINDOW:]
                    save()
                    raise Refused(text)
            save()


def time_reference(reference: Run) -> float:
    """The median ms of a few runs."""
    return median(sample(reference, REFERENCE_WARM_MS, REFERENCE_MS))


def waiting() -> Callable[[], float]:
    """A function that gives the share of the time since its last call that no thread of this process ran.

    A short reference slips between other processes' turns on a core; a whole network does not.
    """
    last = [time.perf_counter(), time.process_time()]

    def share() -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        waited = 1 - (cpu - last[1]) / max(wall - last[0], 1e-9)
        last[:] = wall, cpu
        return max(0.0, waited)

    return share


def check_quiet(reference: Run, waited: Callable[[], float] = lambda: 0.0) -> None:
    """Raise `Refused` for a machine that does other work now, whatever its load average of the last minutes."""
    waited()
    probes = [time_reference(reference) for _ in range(PROBES)]
    if (share := waited()) > WAITING:
        raise Refused(_waiting_text(share, "nothing was timed"))
    if relative_range(probes) > NOISY:
        raise Refused(_busy_text(probes, "nothing was timed"))


def relative_range(values: Sequence[float]) -> float:
    """Interquartile range over median."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float((high - low) / middle)


def _waiting_text(share: float, left: str) -> str:
    return (
        f"this machine is busy: this process waited for a core {share:.0%} of the time (at most {WAITING:.0%}); "
        f"{left}; stop other work and run again, or time it as it is with busy=accept"
    )


def _busy_text(references: Sequence[float], left: str) -> str:
    return (
        f"this machine is busy: the same reference took {min(references):.3g} to {max(references):.3g} ms "
        f"(interquartile range {relative_range(references):.0%}, at most {NOISY:.0%}); {left}; "
        "stop other work and run again, or time it as it is with busy=accept"
    )


def summarise(records: Sequence[Record], reference_ms: float | None = None) -> dict[str, Result]:
    """Item -> its result. reference_ms: the reference's time that results are scaled to; its median without."""
    level = reference_ms or median(record.reference_ms for record in records)
    by_item: dict[str, list[Record]] = {}
    for record in records:
        by_item.setdefault(record.item, []).append(record)
    results = {}
    for name, own in by_item.items():
        times = [record.ms * level / record.reference_ms for record in own]
        results[name] = Result(median(times), (max(times) - min(times)) / 2, sum(record.runs for record in own))
    return results


# --- the file of timings: one line of facts as JSON after '# ', then a table


def render(facts: Mapping[str, Any], records: Sequence[Record]) -> str:
    """The inverse of `parse`; six significant digits."""
    out = io.StringIO()
    out.write(f"# {json.dumps(facts)}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow([record.item, record.round, f"{record.ms:.6g}", record.runs, f"{record.reference_ms:.6g}"])
    return out.getvalue()


def read_facts(text: str, where: str) -> dict[str, Any]:
    """The first line. Raises `Refused` naming `where`."""
    try:
        facts = json.loads(text.partition("\n")[0][len("# ") :])
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not text.startswith("# "):
        raise Refused(f"{where} row 1: no facts of the measurement ('# ' and JSON); was it written by measure.py?")
    if facts.get("unit") != UNIT:
        raise Refused(f"{where} row 1: unit is {facts.get('unit')!r}; times must be in '{UNIT}'")
    return facts


def parse(text: str, where: str, known: Collection[str]) -> list[Record]:
    """The timings of a file. Raises `Refused` naming `where` and the row (the line of facts is row 1)."""
    if not text.endswith("\n"):
        raise Refused(f"{where}: the last row is cut off (no newline at the end of the file)")
    lines = text.splitlines()
    if lines[1:2] != [",".join(COLUMNS)]:
        raise Refused(f"{where} row 2: columns must be {','.join(COLUMNS)}, got {','.join(lines[1:2])}")
    records: list[Record] = []
    seen: dict[tuple[str, int], int] = {}
    for number, fields in enumerate(csv.reader(lines[2:]), start=3):
        here = f"{where} row {number}"
        if len(fields) != len(COLUMNS):
            raise Refused(f"{here}: {len(fields)} fields where {len(COLUMNS)} are needed")
        item, round_, ms, runs, reference_ms = fields
        if item not in known:
            raise Refused(f"{here}: '{item}' is no kernel or network that was asked for")
        record = Record(
            item,
            _integer(round_, f"{here}: round", 0, ROUNDS - 1),
            _positive(ms, f"{here}: ms"),
            _integer(runs, f"{here}: runs", 1, MOST_RUNS),
            _positive(reference_ms, f"{here}: reference_ms"),
        )
        if record[:2] in seen:
            raise Refused(f"{here}: {item} round {round_} is already in row {seen[record[:2]]}")
        seen[record[:2]] = number
        records.append(record)
    return records


def _integer(text: str, what: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and least <= int(text) <= most):
        raise Refused(f"{what} is '{text}', not an integer from {least} to {most}")
    return int(text)


def _positive(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Refused(f"{what} is '{text}', not a number") from None
    if not (math.isfinite(value) and value > 0):
        raise Refused(f"{what} is {text}, not a finite number above 0")
    return value


def write_timings(path: Path, facts: Mapping[str, Any], records: Sequence[Record]) -> None:
    """Whole or not at all: to this process's neighbour first, then renamed. Raises `Refused` when the disk refuses."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    for left in path.parent.glob(f".{path.name}.*.partial"):
        with contextlib.suppress(OSError):  # its writer came first
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink()
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            file.write(render(facts, records))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise Refused(f"cannot write '{path}': {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # renamed, where all went well
            aside.unlink()


def resume(path: Path, facts: Mapping[str, Any], known: Collection[str]) -> list[Record]:
    """The timings of an earlier run with the same facts; none where there is no file. Raises `Refused`."""
    if not path.is_file():
        return []
    over = f"delete '{path}' to start over"
    try:
        text = path.read_text(encoding="utf-8")
        before = read_facts(text, path.name)
    except ValueError as error:  # Refused, or no UTF-8
        raise Refused(f"{error}; {over}") from error
    for name in SAME:
        if before.get(name) != facts.get(name):
            raise Refused(
                f"{path.name} was taken with {name}={before.get(name)}, this run has {name}={facts.get(name)}; {over}"
            )
    try:
        return parse(text, path.name, known)
    except Refused as error:
        raise Refused(f"{error}; {over}") from error


# --- runtimes

_CLIP = ("batch_norm", "relu6")


class OnnxRuntime:
    """onnxruntime on the CPU; inputs and outputs are bound, so that nothing is copied."""

    optimizations: ClassVar[Merges] = {  # as in the graphs that onnxruntime 1.32 shows after optimizing
        "all": {"conv": (*_CLIP, "add"), "dwconv": (*_CLIP, "add")},
        "extended": {"conv": _CLIP, "dwconv": _CLIP},
        "basic": {"conv": ("batch_norm",), "dwconv": ("batch_norm",)},
    }
    folded: ClassVar[Sequence[str]] = ("scale",)
    precisions: ClassVar[Sequence[str]] = ("fp32",)
    packages: ClassVar[Sequence[str]] = ("onnxruntime>=1.15",)
    reads: ClassVar[str] = "onnx"
    waits_here: bool = True

    def __init__(self, settings: Settings) -> None:
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        self._library = onnxruntime
        self._options = options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
        options.graph_optimization_level = getattr(
            onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{settings.optimization.upper()}"
        )
        options.log_severity_level = 3

    def load(self, item: Item) -> Run:
        """See `Runtime`."""
        session = self._library.InferenceSession(item.onnx(), self._options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for value in session.get_inputs():
            binding.bind_cpu_input(value.name, _random([n if isinstance(n, int) else 1 for n in value.shape]))
        for value in session.get_outputs():
            binding.bind_output(value.name, "cpu")
        return clocked(lambda: session.run_with_iobinding(binding))


def without_telemetry() -> None:
    """Before OpenVINO is imported: it reports every import to its maker unless its package for that is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class OpenVino:
    """OpenVINO, one stream, tuned for latency: on the CPU in fp32, or on what else its plug-ins find.

    What merges is read off the CPU's graphs and not known of other processors; Myriad's last version is 2022.3.
    """

    optimizations: ClassVar[Merges] = {  # as in the graphs that OpenVINO 2026.4 shows after optimizing
        "all": {"conv": (*_CLIP, "gelu", "add"), "dwconv": (*_CLIP, "gelu", "add")},
    }
    folded: ClassVar[Sequence[str]] = ("scale",)
    precisions: ClassVar[Sequence[str]] = ("fp32", "fp16")
    packages: ClassVar[Sequence[str]] = ("openvino>=2022.3",)
    processors: ClassVar[Sequence[str]] = ("CPU", "GPU", "NPU", "MYRIAD")
    reads: ClassVar[str] = "onnx"
    waits_here: bool = True

    def __init__(self, settings: Settings) -> None:
        without_telemetry()
        try:
            from openvino import Core, Tensor, get_version
        except ImportError:  # before 2023.1, where `openvino` alone has no name
            from openvino.runtime import Core, Tensor, get_version
        self._processor = settings.processor or self.processors[0]
        kind = self._processor.partition(".")[0]  # GPU.1 is the second one
        only = {"CPU": "fp32", "NPU": "fp16", "MYRIAD": "fp16"}.get(kind, settings.precision)
        if settings.precision != only:
            raise Refused(f"precision={settings.precision}: {kind} is timed in {only} alone; ask for precision={only}")
        self.version = str(get_version()).split("-")[0]
        self._tensor, self._core = Tensor, Core()
        found = list(self._core.available_devices)
        if not any(name.partition(".")[0] == kind for name in found):
            raise Refused(
                f"processor={self._processor}: OpenVINO {self.version} finds {', '.join(found) or 'none'} here"
            )
        wanted = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(settings.threads),
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "fp16": "f16"}[settings.precision],
        }
        known = self._core.get_property(self._processor, "SUPPORTED_PROPERTIES")  # not every plug-in has all
        self._config = {name: value for name, value in wanted.items() if name in known}
        self.flags = {"processor": self._processor, **self._config}
        self.waits_here = kind == "CPU"

    def load(self, item: Item) -> Run:
        """See `Runtime`."""
        model = self._core.read_model(item.onnx())
        if model.is_dynamic():
            model.reshape({x: [n.get_length() if n.is_static else 1 for n in x.partial_shape] for x in model.inputs})
        request = self._core.compile_model(model, self._processor, self._config).create_infer_request()
        for value in model.inputs:
            request.set_tensor(value.any_name, self._tensor(_random(list(value.shape))))
        return clocked(request.infer)


class LiteRt:
    """LiteRT (TensorFlow Lite) on the CPU by its Python interpreter.

    xnnpack: with the delegate that it takes by default; builtin: with its own kernels.
    """

    optimizations: ClassVar[Merges] = {  # as litert-torch 0.10 writes files; XNNPACK merges nothing beyond
        "xnnpack": {"conv": _CLIP, "dwconv": _CLIP},
        "builtin": {"conv": _CLIP, "dwconv": _CLIP},
    }
    folded: ClassVar[Sequence[str]] = ("scale",)
    precisions: ClassVar[Sequence[str]] = ("fp32", "int8")
    packages: ClassVar[Sequence[str]] = ("ai-edge-litert>=1.0.1",)
    python: ClassVar[str] = "3.9"
    reads: ClassVar[str] = "tflite"
    waits_here: bool = True

    def __init__(self, settings: Settings) -> None:
        from importlib.metadata import version

        from ai_edge_litert import interpreter

        self.version = version("ai-edge-litert")
        kinds = interpreter.OpResolverType
        self._library, self._settings = interpreter, settings
        self._kernels = kinds.BUILTIN if settings.optimization == "xnnpack" else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self.flags = {
            "op_resolver": self._kernels.name,
            "num_threads": str(settings.threads),
            "xnnpack": "no flags set",
        }
        if settings.optimization != "xnnpack":
            self.flags["xnnpack"] = "off"

    def load(self, item: Item) -> Run:
        """See `Runtime`."""
        interpreter = self._library.Interpreter(
            model_content=item.tflite(self._settings.precision),
            num_threads=self._settings.threads,
            experimental_op_resolver_type=self._kernels,
        )
        interpreter.allocate_tensors()
        for value in interpreter.get_input_details():
            noise = _random(value["shape"])
            stored = np.clip(noise * 40, -128, 127) if value["dtype"] == np.int8 else noise
            interpreter.set_tensor(value["index"], stored.astype(value["dtype"]))
        return clocked(interpreter.invoke)


class LiteRtAdb:
    """LiteRT on a phone at this computer's USB, by `benchmark_model` over adb.

    The program, of the same release as the runtime it stands for, must lie at `PROGRAM` on the phone; models are
    pushed beside it. Its mean stands for short items, since it tells medians in whole microseconds. adb takes the phone
    that ANDROID_SERIAL names where there are several.
    """

    PROGRAM: ClassVar[str] = "/data/local/tmp/benchmark_model"
    FOLDER: ClassVar[str] = "/data/local/tmp/quadranas"
    SHORT_US: ClassVar[float] = 100.0
    OPTIONS: ClassVar[str] = "--num_runs=50 --min_secs=0.2 --warmup_min_secs=0.05"

    optimizations: ClassVar[Merges] = LiteRt.optimizations
    folded: ClassVar[Sequence[str]] = LiteRt.folded
    precisions: ClassVar[Sequence[str]] = LiteRt.precisions
    packages: ClassVar[Sequence[str]] = ()
    reads: ClassVar[str] = "tflite"
    waits_here: bool = False

    def __init__(self, settings: Settings) -> None:
        if shutil.which("adb") is None:
            raise Refused("runtime=litert_adb needs adb (Android's platform tools) on the path")
        phone = self._shell("getprop ro.product.model", "no phone answers: connect one and allow debugging")
        where = "push LiteRT's benchmark_model for the phone there and make it executable"
        self._shell(f"test -x {self.PROGRAM}", f"'{phone}' has no {self.PROGRAM}: {where}")
        chip = self._shell("getprop ro.soc.model", "it does not tell its chip")
        android = self._shell("getprop ro.build.version.release", "it does not tell its system")
        self._shell(f"mkdir -p {self.FOLDER}", f"cannot make {self.FOLDER} on it")
        self.version = "benchmark_model " + self._shell(f"md5sum < {self.PROGRAM}", "no md5sum on it")[:8]
        self.machine: dict[str, Any] = {
            "cpu": f"{phone} {chip}".strip(),
            "clock": "not readable",
            "system": f"Android {android}",
            "load_average": None,
        }
        use = "true" if settings.optimization == "xnnpack" else "false"
        self._options = f"--num_threads={settings.threads} --use_xnnpack={use} {self.OPTIONS}"
        self.flags = {"benchmark_model": self._options}
        self._precision, self._last = settings.precision, ""
        self._pushed: set[str] = set()

    def load(self, item: Item) -> Run:
        """See `Runtime`. A run's ms are its batch's; a new batch begins whenever another item had one between."""
        place = f"{self.FOLDER}/{item.name}.tflite"
        if place not in self._pushed:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "model.tflite")
                file.write_bytes(item.tflite(self._precision))
                self._adb(["push", str(file), place], f"cannot push {place}")
            self._pushed.add(place)
        left, ms = 0, 0.0

        def run() -> float:
            nonlocal left, ms
            if left == 0 or self._last != place:
                said = self._shell(f"{self.PROGRAM} --graph={place} {self._options}", f"'{item.name}' is refused")
                left, ms = self._read(said, item.name)
                self._last = place
            left -= 1
            return ms

        return run

    @classmethod
    def _read(cls, said: str, name: str) -> tuple[int, float]:
        """Runs and ms of what the program printed."""
        count, mean = re.findall(r"count=(\d+)", said), re.search(r"Inference \(avg\): ([\d.e+]+)", said)
        if not count or mean is None:
            raise Refused(f"'{name}': benchmark_model told no times: {_one_line(ValueError(said[-300:]))}")
        median_us = re.findall(r"median=([\d.e+]+)", said)  # not of older releases
        us = float(median_us[-1] if median_us and float(median_us[-1]) >= cls.SHORT_US else mean[1])
        return int(count[-1]), us / 1e3

    def _shell(self, command: str, refusal: str) -> str:
        return self._adb(["shell", command], refusal)

    @staticmethod
    def _adb(words: Sequence[str], refusal: str) -> str:
        """What it printed on both channels, where benchmark_model tells its times. Raises `Refused`."""
        try:
            done = subprocess.run(["adb", *words], capture_output=True, text=True, timeout=300, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Refused(f"runtime=litert_adb: {refusal} ({_one_line(error)})") from error
        if done.returncode:
            raise Refused(f"runtime=litert_adb: {refusal} ({_one_line(ValueError(done.stderr or done.stdout))})")
        return (done.stdout + done.stderr).strip()


class Cuda:
    """torch on a GPU, eager or replayed as one CUDA graph, channels_last, timed by CUDA events."""

    optimizations: ClassVar[Merges] = {"eager": {}, "graph": {}}  # torch runs layer by layer
    folded: ClassVar[Sequence[str]] = ()
    precisions: ClassVar[Sequence[str]] = ("fp32", "fp16")
    packages: ClassVar[Sequence[str]] = ("torch>=2.0",)
    reads: ClassVar[str] = "layers"
    waits_here: bool = False

    def __init__(self, settings: Settings) -> None:
        import torch

        if not torch.cuda.is_available():
            raise Refused("runtime=cuda: torch finds no CUDA device on this machine")
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, in convolutions as in matrix products
        self.version = f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
        self._torch, self._graph = torch, settings.optimization == "graph"
        self._dtype = torch.float16 if settings.precision == "fp16" else torch.float32

    def load(self, item: Item) -> Run:
        """See `Runtime`."""
        torch = self._torch
        place = {"device": "cuda", "dtype": self._dtype}
        weights = [[torch.from_numpy(w).to(**place) for w in random_weights(layer)] for layer in item.layers]
        inputs = [torch.from_numpy(_random([1, *shape])).to(**place) for shape in input_shapes(item.layers)]
        weights = [[_channels_last(torch, w) for w in own] for own in weights]
        inputs = [_channels_last(torch, x) for x in inputs]

        def forward() -> Any:
            with torch.inference_mode():
                return run_layers(item.layers, weights, inputs)

        for _ in range(3):  # cudnn chooses its algorithms
            forward()
        torch.cuda.synchronize()
        step: Callable[[], Any] = forward
        if self._graph:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                forward()
            step = graph.replay
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def run() -> float:
            start.record()
            step()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

        return run


RUNTIMES: dict[str, type[Runtime]] = {
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
    "litert": LiteRt,
    "litert_adb": LiteRtAdb,
    "cuda": Cuda,
}
"""Name -> class; `add_runtime` puts others here."""


def find_runtime(name: str) -> type[Runtime]:
    """Raises `Refused` naming the known ones."""
    if name not in RUNTIMES:
        raise Refused(f"unknown runtime '{name}'; known: {', '.join(RUNTIMES)}, or the full dotted path of a class")
    return RUNTIMES[name]


def add_runtime(path: str, file: Path | None = None) -> None:
    """Make the class `path` ('package.module.Class') a runtime of that name. file: where its module is read from.

    Importing runs code: only for a path that the user of this machine wrote. Raises `Refused` where it cannot be
    imported or says less than `Runtime` asks for.
    """
    module_name, _, name = path.rpartition(".")
    try:
        found = getattr(_import_file(module_name, file) if file else importlib.import_module(module_name), name)
    except (ImportError, AttributeError, OSError, ValueError) as error:
        raise Refused(f"runtime={path}: cannot import it ({error})") from error
    missing = [name for name in (*Runtime.__annotations__, "load") if name != "version" and not hasattr(found, name)]
    if missing:
        raise Refused(f"runtime={path}: no {missing[0]}; see latency_models.measure.timing.Runtime")
    RUNTIMES[path] = found


def _import_file(name: str, file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{file}' is no Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def open_runtime(settings: Settings) -> Runtime:
    """Raises `Refused` where the runtime is not installed or cannot run here."""
    own = find_runtime(settings.runtime)
    try:
        return own(settings)
    except ImportError as error:
        package = own.packages[0] if own.packages else "numpy"
        raise Refused(
            f"runtime={settings.runtime} needs the package '{package}' ({error}); pip install '{package}'"
        ) from error
    except ValueError as error:
        raise Refused(str(error)) from error
    except Exception as error:
        raise Refused(f"runtime={settings.runtime} cannot be opened here: {_one_line(error)}") from error


def load_item(runtime: Runtime, item: Item) -> Run:
    """Ready to run, once run. Raises `Refused`, in one line, where the runtime does not take it."""
    try:
        run = runtime.load(item)
        run()
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"'{item.name}' is refused by version {runtime.version}: {_one_line(error)}") from error
    return run


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line)[:400] or type(error).__name__


def clocked(work: Callable[[], object]) -> Run:
    """A function that does the work once and says how many ms that took."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)

    return run


def _random(shape: Sequence[int]) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# --- layers as torch functions, for `cuda`


def random_weights(layer: Mapping[str, Any]) -> list[Any]:
    """Arrays of a layer, in the order in which `run_layer` takes them."""
    kind, outputs = layer["kind"], layer["out_channels"]
    if kind in ("conv", "dwconv", "linear"):
        inputs = 1 if kind == "dwconv" else layer["in_channels"]
        window = [] if kind == "linear" else [layer["kernel_size"]] * 2
        weight = _random([outputs, inputs, *window])
        return [weight / math.sqrt(weight[0].size), np.zeros(outputs, np.float32)]
    one, zero = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    return {"layer_norm": [one, zero], "batch_norm": [one, zero, zero, one], "scale": [one]}.get(kind, [])


def input_shapes(layers: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, int]]:
    """(channels, height, width) of every input from outside, the first one first."""
    shapes = {}
    for layer in layers:
        for position in layer["inputs"]:
            if position < 0:
                shapes[position] = (layer["in_channels"], layer["height"], layer["width"])
    return [shapes[position] for position in sorted(shapes, reverse=True)]


def run_layers(layers: Sequence[Mapping[str, Any]], weights: Sequence[Sequence[Any]], inputs: Sequence[Any]) -> Any:
    """The last layer's output. inputs: tensors (N, C, H, W)."""
    values = {-1 - i: x for i, x in enumerate(inputs)}
    last = {position: i for i, layer in enumerate(layers) for position in layer["inputs"]}
    for i, layer in enumerate(layers):
        values[i] = run_layer(layer, weights[i], [values[position] for position in layer["inputs"]])
        for position in set(layer["inputs"]):
            if last[position] == i:
                del values[position]
    return values[len(layers) - 1]


def run_layer(layer: Mapping[str, Any], weights: Sequence[Any], inputs: Sequence[Any]) -> Any:
    """One layer on tensors (N, C, H, W)."""
    import torch

    functional: Any = torch.nn.functional
    kind, x = layer["kind"], inputs[0]
    if kind in ("conv", "dwconv"):
        groups = layer["in_channels"] if kind == "dwconv" else 1
        return functional.conv2d(x, *weights, stride=layer["stride"], padding=layer["padding"], groups=groups)
    if kind == "linear":
        return functional.linear(x.flatten(1), *weights)
    if kind == "layer_norm":
        normed = functional.layer_norm(x.movedim(1, -1), (layer["in_channels"],), *weights, eps=1e-6)
        return normed.movedim(-1, 1)
    if kind == "batch_norm":
        weight, bias, mean, variance = weights
        return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, 1e-3)
    if kind in ("add", "mul"):
        return x + inputs[-1] if kind == "add" else x * inputs[-1]
    if kind == "scale":
        return x * weights[0].view(-1, 1, 1)
    if kind == "global_pool":
        return x.mean((2, 3), keepdim=True)
    return {"relu6": functional.relu6, "gelu": functional.gelu, "hard_swish": functional.hardswish}[kind](x)


def _channels_last(torch: Any, x: Any) -> Any:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


# --- the machine


def machine_facts(settings: Settings, runtime: Runtime) -> dict[str, Any]:
    """What a reader of the times must know, for the first line of their file."""
    load = load_average()
    return {
        "unit": UNIT,
        **settings._asdict(),
        "runtime_version": runtime.version,
        "cpu": cpu_name(),
        "cores": os.cpu_count() or 1,
        "clock": clock(),
        "date": time.strftime("%Y-%m-%d"),
        "load_average": None if load is None else round(load, 2),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "flags": dict(getattr(runtime, "flags", {})),
        **getattr(runtime, "machine", {}),
    }


def load_average() -> float | None:
    """Processes waiting for a core over the last minute; None where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def cpu_name() -> str:
    """Such as 'Raspberry Pi 5 Model B Rev 1.0'."""
    lines = _read("/proc/cpuinfo").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return _read("/proc/device-tree/model") or "".join(names[:1]) or platform.processor() or platform.machine()


def clock() -> str:
    """Of the core that is used first, as the system says it."""
    folder = f"/sys/devices/system/cpu/cpu{_cores()[0]}/cpufreq"
    now, most = _read(f"{folder}/scaling_cur_freq"), _read(f"{folder}/cpuinfo_max_freq")
    if now and most:
        governor = _read(f"{folder}/scaling_governor") or "unknown"
        return f"{int(now) / 1e6:.2f} GHz of {int(most) / 1e6:.2f} GHz, governor {governor}"
    mhz = [line.split(":")[1] for line in _read("/proc/cpuinfo").splitlines() if line.startswith("cpu MHz")]
    return f"{float(mhz[0]) / 1e3:.2f} GHz" if mhz else "not readable"


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Hold the process to as many cores as threads, the fastest; nothing where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, _cores()[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _cores() -> list[int]:
    """Those this process may use, the fastest first, then the last (the first serves interrupts)."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))

    def speed(core: int) -> tuple[int, int]:
        return int(_read(f"/sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq") or 0), core

    return sorted(os.sched_getaffinity(0), key=speed, reverse=True)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


class Bench:
    """A bench on this machine: a runtime, the reference, and the timings so far, which `path` always holds.

    `facts`, a name of the work among them as `manifest`, are written in the file, and timings that it already holds
    are not taken again. Raises `Refused` for a file of other facts and, unless noise is accepted, a busy machine.
    """

    def __init__(
        self,
        settings: Settings,
        reference: Item,
        path: Path,
        facts: Mapping[str, Any],
        known: Collection[str],
        accept_noise: bool,
    ) -> None:
        self._runtime = open_runtime(settings)
        self.facts = {**machine_facts(settings, self._runtime), **facts, "busy": "accept" if accept_noise else "refuse"}
        self.path, self._accept_noise = path, accept_noise
        self.records = resume(path, self.facts, known)
        self._since = len(self.records)
        self._waited = waiting() if self._runtime.waits_here else (lambda: 0.0)
        self._reference = load_item(self._runtime, reference)
        if not accept_noise and self._since < len(known) * ROUNDS:
            check_quiet(self._reference, self._waited)

    def measure(self, items: Sequence[Item], report: Callable[[str], None] = lambda name: None) -> None:
        """See the function of this name."""
        measure(
            items,
            lambda item: load_item(self._runtime, item),
            self._reference,
            self.records,
            self._save,
            self._accept_noise,
            report,
            self._since,
            self._waited,
        )

    def _save(self) -> None:
        write_timings(self.path, self.facts, self.records)


# --- the script


def measure_folder(folder: Path, threads: int, accept_noise: bool, runtime_name: str = "", processor: str = "") -> str:
    """Time what the manifest of a folder lists into its results.csv; the lines to print. Raises `Refused`.

    processor: instead of the manifest's.
    """
    manifest = _manifest(folder / MANIFEST)
    if runtime_name and runtime_name != manifest["runtime"]:
        raise Refused(
            f"this folder holds the kernels of {manifest['runtime']}; for {runtime_name} export one with "
            f"runtime={runtime_name}"
        )
    if (folder / OWN_RUNTIME).is_file():
        add_runtime(manifest["runtime"], folder / OWN_RUNTIME)
    settings = make_settings(
        manifest["runtime"],
        manifest["optimization"],
        manifest["precision"],
        threads,
        processor or manifest.get("processor", ""),
    )
    items = [_item(folder, entry) for entry in manifest["items"]]
    names = {item.name for item in items}
    facts = {name: manifest[name] for name in ("manifest", "export")}
    total, begin = len(items) * ROUNDS, time.monotonic()
    with pinned(settings.threads):
        bench = Bench(settings, _item(folder, manifest["reference"]), folder / RESULTS, facts, names, accept_noise)
        before = len(bench.records)

        def report(name: str) -> None:
            done = len(bench.records)
            if sys.stderr.isatty() and done > before:
                left = (time.monotonic() - begin) / (done - before) * (total - done) / 60
                print(f"\r{done}/{total}, {left:.1f} min left  {name:.60}\033[K", end="", file=sys.stderr)

        bench.measure(items, report)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    spread = relative_range([record.reference_ms for record in bench.records])
    return (
        f"{len(items)} items timed {ROUNDS} times, the reference's interquartile range {spread:.1%} of its median\n"
        f"bring back '{bench.path}', then: python -m latency_models.profile import={RESULTS} device=NAME"
    )


def _manifest(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"cannot read '{path}', which must stand beside this script: {error}") from error


def _item(folder: Path, entry: Mapping[str, Any]) -> Item:
    def content() -> bytes:
        path = folder.joinpath(entry["file"])
        try:
            return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (OSError, EOFError) as error:
            raise Refused(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from error

    return Item(entry["name"], content, entry.get("layers", ()), lambda precision: content())


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 refused in one line on stderr, 130 interrupted."""
    parser = argparse.ArgumentParser(description="Times the kernels and networks of this folder into results.csv.")
    parser.add_argument("--runtime", default="", help="must be the manifest's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="", help="what OpenVINO runs it on: CPU, GPU, NPU or MYRIAD")
    parser.add_argument("--busy", default="refuse", choices=("refuse", "accept"), help="accept: time a busy machine")
    options = parser.parse_args(arguments)
    try:
        folder = Path(__file__).resolve().parent
        busy = options.busy == "accept"
        print(measure_folder(folder, options.threads, busy, options.runtime, options.device))
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; run it again to resume from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
