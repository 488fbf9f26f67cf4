"""The command `python -m nas.report FOLDER`: render the page of a run, of one target or of several, again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.report.front import write_front_report
from nas.report.page import write_report
from search_space import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page's path and return 0, or 2 with one line on what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m nas.report", description="Render a run's report.html again.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run folder, as the search printed it")
    folder = parser.parse_args(arguments).folder
    write = write_front_report if (folder / "front.json").is_file() else write_report
    try:
        print(write(folder))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
