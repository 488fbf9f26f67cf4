"""A progress bar of timings with what matters beside it, silent when nobody watches."""

from __future__ import annotations

from math import inf

from search_space.progress_bar import Bar


class TimingProgress(Bar):
    """One bar over all items."""

    def __init__(self, total: int, enabled: bool | None = None) -> None:
        super().__init__(total, enabled, 8)

    def show(self, phase: str, done: int, seconds_left: float, error: float | None = None) -> None:
        """seconds_left: infinite while unknown. error: of the predictor, a share; None where there is none yet."""
        known = "" if error is None else f"error {error:.1%}  "
        minutes, seconds = divmod(max(0, round(min(seconds_left, 1e6))), 60)
        figures = f"{known}left {minutes}:{seconds:02d}" if seconds_left < inf else known
        self._progress.update(self._task, completed=done, description=phase, figures=figures)
