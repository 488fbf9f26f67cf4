"""Quadratic layers in place of trained ones: the same outputs at first, and training that leaves that point."""

from __future__ import annotations

import copy
import doctest
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from search_space import UserError, load_space, lower
from search_space.build import Network
from search_space.errors import UnknownName
from search_space.operators.layers import QuadraticConv2d, QuadraticLinear
from search_space.operators.quadratize import quadratize


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect"),
        nn.Flatten(),
        nn.Linear(8 * 16, 4),
    )


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 4, bias=False))


MODELS = [
    (cnn, (16, 3, 8, 8), ["0", "3", "4", "6"], "ours"),
    (mlp, (16, 6), ["?"], "ours"),
    (mlp, (16, 6), ["*"], "t1+linear"),
]


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int = 5) -> float:
    """The last loss."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("make", "shape", "names", "form"), MODELS, ids=["cnn", "mlp", "mlp t1+linear"])
def test_outputs_are_the_same_at_first_and_training_moves_on(
    make: Any, shape: tuple[int, ...], names: list[str], form: str
) -> None:
    model = make()
    x, y = torch.randn(shape), torch.randint(0, 4, shape[:1])
    train(model, x, y)  # biases and statistics away from zero
    before = copy.deepcopy(model.state_dict())
    quadratic = quadratize(model, names, form, torch.Generator().manual_seed(0))
    for training in (False, True):
        assert torch.equal(copy.deepcopy(quadratic).train(training)(x), copy.deepcopy(model).train(training)(x))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the model is left alone"
    replaced = {n: m for n, m in quadratic.named_modules() if isinstance(m, QuadraticConv2d | QuadraticLinear)}
    assert len(replaced) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules())
    for name, layer in replaced.items():
        assert torch.equal(layer.c.weight, before[f"{name}.weight"])
    train(quadratic, x, y)
    for layer in replaced.values():
        terms = [layer.full] if form == "t1+linear" else [layer.a, layer.b]
        assert all(p.abs().sum() > 0 for term in terms for p in term.parameters())
    assert not torch.equal(quadratic.eval()(x), model.eval()(x))


def test_only_the_named_layers_change() -> None:
    quadratic = quadratize(cnn(), "3")
    assert [type(m).__name__ for m in quadratic][3] == "QuadraticConv2d"
    assert sum(isinstance(m, QuadraticConv2d | QuadraticLinear) for m in quadratic.modules()) == 1


def test_frozen_weights_stay_frozen_as_the_linear_part() -> None:
    model = mlp().requires_grad_(False)
    quadratic = quadratize(model, "*")
    trained = {name for name, p in quadratic.named_parameters() if p.requires_grad}
    assert trained == {"0.a.weight", "0.a.bias", "0.b.weight", "0.b.bias", "2.a.weight", "2.b.weight"}
    train(quadratic, torch.randn(8, 6), torch.zeros(8, dtype=torch.long))
    assert torch.equal(quadratic[0].c.weight, model[0].weight)


def test_the_generator_decides_and_the_default_one_is_left_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (quadratize(mlp(), "0", generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one[0].b.weight, same[0].b.weight) and not torch.equal(one[0].b.weight, other[0].b.weight)
    torch.set_rng_state(state)
    model = nn.Linear(2, 2)
    state = torch.get_rng_state()
    quadratize(model, "", generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_shared_and_tied_layers_stay_so() -> None:
    model = nn.ModuleDict({"first": nn.Linear(4, 4), "tied": nn.Linear(4, 4)})
    model["second"] = model["first"]
    model["tied"].weight = model["first"].weight
    quadratic = quadratize(model, ["first", "second"])
    assert isinstance(quadratic["first"], QuadraticLinear) and quadratic["first"] is quadratic["second"]
    assert quadratic["tied"].weight is quadratic["first"].c.weight


def test_a_layer_alone_and_types_and_modes() -> None:
    layer = nn.Linear(3, 2).double().eval()
    quadratic = quadratize(layer, "*")
    assert isinstance(quadratic, QuadraticLinear) and not quadratic.training
    assert {p.dtype for p in quadratic.parameters()} == {torch.float64}
    x = torch.randn(4, 3, dtype=torch.float64)
    assert torch.equal(quadratic(x), layer(x))


def test_a_searched_network() -> None:
    """Table V's quadratic FFN from a trained QuadraNet; the classifier flattens its input."""
    torch.manual_seed(0)
    network = Network(lower(load_space("quadranet").smallest(), 32, 4))
    x = torch.randn(2, 3, 32, 32)
    quadratic = quadratize(network, ["stage*.expand", "head.classifier"])
    assert torch.equal(quadratic.eval()(x), network.eval()(x))
    train(quadratic.train(), x, torch.tensor([0, 1]))
    assert all(p.grad is not None for p in quadratic.parameters())


@pytest.mark.parametrize(
    ("names", "form", "error", "message"),
    [
        ("layers.0", "ours", UnknownName, r"unknown linear or convolution layer 'layers.0'"),
        (["3", "9"], "ours", UnknownName, r"unknown linear or convolution layer '9'.* Known: 0, 3, 4, 6"),
        ("1", "ours", UnknownName, r"layer '1'"),
        ("0", "t4", UserError, r"'t4' has no linear part for the trained weights; those with one: ours, t1\+linear"),
        ("0", "quadratic", UserError, r"unknown neuron form 'quadratic'"),
        ("0", "t1+linear", UserError, r"layer '0' is a Conv2d: form 't1\+linear' is for plain linear layers"),
    ],
)
def test_refusals(names: Any, form: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quadratize(cnn(), names, form)


def test_the_example() -> None:
    failed, attempted = doctest.testmod(sys.modules["search_space.operators.quadratize"])
    assert attempted and not failed


def test_the_nearest_name_is_suggested() -> None:
    network = Network(lower(load_space("quadranet").smallest(), 32, 4))
    with pytest.raises(UnknownName, match=r"Did you mean 'stage1_block1.expand'\?"):
        quadratize(network, "stage1_block1.expnd")


def test_layers_that_others_reach_into_are_left_alone() -> None:
    with pytest.raises(UserError, match="'0' is parametrized"):
        quadratize(nn.Sequential(weight_norm(nn.Linear(2, 2))), "0")
    with pytest.raises(UserError, match="'1' is a LazyConv2d that has seen no input"):
        quadratize(nn.Sequential(nn.ReLU(), nn.LazyConv2d(4, 3)), "1")
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    with pytest.raises(UnknownName):
        quadratize(attention, "self_attn.out_proj")
    twice = quadratize(quadratize(mlp(), "0"), "*")
    assert not any("." in n for n, m in twice.named_modules() if isinstance(m, QuadraticLinear))
