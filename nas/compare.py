"""The command `python -m nas.compare RUN RUN ...`: the networks of several finished runs beside each other.

Prints a table; `out=FOLDER` writes it as front.csv, with a page that links to the runs' own. Nothing is measured
again, so runs of other images, or of other sizes of the test split, are compared as they say they are.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latency_models.support import derived_words
from nas.command.options import as_command
from nas.report.front import render_front
from nas.run.finished import load_finished
from nas.run.front_table import FRONT, FrontRow, front_table, save_front_table
from search_space import UserError
from search_space.files import ensure_folder, write_whole
from search_space.sums import renew_sum

if TYPE_CHECKING:
    from pandas import DataFrame


def compare(folders: Sequence[str | Path]) -> DataFrame:
    """A row for every network of the runs in these folders, with the columns of `nas.run.front_table.FRONT`.

    `folder` is that of the network's files. Raises `BadFile` for a folder without a finished run.
    """
    return front_table(_rows([Path(folder) for folder in folders]))


def _rows(folders: Sequence[Path], beside: Path | None = None) -> list[FrontRow]:
    """beside: the folder that the rows' folders are written relative to."""
    targets = [target for folder in folders for target in load_finished(folder).targets]
    if without := [target.folder for target in targets if target.result.budget is None]:
        raise UserError(
            f"'{without[0]}' has no budget on a device: it trained an architecture that no search found; "
            "leave it out, and see its own report.html"
        )
    return [
        FrontRow.of(target.result, os.path.relpath(target.folder, beside) if beside else str(target.folder))
        for target in targets
    ]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m nas.compare", description="Several runs beside each other.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--out", type=Path, help="write front.csv and report.html to this folder; or out=FOLDER")
    words = [f"--{word}" if word.startswith("out=") else word for word in sys.argv[1:]]
    with as_command():
        options = parser.parse_args(words)
        print(_compared(options.runs, options.out))


def _compared(runs: Sequence[Path], out: Path | None) -> str:
    rows = _rows(runs)
    shown = [
        (
            row.folder,
            f"{row.device}{row.scale_note}",
            ", ".join(filter(None, (f"{row.predicted_ms:.4g} of {row.budget_ms:g} ms", derived_words(row.derived)))),
            f"{row.macs / 1e6:.0f}M",
            f"{row.params / 1e6:.2f}M",
            "not measured" if row.test is None else f"{row.test:.1%}",
            row.architecture,
        )
        for row in rows
    ]
    head = ("run", "device", "predicted", "MACs", "params", "test", "network")
    widths = [max(len(line[column]) for line in (head, *shown)) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
             for line in (head, *shown)]  # fmt: skip
    if out is not None:
        ensure_folder(out)
        beside = _rows(runs, out)
        save_front_table(out, beside)
        write_whole(out / "report.html", render_front(beside, heading=f"{len(runs)} runs"))
        for name in (FRONT.name, "report.html"):
            renew_sum(out / name)
        lines.append(f"-> {out / 'report.html'}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
