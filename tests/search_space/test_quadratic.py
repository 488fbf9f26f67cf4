"""Lean layers: the gradients, types and layouts of plain modules, and little stored between forward and backward."""

from __future__ import annotations

import copy
import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from search_space import BlockChoice, Node, SearchSpace, Stage, load_space, lower
from search_space.blocks.graph import Graph
from search_space.build import Block, Network, to_channels_last
from search_space.layer import Kind
from search_space.operators import depthwise_cpu, neuron
from search_space.operators.lean import Gelu, Norm, lean_layer
from search_space.operators.linear_maps import Convolution, LinearMap, Pointwise, depthwise
from search_space.operators.patterns import LeanNodes, with_lean_layers
from search_space.operators.quadratic import quadratic_conv2d, quadratic_depthwise, quadratic_linear
from search_space.space import Architecture
from search_space.to_onnx import to_onnx
from tests.saved_activations import saved_activations

FAMILIES = ("quadra", "quadra_fc1", "quadra_fc12", "linear_dw")


def draws(*sizes: Sequence[int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*size, dtype=dtype, generator=generator).requires_grad_() for size in sizes]


def six(weight: Sequence[int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return draws(*[weight, weight[:1]] * 3, dtype=dtype)


def architecture(family: str = "quadra", width: int = 8, kernel_size: int = 3, ratio: int = 4) -> Architecture:
    space = SearchSpace("s", family, width, (Stage(width, 2), Stage(2 * width, 1)), (kernel_size,), (ratio,))
    choice = BlockChoice(kernel_size, ratio)
    return Architecture(space, ((choice, choice), (choice,)))


def pair(family: str = "quadra", resolution: int = 24, small: int = 0, **options: Any) -> tuple[Network, Network]:
    """The same network plain and lean, without the exception for small maps."""
    torch.manual_seed(0)
    segments = lower(architecture(family, **options), resolution, 5)
    plain, lean = Network(segments, lean=False), Network(segments, recompute_from=small)
    with torch.no_grad():
        for parameter in plain.parameters():  # biases too, and scales that differ
            parameter.add_(0.2 * torch.randn_like(parameter))
    lean.load_state_dict(plain.state_dict())
    return plain, lean


def block(family: str = "quadra", width: int = 8, kernel_size: int = 7, lean: bool = True, small: int = 0) -> Block:
    segments = lower(architecture(family, width, kernel_size), 32, 5)
    return Block(segments[1].nodes, lean=lean, recompute_from=small)


def images(n: int = 4, resolution: int = 24, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, 3, resolution, resolution, dtype=dtype, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, y: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    (y * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(2))).sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Calls(TorchDispatchMode):
    """Counts the operations that run within."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


# Derivatives


@pytest.mark.parametrize("size", [3, 5])
def test_derivatives_of_the_depthwise_neuron(size: int) -> None:
    (x,) = draws((2, 3, 5, 4))
    assert torch.autograd.gradcheck(lambda *t: quadratic_depthwise(*t, size // 2), (x, *six((3, 1, size, size))))


@pytest.mark.parametrize("groups", [1, 2])
def test_derivatives_of_a_dense_convolution(groups: int) -> None:
    (x,) = draws((2, 4, 6, 5))
    function = lambda *t: quadratic_conv2d(*t, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=groups)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x, *six((6, 4 // groups, 3, 2))))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 3, 3)])
def test_derivatives_of_a_linear_layer(shape: tuple[int, ...]) -> None:
    (x,) = draws(shape)
    assert torch.autograd.gradcheck(quadratic_linear, (x, *six((5, 3))))


@pytest.mark.parametrize("given", [(1, 0, 1, 0, 1, 0), (1, 1, 1, 0, 0, 0), (1, 0, 1, 1, 1, 0)])
def test_derivatives_without_biases_or_linear_part(given: tuple[int, ...]) -> None:
    (x,) = draws((4, 3))
    factors = [t if is_given else None for t, is_given in zip(six((5, 3)), given, strict=True)]
    assert torch.autograd.gradcheck(quadratic_linear, (x, *factors))
    a, bias_a, b, bias_b, c, bias_c = factors
    assert a is not None and b is not None
    plain = F.linear(x, a, bias_a) * F.linear(x, b, bias_b)
    if c is not None:
        plain = plain + F.linear(x, c, bias_c)
    torch.testing.assert_close(quadratic_linear(x, *factors), plain)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("pre", ["norm", "gelu", "nothing"])
@pytest.mark.parametrize("linear", [depthwise(3, 3), depthwise(3, 5), Pointwise()], ids=["dw3", "dw5", "pointwise"])
def test_derivatives_of_a_lean_layer(linear: LinearMap, pre: str, quadratic: bool, scaled: bool) -> None:
    size = linear.padding[0] * 2 + 1 if isinstance(linear, Convolution) else 1
    x, weight, bias, scale = draws((2, 3, 3, 4), (3,), (3,), (3,))
    factors = six((3, 3 if size == 1 else 1, size, size))[: 6 if quadratic else 2]

    def layer(x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, *factors: Tensor) -> Tensor:
        before = {"norm": Norm(weight, bias, 1e-6), "gelu": Gelu(), "nothing": None}[pre]
        return lean_layer(x, linear, factors, before, scale if scaled else None)

    assert torch.autograd.gradcheck(layer, (x, weight, bias, scale, *factors))


@pytest.mark.parametrize("shape", [(3, 2, 9, 7), (1, 3, 1, 2), (2, 1, 4, 8), (5, 2, 3, 3)])
@pytest.mark.parametrize("size", [5, 7])
def test_depthwise_weight_gradients_as_matrix_products(
    shape: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depthwise_cpu, "ELEMENTS", 700)  # one or a few images at a time
    x, first, second = (t.detach() for t in draws(shape, shape, shape))
    weight = torch.zeros(shape[1], 1, size, size, dtype=torch.float64)
    found = depthwise_cpu.weight_gradients(x, (first, second), size)
    for grad, of_weight in zip((first, second), found, strict=True):
        expected = depthwise(shape[1], size).gradients(grad, x, weight, (False, True, False))[1]
        torch.testing.assert_close(of_weight, expected)


def test_a_second_derivative_is_refused() -> None:
    (x,) = draws((4, 3))
    with pytest.raises(RuntimeError, match=r"no second derivative: build .* with lean=False"):
        torch.autograd.grad(quadratic_linear(x, *six((5, 3))).sum(), x, create_graph=True)
    plain, lean = pair()
    (grad,) = torch.autograd.grad(plain(images()).sum(), plain.get_parameter("stem.conv.weight"), create_graph=True)
    grad.sum().backward()
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(lean(images()).sum(), lean.get_parameter("stem.conv.weight"), create_graph=True)


# What is stored and what is computed


def test_a_quadratic_layer_stores_its_input_only() -> None:
    x, *factors = (t.float() for t in (*draws((2, 8, 6, 6)), *six((8, 1, 3, 3))))
    weights = nn.ParameterList(factors)
    with saved_activations(weights) as storages:
        quadratic_depthwise(x.requires_grad_(), *weights, 1)
    assert list(storages.values()) == [x.untyped_storage().nbytes()]


@pytest.mark.parametrize(
    ("family", "most"), [("quadra", 16), ("linear_dw", 14), ("quadra_fc1", 24), ("quadra_fc12", 26)]
)
def test_a_block_stores_6_activations(family: str, most: int) -> None:
    """One C-unit is an activation of C channels. The released code keeps 18, a block of plain modules 16."""
    x = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    units = {}
    for lean in (False, True):
        model = block(family, 16, lean=lean)
        with saved_activations(model) as storages:
            model(x)
        units[lean] = sum(storages.values()) / x.untyped_storage().nbytes()
    assert units[True] == 6
    assert units[False] == pytest.approx(most, abs=0.3)  # the LayerNorms' statistics


@pytest.mark.parametrize(
    ("family", "units"), [("quadra", 11), ("linear_dw", 9), ("quadra_fc1", 10), ("quadra_fc12", 10)]
)
def test_on_small_maps_a_block_stores_12_activations_at_most(family: str, units: int) -> None:
    x = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    for small, expected in ((x.numel(), 6), (x.numel() + 1, units)):
        model = block(family, 16, small=small)
        with saved_activations(model) as storages:
            model(x)
        assert sum(storages.values()) / x.untyped_storage().nbytes() == pytest.approx(expected, abs=0.3)  # statistics


@pytest.mark.parametrize("size", [3, 5])
def test_in_bfloat16_large_depthwise_kernels_stay_lean(size: int) -> None:
    model, x = block(kernel_size=size, small=2**20), torch.randn(2, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x)
    with Calls() as calls:
        y.float().sum().backward()
    assert calls.count["convolution"] == (2 if size == 5 else 0)  # the factors, again


@pytest.mark.parametrize("small", [0, 2**20])
@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives_of_a_block(family: str, small: int) -> None:
    torch.manual_seed(0)
    model = block(family, width=2, kernel_size=3, small=small).double()
    names, values = zip(*model.named_parameters(), strict=True)
    assert model.runs_lean(torch.zeros(1, 2, 4, 3))

    def value(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))
        return y

    (x,) = draws((1, 2, 4, 3))
    assert torch.autograd.gradcheck(value, (x, *(v.detach().requires_grad_() for v in values)))


@pytest.mark.parametrize("frozen", ["all", "weights", "second branch"])
def test_frozen_parts_cost_no_storage_beyond_the_plain_modules(frozen: str) -> None:
    x = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_(frozen != "all")
    stored = {}
    for lean in (False, True):
        model = block(width=16, lean=lean)
        parts = [model.norm2, model.expand, model.project, model.scale2] if frozen == "second branch" else [model]
        for part in parts:
            part.requires_grad_(False)
        with saved_activations(model) as storages:
            model(x)
        stored[lean] = sum(storages.values())
    assert stored[True] <= stored[False]
    assert (stored[True] == 0) == (frozen == "all")


def backward_calls(wanted: Sequence[int]) -> Counter[str]:
    """The operations of a depthwise neuron's backward if x (0) and the factors (1 to 6) in `wanted` need gradients."""
    drawn = (*draws((1, 2, 4, 4)), *six((2, 1, 3, 3)))
    tensors = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(drawn)]
    y = quadratic_depthwise(*tensors, 1).sum()
    with Calls() as calls:
        y.backward()
    assert [i for i, t in enumerate(tensors) if t.grad is not None] == [*wanted]
    return calls.count


@pytest.mark.parametrize(
    ("wanted", "recomputed", "backward"),
    [((5,), 0, 1), ((5, 6), 0, 1), ((1, 2), 1, 1), ((3,), 1, 1), ((1, 3), 2, 2), ((0,), 2, 3), (range(7), 2, 3)],
)
def test_no_work_for_gradients_that_are_not_needed(wanted: Sequence[int], recomputed: int, backward: int) -> None:
    count = backward_calls(wanted)
    assert (count["convolution"], count["convolution_backward"]) == (recomputed, backward)


def test_a_frozen_layer_below_ends_the_work() -> None:
    """With the first layer and x frozen, the GELU's layer passes nothing on."""
    model = block(kernel_size=3)
    for name in ("norm1", "quad_a", "quad_b", "quad_c", "scale1", "norm2", "expand"):
        model.get_submodule(name).requires_grad_(False)
    y = model(torch.randn(1, 8, 4, 4)).sum()
    with Calls() as calls:
        y.backward()
    assert not {"gelu_backward", "native_layer_norm_backward", "convolution_backward"} & set(calls.count)


def test_the_fused_kernel_is_used_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    ran: list[str] = []

    def usable(x: Tensor, kernel_size: int) -> bool:
        asked.append((*x.shape, kernel_size))
        return True

    def forward(x: Tensor, *factors: Tensor) -> Tensor:
        ran.append("forward")
        a, b, c = (F.conv2d(x, w, v, padding=1, groups=2) for w, v in zip(factors[::2], factors[1::2], strict=True))
        return a * b + c

    def backward(grad: Tensor, x: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        ran.append("backward")
        with torch.enable_grad():
            inputs = [t.detach().requires_grad_() for t in (x, *factors)]
            return torch.autograd.grad(forward(*inputs), inputs, grad)

    monkeypatch.setattr(neuron, "fused", SimpleNamespace(usable=usable, forward=forward, backward=backward))
    (x,) = draws((1, 2, 4, 4))
    factors = six((2, 1, 3, 3))
    assert torch.autograd.gradcheck(lambda *t: quadratic_depthwise(*t, 1), (x, *factors))
    assert {"forward", "backward"} == {*ran} and {*asked} == {(1, 2, 4, 4, 3)}
    ran.clear()
    quadratic_depthwise(x, *factors, 0)  # shrinks the map
    quadratic_conv2d(x, *six((2, 2, 3, 3)), padding=(1, 1))  # dense
    quadratic_conv2d(x, *factors, padding=(1, 1), stride=(2, 2), groups=2)
    assert not ran


# Whole networks


@pytest.mark.parametrize("kernel_size", [3, 7])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("small", [0, 2**20])
def test_values_and_gradients_are_those_of_the_plain_modules(
    family: str, kernel_size: int, last: bool, small: int
) -> None:
    plain, lean = (m.double() for m in pair(family, kernel_size=kernel_size, small=small))
    x = images(dtype=torch.float64)
    if last:
        to_channels_last(plain), to_channels_last(lean)
        x = x.contiguous(memory_format=torch.channels_last)
    one, other = plain(x), lean(x)
    torch.testing.assert_close(other, one)
    expected, found = gradients(plain, one), gradients(lean, other)
    assert found.keys() == expected.keys() == dict(plain.named_parameters()).keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_every_shipped_space_runs_lean_and_renames_nothing() -> None:
    for name in ("quadranet", "quadranet_t", "proxyless"):
        segments = lower(load_space(name).random_architecture(random.Random(0)), 64, 10)
        plain, lean = Network(segments, lean=False), Network(segments)
        assert list(plain.state_dict()) == list(lean.state_dict())
        found = [layer for b in lean.children() if isinstance(b, Block) for layer in b._lean.lean_layers]
        assert bool(found) == name.startswith("quadranet")


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("family", ["quadra", "quadra_fc12"])
def test_gradients_with_some_parameters_frozen(family: str, share: float) -> None:
    plain, lean = (m.double() for m in pair(family))
    rng = random.Random(0)
    for _ in range(4):
        for (name, parameter), other in zip(plain.named_parameters(), lean.parameters(), strict=True):
            train = rng.random() > share or name == "head.classifier.weight"
            parameter.requires_grad_(train), other.requires_grad_(train)
        x = images(dtype=torch.float64)
        expected, found = gradients(plain, plain(x)), gradients(lean, lean(x))
        assert found.keys() == expected.keys()
        for name, grad in found.items():
            torch.testing.assert_close(grad, expected[name], msg=lambda text, name=name: f"{name}: {text}")
        for model in (plain, lean):
            model.zero_grad(set_to_none=True)


def test_drop_path_acts_on_the_same_branches() -> None:
    torch.manual_seed(0)
    segments = lower(architecture(), 24, 5)
    plain, lean = (
        Network(segments, drop_path=0.6, lean=False).double(),
        Network(segments, drop_path=0.6, recompute_from=0).double(),
    )
    lean.load_state_dict(plain.state_dict())
    found = []
    for model in (plain, lean):
        torch.manual_seed(3)
        y = model(images(dtype=torch.float64))
        found.append((y, gradients(model, y)))
    torch.testing.assert_close(found[0], found[1])


def test_layouts_are_kept() -> None:
    for last, (_, model) in itertools.product((False, True), (("", block(kernel_size=5)),)):
        form = torch.channels_last if last else torch.contiguous_format
        x = torch.randn(2, 8, 6, 5).contiguous(memory_format=form).requires_grad_()
        y = model(x)
        y.backward(torch.randn_like(y))
        assert x.grad is not None
        assert y.is_contiguous(memory_format=form) and x.grad.is_contiguous(memory_format=form)


# Autocast


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("backward_within", [False, True])
def test_types_under_autocast_are_those_of_the_plain_modules(family: str, backward_within: bool) -> None:
    plain, lean = pair(family, kernel_size=5)
    outputs: dict[bool, dict[str, torch.dtype]] = {False: {}, True: {}}
    results = []
    for is_lean, model in ((False, plain), (True, lean)):
        for name, b in model.named_children():
            b.register_forward_hook(lambda m, x, y, name=name, k=is_lean: outputs[k].__setitem__(name, y.dtype))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(images())
            found = gradients(model, y) if backward_within else None
        results.append((y, found or gradients(model, y)))
    assert outputs[False] == outputs[True]
    (one, of_plain), (other, of_lean) = results
    assert one.dtype == other.dtype
    exact = gradients(plain, plain(images()))
    for name, grad in of_lean.items():
        assert grad.dtype == torch.float32
        errors = [float((g - exact[name]).norm() / exact[name].norm()) for g in (of_plain[name], grad)]
        assert errors[1] < 2 * errors[0] + 0.01, (name, errors)


def test_functions_under_autocast() -> None:
    x, *factors = (t.detach().float().requires_grad_() for t in (*draws((4, 3)), *six((5, 3))))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = quadratic_linear(x, *factors)
        assert quadratic_linear(x.double(), *[t.double() for t in factors]).dtype == torch.float64
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), quadratic_linear(x, *factors), rtol=0.05, atol=0.05)


def test_in_float16_the_plain_modules_run() -> None:
    """A layer scale of 1e-6 would vanish in float16 weights."""
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    stored = []
    for lean in (False, True):
        model = block(lean=lean)
        with torch.autocast("cpu", dtype=torch.float16), saved_activations(model) as storages:
            model(x)
        stored.append(sum(storages.values()))
    assert stored[0] == stored[1]


# When the plain modules run


@pytest.mark.parametrize("how", ["eval", "no_grad", "hook", "pre-hook", "replaced", "lean=False"])
def test_the_plain_modules_run_where_they_must(how: str) -> None:
    model = block(lean=how != "lean=False")
    seen: list[str] = []
    probe = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    with torch.no_grad():
        if how == "replaced":
            model.quad_a = nn.Sequential(copy.deepcopy(probe))
    if how in ("hook", "lean=False", "eval", "no_grad"):
        handle = model.quad_b.register_forward_hook(lambda m, x, y: seen.append("quad_b"))
    if how == "pre-hook":
        model.quad_b.register_forward_pre_hook(lambda m, x: seen.append("quad_b"))
    x = torch.randn(2, 8, 8, 8)
    with torch.set_grad_enabled(how != "no_grad"), Calls() as calls:
        y = model.train(how != "eval")(x)
    assert calls.count["convolution"] == 5 and calls.count["linear"] + calls.count["addmm"] == 0
    assert (seen == ["quad_b"]) == (how != "replaced")
    if how == "hook":
        handle.remove()
        torch.testing.assert_close(model(x), y, rtol=1e-4, atol=1e-5)
        assert len(seen) == 1


# Patterns


def renamed(nodes: Sequence[Node]) -> list[Node]:
    return [Node(f"n{i}", node.spec, node.inputs, node.residual) for i, node in enumerate(nodes)]


def lean_layers(nodes: Sequence[Node]) -> list[LeanNodes]:
    return [step for _, step in with_lean_layers(nodes) if isinstance(step, LeanNodes)]


@pytest.mark.parametrize(
    ("family", "sizes"), [("quadra", [3, 1, 1]), ("linear_dw", [1, 1, 1]), ("quadra_fc12", [3, 3, 3])]
)
def test_lean_layers_are_found_by_kind_and_connection(family: str, sizes: list[int]) -> None:
    nodes = renamed(lower(architecture(family), 24, 5)[1].nodes)
    found = lean_layers(nodes)
    assert [len(layer.convolutions) for layer in found] == sizes
    assert [layer.pre.spec.kind for layer in found] == [Kind.LAYER_NORM, Kind.LAYER_NORM, Kind.GELU]
    assert [layer.scale is not None for layer in found] == [True, False, True]
    covered = [node for layer in found for node in layer.parts]
    assert len(covered) == len({*covered})


def graphs() -> Iterator[tuple[str, Graph]]:
    g = Graph((4, 8, 8))
    n = g.unary("norm", Kind.LAYER_NORM)
    g.conv("conv", 4, bias=True)
    g.binary("sum", Kind.ADD, g.last, n)
    yield "the norm has another reader", g
    g = Graph((4, 8, 8))
    n = g.unary("norm", Kind.LAYER_NORM)
    a, b = g.dwconv("a", 3, bias=True, x=n), g.dwconv("b", 3, bias=True, x=n)
    c = g.dwconv("c", 5, bias=True, x=n)
    g.binary("sum", Kind.ADD, g.binary("product", Kind.MUL, a, b), c)
    yield "kernels differ", g
    g = Graph((4, 8, 8))
    n = g.unary("norm", Kind.LAYER_NORM)
    a, b, c = (g.dwconv(name, 3, bias=True, x=n) for name in "abc")
    p = g.binary("product", Kind.MUL, a, b)
    s = g.binary("sum", Kind.ADD, p, c)
    g.binary("again", Kind.ADD, s, a)
    yield "a factor has another reader", g
    g = Graph((4, 8, 8))
    g.conv("conv", 4, bias=True)
    g.unary("scale", Kind.SCALE)
    yield "nothing before the convolution", g


@pytest.mark.parametrize(("why", "graph"), list(graphs()))
def test_what_is_no_lean_layer(why: str, graph: Graph) -> None:
    assert lean_layers(graph.nodes) == [], why
    x = torch.randn(2, 4, 8, 8)
    torch.manual_seed(0)
    model = Block(graph.nodes)
    plain = Block(graph.nodes, lean=False)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x), plain(x))


def test_a_sum_in_the_other_order_is_found_too() -> None:
    g = Graph((4, 8, 8))
    n = g.unary("norm", Kind.LAYER_NORM)
    c, b, a = (g.dwconv(name, 3, bias=True, x=n) for name in "cba")
    g.binary("sum", Kind.ADD, c, g.binary("product", Kind.MUL, a, b))
    (layer,) = lean_layers(g.nodes)
    assert [node.name for node in layer.convolutions] == ["a", "b", "c"]
    model, plain = Block(g.nodes), Block(g.nodes, lean=False)
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(model(x), plain(x))


# Compilers and exporters


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("backend", "whole"), [("aot_eager", True), ("inductor", False)])
def test_compiled_training_gives_the_same_gradients(backend: str, whole: bool) -> None:
    """Without a graph break. A compiler may store more than eager lean layers do: it merges what they compute twice."""
    plain, lean = pair(kernel_size=5)
    x = images()
    if not whole:
        plain, lean, x = plain.stage1_block1, lean.stage1_block1, torch.randn(2, 8, 6, 6)
    torch.compiler.reset()
    compiled = torch.compile(lean, backend=backend, fullgraph=True)
    expected, found = gradients(plain, plain(x)), gradients(lean, compiled(x))
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_trained_network_exports(tmp_path: Path) -> None:
    _, network = pair()
    gradients(network, network(images()))
    network.eval()
    file = tmp_path / "network.onnx"
    program = torch.onnx.export(network, (images(1),), dynamo=True, external_data=False, verbose=False)
    assert program is not None
    program.save(str(file))
    own = to_onnx(lower(architecture(), 24, 5), {k: v.numpy() for k, v in network.state_dict().items()})
    for model in (file.read_bytes(), own.SerializeToString()):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {session.get_inputs()[0].name: images(1).numpy()})
        torch.testing.assert_close(torch.from_numpy(y), network(images(1)).detach(), rtol=1e-3, atol=1e-4)
