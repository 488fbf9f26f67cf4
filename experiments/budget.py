"""Whether a search keeps its budget, and uses it, in one run, whatever the device, the budget and the seed.

Question   Three devices, ten budgets over the feasible range of each, three seeds: by how much does the predicted
           latency of the exported network exceed its budget, and how much of the budget is used? How near to the
           budget is the gates' expected latency on the way?
Data       Digits, 150 train images at 32 pixels: what is looked at is the budget, not the accuracy.
Command    python -m experiments.budget [minutes=30] [jobs=2]
           python -m experiments.budget show
Cost       About 20 CPU-minutes: a search of 5 to 10 seconds for every budget (`single`), and one of half a minute for
           the ten budgets of a device together (`front`); seed by seed, so that a part is of use.
Expected   No network over its budget; at least 97 % of it used in the median.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.jobs import Work, run_jobs
from experiments.results import NOT_MEASURED, Results, Row, earlier_profiles, markdown, profile_digests
from nas.run.log import load_search_log

if TYPE_CHECKING:
    from latency_models.options import Options
    from nas.run.finished import FinishedTarget

DEVICES = ("cpu", "vpu", "gpu")
KINDS = ("front", "single")
OPTIONS = {
    "kinds": f"which jobs, with commas between (default: {','.join(KINDS)})",
    "seeds": "of every search (default: 3)",
    "space": "search space (default: quadranet)",
}
SHARES = tuple(round(0.02 + 0.96 * i / 9, 4) for i in range(10))  # budgets, on the way from fastest to slowest
USED = 0.97


@dataclass(frozen=True)
class Job:
    """A run: one budget, given as a share of the range, or all of them together (None)."""

    device: str
    space: str
    share: float | None
    seed: int
    quick: bool

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        which = "front" if self.share is None else f"single {self.share:g}"
        return f"{which} {self.device} seed {self.seed}"

    @property
    def shares(self) -> tuple[float, ...]:
        """The run's budgets, on the way from the fastest network (0) to the slowest (1)."""
        if self.share is not None:
            return (self.share,)
        return SHARES[::9] if self.quick else SHARES


def jobs_of(kinds: Iterable[str], space: str, seeds: int, quick: bool) -> list[Job]:
    """Seed by seed, fronts first."""
    shares = {"front": (None,), "single": SHARES[4:5] if quick else SHARES}
    devices = DEVICES[:1] if quick else DEVICES
    return [
        Job(device, space, share, seed, quick)
        for seed in range(seeds)
        for kind in KINDS
        if kind in kinds
        for device in devices
        for share in shares[kind]
    ]


def do(job: Job) -> list[Row]:
    """Run the search and read what it left."""
    from nas.api import search
    from nas.run.plan import plan_search
    from nas.run.settings import SearchSettings

    table = plan_search(SearchSettings(device=job.device, budget_ms=1e9, space=job.space)).table
    span = table.maximum_ms - table.minimum_ms
    budgets = [float(f"{table.minimum_ms + share * span:.4g}") for share in job.shares]
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "device": [job.device],
            "budget_ms": [budgets],
            "space": job.space,
            "seed": job.seed,
            "data": {"name": "digits", "limit": 60 if job.quick else 200, "resolution": 32},
            "warmup": {"epochs": 1},
            "epochs": 2 if job.quick else 7,
            "finetune": {"epochs": 0},
            "train": {"batch_size": 16},
            "rerank": 1,
            "threads": 1,
            "out": str(Path(folder) / "run"),
        }
        clock = time.monotonic(), time.process_time()
        finished = search(**options, progress=False).targets
        seconds, processor_s = time.monotonic() - clock[0], time.process_time() - clock[1]
        return [
            {
                "kind": "front" if job.share is None else "single",
                "device": job.device,
                "seed": job.seed,
                "share": share,
                **_kept(run),
                "run_s": round(seconds, 1),
                "run_processor_s": round(processor_s, 1),
            }
            for share, run in zip(job.shares, finished, strict=True)
        ]


def _kept(run: FinishedTarget) -> Row:
    budget = run.result.budget
    assert budget is not None
    steps = load_search_log(run.folder)
    course = (steps.loc[steps["phase"] == "search", "expected_ms"] / budget.budget_ms).tolist()
    return {
        "budget_ms": budget.budget_ms,
        "predicted_ms": round(budget.predicted_ms, 6),
        "used": round(budget.used, 6),
        "binds": budget.binds,
        "network": str(run.result.architecture),
        "expected_first": round(course[0], 4),
        "expected_mean_of_last_third": round(statistics.mean(course[-(len(course) // 3 or 1) :]), 4),
        "expected_last": round(course[-1], 4),
    }


def prepare(options: Options, quick: bool) -> Work[Job]:
    """`quick`: one device, two budgets together and one alone."""
    from search_space import UserError

    kinds = options.text("kinds", ",".join(KINDS)).split(",")
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise UserError(f"kinds={','.join(kinds)}: '{unknown[0]}' is none of {', '.join(KINDS)}")
    space = options.text("space", "quadranet")
    jobs = jobs_of(kinds, space, options.integer("seeds", 1 if quick else 3), quick)
    return Work({"space": space, "quick": quick, **profile_digests(DEVICES)}, jobs, do)


def render(results: Results) -> str:
    """A table by kind and device, then what stands out."""
    lines = [_line(results.rows, kind, device) for kind in KINDS for device in DEVICES]
    header = ("runs", "device", "networks", "over the budget", "most used", "median", "least", "below 97 %",
              "E[lat] / T first", "last third", "s a run")  # fmt: skip
    by_share = [_by_share(results.rows, device) for device in DEVICES]
    shares = ("used, median over seeds", *(f"{share:.0%}" for share in SHARES))
    return (
        f"{markdown(header, lines)}\n\n{markdown(shares, by_share)}\n\n"
        "Columns of the second table: where the budget lies between the fastest and the slowest network. E[lat] / T: "
        "range over the runs at the first logged architecture step, and of the mean over the last third of them. "
        f"Space {results.settings['space']}. {earlier_profiles(results.settings)}\n{results.provenance}"
    )


def _line(rows: Sequence[Row], kind: str, device: str) -> list[str]:
    found = [row for row in rows if (row["kind"], row["device"]) == (kind, device) and row["binds"]]
    if not found:
        return [kind, device, *[NOT_MEASURED] * 9]
    used, seconds = _numbers(found, "used"), _numbers(found, "run_s")
    first, last = _numbers(found, "expected_first"), _numbers(found, "expected_mean_of_last_third")
    return [
        kind,
        device,
        str(len(found)),
        str(sum(share > 1 for share in used)),
        f"{max(used):.2%}",
        f"{statistics.median(used):.2%}",
        f"{min(used):.2%}",
        str(sum(share < USED for share in used)),
        f"{min(first):.2f} to {max(first):.2f}",
        f"{min(last):.3f} to {max(last):.3f}",
        f"{statistics.median(seconds):.0f}",
    ]


def _by_share(rows: Sequence[Row], device: str) -> list[str]:
    cells = []
    for share in SHARES:
        found = [row for row in rows if (row["device"], row["share"]) == (device, share)]
        cells.append(f"{statistics.median(_numbers(found, 'used')):.1%}" if found else NOT_MEASURED)
    return [device, *cells]


def _numbers(rows: Iterable[Row], name: str) -> list[float]:
    return [float(row[name] or 0) for row in rows]


def main(arguments: Sequence[str]) -> int:
    """Do the jobs that are left, or show the results; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("budget", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
