"""Where a run's rows go besides its CSV files: one file a logger, found by name or by full dotted path.

A new logger is one file beside these and one line in `LOGGERS`; or a class anywhere, asked for as
`log=[package.module:Class]`. The laws that every logger keeps are in tests/contracts/test_loggers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from search_space.errors import UserError, one_line
from search_space.named import load_named

CSV = "csv"  # search.csv and train.csv, which every run writes: nas.run.log
LOGGERS = {
    CSV: "nas.run.log:SearchLog",
    "mlflow": "nas.loggers.mlflow:MlflowLogger",
    "tensorboard": "nas.loggers.tensorboard:TensorBoardLogger",
}
EXTRAS = ("mlflow", "tensorboard")  # packages of these names, in optional extras of these names

Values = Mapping[str, str | int | float]


class Logger(Protocol):
    """Made as `Class(folder, options, after)` when a network's log begins, in the first of several processes.

    folder: of the network's files. options: the run's, nested ones with a dot, null left out. after: None for a new
    run; of one that is resumed the last step that counts: what was logged of later steps comes again.
    """

    def row(self, values: Values) -> None:
        """A row of search.csv or train.csv by its columns, `step` among them; what was not measured is left out."""

    def close(self, finished: bool) -> None:
        """Called once, at the end; finished: False where the run was stopped or has failed."""


def check_loggers(names: Sequence[str]) -> None:
    """Raise `UserError` for a logger that cannot be had: its package is missing, or its path leads nowhere."""
    for name in names:
        if name in EXTRAS and find_spec(name) is None:
            raise UserError(
                f"log={name} needs the package '{name}', which is not installed: "
                f"pip install -c constraints.txt -e '.[{name}]'"
            )
        if name not in LOGGERS:
            load_named("log", name, LOGGERS, 3)


class Loggers:
    """The loggers of one network. One that fails is said and left out: the run goes on without it."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        options: Mapping[str, Any],
        after: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """names: of `LOGGERS`, or dotted paths; options: as nested dicts. Raises as `check_loggers` does."""
        check_loggers(names)
        self.say = say
        self.open: dict[str, Logger] = {}
        flat = dict(_flat(options))
        for name in dict.fromkeys(names):
            if name != CSV:
                kind = load_named("log", name, LOGGERS, 3)
                self._trying(name, self._begin, name, kind, folder, flat, after)

    def row(self, values: Mapping[str, str | int | float | None]) -> None:
        """A row for all of them; None where something was not measured."""
        known = {name: value for name, value in values.items() if value is not None}
        for name, logger in list(self.open.items()):
            self._trying(name, logger.row, known)

    def close(self, finished: bool) -> None:
        """Close all of them, once."""
        for name, logger in list(self.open.items()):
            self._trying(name, logger.close, finished)
        self.open.clear()

    def _begin(self, name: str, kind: Callable[..., Logger], *arguments: object) -> None:
        self.open[name] = kind(*arguments)

    def _trying(self, name: str, action: Callable[..., None], *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception as error:  # of anybody's code and servers; no log is worth a run
            self.open.pop(name, None)
            self.say(f"note: log={name} is left out from here on: {type(error).__name__}: {one_line(error)}")


def _flat(options: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in options.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        elif value is not None:
            plain = isinstance(value, str | int | float)
            found.append((f"{prefix}{name}", value if plain else ",".join(map(str, value))))
    return found
