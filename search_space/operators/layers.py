"""Quadratic layers with weights: QuadraLib's neuron forms (arXiv 2204.01701) in one linear and one convolution layer.

| form | value | weights of a neuron with n inputs |
|---|---|---|
| t1 | x^T W x | n^2 |
| t1+linear | x^T W x + C x | n^2 + n |
| t2 | A x^2 | n |
| t3 | (A x)^2 | n |
| t4 | (A x)(B x) | 2n |
| t1&2 | x^T W x + C x^2 | n^2 + n |
| t2&4 | (A x)(B x) + C x^2 | 3n |
| ours | (A x)(B x) + C x, QuadraNet's | 3n |

Squares and products are element-wise; every map A, B, C has a bias of its own, t1 one. The forms with A x * B x
store their input only while training (`quadratic`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_space.errors import UserError
from search_space.operators.lean import is_plain, lean_layer
from search_space.operators.linear_maps import Convolution, Linear, LinearMap

Size = int | tuple[int, int]
MAX_FULL_INPUTS = 256  # of a neuron with n^2 weights


class Form(StrEnum):
    """What a neuron computes; see the table above."""

    T1 = "t1"
    T1_LINEAR = "t1+linear"
    T2 = "t2"
    T3 = "t3"
    T4 = "t4"
    T1_2 = "t1&2"
    T2_4 = "t2&4"
    OURS = "ours"


FULL = frozenset({Form.T1, Form.T1_LINEAR, Form.T1_2})
MAPS = {
    Form.T1: "",
    Form.T1_LINEAR: "c",
    Form.T2: "a",
    Form.T3: "a",
    Form.T4: "ab",
    Form.T1_2: "c",
    Form.T2_4: "abc",
    Form.OURS: "abc",
}


def form_of(name: str) -> Form:
    """Raises `UserError`."""
    if name not in [*Form]:
        raise UserError(f"unknown neuron form '{name}'; known: {', '.join(Form)}")
    return Form(name)


class FullQuadratic(nn.Module):
    """x^T W x (+ bias): every pair of inputs has a weight."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        """Raises `UserError` above `MAX_FULL_INPUTS` inputs."""
        super().__init__()
        if in_features > MAX_FULL_INPUTS:
            raise UserError(
                f"a full quadratic form of {in_features} inputs has {in_features**2} weights per neuron; "
                f"the limit is {MAX_FULL_INPUTS} inputs, forms without t1 have none"
            )
        self.weight = nn.Parameter(torch.empty(out_features, in_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        nn.init.uniform_(self.weight, -1 / in_features, 1 / in_features)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C) -> (..., O)."""
        out_features, in_features, _ = self.weight.shape
        mapped = F.linear(x, self.weight.flatten(0, 1)).view(*x.shape[:-1], out_features, in_features)
        y: Tensor = (mapped * x.unsqueeze(-2)).sum(-1)
        return y if self.bias is None else y + self.bias


class QuadraticLinear(nn.Module):
    """A fully connected layer of quadratic neurons; submodules `full`, `a`, `b`, `c`, as its form has them."""

    full: FullQuadratic
    a: nn.Linear
    b: nn.Linear
    c: nn.Linear

    def __init__(
        self, in_features: int, out_features: int, form: str = "ours", bias: bool = True, lean: bool = True
    ) -> None:
        """`lean`: store x only while training, which has no second derivative. Raises `UserError`."""
        super().__init__()
        self.form, self.lean = form_of(form), lean
        if self.form in FULL:
            self.full = FullQuadratic(in_features, out_features, bias and self.form is Form.T1)
        for name in MAPS[self.form]:
            self.add_module(name, nn.Linear(in_features, out_features, bias))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C) -> (..., O)."""
        if self.form not in FULL:
            return _factored(self, x)
        y: Tensor = self.full(x)
        if self.form is Form.T1:
            return y
        linear: Tensor = self.c(x if self.form is Form.T1_LINEAR else x.square())
        return y + linear


class QuadraticConv2d(nn.Module):
    """A convolution of quadratic neurons, dense or depthwise (`groups`); submodules as `QuadraticLinear`."""

    a: nn.Conv2d
    b: nn.Conv2d
    c: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        form: str = "ours",
        lean: bool = True,
    ) -> None:
        """As nn.Conv2d; `lean`: see `QuadraticLinear`. Raises `UserError`, for the forms with t1 too."""
        super().__init__()
        self.form, self.lean = form_of(form), lean
        if self.form in FULL:
            raise UserError(f"form '{self.form}' has n^2 weights per neuron: it is for linear layers, not convolutions")
        for name in MAPS[self.form]:
            convolution = nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
            )
            self.add_module(name, convolution)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) -> (N, O, H', W')."""
        return _factored(self, x)


def _factored(layer: QuadraticLinear | QuadraticConv2d, x: Tensor) -> Tensor:
    """The forms without n^2 weights."""
    y: Tensor
    match layer.form:
        case Form.T2:
            y = layer.a(x.square())
        case Form.T3:
            y = layer.a(x).square()
        case Form.T4:
            y = _product(layer, x, [layer.a, layer.b])
        case Form.T2_4:
            y = _product(layer, x, [layer.a, layer.b]) + layer.c(x.square())
        case _:
            y = _product(layer, x, [layer.a, layer.b, layer.c])
    return y


def _product(layer: QuadraticLinear | QuadraticConv2d, x: Tensor, maps: Sequence[nn.Linear | nn.Conv2d]) -> Tensor:
    """a(x) * b(x), plus c(x) if there is a third map."""
    if layer.lean and layer.training and torch.is_grad_enabled():
        linear = _linear_map(maps[0], x)
        if linear is not None and all(is_plain(m, nn.Linear, nn.Conv2d) for m in maps):
            factors = [t for m in maps for t in (m.weight, m.bias)] + [None] * (6 - 2 * len(maps))
            return lean_layer(x, linear, factors)
    y: Tensor = maps[0](x) * maps[1](x)
    return y + maps[2](x) if len(maps) == 3 else y


def _linear_map(layer: nn.Linear | nn.Conv2d, x: Tensor) -> LinearMap | None:
    """The same map as a function; None for paddings that `Convolution` has not, and for a single image."""
    if isinstance(layer, nn.Linear):
        return Linear()
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str) or x.ndim != 4:
        return None
    return Convolution(layer.stride, layer.padding, layer.dilation, layer.groups)
