"""Maps that are linear in their input and in their weight, with their gradients; neurons are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Gradients = tuple[Tensor | None, ...]


class LinearMap(Protocol):
    """Called with (x, weight, bias or None)."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The map's value y."""

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Gradients:
        """Of x, weight and bias under grad = dL/dy; None where not wanted, and no work for it."""


class Convolution(NamedTuple):
    """x: (N, C, H, W); weight: (O, C / groups, k, k); bias: (O,) -> (N, O, H', W'). Zero padding."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution's value, (N, O, H', W')."""
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Gradients:
        """By torch's own backward of convolutions."""
        if not any(wanted):
            return None, None, None
        found: Gradients = torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            [weight.shape[0]] if wanted[2] else None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            (0, 0),
            self.groups,
            wanted,
        )
        return found


def depthwise(channels: int, kernel_size: int) -> Convolution:
    """The depthwise convolution that keeps the map's size."""
    return Convolution(padding=(kernel_size // 2, kernel_size // 2), groups=channels)


class Linear(NamedTuple):
    """x: (..., C); weight: (O, C); bias: (O,) -> (..., O)."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product with the weight, (..., O)."""
        return F.linear(x, weight, bias)

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Gradients:
        """Two matrix products and a sum over rows."""
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            rows.mm(weight).view(x.shape) if wanted[0] else None,
            rows.t().mm(x.reshape(-1, x.shape[-1])) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


class Pointwise(NamedTuple):
    """A 1x1 convolution as a matrix product, which takes channels_last maps as they lie.

    x: (N, C, H, W); weight: (O, C, 1, 1); bias: (O,) -> (N, O, H, W), channels_last.
    """

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution's value, (N, O, H, W)."""
        return last_to_second(F.linear(second_to_last(x), weight.flatten(1), bias))

    def gradients(self, grad: Tensor, x: Tensor, weight: Tensor, wanted: Sequence[bool]) -> Gradients:
        """Those of `Linear` on the same memory."""
        found = Linear().gradients(second_to_last(grad), second_to_last(x), weight.flatten(1), wanted)
        of_x, of_weight, of_bias = found
        return (
            None if of_x is None else last_to_second(of_x),
            None if of_weight is None else of_weight.view_as(weight),
            of_bias,
        )


def second_to_last(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C), a view."""
    return x.permute(0, 2, 3, 1)


def last_to_second(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W), a view."""
    return x.permute(0, 3, 1, 2)
