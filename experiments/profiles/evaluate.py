"""How far the shipped predictors are from public measurements that they did not see.

Question   how large are the errors on networks and layers that the fit left out, and do the intervals hold?
Command    python -m experiments.profiles.evaluate device=NAME [source=FOLDER] [out=FOLDER]
Cost       seconds; vpu and gpu_eager_fp32 up to a minute
Expected   the table of docs/latency.md, every point as CSV, and a plot

The profile is refitted with parts of the rows held out. Not for a device of your own: `latency_models.evaluate`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.profiles import DATA, find_device
from latency_models.evaluate import write_evaluation
from latency_models.options import Options, run

OPTIONS = {
    "device": "which predictor",
    "source": "folder of the public rows (default: experiments/profiles/data)",
    "out": "where evaluation.md, points.csv and plot.svg go (default: ./evaluation-NAME)",
}
USAGE = "usage: python -m experiments.profiles.evaluate device=NAME [source=FOLDER] [out=FOLDER]"


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_evaluate, OPTIONS, USAGE, arguments)


def _evaluate(options: Options) -> str:
    device, source = options.text("device"), Path(options.text("source", str(DATA)))
    sets = find_device(device, source).evaluations(source)
    return write_evaluation(device, sets, Path(options.text("out", f"evaluation-{device}")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
