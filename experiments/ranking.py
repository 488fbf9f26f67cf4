"""What ranks networks best, and which choice loses least, for how much CPU time? One table.

Question   Of counts that cost nothing, scores of untrained networks (naswot, synflow), accuracies and cross-entropies
           with inherited weights, alone or together: which agrees best with accuracies of networks trained on their
           own (Kendall's tau), and by how much does the network that it takes under a budget miss the best (regret)?
           What does choosing by a model of all looks gain over the largest one, and what does a floor of 97 % cost?
Data       The truth, the supernets' inherited accuracies and the searches are those of `experiments.ground_truth`, from
           its results file. Added here: naswot and synflow on 128 train images, and supernets of the same
           trainings whose networks' cross-entropy is measured too, on 2,500 images that choose.
Command    python -m experiments.ranking data=../shared/datasets [jobs=2] [minutes=30]
           python -m experiments.ranking show
Cost       About 6 CPU-minutes; the cheaper jobs first, so that a part is of use.
Expected   No single score is best at both tau and regret. A model of all looks is at least as good as the largest look.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from experiments.free import free_scores
from experiments.jobs import Work, run_jobs
from experiments.ranking_work import AVERAGED, FAIR, SANDWICH, UNIFORM, Job, Ranker
from experiments.results import FOLDER, NOT_MEASURED, Results, Row, Value, load_results, markdown, number, shown
from experiments.truth import Accuracies, Truth, kendall, supernets_of
from experiments.truth_tables import taken
from experiments.truth_work import Scale, all_paths
from nas.choose.derive import LOWER_FLOORS
from nas.discrete.additive import Additive
from nas.discrete.surrogate import normal_scores
from nas.run.settings import SearchSettings
from search_space import SearchSpace

if TYPE_CHECKING:
    from latency_models.options import Options

LOOKS = 24  # of a search that does not look at all networks
OF_MODEL = SearchSettings().rerank  # of those, that the model proposes, and among whose like the largest look wins
FLOOR = SearchSettings().use_at_least
TOGETHER = 3  # supernets of an ensemble at most
DRAWS = 20  # searches of a kind in every supernet
SCALE = Scale(choosing=2_500)
OPTIONS = {
    "data": "folder of CIFAR-10 (default: ../shared/datasets)",
    "seeds": "of supernets and of untrained networks (default: 3)",
}


def jobs_of(seeds: int) -> list[Job]:
    """Untrained scores first, then short supernets, then those as long as a search's; ways of training short ones.

    Uniform paths with separate weights have further seeds, for ensembles; their first seeds are ground truth's.
    """
    jobs = [Job("zero cost", seed) for seed in range(seeds)]
    for short, seed, weights in product((True, False), range(seeds), ("separate", "shared")):
        jobs.append(Job("supernet", seed, weights, short))
    jobs += [Job("way", seed, "separate", True, UNIFORM) for seed in range(seeds, 2 * seeds)]
    for way, seed in product((FAIR, AVERAGED, SANDWICH), range(seeds)):
        jobs.append(Job("way", seed, "shared" if way == SANDWICH else "separate", True, way))
    return jobs


def prepare(options: Options, quick: bool) -> Work[Job]:
    """`quick`: two networks, one seed and few images of `digits`."""
    scale = Scale(data="digits", limit=400, choosing=None, warmup=0, search=1, short=1) if quick else SCALE
    settings: dict[str, Value] = {
        "space": scale.space_name, "data": scale.data, "images": scale.limit, "choosing": scale.choosing,
        "resolution": scale.resolution, "epochs": scale.warmup + scale.search, "short": scale.short,
    }  # fmt: skip
    seeds = options.integer("seeds", 1 if quick else 3)
    return Work(
        settings, jobs_of(seeds), Ranker(scale, options.text("data", "../shared/datasets"), 2 if quick else None)
    )


@dataclass(frozen=True)
class Method:
    """cpu_s: of a choice under one budget, its supernet's training included; None where it was not measured.

    taus, regrets: one a seed; taus is empty where a method ranks not all networks; regrets are means over the budgets.
    """

    name: str
    cpu_s: float | None
    taus: Sequence[float]
    regrets: Sequence[float]


@dataclass(frozen=True)
class Study:
    """The truth of a space and what is known of its networks."""

    space: SearchSpace
    truth: Truth
    budgets: Sequence[float]

    @cached_property
    def _choices(self) -> Mapping[str, tuple[int, ...]]:
        return {str(self.space.architecture(path)): path.choices for path in all_paths(self.space)}

    def scored(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """The largest of a score that all networks have."""
        taus = [kendall(scores, self.truth.accuracy) for scores in seeds]
        return Method(name, cpu_s, taus, [self._mean(lambda b, s=s: taken(self.truth, s, b)) for s in seeds])  # type: ignore[misc]

    def with_floor(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """The largest score between a floor and all of the budget; the floor falls until a network is there."""

        def regret(budget_ms: float, scores: Accuracies) -> float:
            within = self.truth.feasible(budget_ms)
            for share in (FLOOR, *(s for s in LOWER_FLOORS if s < FLOOR), 0.0):
                if above := [name for name in within if self.truth.latency_ms[name] >= share * budget_ms]:
                    break
            return self.truth.regret(max(above, key=lambda name: scores[name]), budget_ms)

        return Method(name, cpu_s, [], [self._mean(lambda b, s=s: regret(b, s)) for s in seeds])  # type: ignore[misc]

    def luckiest(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """The largest of `LOOKS` random looks, the exact expectation."""
        regrets = [self._mean(lambda b, s=s: self.truth.random_regret(s, b, LOOKS)) for s in seeds]  # type: ignore[misc]
        return Method(name, cpu_s, [], regrets)

    def by_model(self, name: str, cpu_s: float | None, seeds: Sequence[Accuracies]) -> Method:
        """As `strategy=random` chooses with `LOOKS` trials; means over `DRAWS` draws."""
        return Method(name, cpu_s, [], [self._mean(lambda b, s=s: self._modelled(s, b)) for s in seeds])  # type: ignore[misc]

    def _modelled(self, scores: Accuracies, budget_ms: float) -> float:
        choices = self._choices
        widths = [len(slot.candidates) for slot in self.space.slots]
        names = self.truth.feasible(budget_ms)
        networks, values = np.array([choices[name] for name in names]), np.array([scores[name] for name in names])
        found = []
        for draw in range(DRAWS):
            looked = np.random.default_rng(draw).permutation(len(names))[: LOOKS - OF_MODEL]
            liked = np.argsort(-Additive(widths, networks[looked], values[looked]).predict(networks))
            looked = np.union1d(looked, liked[:OF_MODEL])
            model = Additive(widths, networks[looked], values[looked])
            few = looked[np.argsort(-model.predict(networks[looked]))[:OF_MODEL]]
            found.append(self.truth.regret(names[few[values[few].argmax()]], budget_ms))
        return fmean(found)

    def _mean(self, regret: Callable[[float], float | None]) -> float:
        """Over the budgets at which there is a network to take."""
        return fmean(value for budget in self.budgets if (value := regret(budget)) is not None)


def together(*scores: Accuracies) -> Accuracies:
    """The mean of the scores' ranks, as normal quantiles; larger is better."""
    names = list(scores[0])
    ranks = np.mean([normal_scores(np.array([each[name] for name in names])) for each in scores], axis=0)
    return dict(zip(names, ranks.tolist(), strict=True))


def methods(results: Results, truth_results: Results) -> list[Method]:
    """All that the two files tell."""
    rows = truth_results.rows
    truth = Truth.of(rows)
    budgets = sorted({number(row, "budget_ms") for row in rows if row["kind"] == "search"})
    study = Study(SCALE.space, truth, budgets)
    free = free_scores(rows)
    found = []
    for name, scores in free.items():
        whole = len(scores) == len(truth.latency_ms)
        method = study.scored(name, 0.0, [scores])
        found.append(method if whole else Method(name, 0.0, [], method.regrets))
    zero = {column: _by_seed(results.rows, "zero cost", column) for column in ("naswot", "synflow")}
    for column, seeds in zero.items():
        cpu_s = [number(row, f"{column}_cpu_s") for row in results.rows if row["kind"] == "zero cost"]
        found.append(study.scored(column, fmean(cpu_s) * len(truth.latency_ms) if cpu_s else None, seeds))
    if zero["naswot"]:
        both = [together(scores, free["most parameters"]) for scores in zero["naswot"]]
        found.append(study.scored("naswot with parameters", found[-2].cpu_s, both))
    supernets = supernets_of(rows)
    for shared, epochs in dict.fromkeys((key.share_weights, key.epochs) for key in supernets):
        nets = [net for key, net in supernets.items() if (key.share_weights, key.epochs) == (shared, epochs)]
        kind = f"{'shared' if shared else 'separate'} weights, {epochs} epochs"
        seeds = [net.inherited for net in nets]
        training, look = (fmean(getattr(net, f"{part}_cpu_s") for net in nets) for part in ("training", "evaluation"))
        every, some = training + look * len(truth.latency_ms), training + look * LOOKS
        found.append(study.scored(f"{kind}: accuracy", every, seeds))
        found.append(study.with_floor(f"{kind}: accuracy above {FLOOR:.0%} of the budget", every, seeds))
        for extra, scores in (("parameters", free["most parameters"]), ("naswot", _mean_of(zero["naswot"]))):
            if scores:
                combined = [together(each, scores) for each in seeds]
                found.append(study.scored(f"{kind}: accuracy with {extra}", every, combined))
        found.append(study.luckiest(f"{kind}: largest of {LOOKS} looks", some, seeds))
        found.append(study.by_model(f"{kind}: model of {LOOKS} looks", some, seeds))
    return found + _by_loss(results.rows, study)


def _by_loss(rows: Sequence[Row], study: Study) -> list[Method]:
    """The supernets of this experiment's own, by accuracy and by cross-entropy on the same images."""
    found = []
    measured = [row for row in rows if row["kind"] == "supernet"]
    for weights, epochs in dict.fromkeys((str(row["weights"]), int(number(row, "epochs"))) for row in measured):
        mine = [row for row in measured if (row["weights"], row["epochs"]) == (weights, epochs)]
        training, look = (fmean(number(row, part) for row in mine) for part in ("training_cpu_s", "cpu_s"))
        every = training + look * len(study.truth.latency_ms)
        for column, sign in (("accuracy", 1), ("loss", -1)):
            if not (seeds := _by_seed(mine, "supernet", column, sign)):
                continue
            name = f"{weights} weights, {epochs} epochs, 2,500 images: {'cross-entropy' if sign < 0 else column}"
            found.append(study.scored(name, every, seeds))
            found.append(study.by_model(f"{name}, model of {LOOKS} looks", training + look * LOOKS, seeds))
    return found


def _by_seed(rows: Sequence[Row], kind: str, column: str, sign: int = 1) -> list[Accuracies]:
    """A score of every network, one mapping a seed; a trial's few networks are left out."""
    found: dict[float, dict[str, float]] = {}
    for row in rows:
        if row["kind"] == kind:
            found.setdefault(number(row, "seed"), {})[str(row["network"])] = sign * number(row, column)
    return [scores for scores in found.values() if len(scores) == SCALE.space.architecture_count]


def _mean_of(seeds: Sequence[Accuracies]) -> Accuracies:
    return {name: fmean(scores[name] for scores in seeds) for name in seeds[0]} if seeds else {}


def render(results: Results) -> str:
    """The table, from this experiment's file and the ground truth's."""
    truth_results = load_results(FOLDER / "ground_truth.json", "ground_truth")
    lines = []
    for method in methods(results, truth_results):
        if method.regrets:
            spread = f" ± {np.std(method.regrets, ddof=1):.2f}" if len(method.regrets) > 1 else ""
            tau = f"{fmean(method.taus):.2f}" if method.taus else "-"
            cells = (tau, f"{fmean(method.regrets):.2f}{spread}", str(len(method.regrets)))
        else:
            cells = (NOT_MEASURED, NOT_MEASURED, "0")
        lines.append((method.name, shown(method.cpu_s, 1), *cells))
    if not any(row["kind"] == "supernet" for row in results.rows):
        lines.append(("cross-entropy with inherited weights", NOT_MEASURED, NOT_MEASURED, NOT_MEASURED, "0"))
    header = ("what chooses", "CPU s", "tau", "mean regret, points", "seeds")
    networks = len(Truth.of(truth_results.rows).latency_ms)
    return (
        f"{networks} networks of space '{SCALE.space_name}', each trained on its own; budgets and truth of "
        "`experiments.ground_truth`. CPU seconds of one choice: a supernet's training, and its looks. Regret is the "
        f"mean over the budgets, ± the deviation between seeds.\n\n{markdown(header, lines)}\n\n{results.provenance}"
    )


def main(arguments: Sequence[str]) -> int:
    """Do the jobs that are left, or show the results; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("ranking", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
