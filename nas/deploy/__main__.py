"""The command `python -m nas.deploy RUN target=litert precision=int8`: a run's network as files for runtimes.

Converted, compared with torch, measured on the run's test images and timed, with a card beside every file. Not for
searching or training.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from latency_models.options import Options, run
from nas.deploy import TARGETS, check_targets
from search_space.errors import UserError

USAGE = f"usage: python -m nas.deploy RUN target={'|'.join(TARGETS)} [precision=...] [key=value ...]"
OPTIONS = {
    "run": "the folder of a finished run; may be written without run=",
    "target": f"the runtime, or several with commas: {', '.join(TARGETS)} or the full dotted path of your own",
    "precision": "fp32 (default), fp16, int8 or dynamic_int8, as far as the runtime has it; or several with commas",
    "out": "where the files of one target and precision go (default: RUN/deploy/TARGET_PRECISION)",
    "data.root": "where the run's images are now (default: where they were)",
    "calibration": "training images that the ranges of int8 are measured on (default: 100)",
    "threads": "cores used (default: 1)",
    "busy": "refuse (default: the file is written, not timed) or accept a machine that does other work",
}


def _deploy(options: Options) -> str:
    options.text("target")
    targets, precisions = tuple(dict.fromkeys(options.names("target", ()))), options.names("precision", ())
    check_targets(targets, precisions)  # ahead of torch
    out = Path(options.text("out")).expanduser() if options.given("out") else None
    if out and len(targets) > 1:
        raise UserError(f"out='{out}' is one folder, for one target; leave out= away for {len(targets)}")
    busy = options.choice("busy", ("refuse", "accept"))
    calibration, threads = options.integer("calibration", 100), options.integer("threads", 1)
    folder = Path(options.text("run")).expanduser()
    from nas.deploy.work import Asked, deploy

    def say(line: str) -> None:
        print(line, flush=True)

    lines: list[str] = []
    for target in targets:
        if lines:
            say("\n".join(lines))
        asked = Asked(
            run=folder,
            target=target,
            precisions=precisions,
            out=out,
            root=options.text("data.root") if options.given("data.root") else None,
            calibration=calibration,
            threads=threads,
            accept_noise=busy == "accept",
        )
        lines = [line for card, where in deploy(asked, say) for line in card.lines(str(where))]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    named = [a if "=" in a or a.startswith("-") else f"run={a}" for a in given]
    return run(_deploy, OPTIONS, USAGE, named)


if __name__ == "__main__":
    sys.exit(main())
