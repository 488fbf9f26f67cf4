"""The command `python -m nas.deploy RUN target=litert precision=int8`: a run's network as a file for a runtime.

Converted, compared with torch, measured on the run's test images and timed, with a card beside the file. Not for
searching or training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from latency_models.options import Options, run
from nas.deploy import TARGETS, find_target

USAGE = f"usage: python -m nas.deploy RUN target={'|'.join(TARGETS)} [precision=...] [key=value ...]"
OPTIONS = {
    "run": "the folder of a finished run; may be written without run=",
    "target": f"the runtime: {', '.join(TARGETS)} or the full dotted path of your own",
    "precision": "fp32 (default), fp16, int8 or dynamic_int8, as far as the runtime has it",
    "out": "where the files go (default: RUN/deploy/TARGET_PRECISION)",
    "data.root": "where the run's images are now (default: where they were)",
    "calibration": "training images that the ranges of int8 are measured on (default: 100)",
    "threads": "cores used (default: 1)",
    "busy": "refuse (default: the file is written, not timed) or accept a machine that does other work",
}


def _deploy(options: Options) -> str:
    target = options.text("target")
    find_target(target)  # ahead of torch
    busy = options.choice("busy", ("refuse", "accept"))
    calibration, threads = options.integer("calibration", 100), options.integer("threads", 1)
    folder = Path(options.text("run")).expanduser()
    from nas.deploy.work import Asked, deploy

    asked = Asked(
        run=folder,
        target=target,
        precision=options.text("precision", ""),
        out=Path(options.text("out")).expanduser() if options.given("out") else None,
        root=options.text("data.root") if options.given("data.root") else None,
        calibration=calibration,
        threads=threads,
        accept_noise=busy == "accept",
    )
    card, out = deploy(asked, say=lambda line: print(line, flush=True))
    return "\n".join(card.lines(str(out)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    named = [a if "=" in a or a.startswith("-") else f"run={a}" for a in given]
    return run(_deploy, OPTIONS, USAGE, named)


if __name__ == "__main__":
    sys.exit(main())
