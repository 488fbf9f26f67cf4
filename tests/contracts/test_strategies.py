"""The laws of a search strategy, for every one that ships and for a toy from outside the package."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nas.api import search
from nas.data import DataSet
from nas.run.finished import Finished
from nas.run.plan import Plan
from nas.strategies import STRATEGIES, load_strategy
from nas.strategies.base import Found, Task
from nas.strategies.weights import first_supernet
from nas.supernet.network import Supernet
from search_space import GatePath, UserError


class FirstThatFits:
    """A toy: the first drawn network within the budget, with the weights that a supernet starts with."""

    def check(self, plans: Sequence[Plan]) -> None:
        pass

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        return 0

    def search(self, task: Task) -> tuple[Supernet, list[Found]]:
        return first_supernet(task.plan, task.data), [Found(self._path(plan), None) for plan in task.plans]

    def _path(self, plan: Plan) -> GatePath:
        draws = random.Random(plan.settings.seed)
        paths = (plan.space.random_path(draws) for _ in range(10_000))
        return next(path for path in paths if plan.table.path_ms(path) <= plan.settings.budget_ms)


toy = FirstThatFits()
ALL = [*(name for name in STRATEGIES if name != "cut"), f"{__name__}:toy"]  # a line for a strategy of your own
# "cut" starts from published weights: tests/nas/strategies/test_cut.py, tests/nas/run/test_transfer.py
SMALL: dict[str, Any] = {
    "device": "cpu",
    "budget_ms": 70,
    "data": {"name": "digits", "limit": 64, "resolution": 32},
    "epochs": 1,
    "warmup": {"epochs": 0},
    "finetune": {"epochs": 0},
    "trials": 3,
    "progress": False,
}


def run(name: str, out: Path, **options: Any) -> Finished:
    return search(**{**SMALL, "strategy": name, "out": str(out), **options})


@pytest.mark.parametrize("name", ALL)
def test_it_keeps_the_budget_and_the_same_seed_gives_the_same_network(name: str, tmp_path: Path) -> None:
    first, second = run(name, tmp_path / "first"), run(name, tmp_path / "second")
    budget = first.result.budget
    assert budget is not None and budget.predicted_ms <= 70
    assert first.result.architecture == second.result.architecture
    names = ("weights.safetensors", "model.onnx")
    assert all((first.folder / n).read_bytes() == (second.folder / n).read_bytes() for n in names)


@pytest.mark.parametrize("name", ALL)
def test_several_targets_are_searched_or_refused_with_nothing_left_behind(name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    try:
        finished = run(name, out, budget_ms=[70, 100])
    except UserError as error:
        assert name in str(error) and "\n" not in str(error)
        assert not out.exists()
    else:
        for target, budget_ms in zip(finished.targets, [70, 100], strict=True):
            budget = target.result.budget
            assert budget is not None and budget.budget_ms == budget_ms and budget.predicted_ms <= budget_ms


@pytest.mark.parametrize("name", ALL)
def test_it_says_how_many_steps_it_takes(name: str) -> None:
    from nas.data import DataSettings, load
    from nas.run.plan import plan_search
    from nas.run.settings import SearchSettings

    assert load_strategy(name).total_steps(plan_search(SearchSettings(strategy=name)), load(DataSettings())) >= 0
