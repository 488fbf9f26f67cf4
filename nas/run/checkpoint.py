"""The whole state of a training run on disk, so that a killed run resumes as if nothing had happened.

A checkpoint is named tensors and facts in JSON in one safetensors file, with a digest over both; the last two
are kept. Nothing is pickled. What belongs in a checkpoint is said by the loops that make them
(`nas.strategies.proxyless`, `nas.training.loop`).
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nas.run.distributed import is_asked_of_any, is_joined, note_stop
from nas.run.resume import CHECKPOINTS
from search_space.errors import BadFile, CannotWrite, one_line
from search_space.files import write_whole

FORMAT = 3  # a new number when names or meanings change, here or in what the loops put in
KEPT = 2  # the newest, and one to fall back on
AGREE_EVERY = 5  # steps, by which several processes stop together
TO_STOP = [signal.SIGINT, signal.SIGTERM]
OF_USERS = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]  # not on every system


class OtherFormat(BadFile):
    """A checkpoint of another version of this program, or of another program."""


def load_tensors(path: Path, format_number: int = FORMAT) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a file of a format. Raises `BadFile`, `OtherFormat` among them."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadFile(f"'{path}' is damaged: {one_line(error)}") from error
    if (found := header.get("format", "unnumbered")) != str(format_number):
        raise OtherFormat(
            f"'{path}' has checkpoint format {found}, this version reads and writes {format_number}; "
            "use the version that wrote it, or start a new run"
        )
    return tensors, header


@dataclass(frozen=True)
class Checkpoint:
    """facts: anything JSON holds, floats to the last bit."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file's content, with a digest over tensors and facts."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        facts = json.dumps(self.facts, allow_nan=False)
        header = {"format": str(FORMAT), "facts": facts, "digest": digest_of(tensors, facts)}
        return save(tensors, header)

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Raises `BadFile` unless every byte is as it was written."""
        tensors, header = load_tensors(path)
        if header.get("digest") != digest_of(tensors, header.get("facts", "")):
            raise BadFile(f"'{path}' is damaged: its content is not what was written")
        return Checkpoint(tensors, json.loads(header["facts"]))


def digest_of(tensors: Mapping[str, Tensor], facts: str = "") -> str:
    """Over names and values, and a text."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Checkpoints:
    """The last checkpoints of a run, in its folder; due every so many minutes, or steps.

    facts: JSON that every checkpoint carries besides what its phase says. journals: texts that it carries too.
    """

    def __init__(
        self,
        run_folder: Path,
        minutes: float = 2.0,
        steps: int | None = None,
        say: Callable[[str], None] = lambda line: None,
        resume: bool = False,
        writes: bool = True,
    ) -> None:
        """`resume`: from what an earlier process left there, if anything. `writes`: whether this process does.

        Raises `OtherFormat`; damaged files are passed over.
        """
        self.writes, self.resumed = writes, resume
        self.run_folder = run_folder
        self.folder = run_folder / CHECKPOINTS
        self.minutes, self.steps, self.say = minutes, steps, say
        self.journals: dict[str, Callable[[], str]] = {}
        self.restored = self._newest() if resume else None
        facts = self.restored.facts if self.restored else {}
        self.facts: dict[str, Any] = dict(facts.get("run", {}))
        self._seconds_before = float(facts.get("seconds", 0.0))
        self._start = self._last = time.monotonic()
        self._stop = self._holds_off = False
        self._asked: list[int] = []  # signals that came since the last step
        self._listened: dict[int, Any] = {}  # signal -> what was to happen to it

    @property
    def seconds(self) -> float:
        """That the run has taken, in all its processes."""
        return self._seconds_before + time.monotonic() - self._start

    def saved_in(self, phase: str) -> Checkpoint | None:
        """What the phase had saved, if it is the one to resume in."""
        if self.restored is None or self.restored.facts["phase"] != phase:
            return None
        return Checkpoint(part(self.restored.tensors, "state"), self.restored.facts["state"])

    def restored_journal(self, name: str) -> str | None:
        """The text that the journal of this name had when the run was stopped; None where there is none."""
        if self.restored is None:
            return None
        journals = json.loads(self.restored.tensors["journals"].numpy().tobytes())
        return str(journals[name]) if name in journals else None

    def keep(self, phase: str, step: int, make: Callable[[], Checkpoint], now: bool = False) -> None:
        """Call after every step: saves what `make` gives if it is due (or `now`), and stops here if asked to.

        Raises KeyboardInterrupt then, or what the handler of the signal raises, which may also let the run go on.
        Several processes agree on stopping every few steps.
        """
        if is_joined():
            self._stop = self._stop or (step % AGREE_EVERY == 0 and is_asked_of_any(bool(self._asked)))
        else:
            self._stop = bool(self._asked)
        minutes = (time.monotonic() - self._last) / 60
        if self.writes and (
            now or self._stop or minutes >= self.minutes or (self.steps is not None and step % self.steps == 0)
        ):
            self._save(phase, make())
        if self._stop:
            self._obey()

    @contextmanager
    def stopping_between_steps(self) -> Iterator[None]:
        """Within, signals to stop wait for the next `keep`, which loses nothing; the same one again does not wait.

        Those are Ctrl-C, SIGTERM, and SIGUSR1 and 2 where somebody listens to them, as the launcher of a job that a
        scheduler may take off its node.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._listened = {number: signal.getsignal(number) for number in TO_STOP} | {
            number: handler for number in OF_USERS if callable(handler := signal.getsignal(number))
        }
        self._holds_off = True
        self._hold_off()
        try:
            yield
        finally:
            self._holds_off = False
            for number, handler in self._listened.items():
                signal.signal(number, handler)

    def _hold_off(self) -> None:
        def ask(number: int, frame: object) -> None:
            self._asked.append(number)
            note_stop()
            signal.signal(number, self._listened[number])

        for number in self._listened:
            signal.signal(number, ask)

    def _obey(self) -> None:
        """Stop, or hand the signals on to their handlers where there are such."""
        asked, self._asked, self._stop = self._asked, [], False
        if is_joined():  # whichever process was asked
            raise KeyboardInterrupt
        for number in asked:
            handler = self._listened[number]
            if not callable(handler) or handler is signal.default_int_handler:
                raise KeyboardInterrupt
            handler(number, None)
        if self._holds_off:
            self._hold_off()

    def clear(self) -> None:
        """Remove all, oldest first, so that being killed meanwhile leaves the newest."""
        for path in (*self._paths(), *self.folder.glob(".*.partial")):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # never made, or something of the user's is in it
            self.folder.rmdir()

    def _save(self, phase: str, state: Checkpoint) -> None:
        """A disk that refuses is said, not raised: the run continues, and the earlier checkpoints are still there."""
        self._last = time.monotonic()
        journals = json.dumps({name: make() for name, make in self.journals.items()})
        tensors = {
            **under("state", state.tensors),
            "journals": torch.frombuffer(bytearray(journals.encode()), dtype=torch.uint8),
        }
        facts = {"phase": phase, "seconds": self.seconds, "run": self.facts, "state": state.facts}
        number = int(self._paths()[-1].stem) + 1 if self._paths() else 0
        try:
            self.folder.mkdir(exist_ok=True)
            write_whole(self.folder / f"{number:06d}.safetensors", Checkpoint(tensors, facts).to_bytes())
        except (CannotWrite, OSError) as error:
            self.say(f"note: no checkpoint was written, the run continues: {error}")
            return
        for path in self._paths()[:-KEPT]:
            path.unlink(missing_ok=True)

    def _newest(self) -> Checkpoint | None:
        for path in reversed(self._paths()):
            try:
                return Checkpoint.load(path)
            except OtherFormat:
                raise
            except BadFile as error:
                self.say(f"note: {error}; passed over")
                if self.writes:
                    path.unlink(missing_ok=True)
        self.say(f"note: no checkpoint in '{self.folder}', starting from the beginning")
        return None

    def _paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(p for p in self.folder.glob("*.safetensors") if re.fullmatch(r"\d{6}", p.stem))


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What `under` put there."""
    return {n.removeprefix(f"{prefix}."): v for n, v in tensors.items() if n.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts, named by the parameter's place in the groups."""
    places = enumerate(_parameters(optimizer))
    return {f"{i}.{key}": value for i, p in places for key, value in optimizer.state.get(p, {}).items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Moments get their parameter's memory layout, which fused kernels rely on."""
    for i, parameter in enumerate(_parameters(optimizer)):
        state = {}
        for key, value in part(tensors, str(i)).items():
            like = torch.empty_like(parameter, dtype=value.dtype) if value.shape == parameter.shape else None
            state[key] = value.to(parameter.device) if like is None else like.copy_(value)
        if state:
            optimizer.state[parameter] = state


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]
