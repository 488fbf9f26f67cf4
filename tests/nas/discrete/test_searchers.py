"""What every discrete searcher keeps, and what each one promises beyond."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nas.discrete import Choices, Evolution, RandomSearch, Region, Searcher, explore
from nas.discrete.listed import Listed
from nas.discrete.optuna import OptunaSearch
from nas.discrete.surrogate import normal_scores
from search_space import UserError

WIDTHS = (4, 3, 4, 2)
SIZE = int(np.prod(WIDTHS))


def region(seed: int = 0, budget_ms: float = 1.0) -> Listed:
    """Two thirds of the networks are within."""
    latency_ms = np.random.default_rng(seed).random(SIZE) * 1.5
    return Listed(WIDTHS, latency_ms, 1 + latency_ms, budget_ms)


def additive_accuracy(choices: Choices) -> float:
    """Best at (3, 2, 3, 1)."""
    return float(sum(c / (w - 1) for c, w in zip(choices, WIDTHS, strict=True)) / len(WIDTHS))


MAKERS: dict[str, Callable[[Region, int], Searcher]] = {
    "random": RandomSearch,
    "evolution": Evolution,
    "tpe": lambda region, seed: OptunaSearch(region, seed, "tpe"),
    "nsga2": lambda region, seed: OptunaSearch(region, seed, "nsga2"),
}
every_searcher = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@every_searcher
def test_every_proposal_is_feasible_and_new(make: Callable[[Region, int], Searcher]) -> None:
    within = region()
    trials = explore(make(within, 0), additive_accuracy, 25)
    assert len(trials) == len({trial.choices for trial in trials}) == 25
    assert (within.excess(np.array([trial.choices for trial in trials])) <= 0).all()
    assert all(trial.accuracy == additive_accuracy(trial.choices) for trial in trials)


@every_searcher
def test_a_seed_repeats(make: Callable[[Region, int], Searcher]) -> None:
    wide = Listed((9,) * 4, np.ones(9**4), np.arange(1.0, 9**4 + 1), 1.0)
    runs = [explore(make(wide, seed), lambda choices: -float(sum(choices)), 12) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


@every_searcher
def test_a_region_that_is_exhausted_ends_the_search(make: Callable[[Region, int], Searcher]) -> None:
    few = region(budget_ms=0.05)
    assert 2 <= len(few.within) <= 8
    trials = explore(make(few, 0), additive_accuracy, 100)
    assert len(trials) == len(few.within)


def test_evolution_learns_where_random_does_not() -> None:
    wide = Listed((5,) * 5, np.ones(5**5), np.ones(5**5), 1.0)

    def accuracy(choices: Choices) -> float:
        return -float(np.abs(np.array(choices) - 3).sum())

    best = {
        make: np.mean([max(t.accuracy for t in explore(make(wide, seed), accuracy, 40)) for seed in range(4)])
        for make in (RandomSearch, Evolution)
    }
    assert best[Evolution] > best[RandomSearch] + 0.5


def test_normal_scores_are_ranks() -> None:
    scores = normal_scores(np.array([3.0, -100.0, 5.0, 3.0]))
    assert scores[1] < scores[0] == scores[3] < scores[2] and abs(scores.sum()) < 1e-12


def test_a_list_without_a_fast_network_is_refused() -> None:
    with pytest.raises(UserError, match=r"no network takes 0 ms or less; the fastest takes"):
        region(budget_ms=0.0)


def test_a_storage_keeps_the_trials(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal.log")
    first = explore(OptunaSearch(region(), 0, storage=journal), additive_accuracy, 8)
    again = OptunaSearch(region(), 0, storage=journal)
    assert again.trials == list(first)
    looked = []

    def counted(choices: Choices) -> float:
        looked.append(choices)
        return additive_accuracy(choices)

    trials = explore(again, counted, 14)
    assert len(trials) == 14 and len(looked) == 6
    assert list(trials[:8]) == list(first)


WORKER = """
import sys, time
from tests.nas.discrete.test_searchers import OptunaSearch, additive_accuracy, explore, region
def slow(choices):
    time.sleep(0.05)
    return additive_accuracy(choices)
explore(OptunaSearch(region(), 0, storage=sys.argv[1]), slow, 24, lambda trial: print(trial.choices, flush=True))
"""


@pytest.mark.parametrize("storage", ["{}/journal.log", "sqlite:///{}/study.db"])
def test_two_processes_share_a_study(storage: str, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    storage = storage.format(tmp_path)
    OptunaSearch(region(), 0, storage=storage)  # makes a database's tables, once
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}){WORKER}", storage]
    workers = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    shares = [worker.communicate(timeout=120)[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert all(shares), "one process did all the work"
    trials = OptunaSearch(region(), 0, storage=storage).trials
    assert {str(trial.choices) for trial in trials} == {line for share in shares for line in share}
    assert 24 <= len(trials) <= 26  # each may have one under way when the other ends


def test_a_storage_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.log").write_text("not a journal\n")
    for storage in (str(tmp_path / "text.log"), "nodatabase://x", f"sqlite:///{tmp_path}/no/such.db"):
        with pytest.raises(UserError, match="Optuna cannot use the storage") as caught:
            OptunaSearch(region(), 0, storage=storage)
        assert "\n" not in str(caught.value)
