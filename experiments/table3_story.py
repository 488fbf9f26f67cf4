"""What the rows of `experiments.table3` say, by network and budget. Not for drawing: see its tables and its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, stdev

from experiments.profiles.paper_scale import TABLE_III, PublishedRow
from experiments.results import Results, Row, number
from experiments.table3_work import BUDGETS_MS, DEVICES

NOT_RUN = "not yet run"
PAPER = {(row.space, row.name.rsplit("-", 1)[1].lower()): row for row in TABLE_III}
"""(space, device) -> the published row."""


def spread(values: Sequence[float], digits: int) -> str:
    """'73.1 ± 0.4': mean and standard deviation; one value alone as it is, none as not yet run."""
    if not values:
        return NOT_RUN
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{deviation}"


@dataclass(frozen=True)
class Target:
    """What a search was asked: a budget on a device, in a space."""

    space: str
    calibration: str
    device: str


@dataclass(frozen=True)
class Story:
    """Rows by what they are about."""

    results: Results

    @cached_property
    def _tests(self) -> dict[tuple[str, int], Row]:
        """(network, seed) -> its training."""
        return {(str(r["network"]), int(number(r, "seed"))): r for r in self.results.rows if r["kind"] == "training"}

    @cached_property
    def begun(self) -> list[str]:
        """The calibrations that any row is about."""
        known = {row.get("calibration") for row in self.results.rows}
        return [calibration for calibration in BUDGETS_MS if calibration in known]

    def rows(self, kind: str, target: Target) -> list[Row]:
        """The rows of a kind that are about this target, in the file's order."""
        wanted = {"kind": kind, "space": target.space, "calibration": target.calibration, "device": target.device}
        return [row for row in self.results.rows if all(row.get(name) == value for name, value in wanted.items())]

    def searched(self, target: Target) -> list[Row]:
        """By seed, at the budget wanted or the nearest feasible one."""
        return self.rows("searched", target)

    def infeasible(self, target: Target) -> float | None:
        """The fastest network's latency in ms, where it does not keep the budget wanted; None where it does."""
        ends = self.rows("range", target)
        beyond = [number(row, "minimum_ms") for row in ends if number(row, "minimum_ms") > number(row, "budget_ms")]
        return beyond[0] if beyond else None

    def training(self, row: Row, column: str = "test") -> list[float]:
        """Of a network in per cent: of its own seed, or where it has none of every seed; empty before it is run."""
        found = [each for (name, seed), each in self._tests.items()
                 if name == row["network"] and row["seed"] in (None, seed)]  # fmt: skip
        return [100 * number(each, column) for each in found]

    def top1(self, rows: Sequence[Row]) -> list[float]:
        """Test accuracies in percent of all trainings of these networks; empty before any."""
        return [value for row in rows for value in self.training(row)]

    def gains(self, calibration: str, device: str) -> list[float] | None:
        """QuadraNet's top-1 minus ProxylessNAS', in points, seed by seed; None where the budgets differ."""
        proxyless, quadranet = (Target(space, calibration, device) for space in ("proxyless", "quadranet"))
        if self.infeasible(proxyless) or self.infeasible(quadranet):
            return None
        by_seed = {row["seed"]: self.training(row) for row in self.searched(proxyless)}
        pairs = [(self.training(row), by_seed.get(row["seed"], [])) for row in self.searched(quadranet)]
        return [ours[0] - theirs[0] for ours, theirs in pairs if ours and theirs]

    def front(self, space: str, device: str, calibrations: Sequence[str]) -> list[tuple[float, float]]:
        """(measured ms, mean top-1) of what was searched for a device, a point a budget, in order of ms."""
        points = []
        for calibration in calibrations:
            rows = [row for row in self.searched(Target(space, calibration, device)) if self.training(row)]
            if rows:
                points.append((mean_ms(rows, device), fmean(self.top1(rows))))
        return sorted(points)

    def loss(self, rows: Sequence[Row], space: str, device: str, calibrations: Sequence[str]) -> float | None:
        """Points that networks fall short of those searched for `device` at the same ms on it.

        None where those searched for it are not on both sides of it, or nothing is trained.
        """
        trained = [row for row in rows if self.training(row)]
        if not trained:
            return None
        ms, reached = mean_ms(trained, device), fmean(self.top1(trained))
        for (low, below), (high, above) in pairwise(self.front(space, device, calibrations)):
            if low <= ms <= high:
                return below + (above - below) * (ms - low) / (high - low) - reached
        return None

    def six(self, scale: str) -> list[tuple[PublishedRow, str, list[Row]]]:
        """The published rows, each with its device and what was found under its own budget on a scale."""
        found = []
        for (space, device), paper in PAPER.items():
            target = Target(space, scale, device)
            found.append((paper, device, [] if self.infeasible(target) else self.searched(target)))
        return found

    def off_device(self, scale: str) -> list[float]:
        """Found ms over published ones on the devices not searched for, in means over seeds."""
        return [
            fmean(number(row, f"{other}_scaled_ms") for row in rows) / paper.latency_ms[other]
            for paper, device, rows in self.six(scale)
            for other in DEVICES
            if rows and other != device
        ]

    def beaten_at_home(self, scale: str) -> list[str] | None:
        """Networks for which another of their space is faster on their device and no less accurate.

        As 'NAME by NAME', from means over seeds under the budgets of Table III on a scale; None before all are trained.
        """
        found = [(paper.space, device, rows) for paper, device, rows in self.six(scale) if rows]
        trained = {(space, device): rows for space, device, rows in found if self.top1(rows)}
        if len(trained) < len(found) or not trained:
            return None
        return [
            f"{PAPER[space, device].name} by {PAPER[space, other].name}"
            for (space, device), rows in trained.items()
            for (its_space, other), others in trained.items()
            if its_space == space
            and other != device
            and fmean(self.top1(others)) >= fmean(self.top1(rows))
            and mean_ms(others, device) < mean_ms(rows, device)
        ]

    def cost(self) -> dict[str, tuple[int, float]]:
        """'searched' and 'training' -> how many jobs, and their CPU minutes."""
        jobs = {str(row["job"]): row for row in self.results.rows if row["kind"] in ("searched", "training")}
        found: dict[str, tuple[int, float]] = {}
        for row in jobs.values():
            count, minutes = found.get(str(row["kind"]), (0, 0.0))
            found[str(row["kind"])] = count + 1, minutes + number(row, "cpu_s") / 60
        return found


def mean_ms(rows: Sequence[Row], device: str) -> float:
    """Measured scale."""
    return fmean(number(row, f"{device}_ms") for row in rows)
