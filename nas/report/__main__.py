"""The command `python -m nas.report FOLDER`: render the page of a run, of one target or of several, again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nas.report.front import write_front_report
from nas.report.page import write_report
from nas.run.front_table import FRONT, load_front
from search_space.last_words import status_of
from search_space.sums import renew_sum


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page's path and return 0, or 2 with one line on what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m nas.report", description="Render a run's report.html again.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a run folder, as the search printed it")

    def render() -> None:
        folder = parser.parse_args(arguments).folder
        several = (folder / FRONT.name).is_file() and len(load_front(folder)) > 1
        page = write_front_report(folder) if several else write_report(folder)
        renew_sum(page)
        print(page)

    return status_of(render)


if __name__ == "__main__":
    sys.exit(main())
