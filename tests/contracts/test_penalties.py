"""The laws of a penalty form, for every one that ships and for a toy from outside the package."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from device_profiles import load_profile
from latency_models import LatencyTable, fit_latency_model, latency_table
from nas.api import search
from nas.penalties import FORMS, Penalty, penalty_form
from nas.run.settings import PenaltySettings
from nas.supernet.expected_latency import ExpectedLatency
from nas.supernet.gates import Gates
from search_space import UserError, load_space

BUDGET_MS = 30.0


@dataclass(frozen=True)
class Squared:
    """A toy: the square of the relative excess."""

    budget_ms: float
    strength: None = None

    def loss(self, loss: Tensor, latency_ms: Tensor) -> Tensor:
        return loss + torch.relu(latency_ms / self.budget_ms - 1) ** 2

    def constrain(self, gates: Gates) -> None:
        pass

    def observe(self, latency_ms: float) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def squared(settings: PenaltySettings, table: LatencyTable, budget_ms: float) -> Squared:
    return Squared(budget_ms)


ALL = [*FORMS, f"{__name__}:squared"]  # a line for a form of your own


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return latency_table(fit_latency_model(load_profile("vpu")), load_space("quadranet"), 224, 1000)


def made(name: str, table: LatencyTable) -> Penalty:
    return penalty_form(name)(PenaltySettings(), table, BUDGET_MS)


def slow_gates(table: LatencyTable) -> Gates:
    gates = Gates(table.space, torch.Generator().manual_seed(0))
    with torch.no_grad():
        gates.alpha.copy_(torch.from_numpy(np.nan_to_num(table.slot_ms)))
    return gates


@pytest.mark.parametrize("name", ALL)
def test_above_the_budget_gates_are_pushed_or_moved_towards_faster_candidates(name: str, table: LatencyTable) -> None:
    penalty, gates, expected = made(name, table), slow_gates(table), ExpectedLatency(table)
    before = float(expected(gates.probabilities()).detach())
    assert before > BUDGET_MS
    penalty.observe(before)
    loss = penalty.loss(torch.tensor(1.5, requires_grad=True), expected(gates.probabilities()))
    loss.backward()
    if gates.alpha.grad is not None:
        assert bool(torch.isfinite(gates.alpha.grad).all())
        with torch.no_grad():
            gates.alpha.sub_(0.1 * gates.alpha.grad / gates.alpha.grad.abs().max().clamp_min(1e-30))
    penalty.constrain(gates)
    assert float(expected(gates.probabilities()).detach()) < before


@pytest.mark.parametrize("name", ALL)
def test_the_task_keeps_its_gradient(name: str, table: LatencyTable) -> None:
    loss = torch.tensor(1.5, requires_grad=True)
    made(name, table).loss(loss, torch.tensor(40.0)).backward()
    assert loss.grad is not None and float(loss.grad) > 0


@pytest.mark.parametrize("name", ALL)
def test_its_state_is_json_and_resumes(name: str, table: LatencyTable) -> None:
    first, second = made(name, table), made(name, table)
    for latency_ms in (45.0, 36.0, 33.0):
        first.observe(latency_ms)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state() and second.strength == first.strength
    losses = [float(p.loss(torch.tensor(2.0), torch.tensor(37.0))) for p in (first, second)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ALL)
def test_its_strength_is_none_or_a_finite_number(name: str, table: LatencyTable) -> None:
    penalty = made(name, table)
    for latency_ms in (1e-3, 45.0, 1e6, 20.0):
        penalty.observe(latency_ms)
        assert penalty.strength is None or (math.isfinite(penalty.strength) and penalty.strength >= 0)


def test_shipped_forms_import_no_torch() -> None:
    """A budget that a form cannot work with is refused before torch is imported."""
    script = (
        "import sys; from nas.penalties import *; [penalty_form(n) for n in FORMS]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("multiplyer", "unknown penalty.form 'multiplyer'.*multiplier"),
        ("nowhere.to_be:found", "no module 'nowhere'"),
        ("nas.penalties.hard:soft", "'nas.penalties.hard' has no 'soft'"),
        ("json:loads", "no function of 3 arguments"),
    ],
)
def test_an_unknown_form_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        penalty_form(name)


def test_a_form_from_outside_steers_a_search(tmp_path: Any) -> None:
    finished = search(
        device="cpu",
        budget_ms=40,
        data={"name": "digits", "limit": 64},
        resolution=32,
        epochs=1,
        warmup={"epochs": 0},
        finetune={"epochs": 0},
        penalty={"form": f"{__name__}:squared"},
        out=str(tmp_path / "run"),
        progress=False,
    )
    assert finished.result.provenance["settings"]["penalty"]["form"] == f"{__name__}:squared"
