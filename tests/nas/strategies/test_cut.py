"""Choosing where a trained network is cut: costs that are weighed by measured networks, and a run that is stopped."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nas.api import search
from nas.data import DataSettings, load
from nas.run.log import Row
from nas.run.plan import plan_search
from nas.run.settings import SearchSettings, WarmupSettings
from nas.strategies.cut import PHASE, _Run, strategy, uniform, weighed
from nas.supernet.inherit import inherit, measure_statistics
from nas.supernet.network import Supernet
from nas.supernet.refit import Cuts
from search_space import GatePath, UserError
from search_space.space import ZERO
from tests.nas.run.test_transfer import SPACE as YAML
from tests.nas.supernet.test_inherit import SPACE

PIXELS = 32


def test_costs_become_what_networks_have_cost() -> None:
    shape = len(SPACE.slots), max(len(slot.candidates) for slot in SPACE.slots)
    alone = np.random.default_rng(0).uniform(0.01, 0.1, shape)
    true, largest = alone.copy(), SPACE.path(SPACE.largest()).choices
    for slot, (own, whole) in enumerate(zip(SPACE.slots, largest, strict=True)):
        for choice, block in enumerate(own.candidates):
            true[slot, choice] = 3 * alone[slot, choice] + 0.02 if block != ZERO else 0.5 * alone[slot, choice] + 0.1
        true[slot, whole] = alone[slot, whole] = 0.0
    at = np.arange(shape[0])
    paths = [SPACE.random_path(random.Random(seed)).choices for seed in range(40)]
    found = weighed(SPACE, alone, {choices: float(true[at, choices].sum()) for choices in paths[:20]})
    for choices in paths[20:]:
        assert found[at, choices].sum() == pytest.approx(true[at, choices].sum())
    assert np.abs(alone[at, paths[20]].sum() / true[at, paths[20]].sum() - 1) > 0.2


def test_uniform_cuts_lose_last_blocks_and_then_width() -> None:
    found = uniform(SPACE)
    assert found[0][0] == SPACE.largest() and [str(cuts[0]) for cuts in found] == [
        "k5e3 k5e3 | k5e3 k5e3 k5e3",
        "k5e3 | k5e3 k5e3",
        "k5e3 | k5e3",
    ]
    assert str(found[1][-1]) == "k5e1 | k5e1 k5e1"


@pytest.fixture
def plans(tmp_path: Path) -> list[Any]:
    (tmp_path / "space.yaml").write_text(YAML)
    return [
        plan_search(SearchSettings(device="cpu", budget_ms=ms, space=str(tmp_path / "space.yaml"), rerank=2))
        for ms in (2.6, 2.3)
    ]


class Stops:
    """Checkpoints that stop a run at its n-th one and give back what was saved last."""

    def __init__(self, at: int = 10**6) -> None:
        self.at, self.saved = at, None

    def keep(self, phase: str, step: int, make: Any) -> None:
        assert phase == PHASE
        self.saved = make()
        self.at -= 1
        if self.at == 0:
            raise KeyboardInterrupt


def test_a_stopped_run_measures_nothing_again_and_finds_the_same(
    plans: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = plans[0].space
    torch.manual_seed(0)
    data = load(DataSettings("digits", limit=60))
    supernet = Supernet(space, PIXELS, data.num_classes, share_weights=True, kept_statistics=True)
    from search_space import lower
    from search_space.build import Network

    inherit(supernet, space.largest(), Network(lower(space.largest(), PIXELS, data.num_classes)).state_dict())
    images = torch.randn(12, 3, PIXELS, PIXELS)
    measure_statistics(supernet, images)
    measured: list[GatePath] = []
    real = Cuts.divergence
    monkeypatch.setattr(Cuts, "divergence", lambda self, path: (measured.append(path), real(self, path))[1])

    rows: list[Row] = []

    def run(checkpoints: Stops) -> tuple[list[Any], _Run]:
        nothing = SimpleNamespace(advance=lambda *a, **k: None, skip=lambda *a: None)
        logs = [SimpleNamespace(add=rows.append)] * 2
        task: Any = SimpleNamespace(
            plans=plans, plan=plans[0], logs=logs, checkpoints=checkpoints, progress=nothing, data=data
        )
        own = _Run(task, Cuts(supernet, images, 4))
        if checkpoints.saved is not None:
            own.restore(checkpoints.saved)
        own.measure_candidates()
        return [own.found(number) for number in range(2)], own

    whole, _ = run(Stops())
    count, logged = len(measured), list(rows)
    assert count == len(set(measured))
    for found, plan in zip(whole, plans, strict=True):
        assert plan.table.path_ms(found.path) <= plan.settings.budget_ms
    rows.clear()
    stops = Stops(at=7)
    with pytest.raises(KeyboardInterrupt):
        run(stops)
    stops.at = 10**6
    measured.clear()
    again, _ = run(stops)
    assert again == whole and len(measured) == count - 6
    assert rows == logged  # each network once


def test_it_needs_a_published_network(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UserError) as error:
        search(strategy="cut", device="cpu", budget_ms=70, data={"name": "digits"}, out=str(out), progress=False)
    assert "add init=efficientnet_lite0" in str(error.value) and "\n" not in str(error.value)
    assert not out.exists()


def test_a_supernet_s_epochs_are_refused(plans: list[Any]) -> None:
    from dataclasses import replace

    settings = replace(plans[0].settings, init="timm:mobilenetv2_100", epochs=2, warmup=WarmupSettings(epochs=0))
    with pytest.raises(UserError, match=r"nothing for epochs=2; leave it out, or add strategy=proxyless"):
        strategy.check([replace(plans[0], settings=settings)])
