"""TensorBoard: a run's numbers as curves over its steps, in the folder `tensorboard` of the network's files.

    tensorboard --logdir runs

Not for gate probabilities, which gates.csv and the page have.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nas.loggers import Values

FOLDER = "tensorboard"
FLUSH_S = 10  # that a killed run may lose


class TensorBoardLogger:
    """A `Logger` by torch's SummaryWriter: a curve for every number of a row, options as a text."""

    def __init__(self, folder: Path, options: Mapping[str, str | int | float], after: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if after is None else after + 1  # hides what an earlier process logged of later steps
        self.writer = SummaryWriter(str(folder / FOLDER), purge_step=purge, flush_secs=FLUSH_S)
        if after is None:
            lines = (f"| {name} | {value} |" for name, value in options.items())
            self.writer.add_text("options", "\n".join(["| option | value |", "|---|---|", *lines]))

    def row(self, values: Values) -> None:
        """See `nas.loggers.Logger`."""
        for name, value in values.items():
            if name != "step" and not isinstance(value, str):
                self.writer.add_scalar(name, value, int(values["step"]))

    def close(self, finished: bool) -> None:
        """See `nas.loggers.Logger`."""
        self.writer.close()
