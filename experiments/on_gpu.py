"""What only a GPU can say, in order of worth, within the minutes that one is there; a later call goes on.

Question   Is the fused kernel twice as fast as cuDNN, how fast are Table I's networks beside their rivals, what memory
           does Table II need, what do supernet steps cost with and without the lean path and in bfloat16, how well is
           this GPU predicted, eager and as a CUDA graph, and what does Table III say at a larger scale?
Command    python -m experiments.on_gpu minutes=9 out=FOLDER [data=FOLDER]
           python -m experiments.on_gpu show out=FOLDER
Cost       A GPU: the minutes given, each call. Elsewhere, or with --quick, a miniature of CPU-minutes, whose figures
           say nothing.
Setting    Every step is a command of its own, run as a process, which may take so many seconds; what it does not use is
           left to the others. One that is late is stopped as by Ctrl-C: what it has kept stays, and the next call goes
           on with it, for longer. One that fails is noted with its last words and tried again after all others.

FOLDER/manifest.json is written after each step: the machine, and of every step its command, seconds, exit status and
last words. What it printed is in FOLDER/STEP.txt, its results in FOLDER/STEP.json.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from experiments.results import Provenance, Results, Row, load_results, markdown, save_results, shown, take_provenance
from experiments.table1 import IN_NO_LIBRARY, LINES, NEED_TIMM
from latency_models.options import Options, run
from search_space.errors import Stopped, UserError
from search_space.files import ensure_folder

NAME = "on_gpu"
USAGE = f"python -m experiments.{NAME} [show] [--quick] minutes=M out=FOLDER [option=value ...]"
OPTIONS = {
    "minutes": "how long all of it may take (default: 9)",
    "out": "the folder of the results; where it exists, what is left is done",
    "data": "folder of CIFAR-10, for Table III (default: ../shared/datasets)",
}
DONE, FAILED, LATE, WAITS, NOT_BEGUN = "done", "failed", "out of time", "waits", "not begun"
ENDING_S = 10.0  # that a process gets to keep what it has before it is killed; with less left, none is begun
MINUTES = "{minutes}"  # in a command: most of what the step may take
MINIATURE_S = 600.0  # that a step of the miniature may take
OF_ITS_TIME = 0.8  # that such a command is told
MINIATURE = str(Path(__file__).parent / "spaces" / "miniature.yaml")
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Step:
    """words: what Python is run with; seconds: what it may take; after: the step that must be done before."""

    name: str
    question: str
    seconds: float
    words: tuple[str, ...]
    after: str | None = None


def steps_of(folder: Path, on_gpu: bool, quick: bool, data: str) -> list[Step]:
    """All steps, the most worth first; their seconds are for an H100. `quick`: a miniature that runs anywhere."""
    steps = []

    def add(
        name: str, question: str, seconds: float, module: str, words: Sequence[str], small: Sequence[str] | None,
        out: str | None = ".json", after: str | None = None,
    ) -> None:  # fmt: skip
        """small: its words in the miniature, None where it has no part there; out: how its results' name ends."""
        chosen = small if quick else words
        if chosen is not None:
            to = [] if out is None else [f"out={folder / name}{out}"]
            steps.append(Step(name, question, MINIATURE_S if quick else seconds, ("-m", module, *chosen, *to), after))

    def table1(size: str, seconds: float, small: Sequence[str] | None) -> None:
        absent = (*NEED_TIMM, *IN_NO_LIBRARY)
        names = [name for name, line in LINES.items() if line.size == size and name not in absent]
        words = [f"models={','.join(names)}"]
        name = f"table1_{size.lower()}"
        add(name, f"Table I, throughput of the {size} networks", seconds, "experiments.table1", words, small)

    def table2(width: int, seconds: float, small: Sequence[str] | None) -> None:
        words = [f"widths={width}"]
        add(f"table2_{width}", f"Table II, memory at C = {width}", seconds, "experiments.table2", words, small)

    def supernet(name: str, question: str, *options: str) -> None:
        words = ["shared_2", "shared_18", "official_224", "batch=64", *options]
        small = ["shared_2", "batch=1", *options]
        add(name, question, 40, "tests.bench.supernet_step", words, None if options else small, None)

    def host(name: str, runs: str) -> None:
        """A profile of the GPU, and its check."""
        runtime = ["runtime=cuda", f"optimization={name}"] if on_gpu else []
        device, small = f"device={name}", [f"space={MINIATURE}", "resolution=32"]
        words = [device, *runtime, f"minutes={MINUTES}", "busy=accept", f"out={folder / 'device_profiles'}"]
        add(f"profile_{name}", f"this GPU profiled, {runs}", 90, "latency_models.profile", [*words, "space=quadranet"],
            [*words, *small, "networks=6"], None)  # fmt: skip
        words = [device, "busy=accept"]
        add(f"verify_{name}", f"how well it is predicted, {runs}", 40, "latency_models.verify", [*words, "n=30"],
            [*words, *small, "n=3"], "", f"profile_{name}")  # fmt: skip

    add("fused_kernel", "the fused kernel against cuDNN and the floor", 150, "experiments.fused_kernel", [],
        ["--quick"] if on_gpu else None)  # fmt: skip
    table1("T", 60, ["--quick", "models=swin-t,quadranet25-t"])
    table2(64, 60, ["--quick"])
    supernet("supernet_lean", "supernet steps, lean path")
    supernet("supernet_plain", "supernet steps without the lean path", "lean=false")
    supernet("supernet_bf16", "supernet steps in bfloat16", "precision=bf16")
    host("eager", "eager")
    host("graph", "as a CUDA graph")
    table1("S", 90, None)
    table1("B", 120, None)
    table2(128, 90, None)
    add("table3", "Table III at full scale", 3600, "experiments.table3", ["scale=full", f"data.root={data}"],
        ["--quick", "scale=full", "kinds=range,random,free", "spaces=quadranet"])  # fmt: skip
    return steps


def measure(folder: Path, steps: Sequence[Step], seconds: float, start: Results) -> Results:
    """Do what is left of the steps within the seconds; the manifest is written after each. start: what is known.

    Raises `Stopped` on Ctrl-C, with what was found kept.
    """
    deadline = time.monotonic() + seconds
    ending_s = min(ENDING_S, seconds / 10)
    known = {str(row["step"]): row for row in start.rows}
    rows = {step.name: known.get(step.name, _row(step, NOT_BEGUN)) for step in steps}

    def keep() -> Results:
        results = replace(start, rows=tuple(rows.values()))
        save_results(_manifest(folder), results)
        return results

    results = keep()
    failed = {name for name, row in rows.items() if row["status"] == FAILED}
    for step in sorted(steps, key=lambda step: bool(failed & {step.name, step.after})):
        before = rows[step.name]
        if before["status"] == DONE:
            continue
        if step.after is not None and rows[step.after]["status"] != DONE:
            rows[step.name] = {**before, "status": WAITS, "last_line": f"needs {step.after}"}
            results = keep()
            continue
        left = deadline - time.monotonic() - ending_s
        if left < ending_s:
            continue
        tries = int(str(before["tries"])) + 1
        limit_s = min(left, step.seconds * tries)
        print(f"{step.name}: {step.question}, at most {limit_s:.0f} s", file=sys.stderr, flush=True)
        try:
            rows[step.name] = {**_run(folder, step, limit_s, ending_s), "tries": tries}
        except KeyboardInterrupt as error:
            rows[step.name] = {**before, "status": LATE, "last_line": "stopped", "tries": tries}
            keep()
            raise Stopped(f"stopped; '{folder}' has what was done, the same command goes on") from error
        results = keep()
    return results


def _row(step: Step, status: str, **columns: str | float | None) -> Row:
    """A line of the manifest. seconds: of the last try."""
    empty = {"command": None, "seconds": None, "exit_status": None, "last_line": None, "date": None}
    return {"step": step.name, "question": step.question, "status": status, "tries": 0, **empty, **columns}


def _run(folder: Path, step: Step, limit_s: float, ending_s: float) -> Row:
    words = [word.replace(MINUTES, f"{OF_ITS_TIME * limit_s / 60:.3g}") for word in step.words]
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(path), "NAS_DEVICE_PROFILES": str(folder / "device_profiles")}
    said, begin = folder / f"{step.name}.txt", time.monotonic()
    date, late = f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}", False
    process = _begin(words, said, own)
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        _end(process, ending_s)
    status = DONE if process.returncode == 0 else LATE if late else FAILED
    return _row(
        step,
        status,
        command=shlex.join(["python", *words]),
        seconds=round(time.monotonic() - begin, 1),
        exit_status=process.returncode,
        last_line=_last_line(said),
        date=date,
    )


def _begin(words: Sequence[str], said: Path, own: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Python with these words and variables of its own; a file gets what it prints."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's '&' has it ignored, and inherited
    try:
        with said.open("wb") as output:
            env = {**os.environ, **own}
            return subprocess.Popen([sys.executable, *words], stdout=output, stderr=output, env=env)
    finally:
        signal.signal(signal.SIGINT, before)


def _end(process: subprocess.Popen[bytes], ending_s: float) -> None:
    """Stop a process as Ctrl-C does, and kill it where that takes too long; nothing where it has ended."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(ending_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]


def _manifest(folder: Path) -> Path:
    return folder / "manifest.json"


def _started(folder: Path, provenance: Provenance, quick: bool) -> Results:
    """What is known of the folder. Raises `UserError` where it is of another machine, or of the other scale."""
    path, settings = _manifest(folder), {"quick": quick}
    if not path.exists():
        return Results(NAME, provenance, settings, ())
    before = load_results(path, NAME)
    if before.provenance.hardware != provenance.hardware:
        raise UserError(
            f"'{folder}' was measured on {before.provenance.hardware}, this is {provenance.hardware}; name another "
            "folder with out="
        )
    if before.settings != settings:
        kind = "a miniature" if before.settings["quick"] else "no miniature"
        raise UserError(f"'{folder}' is {kind}, unlike what was asked for; name another folder with out=")
    return replace(before, provenance=provenance)


def render(results: Results) -> str:
    """What was done, as Markdown."""
    lines = [
        (str(row["step"]), str(row["question"]), str(row["status"]), "" if row["seconds"] is None else
         shown(row["seconds"]), "" if row["status"] == DONE else str(row["last_line"] or "").replace("|", "\\|"))
        for row in results.rows
    ]  # fmt: skip
    size = "A miniature: its figures say nothing.\n" if results.settings["quick"] else ""
    header = ("step", "question", "status", "s", "last words")
    return f"{size}{results.provenance}\n\n{markdown(header, lines)}"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 whatever the steps came to, 2 a user's error, 130 stopped."""
    flags = [argument for argument in arguments if argument in ("show", "--quick")]

    def task(options: Options) -> str:
        import torch

        folder = Path(options.text("out"))
        if "show" in flags:
            if unused := sorted(options.values.keys() - {"out"}):
                raise UserError(f"'show' measures nothing and takes no {unused[0]}=")
            return render(load_results(_manifest(folder), NAME))
        on_gpu = torch.cuda.is_available()
        quick = "--quick" in flags or not on_gpu
        minutes, data = options.number("minutes", 9), options.text("data", "../shared/datasets")
        command = " ".join([f"python -m experiments.{NAME}", *arguments])
        start = _started(ensure_folder(folder), take_provenance(command, "cuda" if on_gpu else "cpu"), quick)
        results = measure(folder, steps_of(folder, on_gpu, quick, data), 60 * minutes, start)
        left = sum(row["status"] != DONE for row in results.rows)
        end = f"; {left} of {len(results.rows)} steps are left, the same command goes on" if left else ""
        return f"{render(results)}\n\n-> {folder}{end}"

    return run(task, OPTIONS, USAGE, [argument for argument in arguments if argument not in flags])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
