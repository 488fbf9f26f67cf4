"""What a run's page is made of: its result, its logs and the lowered network, checked against each other.

The files are read by `nas.run.result` and `nas.run.log`; here is no reader of its own, and nothing is drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.report.words import ms
from nas.run.confusion import Confusion, load_confusion
from nas.run.log import GATES_LOG, SEARCH_LOG, TRAIN_LOG, load_gates_log, load_search_log, load_train_log
from nas.run.result import NOT_REAL, Budget, SearchResult, load_result, scale_note
from search_space import Architecture, Segment, UserError, lower
from search_space.errors import BadFile
from search_space.tables import make_table

if TYPE_CHECKING:
    import pandas as pd

ALL = 1 + 1e-9  # of a budget: what rounding adds is not above it


@dataclass(frozen=True)
class Run:
    """Everything that a page says.

    budget: None where a network was trained that no search found. segments: of the network at deployment resolution.
    log: search.csv's columns, or train.csv's and a phase. gates: probabilities, a row a snapshot (its index: the step),
    a column for every (slot, candidate) of the space; no rows where no gates were trained. files: the names in the
    run's folder, which the page links to. confusion: None where nothing was measured, and in runs of earlier versions.
    """

    result: SearchResult
    budget: Budget | None
    segments: tuple[Segment, ...]
    log: pd.DataFrame
    gates: pd.DataFrame
    files: frozenset[str]
    confusion: Confusion | None = None

    @classmethod
    def of(
        cls,
        result: SearchResult,
        log: pd.DataFrame,
        gates: pd.DataFrame,
        files: frozenset[str],
        confusion: Confusion | None = None,
    ) -> Run:
        """Check that a result is one of a search on a device, or of a training, whose log has no latency.

        log, gates: as `nas.run.log` reads and checks them. Raises `BadFile`, naming the file and what in it does not
        fit.
        """
        budget, architecture = result.budget, result.architecture
        searched = "expected_ms" in log
        if (budget is None and searched) or (budget and not (budget.budget_ms > 0 and budget.predicted_ms > 0)):
            raise BadFile("architecture.json holds no budget and latency above 0: it is not of a search on a device")
        try:
            segments = lower(architecture, result.resolution.deployment, result.num_classes)
        except UserError as error:
            raise BadFile(f"architecture.json: {error}") from error
        if result.gate_path and not _is_path_of(result.gate_path, architecture):
            raise BadFile(f"architecture.json: gate_path '{' '.join(result.gate_path)}' is not one of {architecture}")
        snapshots = gates.pivot(index="step", columns=["slot", "candidate"], values="probability")
        return cls(result, budget, segments, log, snapshots, files, confusion)

    @property
    def devices(self) -> list[str]:
        """All devices with a prediction, and the one searched for ahead of them."""
        return list(dict.fromkeys([*([self.budget.device] if self.budget else []), *self.result.latency]))

    @property
    def device(self) -> str:
        """The one searched for, else the first with a prediction; '' where there is none."""
        return next(iter(self.devices), "")

    @property
    def trained(self) -> bool:
        """Whether it is a full training's page, not a search's."""
        return "expected_ms" not in self.log

    @property
    def has_zeros(self) -> bool:
        """Whether slots of the space were left out."""
        return sum(map(len, self.result.architecture.stages)) < len(self.result.architecture.space.slots)

    @property
    def has_gates(self) -> bool:
        """Whether gates were trained; discrete strategies have none."""
        return len(self.gates) > 0

    @property
    def most_ms(self) -> float:
        """The budget, and what rounding may add to it; without one, infinite."""
        return ALL * self.budget.budget_ms if self.budget else math.inf

    @property
    def budget_words(self) -> str:
        """'30 ms', and by what it is kept where that is not the prediction; 'none'."""
        if self.budget is None:
            return "none"
        return f"{self.budget.budget_ms:g} ms" + (", kept by the upper end" if self.budget.confidence else "")

    def scale_note(self, device: str) -> str:
        """', calibration=NAME: not real time' where the device's times are so."""
        if self.budget and device == self.budget.device:
            return scale_note(self.budget.calibration)
        found = self.result.latency.get(device)
        return scale_note(found.calibration) if found else ""

    def predicted_words(self, device: str) -> str:
        """'29.71 ms', with ', not real time' where a calibration makes it so."""
        found = self.result.latency.get(device)
        return ms(found.latency_ms if found else None) + (f", {NOT_REAL}" if self.scale_note(device) else "")

    def segments_ms(self, device: str) -> dict[str, float]:
        """Milliseconds of every segment on a device; empty where they are not known."""
        return dict(self.result.latency[device].by_segment_ms) if device in self.result.latency else {}

    def share(self, device: str, segment: str) -> float | None:
        """A segment's part of a device's time, of 1; None where it is not known."""
        times = self.segments_ms(device)
        total = sum(times.values())
        return times[segment] / total if segment in times and total > 0 else None


def load_run(folder: Path) -> Run:
    """Read a run's folder. Raises `BadFile`, one line naming the file and what is wrong with it."""
    if not folder.is_dir():
        raise BadFile(f"no run folder '{folder}'")
    result = load_result(folder / "architecture.json")
    if (folder / TRAIN_LOG.name).is_file() and not (folder / SEARCH_LOG.name).exists():
        log, gates = load_train_log(folder).assign(phase="training"), make_table([], GATES_LOG)
    else:
        log, gates = load_search_log(folder), load_gates_log(folder, result.architecture.space)
    files = frozenset(path.name for path in folder.iterdir() if path.is_file())
    return Run.of(result, log, gates, files, load_confusion(folder))


def _is_path_of(path: tuple[str, ...], architecture: Architecture) -> bool:
    """Whether a path's choices, Zeros left out, are the architecture's blocks."""
    slots = architecture.space.slots
    kept = [(slot.stage, choice) for slot, choice in zip(slots, path, strict=False) if choice != "zero"]
    blocks = [(stage, str(block)) for stage, blocks in enumerate(architecture.stages) for block in blocks]
    return len(path) == len(slots) and kept == blocks
