"""Whether averaged weights, mixup or CutMix help in the short trainings of a search.

Question   a) In a supernet: how accurate are paths with inherited weights, and how well do those accuracies rank the
           80 networks of `experiments.ground_truth` (Kendall's tau with those of networks trained on their own)?
           b) In fine-tuning the chosen path: how accurate is the network that would be exported?
           c) Comparing paths by a batch's BatchNorm statistics, as searches do: is it biased against statistics
           measured on the path itself?
Data       CIFAR-10 at 32 pixels. a) as in `experiments.ground_truth`; b), c) 5,000 of its train images, of which 4,000
           train; test accuracy on the first 5,000 test images.
Command    python -m experiments.training data=../shared/datasets [seeds=2] [minutes=30] [jobs=2]
           python -m experiments.training show
Cost       About 10 CPU-minutes a seed on one core.
Expected   Averages help a little in all; mixing hurts, since so few epochs do not overfit.

Supernets are trained on uniformly drawn paths: gates would choose other paths, not train them otherwise.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from experiments.jobs import Work, run_jobs
from experiments.results import (
    FOLDER,
    NOT_MEASURED,
    Results,
    Row,
    Value,
    earlier_profiles,
    load_results,
    markdown,
    number,
    profile_digests,
    shown,
)
from experiments.truth import Truth, kendall
from experiments.truth_work import Scale, Worker, all_paths, load_images

if TYPE_CHECKING:
    from latency_models.options import Options
    from nas.data import DataSet
    from nas.run.plan import Plan
    from nas.supernet.network import Supernet
    from nas.training.moving_average import MovingAverage
    from search_space import GatePath

LAST = "last"  # the weights as they are when training ends
DECAYS = (0.98, 0.99, 0.998)
CHANGES: dict[str, dict[str, float]] = {"none": {}, "mixup 0.2": {"mixup": 0.2}, "cutmix 1": {"cutmix": 1.0}}
FINETUNED: dict[str, dict[str, float]] = {"none": {}, "ema 0.99": {"ema": 0.99}, **CHANGES}
OPTIONS = {
    "data": "folder of CIFAR-10 (default: ../shared/datasets)",
    "seeds": "of every job (default: 2)",
}


@dataclass(frozen=True)
class Short:
    """A short search. supernet, finetune: epochs; paths: how many are compared; test: images."""

    spaces: tuple[str, ...] = ("quadranet", "proxyless")
    budget_ms: float = 40.0
    limit: int = 5000
    supernet: int = 4
    finetune: int = 3
    paths: int = 6
    test: int = 5000


@dataclass(frozen=True)
class Job:
    """A supernet's training and what is measured with it.

    kind: 'ranking' (a supernet of the ground truth's space, what: how its images are mixed) or 'network' (one of a
    shipped space, what: its name, and fine-tunings of one of its paths).
    """

    kind: str
    what: str
    seed: int

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        return f"{self.kind} {self.what} {self.seed}"


@dataclass(frozen=True)
class Trainer:
    """Does jobs. root: the folder of CIFAR-10."""

    scale: Scale
    short: Short
    root: str

    def __call__(self, job: Job) -> list[Row]:
        """A job's rows, each with its kind and seed and the whole job's CPU seconds."""
        clock = time.process_time()
        rows = list(self._ranking(job) if job.kind == "ranking" else self._network(job))
        cpu_s = round(time.process_time() - clock, 1)
        return [{"kind": job.kind, "seed": job.seed, **row, "cpu_s": cpu_s} for row in rows]

    def _ranking(self, job: Job) -> Iterator[Row]:
        """Inherited accuracy of all networks."""
        scale, space = self.scale, self.scale.space
        plan = _changed(Worker(scale, self.root, "cpu").plan(job.seed, True, 1.0), CHANGES[job.what])
        data, rng = load_images(scale, self.root), random.Random(job.seed)
        supernet, averages = train_supernet(plan, data, lambda: space.random_path(rng), DECAYS)
        paths = all_paths(space)
        truth = Truth.of(load_results(FOLDER / "ground_truth.json", "ground_truth").rows)
        for weights, reached in inherited(supernet, averages, paths, data, scale.resolution):
            accuracies = {str(space.architecture(path)): a for path, a in zip(paths, reached, strict=True)}
            tau = kendall(accuracies, truth.accuracy) if truth.accuracy.keys() >= accuracies.keys() else None
            yield {"what": "supernet", "space": space.name, "images": job.what, "weights": weights,
                   "validation": fmean(reached), "tau": tau, "truth_seeds": len(truth.complete)}  # fmt: skip

    def _network(self, job: Job) -> Iterator[Row]:
        """Inherited accuracy of some paths, then one of them fine-tuned in several ways."""
        import numpy as np

        from nas.data import load
        from nas.discrete.budgeted import within_budget
        from nas.strategies.untrained import weight_steps
        from search_space import GatePath

        plan, short = short_search(job.what, job.seed, self.short, self.scale, self.root), self.short
        data = load(plan.settings.data)
        data = replace(data, test=data.test.take(np.arange(min(short.test, len(data.test)))))
        region = within_budget(plan.space, plan.table, plan.limits, short.budget_ms, plan.settings.use_at_least)
        drawn = region.sample(np.random.default_rng(job.seed), weight_steps(plan, data) + short.paths).tolist()
        draw = map(GatePath, map(tuple, drawn))
        paths = list(itertools.islice(draw, short.paths))
        supernet, averages = train_supernet(plan, data, partial(next, draw), DECAYS)
        pixels = plan.settings.data.resolution
        starts = {LAST: {k: v.clone() for k, v in supernet.state_dict().items()}}
        for weights, reached in inherited(supernet, averages, paths, data, pixels):
            starts.setdefault(weights, {k: v.clone() for k, v in supernet.state_dict().items()})
            yield {"what": "supernet", "space": plan.space.name, "images": "none", "weights": weights,
                   "validation": fmean(reached)}  # fmt: skip
            if weights == LAST:
                chosen = paths[max(range(len(paths)), key=reached.__getitem__)]
                for path, by_batch in zip(paths, reached, strict=True):
                    by_path = recalibrated(supernet, path, data, pixels)
                    yield {"what": "norms", "space": plan.space.name, "by_batch": by_batch, "by_path": by_path}
        for start, change in [*((LAST, change) for change in FINETUNED), ("average 0.99", "none")]:
            supernet.load_state_dict(starts[start])
            validation, test = self._finetune(supernet, chosen, _changed(plan, FINETUNED[change], "finetune"), data)
            yield {"what": "finetuned", "space": plan.space.name, "weights": start, "change": change,
                   "validation": validation, "test": test}  # fmt: skip

    def _finetune(self, supernet: Supernet, path: GatePath, plan: Plan, data: DataSet) -> tuple[float, float]:
        """Accuracies on validation and test images of the network as it would be exported."""
        from nas.training.loop import accuracy, recalibrate, train_network
        from nas.training.recipes import finetune_recipe
        from search_space.build import to_channels_last

        settings, pixels = plan.settings, plan.settings.data.resolution
        network = supernet.extract(path)
        to_channels_last(network)
        train_network(network, data, data.train, pixels, finetune_recipe(settings), settings.seed)
        recalibrate(network, data.batches(data.train, pixels, 128))
        validation, test = (accuracy(network, data.batches(s, pixels, 128)) for s in (data.validation, data.test))
        return validation, test


def short_search(space: str, seed: int, short: Short, scale: Scale, root: str) -> Plan:
    """The search whose supernet and fine-tuning are tried."""
    from nas.run.plan import plan_search
    from nas.run.settings import SearchSettings, settings_from_dict

    options: dict[str, Any] = {
        "device": "cpu",
        "accelerator": "cpu",  # as all that is trained here
        "budget_ms": short.budget_ms,
        "space": space,
        "data": {"name": scale.data, "root": root, "resolution": scale.resolution, "limit": short.limit},
        "seed": seed,
        "warmup": {"epochs": 0},
        "epochs": short.supernet,
        "finetune": {"epochs": short.finetune},
    }
    return plan_search(settings_from_dict(SearchSettings, options))


def _changed(plan: Plan, changes: dict[str, float], group: str = "train") -> Plan:
    values = replace(getattr(plan.settings, group), **changes)
    return replace(plan, settings=replace(plan.settings, **{group: values}))


def train_supernet(
    plan: Plan, data: DataSet, draw: Callable[[], GatePath], decays: Sequence[float]
) -> tuple[Supernet, dict[str, MovingAverage]]:
    """With its last weights, and averages of one training by several decays."""
    import torch

    from nas.strategies.untrained import new_supernet
    from nas.strategies.weights import WeightTraining
    from nas.training.moving_average import MovingAverage

    torch.set_num_threads(1)
    supernet = new_supernet(plan, data)
    training = WeightTraining(plan, data, supernet)
    averages = {f"average {decay:g}": MovingAverage(supernet, decay) for decay in decays}
    for epoch in range(plan.settings.warmup.epochs + plan.settings.epochs):
        for images, labels in training.batches(epoch):
            training.train_path(images, labels, draw(), epoch)
            for average in averages.values():
                average.update(training.step)
    return supernet, averages


def inherited(
    supernet: Supernet, averages: dict[str, MovingAverage], paths: Sequence[GatePath], data: DataSet, pixels: int
) -> Iterator[tuple[str, list[float]]]:
    """(which weights, accuracy of every path on validation images); the supernet holds those weights meanwhile."""
    from nas.training.loop import accuracy

    for weights in (LAST, *averages):
        if weights != LAST:
            averages[weights].put_in()
        batches = partial(data.batches, data.validation, pixels, 128)
        yield weights, [accuracy(partial(supernet, path=path), batches()) for path in paths]


def recalibrated(supernet: Supernet, path: GatePath, data: DataSet, pixels: int) -> float:
    """Accuracy on validation images with BatchNorm statistics of the path's own, from eight batches of train images."""
    from nas.training.loop import accuracy, recalibrate
    from search_space.build import to_channels_last

    network = supernet.extract(path)
    to_channels_last(network)
    recalibrate(network, itertools.islice(data.batches(data.train, pixels, 128), 8))
    return accuracy(network.eval(), data.batches(data.validation, pixels, 128))


def prepare(options: Options, quick: bool) -> Work[Job]:
    """`quick`: digits and miniature spaces."""
    scale, short = Scale(), Short()
    if quick:
        scale = Scale("miniature", "digits", limit=400, resolution=16, warmup=0, search=1)
        short = Short((scale.space_file,), 100.0, limit=120, supernet=1, finetune=1, paths=2)
    seeds = options.integer("seeds", 1 if quick else 2)
    jobs = [
        job
        for seed in range(seeds)
        for job in (
            *(Job("ranking", change, seed) for change in CHANGES),
            *(Job("network", space, seed) for space in short.spaces),
        )
    ]
    settings: dict[str, Value] = {f"ranking {name}": str(value) for name, value in asdict(scale).items()}
    settings |= {f"network {name}": str(value) for name, value in asdict(short).items()}
    settings |= profile_digests(["cpu"])
    return Work(settings, jobs, Trainer(scale, short, options.text("data", "../shared/datasets")))


def render(results: Results) -> str:
    """The three questions' tables, from the file's rows alone."""
    supernets, norms, finetuned = (
        [row for row in results.rows if row["what"] == what] for what in ("supernet", "norms", "finetuned")
    )
    header = ("supernet, images, weights", "mean accuracy of paths, by seed", "mean", "tau, by seed", "mean")
    body = [
        (name, *_cells(rows, "validation", 100, 1), *_cells(rows, "tau", 1, 2))
        for name, rows in _grouped(supernets, "space", "images", "weights").items()
    ]
    parts = [f"Paths with inherited weights, validation images, %; Kendall's tau:\n\n{markdown(header, body)}"]
    columns = ("network, start, change", "test accuracy, by seed", "mean", "gain", "validation, by seed", "mean")
    lines: list[tuple[str, ...]] = []
    for name, rows in _grouped(finetuned, "space", "weights", "change").items():
        plain = {row["job"]: row for row in finetuned if (row["weights"], row["change"]) == (LAST, "none")}
        gain = fmean(100 * (number(row, "test") - number(plain[row["job"]], "test")) for row in rows)
        tests, validations = (_cells(rows, column, 100, 1) for column in ("test", "validation"))
        lines.append((name, *tests, f"{gain:+.1f}", *validations))
    parts.append(f"The best of those paths, fine-tuned, %; gain over no change, points:\n\n{markdown(columns, lines)}")
    compared = ("space, seed", "mean difference, points", "largest", "Kendall's tau of the two")
    lines = []
    for name, rows in _grouped(norms, "space", "seed").items():
        pairs = {str(i): (number(row, "by_batch"), number(row, "by_path")) for i, row in enumerate(rows)}
        differences = [100 * (batch - path) for batch, path in pairs.values()]
        tau = kendall({i: batch for i, (batch, _) in pairs.items()}, {i: path for i, (_, path) in pairs.items()})
        lines.append((name, f"{fmean(differences):+.2f}", f"{max(map(abs, differences)):.2f}", f"{tau:.2f}"))
    parts.append(
        "Accuracy by the validation batch's statistics less that by the path's own (without BatchNorm the two are "
        f"one):\n\n{markdown(compared, lines)}"
    )
    cpu_s = sum({str(row["job"]): number(row, "cpu_s") for row in results.rows}.values())
    settings = ", ".join(f"{name} {value}" for name, value in results.settings.items())
    earlier = earlier_profiles(results.settings)
    seeds = sorted({int(number(row, "truth_seeds")) for row in supernets if "truth_seeds" in row})
    parts.append(
        f"True accuracies: means over {', '.join(map(str, seeds))} seeds. {cpu_s / 60:.0f} CPU-minutes so far; "
        f"{settings}.{earlier and f' {earlier}'}\n{results.provenance}"
    )
    return "\n\n".join(parts)


def _grouped(rows: Sequence[Row], *columns: str) -> dict[str, list[Row]]:
    """Rows by what these columns say, in the order met."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(", ".join(str(row[column]) for column in columns), []).append(row)
    return groups


def _cells(rows: Sequence[Row], column: str, scale: float, digits: int) -> tuple[str, str]:
    """The figures of a column, and their mean."""
    values = [number(row, column) for row in rows if row.get(column) is not None]
    if not values:
        return NOT_MEASURED, NOT_MEASURED
    return ", ".join(shown(v, digits, scale) for v in values), shown(fmean(values), digits, scale)


def main(arguments: Sequence[str]) -> int:
    """Do the jobs that are left, or show the results; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("training", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
