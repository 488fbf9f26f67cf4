"""A progress bar with what matters, silent when nobody watches. Not a log: that is search.csv."""

from __future__ import annotations

from rich.progress import TextColumn, TimeRemainingColumn

from search_space.progress_bar import Bar


class SearchProgress(Bar):
    """One bar over all steps of a run; figures beside it."""

    def __init__(self, total_steps: int, enabled: bool | None = None) -> None:
        super().__init__(total_steps, enabled, 9, TextColumn("left"), TimeRemainingColumn(compact=True))

    def skip(self, steps: int) -> None:
        """Of a run that resumes: steps done before."""
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
        """So many steps of a phase are done; what is None is left out of the bar. accuracy: a share of 1."""
        figures = []
        if loss is not None:
            figures.append(f"loss {loss:.3f}")
        if accuracy is not None:
            figures.append(f"val {accuracy:.1%}")
        if expected_ms is not None and budget_ms is not None:
            figures.append(f"E[lat] {expected_ms:.4g}/{budget_ms:g}ms")
        self._progress.update(self._task, advance=steps, description=phase, figures="  ".join(figures))
