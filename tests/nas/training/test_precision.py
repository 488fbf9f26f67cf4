"""Layers that compute in bfloat16 while they train: gradients near those in float32, and whole searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.api import search
from nas.run.settings import TrainSettings
from nas.supernet.network import Supernet, frozen
from nas.training.loop import computing_in
from nas.training.recipes import Recipe
from search_space import SearchSpace, UserError
from tests.nas.supernet.test_gates import CASES, make
from tests.nas.test_search import SMALL

CPU = torch.device("cpu")


def step_gradients(supernet: Supernet, parameters: list[Tensor], loss: Tensor) -> Tensor:
    grads = torch.autograd.grad(loss, parameters)
    assert all(grad.dtype is torch.float32 for grad in grads)
    return torch.cat([grad.flatten() for grad in grads])


def alike(first: Tensor, second: Tensor) -> float:
    return float(F.cosine_similarity(first.flatten(), second.flatten(), dim=0))


@pytest.mark.parametrize(("space", "shared"), CASES)
def test_gradients_of_both_steps(space: SearchSpace, shared: bool) -> None:
    supernet, gates, x, labels = make(space, shared)
    supernet, gates, x = supernet.float(), gates.float(), x.float()
    sample = gates.sample("full_v2", torch.Generator().manual_seed(1))
    of_weights, of_gates = {}, {}
    least = 0.999 if space.family == "quadra" else 0.8  # BatchNorm over three images amplifies what is rounded
    for precision in ("fp32", "bf16"):
        parameters = list(supernet.path_parameters(sample.path))
        with computing_in(precision, CPU):
            loss = F.cross_entropy(supernet(x, sample.path), labels)
        of_weights[precision] = step_gradients(supernet, parameters, loss)
        with frozen(parameters), computing_in(precision, CPU):
            loss = F.cross_entropy(supernet(x, sample.path, sample), labels)
        (of_gates[precision],) = torch.autograd.grad(loss, sample.values, retain_graph=True)
    for found in (of_weights, of_gates):
        assert found["bf16"].dtype is torch.float32 and not torch.equal(found["bf16"], found["fp32"])
        assert alike(found["bf16"], found["fp32"]) > least


@pytest.mark.parametrize("space", ["quadranet", "proxyless"])
def test_a_search_in_bfloat16(space: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {**SMALL, "train": {"precision": "bf16"}, "epochs": 1}
    run = search(device="cpu", budget_ms=40, space=space, out=str(tmp_path / "run"), **options)
    assert run.result.budget is not None and 0.97 * 40 <= run.result.budget.predicted_ms <= 40
    assert run.result.provenance["settings"]["train"]["precision"] == "bf16"


def test_others_are_refused() -> None:
    for settings in (TrainSettings, Recipe):
        with pytest.raises(UserError, match=r"precision 'fp8'.*bf16, fp32"):
            settings(precision="fp8")
