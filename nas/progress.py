"""A progress bar with what matters, silent when nobody watches. Not a log: that is search.csv."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class SearchProgress:
    """One bar over all steps of a run; figures beside it. Use as a context manager."""

    def __init__(self, total_steps: int, enabled: bool | None = None) -> None:
        console = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn("[bold]{task.description:9}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not (console.is_terminal if enabled is None else enabled),
        )
        self._task = self._progress.add_task("start", total=total_steps, figures="")

    def __enter__(self) -> SearchProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def skip(self, steps: int) -> None:
        """Of a run that goes on: steps done before."""
        self._progress.update(self._task, completed=steps)

    def advance(
        self,
        phase: str,
        steps: int = 1,
        loss: float | None = None,
        accuracy: float | None = None,
        expected_ms: float | None = None,
        budget_ms: float | None = None,
    ) -> None:
        figures = []
        if loss is not None:
            figures.append(f"loss {loss:.3f}")
        if accuracy is not None:
            figures.append(f"val {accuracy:.1%}")
        if expected_ms is not None and budget_ms is not None:
            figures.append(f"E[lat] {expected_ms:.4g}/{budget_ms:g}ms")
        self._progress.update(self._task, advance=steps, description=phase, figures="  ".join(figures))
