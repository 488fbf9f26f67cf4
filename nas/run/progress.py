"""A progress bar with what matters where a terminal shows it, else a line an epoch. Not a log: that is search.csv."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

from rich.progress import TextColumn, TimeRemainingColumn

from search_space.progress_bar import Bar


class SearchProgress(Bar):
    """One bar over all steps of a run; figures beside it.

    enabled: None for a bar where the error stream is a terminal and lines on it where it is none; False for neither.
    """

    def __init__(self, total_steps: int, enabled: bool | None = None) -> None:
        super().__init__(total_steps, enabled, 9, TextColumn("left"), TimeRemainingColumn(compact=True))
        beside_others = os.environ.get("TTY_COMPATIBLE") == "0"  # jobs of a sweep, whose lines would mix
        self._lines = enabled is None and self._progress.disable and not beside_others
        self._done = self._counted = 0  # steps of the run, and those of them that this process took
        self._start = time.monotonic()
        self._part: str | None = None
        self._figures: list[str] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._say_part()
        super().__exit__(kind, error, trace)

    def skip(self, steps: int) -> None:
        """Of a run that resumes: steps done before."""
        self._done = steps
        self._progress.update(self._task, completed=steps)

    def advance(
        self,
        phase: str,
        steps: int = 1,
        loss: float | None = None,
        accuracy: float | None = None,
        expected_ms: float | None = None,
        budget_ms: float | None = None,
        part: str | None = None,
    ) -> None:
        """So many steps of a phase are done; what is None is left out. accuracy: a share of 1.

        part: of the phase, in words such as 'epoch 3'. Where there is no bar its last step is a line.
        """
        figures = []
        if loss is not None:
            figures.append(f"loss {loss:.3f}")
        if accuracy is not None:
            figures.append(f"val {accuracy:.1%}")
        if expected_ms is not None and budget_ms is not None:
            figures.append(f"E[lat] {expected_ms:.4g}/{budget_ms:g}ms")
        if self._lines and part is not None:
            if self._part not in (None, f"{phase} {part}"):
                self._say_part()
            self._part, self._figures = f"{phase} {part}", figures
        self._done += steps
        self._counted += steps
        words = "  ".join(figures if part is None else [part, *figures])
        self._progress.update(self._task, advance=steps, description=phase, figures=words)

    def _say_part(self) -> None:
        """What has ended, with the figures of its last step."""
        if self._part is not None:
            print(", ".join([self._part, *self._figures, f"{self._left()} left"]), file=sys.stderr, flush=True)
            self._part = None

    def _left(self) -> str:
        """'1:02:03', as long as the remaining steps take at the rate so far."""
        rest = max(0, self.total - self._done)
        seconds = round((time.monotonic() - self._start) * rest / max(1, self._counted))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
