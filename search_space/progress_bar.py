"""The progress bar of long work, silent when nobody watches. What stands beside it is the work's own."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn


class Bar:
    """One bar over `total` things, a word for the phase before it, figures and further columns behind.

    enabled: None for where the error stream is a terminal. Use as a context manager.
    """

    def __init__(self, total: int, enabled: bool | None, phase_width: int, *columns: ProgressColumn) -> None:
        self.total = total
        console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn(f"[bold]{{task.description:{phase_width}}}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            *columns,
            console=console,
            disable=not (console.is_terminal if enabled is None else enabled),
        )
        self._task = self._progress.add_task("start", total=total, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
