"""What ranks networks best, and which choice loses least, for how much CPU time? Tables.

Question   Of counts that cost nothing, scores of untrained networks (naswot, synflow), accuracies and cross-entropies
           with inherited weights, alone or together, of one supernet or of several: which agrees best with accuracies
           of networks trained on their own (Kendall's tau), and by how much does the network that it takes under a
           budget miss the best (regret)? Is a supernet better for fair paths, averaged weights or the sandwich rule?
           What does choosing by a model of all looks gain over the largest one, and what does a floor of 97 % cost?
Data       The truth, the supernets' inherited accuracies and the searches are those of `experiments.ground_truth`, from
           its results file. Added here: naswot and synflow on 128 train images, and supernets whose networks'
           cross-entropy is measured too, on 2,500 images that choose, and on as many as there for further seeds.
Command    python -m experiments.ranking data=../shared/datasets [jobs=2] [minutes=30]
           python -m experiments.ranking show
Cost       About 20 CPU-minutes; the cheaper jobs first, so that a part is of use.
Expected   No single score is best at both tau and regret. A model of all looks is at least as good as the largest look.
           Several short supernets rank better than one long one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from experiments.free import PARAMETERS, free_scores
from experiments.jobs import Work, run_jobs
from experiments.ranking_study import FLOOR, LOOKS, Method, Study, averages, together
from experiments.ranking_work import AVERAGED, FAIR, SANDWICH, UNIFORM, Job, Ranker
from experiments.results import FOLDER, Results, Row, Value, load_results, markdown, number, shown
from experiments.truth import Accuracies, Supernet, SupernetKey, Truth, supernets_of
from experiments.truth_work import Scale

if TYPE_CHECKING:
    from latency_models.options import Options

SCALE = Scale(choosing=2_500)
TOGETHER = (2, 3, 6)  # supernets whose looks are averaged
TRAINED_ON = 4  # networks that get a training of their own
COUNTS = ("params", "macs", "latency_ms")
OPTIONS = {
    "data": "folder of CIFAR-10 (default: ../shared/datasets)",
    "seeds": "of supernets and of untrained networks (default: 3)",
}


def jobs_of(seeds: int) -> list[Job]:
    """Untrained scores first, then short supernets, then those as long as a search's, ways of training, further seeds.

    The further ones of short supernets on uniform paths are looked at as ground truth's are, whose first seeds they add
    to; those as long as a search's are to tell accuracy from cross-entropy.
    """
    jobs = [Job("zero cost", seed) for seed in range(seeds)]
    for short, seed, weights in product((True, False), range(seeds), ("separate", "shared")):
        jobs.append(Job("supernet", seed, weights, short))
    jobs += [Job("way", seed, "separate", True, UNIFORM) for seed in range(seeds, 2 * seeds)]
    for way, seed in product((FAIR, AVERAGED, SANDWICH), range(seeds)):
        jobs.append(Job("way", seed, "shared" if way == SANDWICH else "separate", True, way))
    return jobs + [Job("supernet", *kind) for kind in product(range(seeds, 2 * seeds), ("separate", "shared"))]


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


def sections(results: Results, truth_results: Results) -> Iterator[tuple[str, list[Method]]]:
    """All that the two files tell, with what stands over each table."""
    rows = truth_results.rows
    truth = Truth.of(rows)
    budgets = sorted({number(row, "budget_ms") for row in rows if row["kind"] == "search"})
    study = Study(SCALE.space, truth, budgets)
    free = free_scores(rows)
    naswot = list(_by_seed(results.rows, "zero cost", "naswot"))
    yield "What trains nothing:", [*_free(study, free), *_untrained(study, results.rows, free[PARAMETERS])]
    nets = _supernets(rows, results.rows)
    kinds = list(dict.fromkeys((key.share_weights, key.epochs) for key in nets))
    extras = {"parameters": free[PARAMETERS], **({"naswot": averages(naswot, len(naswot))[0]} if naswot else {})}
    one: list[Method] = []
    several: list[Method] = []
    again: list[Method] = []
    networks = len(truth.latency_ms)
    own_s = fmean(number(row, "cpu_s") for row in rows if row["kind"] == "network")
    counts = {str(row["network"]): [number(row, c) for c in COUNTS] for row in rows if row["kind"] == "space"}
    for shared, epochs in kinds:
        mine = [net for key, net in nets.items() if (key.share_weights, key.epochs) == (shared, epochs)]
        kind = f"{'shared' if shared else 'separate'} weights, {epochs} epochs"
        seeds = [net.inherited for net in mine]
        training, look = (fmean(getattr(net, f"{part}_cpu_s") for net in mine) for part in ("training", "evaluation"))
        every, some = training + look * networks, training + look * LOOKS
        one.append(study.scored(f"{kind}: accuracy", every, seeds))
        one.append(study.with_floor(f"{kind}: accuracy above {FLOOR:.0%} of the budget", every, seeds))
        for extra, scores in extras.items():
            combined = [together(each, scores) for each in seeds]
            one.append(study.scored(f"{kind}: accuracy with {extra}", every, combined))
        one.append(study.luckiest(f"{kind}: largest of {LOOKS} looks", some, seeds))
        one.append(study.by_model(f"{kind}: model of {LOOKS} looks", some, seeds))
        if shared:
            continue
        one.append(study.by_counts(f"{kind}: model of {LOOKS} looks and counts", some, seeds, counts))
        several += _several(study, kind, training, look, seeds)
        again.append(study.trained_again(f"{kind}: accuracy", every, seeds, 1))
        name = f"{kind}: the {TRAINED_ON} best, each trained on its own"
        again.append(study.trained_again(name, every + TRAINED_ON * own_s, seeds, TRAINED_ON))
    name, every = "every network, each trained on its own", networks * own_s
    again.append(study.trained_again(name, every, [free[PARAMETERS]], networks))
    yield "Accuracy with inherited weights, on 10,000 images:", one
    yield "Accuracy on 10,000 images, the mean of several supernets (which the lines' values share):", several
    yield f"{SCALE.choosing:,} images, and further ways of training:", list(_measured_here(study, results.rows))
    yield (
        (
            "One of the three own trainings may choose, the other two judge: to be compared within this table alone. "
            f"An own training takes {own_s:.1f} CPU s:"
        ),
        again,
    )


def _free(study: Study, free: Mapping[str, Accuracies]) -> Iterator[Method]:
    for name, scores in free.items():
        method = study.scored(name, 0.0, [scores])
        whole = len(scores) == len(study.truth.latency_ms)
        yield method if whole else Method(name, 0.0, [], method.regrets)


def _untrained(study: Study, rows: Sequence[Row], parameters: Accuracies) -> Iterator[Method]:
    for column in ("naswot", "synflow"):
        if not (seeds := list(_by_seed(rows, "zero cost", column))):
            continue
        cpu_s = fmean(number(row, f"{column}_cpu_s") for row in rows if row["kind"] == "zero cost")
        cpu_s *= len(study.truth.latency_ms)
        yield study.scored(column, cpu_s, seeds)
        if column == "naswot":
            yield study.scored("naswot with parameters", cpu_s, [together(each, parameters) for each in seeds])


def _supernets(truth_rows: Sequence[Row], rows: Sequence[Row]) -> Mapping[SupernetKey, Supernet]:
    """Those of ground truth, and this experiment's own that were looked at as they were."""
    found = supernets_of(truth_rows)
    mine = [row for row in rows if row["kind"] == "way" and row["way"] == UNIFORM]
    for seed in dict.fromkeys(row["seed"] for row in mine):
        own = [row for row in mine if row["seed"] == seed]
        key = SupernetKey(own[0]["weights"] == "shared", int(number(own[0], "epochs")), int(number(own[0], "seed")))
        training, look = (fmean(number(row, part) for row in own) for part in ("training_cpu_s", "cpu_s"))
        for scores in _by_seed(own, "way", "accuracy"):  # one, or none of a trial's few networks
            found[key] = Supernet(scores, training, look)
    return found


def _several(study: Study, kind: str, training: float, look: float, seeds: Sequence[Accuracies]) -> Iterator[Method]:
    """The mean of so many supernets' accuracies; their CPU seconds are added."""
    for count in TOGETHER:
        if means := averages(seeds, count):
            name, networks = f"{kind}, {count} supernets", len(study.truth.latency_ms)
            yield study.scored(f"{name}: accuracy", count * (training + look * networks), means)
            yield study.by_model(f"{name}: model of {LOOKS} looks", count * (training + look * LOOKS), means)


def _measured_here(study: Study, rows: Sequence[Row]) -> Iterator[Method]:
    """The supernets of this experiment's own, by accuracy and by cross-entropy on the same images."""
    measured = [row for row in rows if row["kind"] == "supernet" or row.get("way") not in (None, UNIFORM)]
    for way, weights, epochs in dict.fromkeys(map(_kind, measured)):
        mine = [{**row, "kind": "supernet"} for row in measured if _kind(row) == (way, weights, epochs)]
        training, look = (fmean(number(row, part) for row in mine) for part in ("training_cpu_s", "cpu_s"))
        every, some = training + look * len(study.truth.latency_ms), training + look * LOOKS
        kind = f"{weights} weights, {epochs} epochs{'' if way == UNIFORM else f', {way}'}"
        for column, sign in (("accuracy", 1), ("loss", -1)):
            if seeds := list(_by_seed(mine, "supernet", column, sign)):
                name = f"{kind}: {'cross-entropy' if sign < 0 else column}"
                yield study.scored(name, every, seeds)
                if way == UNIFORM:
                    yield study.by_model(f"{name}, model of {LOOKS} looks", some, seeds)
                if sign > 0 and way == UNIFORM and weights == "separate":
                    yield from _several(study, kind, training, look, seeds)


def _kind(row: Row) -> tuple[str, str, int]:
    return str(row.get("way", UNIFORM)), str(row["weights"]), int(number(row, "epochs"))


def _by_seed(rows: Sequence[Row], kind: str, column: str, sign: int = 1) -> Iterator[Accuracies]:
    """A score of every network, one mapping a seed; a trial's few networks are left out."""
    found: dict[float, dict[str, float]] = {}
    for row in rows:
        if row["kind"] == kind:
            found.setdefault(number(row, "seed"), {})[str(row["network"])] = sign * number(row, column)
    return (scores for scores in found.values() if len(scores) == SCALE.space.architecture_count)


def render(results: Results) -> str:
    """The tables, from this experiment's file and the ground truth's."""
    truth_results = load_results(FOLDER / "ground_truth.json", "ground_truth")
    truth = Truth.of(truth_results.rows)
    header = ("what chooses", "CPU s", "tau", "mean regret, points", "values")
    parts = []
    for title, found in sections(results, truth_results):
        lines = [(method.name, shown(method.cpu_s, 1), *_cells(method)) for method in found if method.regrets]
        if lines:
            parts.append(f"{title}\n\n{markdown(header, lines)}")
    budgets = sorted({number(row, "budget_ms") for row in truth_results.rows if row["kind"] == "search"})
    tau, regret, _ = _cells(Study(SCALE.space, truth, budgets).known())
    return "\n\n".join(
        [
            f"{len(truth.latency_ms)} networks of space '{SCALE.space_name}', each trained on its own; budgets and "
            "truth of `experiments.ground_truth`. CPU seconds of one choice: a supernet's training, and its looks. "
            "Regret is the mean over the budgets, ± the deviation between seeds (values: how many). A network's "
            f"trainings deviate by {truth.seed_deviation:.2f} points: a choice by the expected accuracies "
            f"themselves, if they were known, would have tau {tau} and lose {regret} points (simulated).",
            *parts,
            str(results.provenance),
        ]
    )


def _cells(method: Method) -> tuple[str, str, str]:
    spread = f" ± {np.std(method.regrets, ddof=1):.2f}" if len(method.regrets) > 1 else ""
    tau = f"{fmean(method.taus):.2f}" if method.taus else "-"
    return tau, f"{fmean(method.regrets):.2f}{spread}", str(len(method.regrets))


def main(arguments: Sequence[str]) -> int:
    """Do the jobs that are left, or show the results; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("ranking", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
