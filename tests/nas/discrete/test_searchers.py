"""What single searchers promise beyond the contract of all (`tests.contracts.test_searchers`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nas.discrete import Choices, Evolution, OptunaSearch, RandomSearch, explore
from nas.discrete.surrogate import normal_scores
from nas.discrete.tabular import TabularRegion
from search_space import UserError
from tests.nas.discrete.small_region import additive_accuracy, region


def test_evolution_learns_where_random_does_not() -> None:
    wide = TabularRegion((5,) * 5, np.ones(5**5), np.ones(5**5), 1.0)

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
from nas.discrete import OptunaSearch, explore
from tests.nas.discrete.small_region import additive_accuracy, region
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
