"""How many networks a discrete search must look at to find the best one under a latency limit, where all are known.

Question   By how much does the best network found after 10, 20, 50, 100, 200 and 400 looks miss the best one under
           the limit: drawn at random, proposed by Optuna's TPE (its default) and NSGA-II, and by `evolution`?
Data       NAS-Bench-201: 15,625 cells, their accuracies (NATS-Bench) and measured latencies (HELP, MIT). A limit is
           the latency that a quarter or half of the cells keep. A look reports a cell's CIFAR-10 accuracy; the data
           has test accuracies alone, so regret on CIFAR-10 is in the very figure that is searched with, and says how
           well each strategy optimises. Regret on CIFAR-100, which no strategy sees, stands beside it.
           Latency and MACs cost no look: they are known of every cell. All strategies look at cells within the
           limit alone; what Optuna proposes beside it, or a second time, is not counted against it.
           Beside them stands what costs no look: the cell of the most parameters, MACs, convolutions or latency.
Command    python -m experiments.nasbench201 source=../shared/tabular [jobs=2] [minutes=30]
           python -m experiments.nasbench201 show [figure=FILE.svg]
Cost       About 40 minutes on one core, most of it TPE's.
Expected   `evolution` misses least at every number of looks; at 10 because it begins with cells of many MACs, later
           because its Gaussian process learns the cells' slots together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from experiments.jobs import Work, run_jobs
from experiments.results import NOT_MEASURED, Results, Row, markdown
from latency_models.options import Options
from nas.discrete import SEARCHERS, Choices, Region, Searcher, explore
from nas.discrete.tabular import TabularRegion
from search_space.errors import BadFile, UserError

Array = NDArray[np.float64]

LOOKS = (10, 20, 50, 100, 200, 400)
SEEDS = 20
DEVICES = ("gold_6226", "pixel2", "titan_rtx_32")  # a server's CPU, a phone and a GPU, none of them a sum of a table
SHARES = (0.25, 0.5)  # of the cells, that keep the limit
SEARCHED, UNSEEN = "cifar10", "cifar100"
STRATEGIES: Mapping[str, Callable[[Region, int], Searcher]] = {
    "random": SEARCHERS["random"],
    "optuna TPE": SEARCHERS["tpe"],
    "optuna NSGA-II": SEARCHERS["nsga2"],
    "evolution": SEARCHERS["evolution"],
}
FREE = ("most parameters", "most MACs", "most convolutions, then MACs", "slowest")  # choices that cost no look
OPTIONS = {
    "source": "folder of nasbench201.npz (default: ../shared/tabular)",
    "seeds": f"runs of every strategy, device and limit (default: {SEEDS})",
}


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Arrays are over all cells, ordered as `TabularRegion` wants them; accuracies in percent."""

    widths: tuple[int, ...]
    accuracy: Mapping[str, Array]
    latency_ms: Mapping[str, Array]
    macs: Array
    params: Array
    convolutions: Array

    def free(self, name: str, device: str) -> Array:
        """Of every cell, what a choice of `FREE` takes the largest of."""
        scores = (
            self.params,
            self.macs,
            self.convolutions + self.macs / (self.macs.max() + 1),
            self.latency_ms[device],
        )
        return scores[FREE.index(name)]

    def region(self, device: str, share: float) -> TabularRegion:
        """The cells that take no longer than the given share of all."""
        budget_ms = float(np.quantile(self.latency_ms[device], share))
        return TabularRegion(self.widths, self.latency_ms[device], self.macs, budget_ms)


def load_benchmark(folder: Path) -> Benchmark:
    """Raises `BadFile`."""
    path = folder / "nasbench201.npz"
    try:
        with np.load(path, allow_pickle=False) as data:
            cells = data["ops"].astype(np.int64)
            widths = (len(data["op_names"]),) * cells.shape[1]
            order = np.argsort(np.ravel_multi_index(tuple(cells.T), widths))
            accuracies = dict(zip(map(str, data["acc_names"]), data["test_acc"].astype(float).T[:, order], strict=True))
            times = dict(zip(map(str, data["devices"]), data["latency_ms"].astype(float).T[:, order], strict=True))
            macs, params = (data[name].astype(float)[order] for name in ("macs", "params"))
            kinds = np.array(["conv" in name for name in map(str, data["op_names"])])
            convolutions = kinds[cells].sum(1).astype(float)[order]
    except FileNotFoundError as error:
        raise BadFile(f"no file '{path}'; source= names its folder") from error
    except (OSError, ValueError, KeyError) as error:
        raise BadFile(f"'{path}' does not hold the table of NAS-Bench-201: {error}") from error
    if len(cells) != np.prod(widths):
        raise BadFile(f"'{path}' holds {len(cells)} cells of {np.prod(widths)}")
    return Benchmark(widths, accuracies, times, macs, params, convolutions)


@dataclass(frozen=True)
class Search:
    """One run of a strategy, or a choice that costs no look (one of `FREE`, looks empty)."""

    folder: Path
    strategy: str
    device: str
    share: float
    seed: int
    looks: tuple[int, ...]

    @property
    def name(self) -> str:
        """By which a results file says that the run is done; unique among the runs."""
        return f"{self.strategy}, {self.device} {self.share:.0%}, seed {self.seed}"


def do(job: Search) -> list[Row]:
    """Regret by the number of looks, in the accuracy searched with and in the unseen one."""
    benchmark = load_benchmark(job.folder)
    region = benchmark.region(job.device, job.share)
    searched, unseen = benchmark.accuracy[SEARCHED], benchmark.accuracy[UNSEEN]
    if job.strategy in FREE:
        return [_without_looks(job, benchmark.free(job.strategy, job.device)[region.within], searched, unseen, region)]

    def place(choices: Choices) -> int:
        return int(region.index(np.array([choices]))[0])

    searcher = STRATEGIES[job.strategy](region, job.seed)
    trials = explore(searcher, lambda choices: float(searched[place(choices)]), job.looks[-1])
    found = np.array([place(trial.choices) for trial in trials])
    row: dict[str, str | float] = {"strategy": job.strategy, "device": job.device, "share": job.share, "seed": job.seed}
    for looks in job.looks:
        chosen = found[searched[found[:looks]].argmax()]
        row[f"regret_{looks}"] = round(float(searched[region.within].max() - searched[chosen]), 4)
        row[f"unseen_{looks}"] = round(float(unseen[region.within].max() - unseen[chosen]), 4)
    return [row]


def _without_looks(job: Search, scores: Array, searched: Array, unseen: Array, region: TabularRegion) -> Row:
    """Mean regret of the cells of the largest score, and how the score ranks all within (Kendall's tau)."""
    from scipy.stats import kendalltau

    within = region.within
    taken = within[scores == scores.max()]
    regret, beside = (float(accuracy[within].max() - accuracy[taken].mean()) for accuracy in (searched, unseen))
    tau = float(kendalltau(scores, searched[within]).statistic)
    return {"strategy": job.strategy, "device": job.device, "share": job.share, "seed": job.seed,
            "regret": round(regret, 4), "unseen": round(beside, 4), "tau": round(tau, 4)}  # fmt: skip


def prepare(options: Options, quick: bool) -> Work[Search]:
    """`quick`: two seeds, one device and limit, 20 looks."""
    folder = Path(options.text("source", "../shared/tabular"))
    seeds = options.integer("seeds", 2 if quick else SEEDS)
    devices, shares, looks = (DEVICES[:1], SHARES[:1], LOOKS[:2]) if quick else (DEVICES, SHARES, LOOKS)
    load_benchmark(folder)
    jobs = [
        Search(folder, strategy, device, share, seed, looks)
        for seed in range(seeds)
        for device in devices
        for share in shares
        for strategy in STRATEGIES
    ]
    jobs += [Search(folder, name, device, share, 0, ()) for device in devices for share in shares for name in FREE]
    settings = {"searched": SEARCHED, "unseen": UNSEEN, "looks": " ".join(map(str, looks))}
    return Work(settings, jobs, do)


@dataclass(frozen=True)
class Curve:
    """Mean regret of a strategy in points by looks, over `seeds` runs, and the mean's standard error.

    Runs of one seed are averaged first, so that the error is one over seeds.
    """

    strategy: str
    seeds: int
    mean: tuple[float, ...]
    error: tuple[float, ...]


def curves(results: Results, figure: str, device: str | None = None, share: float | None = None) -> list[Curve]:
    """figure: 'regret' or 'unseen'; over all devices and limits that every seed has, or over one."""
    looks = looks_of(results)
    found = []
    for strategy in STRATEGIES:
        rows = [
            row
            for row in results.rows
            if row["strategy"] == strategy and device in (None, row["device"]) and share in (None, row["share"])
        ]
        by_seed: dict[object, list[list[float]]] = {}
        for row in rows:
            by_seed.setdefault(row["seed"], []).append([float(str(row[f"{figure}_{n}"])) for n in looks])
        most = max(map(len, by_seed.values()), default=0)
        runs = np.array([np.mean(each, axis=0) for each in by_seed.values() if len(each) == most])
        if not len(runs):
            continue
        deviation = runs.std(axis=0, ddof=1) if len(runs) > 1 else np.full(len(looks), np.nan)
        error = deviation / np.sqrt(len(runs))
        found.append(Curve(strategy, len(runs), tuple(runs.mean(axis=0).tolist()), tuple(error.tolist())))
    return found


def looks_of(results: Results) -> tuple[int, ...]:
    """The numbers of looks at which regret was taken, in increasing order, as the file's settings list them."""
    return tuple(int(n) for n in str(results.settings["looks"]).split())


def render(results: Results) -> str:
    """The mean over devices and limits in both accuracies, then every device and limit, from the results alone."""
    cells = sorted({(str(row["device"]), float(str(row["share"]))) for row in results.rows})
    everywhere = f"mean over {len(cells)} limits"
    parts = [
        *_table(f"Regret in {results.settings['searched']} accuracy, points ({everywhere})", results, "regret"),
        *_table(f"Regret in {results.settings['unseen']} accuracy, unseen ({everywhere})", results, "unseen"),
    ]
    parts += _free_table(results)
    for device, share in cells:
        parts += _table(f"{device}, limit kept by {share:.0%} of the cells", results, "regret", device, share)
    return "\n".join([*parts, str(results.provenance)])


def _table(
    title: str, results: Results, figure: str, device: str | None = None, share: float | None = None
) -> list[str]:
    header = ("strategy", "seeds", *(f"{n} looks" for n in looks_of(results)))
    found = {curve.strategy: curve for curve in curves(results, figure, device, share)}
    lines = []
    for strategy in STRATEGIES:
        curve = found.get(strategy)
        figures = zip(curve.mean, curve.error, strict=True) if curve else []
        shown = [f"{mean:.3f} ± {error:.3f}" for mean, error in figures] or [NOT_MEASURED] * len(looks_of(results))
        lines.append((strategy, str(curve.seeds if curve else 0), *shown))
    return [f"{title}; mean ± standard error over seeds", "", markdown(header, lines), ""]


def _free_table(results: Results) -> list[str]:
    """What costs no look, means over devices and limits, and what the strategies have to beat."""
    lines, regrets = [], []
    for name in FREE:
        rows = [row for row in results.rows if row["strategy"] == name]
        means = [fmean(float(str(row[column])) for row in rows) for column in ("regret", "unseen", "tau") if rows]
        regrets += means[:1]
        lines.append((name, *(f"{mean:.3f}" for mean in means), *[NOT_MEASURED] * (3 - len(means))))
    header = ("choice", f"regret in {results.settings['searched']}", f"in {results.settings['unseen']}", "tau")
    said = ["What costs no look, points; tau: Kendall's, of the score with accuracy within the limit", ""]
    behind = [curve.strategy for curve in curves(results, "regret") if regrets and curve.mean[0] >= min(regrets)]
    first = looks_of(results)[0]
    note = f"Not better than the best of these after {first} looks: {', '.join(behind) or 'no strategy'}."
    return [*said, markdown(header, lines), "", *([note, ""] if regrets else [])]


def draw(results: Results) -> bytes:
    """SVG: regret against looks, both accuracies. Raises `UserError` without matplotlib."""
    try:
        from experiments.curves import regret_by_looks
    except ImportError as error:
        raise UserError("a figure needs matplotlib: pip install -c constraints.txt -e '.[plot]'") from error
    panels = {f"{results.settings[key]} accuracy": curves(results, figure) for key, figure in _FIGURES.items()}
    return regret_by_looks(panels, looks_of(results))


_FIGURES = {"searched": "regret", "unseen": "unseen"}


def main(arguments: Sequence[str]) -> int:
    """Do the jobs that are left, or show the results; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("nasbench201", OPTIONS, prepare, render, arguments, draw)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
