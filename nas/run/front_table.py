"""The table of a run's targets, front.csv: one row per target and its network; what a finished run is known by.

Not for the pages that draw it, nor for a target's own result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latency_models.support import derived_words
from nas.run.result import SearchResult, scale_note
from search_space.tables import Column, Schema, make_table, parse_rows, read_table, read_text, write_table

if TYPE_CHECKING:
    from pandas import DataFrame

FRONT = Schema(
    "front.csv",
    (
        Column("folder", "str", "the target's, within the run's; . where it is the same"),
        Column("device", "str", "name of the device searched for"),
        Column("budget_ms", "float", "the latency asked for, ms", above=0),
        Column("predicted_ms", "float", "predicted latency of the network found, ms", above=0),
        Column("used", "float", "share of the budget: by the prediction, or by its interval's upper end", least=0),
        Column("binds", "bool", "whether the budget excludes any network of the space"),
        Column("macs", "int", "multiply-accumulates of one image", least=0),
        Column("params", "int", "parameters of the network", least=0),
        Column("peak_activation_bytes", "int", "most bytes of live tensors at any layer, fp32 at batch 1", least=0),
        Column("validation", "float", "accuracy on validation images, a share of 1", empty=True, least=0, most=1),
        Column("test", "float", "accuracy on test images, a share of 1; empty without", empty=True, least=0, most=1),
        Column("architecture", "str", "the blocks of every stage, stages with | between"),
        Column(
            "confidence", "float", "with which the interval's upper end keeps the budget", empty=True, above=0, most=1
        ),
        Column("calibration", "str", "scale of the milliseconds: measured is real time"),
        Column(
            "largest_class",
            "float",
            "test accuracy of always naming the class with most images, a share of 1",
            empty=True,
            least=0,
            most=1,
            optional=True,
        ),
        Column(
            "derived",
            "float",
            "share of the predicted time whose prices are derived; empty where not stated",
            empty=True,
            least=0,
            most=1,
            optional=True,
        ),
    ),
    digits=None,
)


@dataclass(frozen=True)
class FrontRow:
    """A target and its network, with the columns of `FRONT`; shares are of 1."""

    folder: str
    device: str
    budget_ms: float
    predicted_ms: float
    used: float
    binds: bool
    macs: int
    params: int
    peak_activation_bytes: int
    validation: float | None
    test: float | None
    architecture: str
    confidence: float | None = None
    calibration: str = "measured"
    largest_class: float | None = None
    derived: float | None = None

    @property
    def predicted_note(self) -> str:
        """', partly derived prices (16 %)' and ', calibration=NAME: not real time', where they are so."""
        words = derived_words(self.derived)
        return f", {words}{self.scale_note}" if words else self.scale_note

    @property
    def used_by(self) -> str:
        """In words, what uses the budget where it is not the prediction."""
        return f"by the upper end at confidence {self.confidence:g}" if self.confidence else ""

    @property
    def scale_note(self) -> str:
        """', calibration=NAME: not real time' where the ms are so."""
        return scale_note(self.calibration)

    @staticmethod
    def of(result: SearchResult, folder: str) -> FrontRow:
        """The row of a search's result in `folder` of the run."""
        budget, accuracy = result.budget, result.accuracy
        assert budget is not None
        return FrontRow(
            folder=folder,
            device=budget.device,
            budget_ms=budget.budget_ms,
            predicted_ms=budget.predicted_ms,
            used=budget.used,
            binds=budget.binds,
            **asdict(result.cost),
            validation=accuracy.validation if accuracy else None,
            test=accuracy.test if accuracy else None,
            architecture=str(result.architecture),
            confidence=budget.confidence,
            calibration=budget.calibration,
            largest_class=accuracy.largest_class if accuracy else None,
            derived=found.derived if (found := result.latency.get(budget.device)) else None,
        )


def front_table(rows: Sequence[FrontRow]) -> DataFrame:
    """The rows as a table with the columns of `FRONT`."""
    return make_table(map(astuple, rows), FRONT)


def save_front_table(folder: Path, rows: Sequence[FrontRow]) -> None:
    """Write front.csv, whole or not at all. Raises `CannotWrite`."""
    write_table(folder / FRONT.name, front_table(rows), FRONT)


def load_front(folder: Path) -> list[FrontRow]:
    """The targets of a finished run. Raises `BadFile` naming file, row and column."""
    where = f"{folder.name}/{FRONT.name}"
    return [FrontRow(**values) for _, values in parse_rows(read_text(folder / FRONT.name, where), FRONT, where)]


def load_front_table(folder: Path) -> DataFrame:
    """The same as a table with the columns of `FRONT`. Raises `BadFile` naming file, row and column."""
    return read_table(folder / FRONT.name, FRONT, f"{folder.name}/{FRONT.name}")
