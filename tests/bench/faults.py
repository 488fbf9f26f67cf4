"""Faults of every kind, at random: kills, damaged files, servers that lie, options that cannot be.

    python -m tests.bench.faults minutes=10 seed=0

Most of the time goes to kills and damaged files, the rest to options and servers. Every try runs in a
process of its own, or in a batch of one that is, so that a crash is seen as such. What counts as a failure: a
traceback, a crash, a wait over its limit, a result that differs from the unharmed one, a file where none belongs, a
secret on the disk. docs/faults.md says what is promised.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from latency_models.options import Options, run
from search_space.errors import UserError
from tests.nas.run.test_resume import BUDGETS_MS, SPACES

SMALL = (
    *(
        "device=cpu",
        f"budget_ms={BUDGETS_MS['quadra']}",
        "space=space.yaml",
        "data=imagefolder",
        "data.root=images",
        "data.resolution=16",
    ),
    *("train.batch_size=8", "warmup.epochs=1", "epochs=1", "finetune.epochs=1", "rerank=2", "threads=1"),
    *("checkpoint.steps=2", "checkpoint.minutes=1000"),
)
SECRETS = (b"hunter2", b"s3cr3t")
WAIT_S = 60.0  # of one file, request or option; of a whole command four times as long
BATCH = 10  # of the first round, by which the number of the next is chosen
TIMES = {"started", "wall_time_s", "search_s", "command", "git_commit"}  # of architecture.json, not compared
FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP"}


# ------------------------------------------------------------------ what is counted


@dataclass
class Counts:
    """tried: of every kind; ended: how; failed: a line or a traceback each."""

    tried: Counter[str] = field(default_factory=Counter)
    ended: dict[str, Counter[str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def add(self, kind: str, ending: str, why: str = "") -> None:
        self.tried[kind] += 1
        self.ended.setdefault(kind, Counter())[ending] += 1
        if why:
            self.failed.append(f"{kind}: {why}")

    def table(self) -> str:
        lines = ["| fault | tried | how it ended |", "|---|---|---|"]
        for kind, tried in self.tried.items():
            endings = ", ".join(f"{name} {count:,}" for name, count in self.ended[kind].most_common())
            lines.append(f"| {kind} | {tried:,} | {endings} |")
        return "\n".join([*lines, "", f"{sum(self.tried.values()):,} faults, {len(self.failed)} failures"])


def in_process(work: Callable[[], Any], seconds: float, kill_after: float | None = None) -> tuple[int | None, str]:
    """What `work` gives (as JSON) or says, from a process of its own, and how that ended: None for a wait too long.

    A process that was killed by a signal has its negative number. kill_after: seconds to SIGKILL, which is meant.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgrp()
            faulthandler.disable()  # a crash is told by its signal
            for number in (1, 2):
                os.dup2(write, number)
            value = work()
            if value is not None:
                os.write(write, json.dumps(value).encode())
            code = 0
        except SystemExit as ended:
            sys.stdout.flush()
            code = ended.code if isinstance(ended.code, int) else 0
        except BaseException:
            os.write(write, traceback.format_exc().encode(errors="replace"))
        finally:
            os._exit(code)
    os.close(write)
    os.set_blocking(read, False)
    said, begun, status = b"", time.monotonic(), None
    while status is None:
        with_more = b""
        with suppress(BlockingIOError):
            with_more = os.read(read, 2**20)
        said += with_more
        ended, raw = os.waitpid(child, os.WNOHANG)
        if ended:
            status = os.waitstatus_to_exitcode(raw)
        passed = time.monotonic() - begun
        if status is None and (passed > seconds or (kill_after is not None and passed > kill_after)):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            status = -signal.SIGKILL if kill_after is not None and passed <= seconds else None
            break
        time.sleep(0 if with_more else 0.002)
    with suppress(BlockingIOError):
        while more := os.read(read, 2**20):
            said += more
    os.close(read)
    return status, said.decode(errors="replace")


def command(module: str, *arguments: str, folder: Path) -> Callable[[], None]:
    """`python -m MODULE ARGUMENTS` in a folder, for `in_process`; what the parent imported is there already."""

    def work() -> None:
        import runpy

        os.chdir(folder)
        sys.argv = [module, *arguments]
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        sys.modules.pop(module, None)  # imported by the parent; as a command it is imported anew
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return work


# ------------------------------------------------------------------ unharmed files


@dataclass
class Workshop:
    """A folder with small inputs of every kind, and what the commands make of them when nothing happens."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)  # that each result took

    def begin(self) -> None:
        """Write the inputs and run the commands once."""
        draws = np.random.default_rng(0)
        for number in range(40):
            path = self.folder / "images" / "ab"[number % 2] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = draws.integers(0, 128, (16, 16, 3)) + 100 * (number % 2)
            Image.fromarray(image.astype(np.uint8)).save(path)
        (self.folder / "space.yaml").write_text(SPACES["quadra"])
        rows = [f"images/{'ab'[n % 2]}/{n:02}.png,{'ab'[n % 2]}" for n in range(40)]
        (self.folder / "labels.csv").write_text("\n".join(["path,label", *rows, ""]))
        smooth = Image.fromarray(np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)).convert("RGB")
        for ending, name in FORMATS.items():
            smooth.save(self.folder / f"picture.{ending}", name)
        torch.save({"a": torch.arange(8.0), "b": torch.ones(3, 3)}, self.folder / "others.pth")
        self.made("nas.search", *SMALL, "out=run")
        self.made("nas.search", *SMALL, "strategy=evolution", "trials=6", "out=trials")
        self.made("nas.train", "run/architecture.json", *TRAIN, "out=trained")
        self.made("nas.pack", "data=imagefolder", "data.root=images", "shard_mb=0.004", "out=packed")
        self.made("nas.compare", "run", "trials", "--out", "compared")
        self.made("nas.build", "run/architecture.json", "--onnx", "built.onnx")
        self._stopped()

    def made(self, module: str, *arguments: str) -> None:
        begun = time.monotonic()
        status, said = in_process(command(module, *arguments, folder=self.folder), 10 * WAIT_S)
        self.seconds[arguments[-1].removeprefix("out=")] = time.monotonic() - begun
        if status:
            raise RuntimeError(f"{module} {' '.join(arguments)} ended with {status}: {said[-2000:]}")

    def _stopped(self) -> None:
        """A run that was killed when it had two checkpoints."""
        work = command("nas.search", *SMALL, "epochs=200", "out=stopped", folder=self.folder)
        kept = self.folder / "stopped" / "checkpoints"
        in_process(lambda: _until(work, lambda: len(list(kept.glob("*.safetensors"))) == 2), 2 * WAIT_S)


TRAIN = (
    *("data=imagefolder", "data.root=images", "resolution=16", "recipe=small", "recipe.epochs=2"),
    *("recipe.batch_size=8", "checkpoint.steps=2", "checkpoint.minutes=1000", "threads=1"),
)


def _until(work: Callable[[], None], there: Callable[[], bool]) -> None:
    """`work`, which is killed once it is so far."""
    import threading

    def watch() -> None:
        while not there():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    work()


def left_by(folder: Path) -> dict[str, Any]:
    """All files of a run but for times, by name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name in ("SHA256SUMS", "report.html"):
            found[name] = ""
        elif path.name == "architecture.json":
            values = json.loads(path.read_text())
            values["provenance"] = {k: v for k, v in values["provenance"].items() if k not in TIMES | {"search"}}
            found[name] = values
        elif path.name in ("search.csv", "train.csv"):
            found[name] = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
        else:
            found[name] = path.read_bytes()
    return found


# ------------------------------------------------------------------ kills


def kills(workshop: Workshop, draws: random.Random, until: float, counts: Counts, most: int | None = None) -> None:
    """Commands are killed at random moments and begun or resumed again until they end; then all is as unharmed."""
    folder = workshop.folder
    cases: list[tuple[str, str, tuple[str, ...], str, str]] = [
        ("nas.search", "search", SMALL, "out=", "run"),
        ("nas.search", "search by evolution", (*SMALL, "strategy=evolution", "trials=6"), "out=", "trials"),
        ("nas.train", "train", ("run/architecture.json", *TRAIN), "out=", "trained"),
        ("nas.pack", "pack", ("data=imagefolder", "data.root=images", "shard_mb=0.004"), "out=", "packed"),
        ("nas.compare", "compare", ("run", "trials", "--out"), "", "compared"),
        ("nas.build", "build", ("run/architecture.json", "--onnx"), "", "built.onnx"),
    ]
    usual = dict(workshop.seconds)
    number = 0
    while time.monotonic() < until and (most is None or number < most):
        module, kind, arguments, option, unharmed = draws.choice(cases)
        name = f"killed-{number}" + Path(unharmed).suffix
        before = set(folder.iterdir())
        out, resumable = folder / name, module in ("nas.search", "nas.train")
        for attempt in range(40):
            number += 1
            begun = resumable and (out / "run.json").is_file()
            given = [f"resume={name}"] if begun else [*arguments, *([f"{option}{name}"] if option else [name])]
            after = None if attempt == 39 else draws.uniform(0, usual[unharmed] * (1.1 + attempt / 5))
            start = time.monotonic()
            status, said = in_process(command(module, *given, folder=folder), 4 * WAIT_S, after)
            if status == 0:
                usual[unharmed] = max(usual[unharmed] / 2, time.monotonic() - start)
                break
            if status != -signal.SIGKILL:
                counts.add(f"kill: {kind}", "FAILED", f"{' '.join(given)} ended with {status}: {said[-1500:]}")
                break
            counts.add(f"kill: {kind}", "killed")
            if resumable and (out / "SHA256SUMS").is_file() and not (out / "run.json").is_file():
                status = 0  # it had finished, and was killed on its way out
                break
            if module == "nas.pack" and (out / "index.npz").is_file() and not (out / "packing-not-finished").exists():
                status = 0  # the same
                break
        if status == 0:
            wanted, found = (left_by(p) if p.is_dir() else p.read_bytes() for p in (folder / unharmed, out))
            other = "" if wanted == found else f"{name} differs from the unharmed {unharmed}: {_first(wanted, found)}"
            counts.add(f"kill: {kind}, to its end", "FAILED" if other else "as unharmed", other)
        if strange := {path.name for path in set(folder.iterdir()) - before - {out} if not _partial(path)}:
            counts.add(f"kill: {kind}", "FAILED", f"left {sorted(strange)}")


def _partial(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".partial")


def _first(a: Any, b: Any) -> str:
    if not isinstance(a, dict) or not isinstance(b, dict):
        return "other bytes"
    return next(
        (f"{key}: {str(a.get(key))[:80]} / {str(b.get(key))[:80]}" for key in {*a, *b} if a.get(key) != b.get(key)), ""
    )


# ------------------------------------------------------------------ damaged files


@dataclass(frozen=True)
class File:
    """sealed: it has a checksum, so that it is refused or what it was; else another value may be read."""

    path: Path
    load: Callable[[Path], Any]
    sealed: bool = True


def files_of(workshop: Workshop) -> dict[str, File]:
    """Every kind of file that the project reads, and how."""
    from device_profiles.profile import load_folder
    from latency_models.predict import predict
    from nas.data import load
    from nas.data.imagefolder import ImageFolderSettings
    from nas.data.record import Record
    from nas.data.sources import EncodedSource
    from nas.data.table import TableSettings
    from nas.data.webdataset import WebDatasetSettings
    from nas.discrete.optuna import _storage, _using
    from nas.predict import Predictor
    from nas.run.checkpoint import Checkpoint
    from nas.run.confusion import load_confusion
    from nas.run.export import load_network
    from nas.run.finished import load_finished
    from nas.run.front_table import load_front
    from nas.run.log import load_gates_log, load_search_log, load_train_log
    from nas.run.result import load_result
    from nas.run.resume import Begun
    from nas.supernet.origin import origin_of
    from nas.supernet.saved import load_supernet
    from search_space import load_space
    from search_space.weight_files import read_state_dict

    folder = workshop.folder
    run, trained, stopped = folder / "run", folder / "trained", folder / "stopped"
    result = load_result(run / "architecture.json")

    def state(path: Path) -> Any:
        return {name: value.tolist() for name, value in load_network(result, path).state_dict().items()}

    def answers(path: Path) -> Any:
        return Predictor.load(path).by_name(np.full((16, 16, 3), 9, np.uint8))

    def supernet(path: Path) -> Any:
        origin_of.cache_clear()
        origin = origin_of(str(path))
        into = _Any()
        load_supernet(path, into)  # type: ignore[arg-type]
        return [str(origin.settings), str(origin.inputs), into.state]

    def checkpoint(path: Path) -> Any:
        loaded = Checkpoint.load(path)
        return [loaded.facts, {name: value.tolist() for name, value in loaded.tensors.items()}]

    def images(kind: str, path: Path) -> Any:
        return EncodedSource([path]).read(0).sum().item() if kind else None

    def shards(path: Path) -> Any:
        data = load(WebDatasetSettings("webdataset", root=str(path.parent), resolution=16, cache=str(folder / "cache")))
        return sum(float(batch.sum()) for batch, _ in data.batches(data.train, 16, 8))

    def tabled(path: Path) -> Any:
        return load(TableSettings("table", file=str(path), root=str(folder), resolution=16)).digest

    def pictured(path: Path) -> Any:
        return load(ImageFolderSettings("imagefolder", root=str(path.parents[1]), resolution=16, damaged=0.5)).digest

    def journalled(path: Path) -> Any:
        with _using(str(path)):
            return type(_storage(str(path))).__name__

    first = next(iter(sorted((folder / "packed").glob("*.tar"))))
    journal = folder / "journal"
    journal.write_text('{"op_code":0,"worker_id":"a","study_name":"x","directions":[2]}\n' * 3)
    profile = folder / "profiles" / "mine"
    if not profile.exists():
        profile.mkdir(parents=True)
        shipped = Path(sys.modules["device_profiles"].__path__[0]) / "data" / "vpu"
        (profile / "device.yaml").write_text(
            (shipped / "device.yaml").read_text().replace("device: vpu", "device: mine")
        )
        (profile / "kernels.csv").write_bytes((shipped / "kernels.csv").read_bytes())
    last = sorted((stopped / "checkpoints").glob("*.safetensors"))[-1]
    return {
        "architecture.json": File(run / "architecture.json", lambda p: load_result(p).to_dict()),
        "weights.safetensors": File(run / "weights.safetensors", state),
        "model.onnx": File(run / "model.onnx", answers),
        "a supernet's checkpoint.safetensors": File(run / "checkpoint.safetensors", supernet),
        "search.csv": File(run / "search.csv", lambda p: load_search_log(p.parent).to_csv()),
        "gates.csv": File(run / "gates.csv", lambda p: load_gates_log(p.parent).to_csv()),
        "train.csv": File(trained / "train.csv", lambda p: load_train_log(p.parent).to_csv()),
        "front.csv": File(run / "front.csv", lambda p: list(map(str, load_front(p.parent)))),
        "confusion.json": File(run / "confusion.json", lambda p: str(load_confusion(p.parent))),
        "images.csv": File(run / "images.csv", lambda p: str(Record.load(p.parent))),
        "SHA256SUMS": File(
            run / "SHA256SUMS",
            lambda p: [load_finished(p.parent).result.to_dict(), state(p.with_name("weights.safetensors"))],
        ),
        "run.json": File(stopped / "run.json", lambda p: str(Begun.load(p.parent, "search"))),
        "checkpoints of a run": File(last, checkpoint),
        "a space's YAML": File(folder / "space.yaml", lambda p: load_space(str(p)).to_dict(), False),
        "device.yaml": File(profile / "device.yaml", lambda p: load_folder(p.parent).digest, False),
        "kernels.csv": File(profile / "kernels.csv", lambda p: load_folder(p.parent).digest, False),
        "an ONNX file to price": File(folder / "built.onnx", lambda p: predict("vpu", p), False),
        "others' weights (.pth)": File(folder / "others.pth", lambda p: sorted(read_state_dict(p)), False),
        "an Optuna journal": File(journal, journalled, False),
        "index.npz": File(folder / "packed" / "index.npz", shards, False),
        "a shard": File(first, shards),
        "a table of images": File(folder / "labels.csv", tabled, False),
        "an image among others": File(folder / "images" / "a" / "00.png", pictured, False),
        **{
            f"an image ({name})": File(folder / f"picture.{ending}", lambda p, e=ending: images(e, p), False)
            for ending, name in FORMATS.items()
        },
    }


class _Any:
    """Takes the state of any supernet."""

    state: dict[str, Any]

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.state = {name: value.tolist() for name, value in state.items()}


def damaged(content: bytes, draws: random.Random) -> bytes:
    """With a bit flipped, or a few bytes others, cut, doubled, filled with zeros, or replaced by any."""
    size = len(content)
    at = draws.randrange(size)
    match draws.choice(("bit", "bit", "bit", "byte", "cut", "zeros", "twice", "hole", "any")):
        case "bit":
            return content[:at] + bytes([content[at] ^ (1 << draws.randrange(8))]) + content[at + 1 :]
        case "byte":
            changed = bytearray(content)
            for _ in range(draws.randint(1, 8)):
                changed[draws.randrange(size)] = draws.randrange(256)
            return bytes(changed)
        case "cut":
            return content[:at]
        case "zeros":
            return content[:at] + bytes(size - at)
        case "twice":
            return content[:at] + content
        case "hole":
            return content[:at] + content[at + draws.randint(1, 64) :]
        case _:
            return draws.randbytes(draws.randint(0, 200))


def damages(workshop: Workshop, draws: random.Random, until: float, counts: Counts, most: int | None = None) -> None:
    """Files of every kind are damaged and read: refused in one line, or for what has no checksum, read as another."""
    files = files_of(workshop)
    costs: dict[str, float] = {}
    rounds = 0
    while time.monotonic() < until and (most is None or rounds < most):
        rounds += 1
        for kind, file in files.items():
            begun, seed = time.monotonic(), draws.randrange(2**32)
            # a second of each kind a round
            number = BATCH if kind not in costs else max(5, min(400, round(1 / costs[kind])))
            number = min(number, 6) if most is not None else number
            status, said = in_process(lambda f=file, s=seed, n=number: _batch(f, s, n), WAIT_S + number)  # type: ignore[misc]
            if status != 0:
                how = "a wait too long" if status is None else f"ended with {status}"
                counts.add(f"damage: {kind}", "FAILED", f"seed {seed}: {how}: {said[-1500:]}")
                continue
            for ending, why in json.loads(said[said.rindex("\n[") + 1 :] if "\n[" in said else said):
                counts.add(f"damage: {kind}", ending, why)
            costs[kind] = (time.monotonic() - begun) / number
            if time.monotonic() > until:
                break


def _batch(file: File, seed: int, number: int) -> list[tuple[str, str]]:
    draws, good = random.Random(seed), file.path.read_bytes()
    wanted, found = _plain(file.load(file.path)), []
    for _ in range(number):
        content = damaged(good, draws)
        file.path.write_bytes(content)
        begun = time.monotonic()
        try:
            value = _plain(file.load(file.path))
        except UserError as error:
            said = str(error)
            fine = "\n" not in said and len(said) < 1500
            found.append(("refused", "") if fine else ("FAILED", f"said {said[:300]!r}"))
        except Exception:  # what is looked for
            file.path.write_bytes(good)
            found.append(("FAILED", f"seed {seed}: {traceback.format_exc()[-1200:]}"))
        else:
            if value == wanted:
                found.append(("read as it was", ""))
            elif not file.sealed:
                found.append(("read as another", ""))
            else:
                found.append(("FAILED", f"seed {seed}: read as another: {_first(wanted, value)}"))
        if time.monotonic() - begun > WAIT_S:
            found.append(("FAILED", f"seed {seed}: took {time.monotonic() - begun:.0f} s"))
        file.path.write_bytes(good)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return found


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


# ------------------------------------------------------------------ servers


def servers(workshop: Workshop, draws: random.Random, until: float, counts: Counts, most: int | None = None) -> None:
    """Sharded images from servers that lie, stop or stall: refused in one line, nothing kept that is not whole."""
    from search_space import bounds
    from tests.nas.data.test_hostile import HOSTILE, LIMIT, SHARD, giving, kept, load, serving

    waits = bounds.PAUSES_S, bounds.SILENT_S
    bounds.PAUSES_S, bounds.SILENT_S = (0.0, 0.0), 0.4
    number = 0
    try:
        while time.monotonic() < until and (most is None or number < most):
            number += 1
            name, answer = draws.choice(list(HOSTILE.items()))
            if draws.random() < 0.6:
                name, cut = "random", damaged(SHARD, draws)
                code = draws.choice((200, 200, 200, 206, 204, 301, 401, 404, 416, 429, 500))
                length = draws.choice((-1, None, len(SHARD), 0, 2**40))
                headers = draws.choice(
                    ((), (("Content-Encoding", "gzip"),), (("ETag", "x"),), (("Location", "/b.tar"),))
                )
                answer = giving(cut, *headers, length=length, times=draws.choice((1, 1, 2, 50)), code=code)
            cache = Path(tempfile.mkdtemp(dir=workshop.folder))

            def ask(answer: Any = answer, cache: Path = cache) -> list[str]:
                with serving(answer) as host:
                    try:
                        data: Any = load(f"http://me:hunter2@{host}/a.tar?token=s3cr3t", cache)
                        for _ in data.batches(data.train, 16, 8):
                            pass
                    except UserError as error:
                        said = str(error)
                        leaks = any(secret.decode() in said for secret in SECRETS)
                        return ["FAILED", f"said {said[:300]!r}"] if "\n" in said or leaks else ["refused", ""]
                return ["read", ""]

            status, said = in_process(ask, WAIT_S)
            if status != 0:
                counts.add("server", "FAILED", f"{name}: ended with {status}: {said[-1500:]}")
                continue
            ending, why = json.loads(said[said.rindex("[") :])
            held = kept(cache)
            if not why and sum(path.stat().st_size for path in held) > LIMIT:
                ending, why = "FAILED", f"{name}: the cache exceeds its bound"
            if not why and any(secret in path.read_bytes() for path in held for secret in SECRETS):
                ending, why = "FAILED", f"{name}: a secret is on the disk"
            counts.add("server", ending, why)
    finally:
        bounds.PAUSES_S, bounds.SILENT_S = waits


# ------------------------------------------------------------------ options

VALUES = (
    *("nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "2147483648", "9223372036854775808", "-1", "0", "1", "3.5"),
    *(
        "null",
        "true",
        "false",
        "''",
        "[a]",
        "[[1],[2]]",
        "{a:1}",
        "[]",
        "x" * 300,
        "é" * 150,
        "../../../x",
        "/dev/zero",
    ),
    *(
        "~nobody-here/x",
        "os:getcwd",
        "a.b.c",
        "10**9",
        "9" * 5000,
        "'a b'",
        "\\\\",
        "%s",
        "http://me:hunter2@127.0.0.1:9/x",
    ),
)


def options(workshop: Workshop, draws: random.Random, until: float, counts: Counts, most: int | None = None) -> None:
    """Any option with any value: refused in one line before anything is done, or taken."""
    from nas.command.options import describe

    hopeless = {
        "search": ["budget_ms=0.001", "data.root=images"],
        "train": ["architecture=missing.json"],
        "pack": ["out=packed", "data.root=images"],
    }
    known = [(name, option.name) for name in hopeless for option in describe(name)]
    number = 0
    while time.monotonic() < until and (most is None or number < most):
        number += 1
        name, option = draws.choice(known)
        value = draws.choice(VALUES)
        before = set(workshop.folder.rglob("*"))
        given = [o for o in hopeless[name] if not o.startswith(f"{option}=")] + [f"{option}={value}"]
        status, said = in_process(command(f"nas.{name}", *given, folder=workshop.folder), WAIT_S)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        why = ""
        if status not in (0, 2) or "Traceback" in said or (status == 2 and len(lines) != 1) or "hunter2" in said:
            why = f"nas.{name} {' '.join(given)[:200]} ended with {status}: {said[-1200:]}"
        elif new := set(workshop.folder.rglob("*")) - before:
            why = f"nas.{name} {' '.join(given)[:200]} left {sorted(map(str, new))[:3]}"
        counts.add("option", "FAILED" if why else "refused" if status == 2 else "taken", why)


# ------------------------------------------------------------------ the whole


@contextmanager
def workshop() -> Iterator[Workshop]:
    """One in a folder of its own, with as many threads as tests have."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = Workshop(Path(folder))
        made.begin()
        yield made


def secrets_in(folder: Path) -> list[str]:
    """Files below a folder that hold a secret."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in SECRETS)
    ]


SHARES: Sequence[tuple[Callable[..., None], float]] = ((kills, 0.45), (damages, 0.4), (servers, 0.05), (options, 0.1))


def bench(options: Options) -> str:
    """The counts as a table, and the failures below it. Raises `UserError` where there are any."""
    minutes, seed = options.number("minutes", 10), options.integer("seed", 0, least=0)
    counts, draws = Counts(), random.Random(seed)
    with workshop() as made:
        for part, share in SHARES:
            part(made, draws, time.monotonic() + 60 * minutes * share, counts)
            print(f"{part.__name__}: done, {len(counts.failed)} failures", file=sys.stderr, flush=True)
        for path in secrets_in(made.folder):
            counts.add("secret", "FAILED", f"'{path}' holds one")
    if counts.failed:
        print("\n\n".join(counts.failed))
        print(counts.table())
        raise UserError(f"{len(counts.failed)} failures")
    return counts.table()


def main() -> int:
    return run(
        bench,
        {"minutes": "how long, about (default: 10)", "seed": "of the draws (default: 0)"},
        "usage: python -m tests.bench.faults [minutes=10] [seed=0]",
        sys.argv[1:],
    )


if __name__ == "__main__":
    sys.exit(main())
