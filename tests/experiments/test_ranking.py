"""The ranking study: untrained scores by hand, baselines that cost nothing, a job in miniature, the kept table."""

from __future__ import annotations

import math
import random
from collections import Counter
from statistics import fmean

import pytest
import torch
from torch import nn

from experiments import ranking
from experiments.free import BLOCKS, MACS, PARAMETERS, SLOWEST, UNIFORM, free_scores
from experiments.ranking_study import Study, averages, together
from experiments.ranking_work import AVERAGED, FAIR, SANDWICH, Job, Ranker, extremes, fair_paths
from experiments.results import FOLDER, Row, load_results
from experiments.truth import Truth
from experiments.truth_work import Scale, all_paths
from experiments.zero_cost import naswot, started, synflow

COUNTS = {  # network -> latency, MACs, parameters
    "k3e1 | k3e1": (1.0, 10, 4),
    "k3e1 k3e1 | k3e1": (2.0, 20, 5),
    "k7e6 | k3e1": (3.0, 50, 9),
    "k7e6 k7e6 | k7e6": (4.0, 40, 8),
}


def space_rows() -> list[Row]:
    return [
        {"kind": "space", "network": name, "latency_ms": ms, "macs": macs, "params": params}
        for name, (ms, macs, params) in COUNTS.items()
    ]


def test_what_costs_nothing_goes_by_counts_alone() -> None:
    found = free_scores([*space_rows(), {"kind": "network", "network": "k3e1 | k3e1"}])
    assert list(found) == [PARAMETERS, MACS, SLOWEST, BLOCKS, UNIFORM]
    order = {name: sorted(scores, key=scores.__getitem__, reverse=True) for name, scores in found.items()}
    by_macs = ["k7e6 | k3e1", "k7e6 k7e6 | k7e6", "k3e1 k3e1 | k3e1", "k3e1 | k3e1"]
    assert order[PARAMETERS] == order[MACS] == by_macs and order[SLOWEST] == list(COUNTS)[::-1]
    assert order[BLOCKS] == ["k7e6 k7e6 | k7e6", "k3e1 k3e1 | k3e1", "k7e6 | k3e1", "k3e1 | k3e1"]
    assert order[UNIFORM] == ["k7e6 k7e6 | k7e6", "k3e1 k3e1 | k3e1", "k3e1 | k3e1"], "all its blocks alike"
    bare = [{key: row[key] for key in ("kind", "network", "latency_ms")} for row in space_rows()]
    assert list(free_scores(bare)) == [SLOWEST, UNIFORM]


def test_ranks_are_averaged_whatever_the_units() -> None:
    first, second = {"a": 0.1, "b": 0.2, "c": 0.3}, {"a": -5e6, "b": 9e6, "c": 7e6}
    mean = together(first, second)
    assert mean["a"] < mean["b"] == pytest.approx(mean["c"])


def test_naswot_counts_the_images_that_switch_alike() -> None:
    """Two ReLUs: the images agree in both switches, in one, or in none."""
    network = nn.Sequential(nn.Flatten(), nn.ReLU())
    far, near = (
        torch.tensor([[[[1.0]], [[-1.0]]], [[[-1.0]], [[1.0]]]]),
        torch.tensor([[[[1.0]], [[-1.0]]], [[[1.0]], [[1.0]]]]),
    )
    assert naswot(network, far) == pytest.approx(math.log(2 * 2))
    assert naswot(network, near) == pytest.approx(math.log(2 * 2 - 1))
    assert naswot(network, far[[0, 0]]) == -math.inf


def test_synflow_is_the_flow_through_absolute_weights_without_norms() -> None:
    """Every layer of a chain carries the whole flow: R = |w2| |w1| 3 inputs, twice."""
    network = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1, bias=False))
    for layer, weight in ((network[0], -2.0), (network[2], 0.5)):
        nn.init.constant_(layer.weight, weight)  # type: ignore[arg-type]
    assert synflow(network, 1) == pytest.approx(math.log(2 * 3 * 2 * 0.5))


def test_starting_wakes_branches_that_start_at_zero() -> None:
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    started(norm, 0)
    assert bool((norm.weight == 1).all())


def test_a_choice_by_model_finds_the_best_where_scores_are_right() -> None:
    space = Scale("miniature").space
    names = [str(space.architecture(path)) for path in all_paths(space)]
    accuracy = {name: name.count("e2") + 0.1 * name.count("k") for name in names}
    truth = Truth({0: accuracy}, dict.fromkeys(names, 1.0))
    study = Study(space, truth, [1.0])
    assert study.by_model("", None, [accuracy]).regrets == [0.0]
    assert study.scored("", None, [accuracy]).taus == pytest.approx([1.0])
    reversed_ = {name: -value for name, value in accuracy.items()}
    assert study.by_model("", None, [reversed_]).regrets[0] > 100


def test_counts_join_a_model_and_supernets_are_averaged() -> None:
    space = Scale("miniature").space
    names = [str(space.architecture(path)) for path in all_paths(space)]
    accuracy = {name: name.count("e2") + 0.1 * name.count("k") for name in names}
    study = Study(space, Truth({0: accuracy}, dict.fromkeys(names, 1.0)), [1.0])
    counts = {name: (1.0 + accuracy[name], 2.0 + place) for place, name in enumerate(names)}
    assert study.by_counts("", None, [accuracy], counts).regrets == [0.0]
    seeds = [{"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 1.0}]
    assert averages(seeds, 2) == [{"a": 0.5, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 1.5, "b": 1.0}]
    assert averages(seeds, 3) == [{"a": 1.0, "b": 1.0}] and averages(seeds[:1], 2) == []


def test_an_own_training_that_chooses_does_not_judge() -> None:
    """The first seed calls 'a' the best and the second 'b'; the score prefers 'c'."""
    by_seed = {0: {"a": 0.9, "b": 0.5, "c": 0.4}, 1: {"a": 0.3, "b": 0.8, "c": 0.6}}
    study = Study(Scale("miniature").space, Truth(by_seed, dict.fromkeys("abc", 1.0)), [1.0])
    score = {"a": 1.0, "b": 2.0, "c": 3.0}
    alone = study.trained_again("", 0.0, [score], 1).regrets
    assert alone == pytest.approx([100 * fmean([0.9 - 0.4, 0.8 - 0.6])]), "judged by the seed that did not choose"
    assert study.trained_again("", 0.0, [score], 2).regrets == pytest.approx([100 * fmean([0.8 - 0.8, 0.9 - 0.5])])
    assert study.trained_again("", 0.0, [score], 3).regrets == pytest.approx([100 * fmean([0.8 - 0.3, 0.9 - 0.5])])


def test_what_an_exact_ranking_would_lose_grows_with_the_truths_noise() -> None:
    names = [f"n{i}" for i in range(20)]
    losses = []
    for noise in (0.001, 0.02):
        draws = random.Random(0)
        by_seed = {seed: {name: 0.01 * i + draws.gauss(0, noise) for i, name in enumerate(names)} for seed in range(3)}
        method = Study(Scale("miniature").space, Truth(by_seed, dict.fromkeys(names, 1.0)), [1.0]).known()
        losses.append((fmean(method.taus), fmean(method.regrets)))
    (tau, regret), (noisy_tau, noisy_regret) = losses
    assert tau > 0.97 > noisy_tau and 0 <= regret < 0.01 < noisy_regret


def test_fair_paths_have_every_candidate_equally_often() -> None:
    space = Scale("ground_truth").space
    paths = fair_paths(space, random.Random(0))
    rounds = math.lcm(*(len(slot.candidates) for slot in space.slots))
    drawn = [next(paths).choices for _ in range(rounds)]
    for slot, chosen in zip(space.slots, zip(*drawn, strict=True), strict=True):
        assert set(Counter(chosen).values()) == {rounds // len(slot.candidates)}
    assert len(set(drawn)) > rounds / 2


def test_the_extremes_have_most_and_fewest_parameters() -> None:
    scale = Scale("ground_truth")
    largest, smallest = (str(scale.space.architecture(path)) for path in extremes(scale, 10))
    assert (largest, smallest) == ("k7e6 k7e6 | k7e6", "k3e1 | k3e1")


@pytest.mark.slow
def test_jobs_in_miniature() -> None:
    scale = Scale("miniature", "digits", limit=200, choosing=None, epochs=1, warmup=0, search=1, short=1)
    ranker = Ranker(scale, "", networks=2)
    ways = [Job("way", 0, "shared" if way == SANDWICH else "separate", True, way) for way in (FAIR, AVERAGED, SANDWICH)]
    jobs = [Job("zero cost", 0), Job("supernet", 0, "shared", short=True), *ways]
    assert len({job.name for job in jobs}) == len(jobs)
    for job in jobs:
        rows = ranker(job)
        assert len({row["network"] for row in rows}) == len(rows) == 2
        for row in rows:
            assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        if job.kind != "zero cost":
            assert all(float(str(row["loss"])) > 0 and 0 <= float(str(row["accuracy"])) <= 1 for row in rows)


def test_the_kept_table_is_drawn_from_the_kept_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert ranking.main(["show"]) == 0
    table = capsys.readouterr().out
    assert (FOLDER / "ranking.md").read_text(encoding="utf-8") == table
    assert f"| {PARAMETERS} | 0.0 | 0.37 | 0.78 | 1 |" in table
    for wanted in ("model of 24 looks", "model of 24 looks and counts", "3 supernets: accuracy", "fair", "sandwich"):
        assert any(wanted in line for line in table.splitlines()), wanted
    assert not str(load_results(FOLDER / "ranking.json", "ranking").provenance.commit).endswith("-dirty")
