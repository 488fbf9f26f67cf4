"""Fig. 5 at small scale: whether quadratic networks are more accurate than their linear twins of the same size.

Question   What do three depthwise convolutions in a quadratic neuron bring over one, at equal depth and width, and
           for as many parameters or multiply-accumulates? The paper's own figure: ImageNet, to convergence.
Command    python -m experiments.fig5 data=FOLDER [sizes=12x8,12x16,12x32] [seeds=3] [epochs=3] [images=10000]
           python -m experiments.fig5 show [figure=fig5.svg]
Cost       About 20 minutes of one core in all; minutes=N starts no further training after N, and the same command
           later resumes where the file ends. Seeds come one after another, so that an unfinished file is useful.
Expected   The quadratic form a little ahead at the smallest size, by less as the networks grow, within what seeds
           scatter: with so few seeds undecided. The accuracies of the paper's Fig. 5 were not found. A short
           schedule on small images says which form learns faster at this scale, and nothing of ImageNet.
Setting    CIFAR-10 at 32 pixels, its whole test set; both forms with one recipe, one order of batches a seed and
           nothing tuned. The family's stem leaves maps of 8, 4, 2 and 1 pixels, where most of a 7x7 kernel is idle,
           so that parameters weigh against the quadratic form more than they would at 224 pixels.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from experiments.command import results_file, run_experiment
from experiments.results import NOT_MEASURED, Results, Row, Value, load_results, markdown, save_results, shown
from search_space.errors import UserError
from search_space.family import DEPTHS_12, DEPTHS_36, linear_twin, quadranet
from search_space.lower import lower
from search_space.space import Architecture

if TYPE_CHECKING:
    from latency_models.options import Options
    from nas.data import DataSet

RESOLUTION, NUM_CLASSES = 32, 10
DEPTHS = {"12": DEPTHS_12, "36": DEPTHS_36}
FORMS = ("quadratic", "linear")
HELD_OUT = 0.01  # of the training images: nothing is chosen here, and the loader takes no less
OPTIONS = {
    "data": "folder of CIFAR-10, the binary version or packed (needed)",
    "sizes": "blocks x base width, commas between; 12 or 36 blocks (default: 12x8,12x16,12x32)",
    "seeds": "trainings of every network (default: 3)",
    "epochs": "of every training (default: 3)",
    "images": "to train on (default: 10000)",
    "threads": "of torch (default: 1; networks so small gain little from more)",
    "minutes": "after which no further training starts (default: none)",
}
HEADER = ("blocks x C", "form", "params M", "MMACs", "test accuracy %", "seeds", "quadratic - linear, points",
          "linear at as many params %", "linear at as many MACs %")  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One network trained once. size: blocks x base width."""

    size: str
    form: str
    seed: int

    @property
    def architecture(self) -> Architecture:
        """Raises `UserError` for a size that the family does not have."""
        blocks, _, width = self.size.partition("x")
        if blocks not in DEPTHS or not width.isdecimal() or width.startswith("0"):
            raise UserError(f"sizes={self.size}: a size is 12 or 36 blocks x a base width, as 12x16")
        quadratic = quadranet(f"fig5-{self.size}", int(width), DEPTHS[blocks])
        return quadratic if self.form == "quadratic" else linear_twin(quadratic)


def jobs(sizes: Sequence[str], seeds: int) -> Iterator[Job]:
    """Every size in both forms, one seed after another, so that an unfinished file compares whole seeds.

    A size that stands twice among `sizes` is trained once.
    """
    for seed in range(seeds):
        for size in dict.fromkeys(sizes):
            for form in FORMS:
                yield Job(size, form, seed)


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: the smallest network, one epoch of 200 images. Every training's row is written as soon as it is done."""
    import torch

    from experiments.results import take_provenance
    from nas.data import DataSettings, load

    sizes = options.names("sizes", ("12x8",) if quick else ("12x8", "12x16", "12x32"))
    planned = list(jobs(sizes, options.integer("seeds", 1 if quick else 3)))
    for job in planned:
        lower(job.architecture, RESOLUTION, NUM_CLASSES)  # refused before the first training, not in the middle
    limit_s = 60 * options.number("minutes") if options.given("minutes") else math.inf
    epochs, images = options.integer("epochs", 1 if quick else 3), options.integer("images", 200 if quick else 10_000)
    torch.set_num_threads(options.integer("threads", 1))
    path = None if quick and not options.given("out") else results_file("fig5", options)
    settings: dict[str, Value] = {"data": "CIFAR-10", "epochs": epochs, "images": images, "resolution": RESOLUTION}
    rows = _kept(path, settings)
    data = load(DataSettings("cifar10", options.text("data"), validation_share=HELD_OUT, limit=images))
    provenance = take_provenance(command, "cpu")
    done = {(row["size"], row["form"], row["seed"]) for row in rows}
    begin = time.monotonic()
    for job in planned:
        if (job.size, job.form, job.seed) in done:
            continue
        if time.monotonic() - begin > limit_s:
            break
        row = {**train(job, data, epochs), "date": provenance.date, "commit": provenance.commit}
        rows.append(row)
        print(f"{job.size} {job.form} seed {job.seed}: {row['accuracy']:.2%}, {row['seconds']:.0f} s", file=sys.stderr)
        if path is not None:
            save_results(path, Results("fig5", provenance, settings, tuple(rows)))
    return Results("fig5", provenance, settings, tuple(rows))


def _kept(path: Path | None, settings: Mapping[str, Value]) -> list[Row]:
    """Rows of an earlier run. Raises `UserError` where they were trained otherwise."""
    if path is None or not path.exists():
        return []
    earlier = load_results(path, "fig5")
    if earlier.settings != settings:
        raise UserError(
            f"'{path}' holds trainings of {_said(earlier.settings)}, not {_said(settings)}; name another file with out="
        )
    return list(earlier.rows)


def _said(settings: Mapping[str, Value]) -> str:
    return f"{settings['epochs']} epochs of {settings['images']} images"


def train(job: Job, data: DataSet, epochs: int) -> dict[str, Value]:
    """A row: what the network costs, and its accuracy on the test images after the last step."""
    import torch

    from nas.training.loop import accuracy, train_network
    from nas.training.recipes import Recipe
    from search_space.build import Network, to_channels_last
    from search_space.cost import cost_of

    segments = lower(job.architecture, RESOLUTION, NUM_CLASSES)
    cost = cost_of(segments)
    torch.manual_seed(job.seed)
    network = to_channels_last(Network(segments))
    start = time.monotonic()
    train_network(network, data, data.train, RESOLUTION, Recipe(epochs=epochs), job.seed)
    reached = accuracy(network, data.batches(data.test, RESOLUTION, 250))
    return {
        "size": job.size,
        "form": job.form,
        "seed": job.seed,
        "params": cost.params,
        "macs": cost.macs,
        "accuracy": reached,
        "seconds": time.monotonic() - start,
    }


@dataclass(frozen=True)
class Point:
    """A network of the figure. accuracies: in percent, by seed."""

    size: str
    form: str
    params: int
    macs: int
    accuracies: Mapping[int, float]

    @property
    def mean(self) -> float:
        """In percent, over seeds."""
        return fmean(self.accuracies.values())

    @property
    def deviation(self) -> float | None:
        """Over seeds; None for one alone."""
        return stdev(self.accuracies.values()) if len(self.accuracies) > 1 else None


def points(results: Results) -> list[Point]:
    """Every network that was trained, the smaller sizes first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        found.setdefault((str(row["size"]), str(row["form"])), []).append(row)
    made = [
        Point(size, form, int(str(rows[0]["params"])), int(str(rows[0]["macs"])),
              {int(str(row["seed"])): 100 * float(str(row["accuracy"])) for row in rows})
        for (size, form), rows in found.items()
    ]  # fmt: skip
    return sorted(made, key=lambda point: (point.params, point.form))


def differences(quadratic: Point, linear: Point) -> list[float]:
    """In points, quadratic - linear, for the seeds of both."""
    seeds = sorted(quadratic.accuracies.keys() & linear.accuracies.keys())
    return [quadratic.accuracies[seed] - linear.accuracies[seed] for seed in seeds]


def interval(apart: Sequence[float]) -> tuple[float, float] | None:
    """The mean and half its 95 % t-interval; None below two values."""
    from scipy.stats import t

    if len(apart) < 2:
        return None
    return fmean(apart), float(t.ppf(0.975, len(apart) - 1)) * stdev(apart) / math.sqrt(len(apart))


def linear_at(cost: float, measure_of: str, linear: Sequence[Point]) -> float | None:
    """Mean accuracy, in percent, of a linear network of that cost; None outside of those that were trained.

    measure_of: what `cost` counts, 'params' or 'macs'. Between two that were trained the accuracy is a straight line
    in the logarithm of the cost.
    """
    known = sorted((math.log(getattr(point, measure_of)), point.mean) for point in linear)
    x = math.log(cost)
    for (low, below), (high, above) in pairwise(known):
        if low <= x <= high:
            return below + (above - below) * (x - low) / (high - low)
    return None


def render(results: Results) -> str:
    """The table of a results file as Markdown, and in one sentence what it says."""
    found = points(results)
    linear = {point.size: point for point in found if point.form == "linear"}
    everywhere: list[float] = []
    lines, verdicts = [], []
    for point in found:
        cells = ["-"] * 3
        if point.form == "quadratic":
            apart = differences(point, linear[point.size]) if point.size in linear else []
            everywhere += apart
            cells = [_interval_shown(interval(apart))]
            at = (linear_at(getattr(point, cost), cost, list(linear.values())) for cost in ("params", "macs"))
            cells += ["-" if accuracy is None else shown(accuracy, 2) for accuracy in at]
            verdicts.append(f"{point.size} {_verdict(interval(apart))}")
        lines.append(
            (
                point.size,
                point.form,
                shown(point.params, 3, 1e-6),
                shown(point.macs, 2, 1e-6),
                f"{point.mean:.2f}" if point.deviation is None else f"{point.mean:.2f} ± {point.deviation:.2f}",
                shown(len(point.accuracies)),
                *cells,
            )
        )
    return (
        f"{results.settings['data']} at {results.settings['resolution']} pixels, {_said(results.settings)}, whole test "
        f"set; accuracy: mean ± standard deviation over seeds; difference: mean over seeds ± half its 95 % t-interval; "
        f"'linear at as many': between two linear networks of the table, '-' beyond them.\n{results.provenance}\n\n"
        f"{markdown(HEADER, lines)}\n\n"
        f"The quadratic form at equal depth and width: {'; '.join(verdicts) or NOT_MEASURED}. "
        f"Over all {len(everywhere)} pairs of a size and a seed: {_interval_shown(interval(everywhere))}, "
        f"{_verdict(interval(everywhere))}."
    )


def _interval_shown(found: tuple[float, float] | None) -> str:
    return NOT_MEASURED if found is None else f"{found[0]:+.2f} ± {found[1]:.2f}"


def _verdict(found: tuple[float, float] | None) -> str:
    if found is None or abs(found[0]) <= found[1]:
        return "undecided"
    return "better" if found[0] > 0 else "worse"


def draw(results: Results) -> bytes:
    """Accuracy against parameters and against MACs, both forms, as SVG. Raises `UserError` without matplotlib."""
    try:
        from experiments.curves import accuracy_against_cost
    except ImportError as error:
        raise UserError("a figure needs matplotlib: pip install -c constraints.txt -e '.[plot]'") from error
    return accuracy_against_cost(points(results), FORMS, f"{results.settings['data']}, {_said(results.settings)}")


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("fig5", OPTIONS, measure, render, arguments, draw)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
