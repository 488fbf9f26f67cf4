"""A progress bar of timings with what matters beside it, silent when nobody watches."""

from __future__ import annotations

import sys
from math import inf
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn


class TimingProgress:
    """One bar over all items. Use as a context manager."""

    def __init__(self, total: int, enabled: bool | None = None) -> None:
        console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("[bold]{task.description:8}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            disable=not (console.is_terminal if enabled is None else enabled),
        )
        self._task = self._progress.add_task("start", total=total, figures="")

    def __enter__(self) -> TimingProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, phase: str, done: int, seconds_left: float, error: float | None = None) -> None:
        """seconds_left: infinite while unknown. error: of the predictor, a share; None where there is none yet."""
        known = "" if error is None else f"error {error:.1%}  "
        minutes, seconds = divmod(max(0, round(min(seconds_left, 1e6))), 60)
        figures = f"{known}left {minutes}:{seconds:02d}" if seconds_left < inf else known
        self._progress.update(self._task, completed=done, description=phase, figures=figures)
