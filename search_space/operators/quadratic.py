"""Quadratic layers y = (A x + a)(B x + b) + C x + c whose training stores x only (QuadraLib's hybrid backward).

Plain autograd would keep x, A x + a and B x + b; these keep x and compute the two factors again in backward
(arXiv 2311.17956; arXiv 2204.01701). Functions only: the layers with weights are in `layers`. Biases may be None.
"""

from __future__ import annotations

from torch import Tensor

from search_space.operators.lean import lean_layer
from search_space.operators.linear_maps import Convolution, Linear

Pair = tuple[int, int]


def quadratic_depthwise(
    x: Tensor,
    weight_a: Tensor,
    bias_a: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
    weight_c: Tensor,
    bias_c: Tensor | None,
    padding: int,
) -> Tensor:
    """QuadraNet's neuron. x: (N, C, H, W); weights: (C, 1, k, k); biases: (C,) -> (N, C, H', W')."""
    convolution = Convolution(padding=(padding, padding), groups=x.shape[1])
    return lean_layer(x, convolution, (weight_a, bias_a, weight_b, bias_b, weight_c, bias_c))


def quadratic_conv2d(
    x: Tensor,
    weight_a: Tensor,
    bias_a: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
    weight_c: Tensor | None = None,
    bias_c: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Tensor:
    """x: (N, C, H, W); weights: (O, C / groups, k, k); biases: (O,) -> (N, O, H', W'). C is optional."""
    convolution = Convolution(stride, padding, dilation, groups)
    return lean_layer(x, convolution, (weight_a, bias_a, weight_b, bias_b, weight_c, bias_c))


def quadratic_linear(
    x: Tensor,
    weight_a: Tensor,
    bias_a: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
    weight_c: Tensor | None = None,
    bias_c: Tensor | None = None,
) -> Tensor:
    """x: (..., C); weights: (O, C); biases: (O,) -> (..., O). C is optional."""
    return lean_layer(x, Linear(), (weight_a, bias_a, weight_b, bias_b, weight_c, bias_c))
