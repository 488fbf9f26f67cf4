"""The table of a run with several targets, front.csv: one row per target and its network.

Not for the pages that draw it, nor for a target's own result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from search_space.tables import Column, Schema, read_table

if TYPE_CHECKING:
    from pandas import DataFrame

FRONT = Schema(
    "front.csv",
    (
        Column("folder", "str", "the target's, within the run's"),
        Column("device", "str", "name of the device searched for"),
        Column("budget_ms", "float", "the latency asked for, ms", above=0),
        Column("predicted_ms", "float", "predicted latency of the network found, ms", above=0),
        Column("used", "float", "share of the budget: by the prediction, or by its interval's upper end", least=0),
        Column("binds", "bool", "whether the budget excludes any network of the space"),
        Column("macs", "int", "multiply-accumulates of one image", least=0),
        Column("params", "int", "parameters of the network", least=0),
        Column(
            "peak_activation_bytes",
            "int",
            "the most that live tensors need at any layer, fp32 at batch 1, bytes",
            least=0,
        ),
        Column("validation", "float", "accuracy on validation images, a share of 1", least=0, most=1),
        Column("test", "float", "accuracy on test images, a share of 1", least=0, most=1),
        Column("architecture", "str", "the blocks of every stage, stages with | between"),
        Column(
            "confidence",
            "float",
            "that the budget is kept, where its interval's upper end keeps it",
            empty=True,
            above=0,
            most=1,
        ),
        Column("calibration", "str", "scale of the milliseconds: measured is real time"),
    ),
    digits=None,
)


def load_front_table(folder: Path) -> DataFrame:
    """A run folder's front.csv with the columns of `FRONT`. Raises `BadFile` naming file, row and column."""
    return read_table(folder / FRONT.name, FRONT, f"{folder.name}/{FRONT.name}")
