"""Neuron forms: what they compute, their counts of weights (QuadraLib's taxonomy), and what they refuse."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_space import UserError
from search_space.operators.layers import MAX_FULL_INPUTS, Form, QuadraticConv2d, QuadraticLinear
from tests.saved_activations import saved_activations

CONVOLUTION_FORMS = [form for form in Form if "t1" not in form]
WEIGHTS: dict[str, Callable[[int], int]] = {  # of a neuron with n inputs
    "t1": lambda n: n**2,
    "t1+linear": lambda n: n**2 + n,
    "t2": lambda n: n,
    "t3": lambda n: n,
    "t4": lambda n: 2 * n,
    "t1&2": lambda n: n**2 + n,
    "t2&4": lambda n: 3 * n,
    "ours": lambda n: 3 * n,
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("form", Form)
def test_weights_of_a_linear_neuron(form: str) -> None:
    assert parameters(QuadraticLinear(12, 5, form, bias=False)) == 5 * WEIGHTS[form](12)


@pytest.mark.parametrize("form", CONVOLUTION_FORMS)
@pytest.mark.parametrize(("groups", "inputs"), [(1, 4 * 9), (2, 2 * 9), (4, 9)])
def test_weights_of_a_convolution_neuron(form: str, groups: int, inputs: int) -> None:
    assert parameters(QuadraticConv2d(4, 8, 3, groups=groups, bias=False, form=form)) == 8 * WEIGHTS[form](inputs)


def test_every_map_has_a_bias() -> None:
    """QuadraNet's depthwise neuron: q (k^2 + 1) C parameters, q = 3."""
    assert parameters(QuadraticConv2d(16, 16, 7, padding=3, groups=16)) == 3 * (7**2 + 1) * 16
    assert {name for name, _ in QuadraticLinear(3, 2, "t4").named_parameters()} == {
        f"{m}.{p}" for m in "ab" for p in ("weight", "bias")
    }
    assert parameters(QuadraticLinear(3, 2, "t1")) == 2 * (9 + 1)
    assert parameters(QuadraticLinear(3, 2, "t1+linear")) == 2 * (9 + 3 + 1)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_values_of_linear_layers(form: str, bias: bool) -> None:
    layer = QuadraticLinear(3, 2, form, bias).double()
    for parameter in layer.parameters():
        parameter.uniform_(-1, 1)
    x = torch.randn(4, 3, dtype=torch.float64)

    def full(x: Tensor) -> Tensor:
        y = torch.einsum("ni,oij,nj->no", x, layer.full.weight, x)
        return y if layer.full.bias is None else y + layer.full.bias

    expected = {
        "t1": lambda: full(x),
        "t1+linear": lambda: full(x) + layer.c(x),
        "t2": lambda: layer.a(x * x),
        "t3": lambda: layer.a(x) ** 2,
        "t4": lambda: layer.a(x) * layer.b(x),
        "t1&2": lambda: full(x) + layer.c(x * x),
        "t2&4": lambda: layer.a(x) * layer.b(x) + layer.c(x * x),
        "ours": lambda: layer.a(x) * layer.b(x) + layer.c(x),
    }[form]()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x.view(2, 2, 3)), expected.view(2, 2, 2))


@pytest.mark.parametrize("form", Form)
def test_a_neuron_is_quadratic(form: str) -> None:
    """Without biases y(2x) = 4 y(x), but for the linear part."""
    layer = QuadraticLinear(3, 2, form, bias=False).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    linear = layer.c(x) if form in ("ours", "t1+linear") else torch.zeros(1)
    torch.testing.assert_close(layer(2 * x) - 2 * linear, 4 * (layer(x) - linear))


LAYERS = [
    *[(f"linear {form}", lambda form=form: QuadraticLinear(4, 3, form), (5, 4)) for form in Form],
    *[
        (f"conv {form}", lambda form=form: QuadraticConv2d(4, 6, 3, 2, 1, form=form), (2, 4, 6, 5))
        for form in CONVOLUTION_FORMS
    ],
    ("depthwise", lambda: QuadraticConv2d(4, 4, 5, padding=2, groups=4), (2, 4, 6, 5)),
    ("dilated", lambda: QuadraticConv2d(4, 4, 3, dilation=2, groups=2), (2, 4, 6, 5)),
    ("same", lambda: QuadraticConv2d(4, 4, 3, padding="same"), (2, 4, 6, 5)),
    ("reflect", lambda: QuadraticConv2d(4, 4, 3, padding=1, padding_mode="reflect"), (2, 4, 6, 5)),
    ("one image", lambda: QuadraticConv2d(4, 4, 3), (4, 6, 5)),
]


@pytest.mark.parametrize(("make", "shape"), [case[1:] for case in LAYERS], ids=[case[0] for case in LAYERS])
def test_training_gives_the_values_and_gradients_of_evaluation(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    lean = make().double()
    plain = copy.deepcopy(lean).eval()
    x = torch.randn(shape, dtype=torch.float64)
    results = []
    for layer in (lean, plain):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        results.append([y, leaf.grad, *[p.grad for p in layer.parameters()]])
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(("form", "stored"), [("ours", 1), ("t4", 1), ("t2&4", 2)])
def test_what_training_stores(form: str, stored: int) -> None:
    x = torch.randn(8, 16, requires_grad=True)
    for lean, expected in ((True, stored), (False, stored + 2)):  # both factors too
        layer = QuadraticLinear(16, 16, form, lean=lean)
        with saved_activations(layer) as storages:
            layer(x)
        assert sum(storages.values()) == expected * x.untyped_storage().nbytes()


def test_a_hook_on_a_map_is_heard() -> None:
    layer = QuadraticLinear(4, 3)
    heard = []
    layer.b.register_forward_hook(lambda m, x, y: heard.append(y))
    layer(torch.randn(2, 4))
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QuadraticLinear(3, 2, "t5"), r"unknown neuron form 't5'; known: t1, .*ours"),
        (
            lambda: QuadraticLinear(MAX_FULL_INPUTS + 1, 2, "t1"),
            r"257 inputs has 66049 weights per neuron; the limit is 256",
        ),
        (lambda: QuadraticLinear(1000, 2, "t1&2"), r"1000000 weights"),
        (lambda: QuadraticConv2d(3, 4, 3, form="t1"), r"'t1' has n\^2 weights per neuron: it is for linear layers"),
        (lambda: QuadraticConv2d(3, 4, 3, form="t1&2"), r"'t1&2' has n\^2 weights"),
    ],
)
def test_refusals(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("form", ["ours", "t3"])
def test_it_learns_what_no_linear_layer_can(form: str) -> None:
    """The sign of a product of two inputs."""
    torch.manual_seed(0)
    x = torch.randn(256, 2)
    target = (x[:, 0] * x[:, 1] > 0).float()

    def share_right(model: nn.Module) -> float:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(model(x).squeeze(1), target).backward()
            optimizer.step()
        return float(((model(x).squeeze(1) > 0) == (target > 0)).float().mean())

    quadratic = QuadraticLinear(2, 1) if form == "ours" else nn.Sequential(QuadraticLinear(2, 4, form), nn.Linear(4, 1))
    assert share_right(quadratic) > 0.95
    assert share_right(nn.Linear(2, 1)) < 0.7


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_export(tmp_path: Path) -> None:
    model = nn.Sequential(
        QuadraticConv2d(3, 4, 3, padding=1),
        nn.Flatten(),
        QuadraticLinear(64, 8, "t1+linear"),
        QuadraticLinear(8, 2, "t2&4"),
    ).eval()
    x = torch.randn(1, 3, 4, 4)
    program = torch.onnx.export(model, (x,), dynamo=True, external_data=False, verbose=False)
    assert program is not None
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), model(x).detach(), rtol=1e-3, atol=1e-4)
