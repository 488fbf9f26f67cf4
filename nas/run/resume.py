"""What a run was asked, kept in its folder from its first moment to its end, so that `resume=` needs no more.

Not for the state of training: that is `nas.run.checkpoint`. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from search_space import UserError
from search_space.errors import BadFile
from search_space.files import lock, write_whole
from search_space.reading import REQUIRED, read, read_json, shown, to_plain, without_schema
from search_space.sums import sum_of

SCHEMA = 2
NAME = "run.json"
CHECKPOINTS = "checkpoints"  # the folder with the state of training, see `nas.run.checkpoint`
IMAGES = "data"  # among a run's inputs
OF_A_RUN = ("architecture.json", "weights.safetensors", "checkpoint.safetensors")  # what another run may start from
MAY_CHANGE = {"threads", "accelerator", "distributed", "log"}  # how it runs, not what it gives
AUTO = "auto"  # resume=auto


@dataclass(frozen=True)
class Begun:
    """kind: the command's name, such as 'search'. options: its settings as nested dicts. command: the shell line.

    inputs: what the result depends on besides the options, by name: digests, or values where a change shall be said.
    """

    kind: str
    options: Mapping[str, Any]
    command: str | None
    started: datetime
    inputs: Annotated[Mapping[str, Any], REQUIRED] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write `run.json` into the run's folder. Raises `CannotWrite`."""
        values = {"schema": SCHEMA, **to_plain(self)}
        write_whole(folder / NAME, json.dumps({**values, "sha256": _digest(values)}, indent=1) + "\n")

    def forget(self, folder: Path) -> None:
        """Remove `run.json`: the run has finished."""
        (folder / NAME).unlink(missing_ok=True)

    @staticmethod
    def load(folder: Path, kind: str) -> Begun | None:
        """None if the run in the folder has finished. Raises `BadFile` for a folder without such a run."""
        path = folder / NAME
        if not path.is_file():
            if any((folder / name).is_file() for name in ("architecture.json", "front.csv")):
                _clear(folder / CHECKPOINTS)
                return None
            if folder.is_dir() and not any(folder.iterdir()):
                raise BadFile(f"resume={folder}: that folder is empty; begin a run in it with out={folder}")
            raise BadFile(f"resume={folder}: no run was begun there ('{path}' is missing); start a new run")
        try:
            values = read_json(path)
            whole = without_schema(values, SCHEMA, f"'{path}'")
            if whole.pop("sha256", None) != _digest({k: v for k, v in values.items() if k != "sha256"}):
                raise BadFile(f"'{path}' is damaged: its content is not what was written")
            begun = read(Begun, whole, f"'{path}'")
        except BadFile as error:
            raise BadFile(f"the run in '{folder}' cannot be resumed: {error}") from error
        if begun.kind != kind:
            raise BadFile(f"'{folder}' is a run of nas.{begun.kind}: python -m nas.{begun.kind} resume={folder}")
        return begun

    def require_same(self, folder: Path, now: Mapping[str, Any], changes: Callable[[], str] = str) -> None:
        """Raise `UserError` if something is not what the run in the folder was begun with.

        changes: says in words what is other in the images, '' where that is not known.
        """
        for name in dict.fromkeys((*self.inputs, *now)):
            was, found = self.inputs.get(name), json.loads(json.dumps(to_plain(now.get(name))))
            if was == found:
                continue
            if name == IMAGES and (what := changes()):
                said = f": {what}; put the images back, or"
            elif isinstance(was, Mapping) and isinstance(found, Mapping):
                before, after = _flat(was), _flat(found)
                key = next(k for k in (*before, *after) if before.get(k) != after.get(k))
                said = f": {key} was {shown(before.get(key))} and is {shown(after.get(key))}; put it back, or"
            else:
                said = "; put it back, or"
            raise UserError(f"the {name} changed since the run in '{folder}' was begun{said} start a new run")


def folder_to_resume(resume: str | None, out: str | None) -> Path | None:
    """Where a command goes on with a run; None where it begins one.

    resume: a folder, or 'auto' for `out` once something was begun there: the same command line then begins a run and
    continues it, whoever starts it again. Raises `UserError` for 'auto' without `out`.
    """
    if resume is None:
        return None
    if resume != AUTO:
        return Path(resume).expanduser()
    if out is None:
        raise UserError("resume=auto begins a run in out=FOLDER or continues the one there; name the folder")
    folder = Path(out).expanduser()
    return folder if folder.is_dir() and any(folder.iterdir()) else None


def _clear(checkpoints: Path) -> None:
    """Remove what a run left there that was killed at its very end."""
    for path in checkpoints.glob("[0-9]" * 6 + ".safetensors"):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # never made, or something of the user's is in it
        checkpoints.rmdir()


def content_of(name: str | None) -> Mapping[str, str]:
    """The digests of what an option names, where that is a file or a run's folder, by file."""
    path = Path(name).expanduser() if name is not None else None
    if path is None or not path.exists():
        return {}
    files = [path] if path.is_file() else [path / each for each in OF_A_RUN]
    return {file.name: sum_of(file) for file in files if file.is_file()}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def options_to_resume(begun: Mapping[str, Any], now: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """What the run was begun with, but for what of `MAY_CHANGE` the command line names.

    Raises `UserError` if it names another option with another value.
    """
    options, before, after = dict(begun), _flat(begun), _flat(now)
    for argument in arguments:
        name = argument.lstrip("+").split("=")[0]
        group = name.split(".")[0]
        if group in MAY_CHANGE and group in now:
            options[group] = now[group]
        if group in MAY_CHANGE or name == "resume" or name.startswith(("-", "hydra")):
            continue
        for key in (k for k in after if k == name or k.startswith(f"{name}.")):
            if after[key] != before.get(key):
                raise UserError(
                    f"{key}={after[key]} cannot change: the run was begun with {key}={before.get(key)}; "
                    "leave it out, or start a new run"
                )
    return options


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Raises `UserError` while another process carries on the run in this folder, and where it has just finished it.

    A killed one leaves no lock.
    """
    path = folder / NAME
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"the run in '{folder}' has finished meanwhile") from error
    with file:
        try:
            lock(file, wait=False)
        except OSError as error:
            raise UserError(f"another process is carrying on the run in '{folder}'") from error
        if not path.is_file():  # removed between being opened and held
            raise UserError(f"the run in '{folder}' has finished meanwhile")
        yield
