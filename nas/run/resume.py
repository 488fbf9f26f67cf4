"""What a run was asked, kept in its folder from its first moment to its end, so that `resume=` needs no more.

Not for the state of training: that is `nas.run.checkpoint`. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from search_space import UserError
from search_space.errors import BadFile
from search_space.files import lock, write_whole
from search_space.reading import read, read_json, without_schema

SCHEMA = 1
NAME = "run.json"
MAY_CHANGE = {"resume", "threads", "accelerator", "log"}  # how it runs, not what it gives


@dataclass(frozen=True)
class Begun:
    """kind: the command's name, such as 'search'. options: its settings as nested dicts. command: the shell line."""

    kind: str
    options: Mapping[str, Any]
    command: str | None
    started: datetime

    def save(self, folder: Path) -> None:
        """Write `run.json` into the run's folder. Raises `CannotWrite`."""
        values = {**vars(self), "schema": SCHEMA, "started": self.started.isoformat()}
        write_whole(folder / NAME, json.dumps(values, indent=1) + "\n")

    def forget(self, folder: Path) -> None:
        """Remove `run.json`: the run has finished."""
        (folder / NAME).unlink(missing_ok=True)

    @staticmethod
    def load(folder: Path, kind: str) -> Begun | None:
        """None if the run in the folder has finished. Raises `BadFile` for a folder without such a run."""
        path = folder / NAME
        if not path.is_file():
            if any((folder / name).is_file() for name in ("architecture.json", "front.csv")):
                return None
            raise BadFile(f"resume={folder}: no run was begun there ('{path}' is missing); start a new run")
        try:
            begun = read(Begun, without_schema(read_json(path), SCHEMA, f"'{path}'"), f"'{path}'")
        except BadFile as error:
            raise BadFile(f"the run in '{folder}' cannot be resumed: {error}") from error
        if begun.kind != kind:
            raise BadFile(f"'{folder}' is a run of nas.{begun.kind}: python -m nas.{begun.kind} resume={folder}")
        return begun


def options_to_resume(begun: Mapping[str, Any], now: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """What the run was begun with, but for what of `MAY_CHANGE` the command line names.

    Raises `UserError` if it names another option with another value.
    """
    options, before, after = dict(begun), _flat(begun), _flat(now)
    for argument in arguments:
        name = argument.lstrip("+").split("=")[0]
        if name in options and name in MAY_CHANGE:
            options[name] = now[name]
        if name in MAY_CHANGE or name.startswith(("-", "hydra")):
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
    """Raises `UserError` while another process carries on the run in this folder. A killed one leaves no lock."""
    with (folder / NAME).open("rb") as file:
        try:
            lock(file, wait=False)
        except OSError as error:
            raise UserError(f"another process is carrying on the run in '{folder}'") from error
        yield
