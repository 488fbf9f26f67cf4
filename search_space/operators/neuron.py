"""A neuron's value and gradients as plain functions: linear W x + w, or quadratic (A x + a)(B x + b) + C x + c.

With G = dL/dy the gradients of A are those of a linear map under G * (B x + b), of B under G * (A x + a) and of C
under G, so that both factors can be computed again in backward (arXiv 2311.17956; QuadraLib, arXiv 2204.01701).
`lean` makes a function of them for autograd.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from search_space.operators import depthwise_cpu, fused
from search_space.operators.linear_maps import LinearMap, depthwise

Factors = Sequence[Tensor | None]


def value(linear: LinearMap, x: Tensor, factors: Factors) -> Tensor:
    """factors: (W, w) of a linear neuron; (A, a, B, b, C, c) of a quadratic one, C None for no linear part."""
    if len(factors) == 2:
        return linear(x, _tensor(factors[0]), factors[1])
    weight_a, bias_a, weight_b, bias_b, weight_c, bias_c = factors
    if _is_depthwise(linear, x, factors) and fused.usable(x, _kernel_size(factors)):
        return fused.forward(x, _tensor(weight_a), bias_a, _tensor(weight_b), bias_b, _tensor(weight_c), bias_c)
    a = linear(x, _tensor(weight_a), bias_a)
    b = linear(x, _tensor(weight_b), bias_b)
    return a.mul_(b) if weight_c is None else linear(x, weight_c, bias_c).addcmul_(a, b)


def gradients(
    linear: LinearMap, grad: Tensor, x: Tensor, factors: Factors, wanted: Sequence[bool]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Of x, and of every factor, under grad = dL/dy; None where not wanted, and no work for it.

    wanted: one flag for x, then one for every factor.
    """
    if len(factors) == 2:
        of_x, *of_factors = linear.gradients(grad, x, _tensor(factors[0]), wanted)
        return of_x, of_factors
    by_kernels = all(wanted) and _is_depthwise(linear, x, factors)
    if by_kernels and fused.usable(x, _kernel_size(factors)):
        of_x, *of_factors = fused.backward(grad, x, *factors)  # type: ignore[arg-type]
        return of_x, of_factors
    weights_at_once = by_kernels and depthwise_cpu.usable(x, _kernel_size(factors))
    of_x, of_factors, unders = None, [], []
    for i, other in ((0, 2), (2, 0), (4, None)):
        weight, asked = factors[i], (wanted[0], *wanted[1 + i : 3 + i])
        if weight is None or not any(asked):
            of_factors += [None, None]
            continue
        under = grad if other is None else linear(x, _tensor(factors[other]), factors[other + 1]).mul_(grad)
        if weights_at_once:
            unders.append(under)
            asked = (True, False, False)
        part, *of_weight = linear.gradients(under, x, weight, asked)
        of_factors += of_weight
        of_x = part if of_x is None or part is None else of_x.add_(part)
    if weights_at_once:
        of_factors[0::2] = depthwise_cpu.weight_gradients(x, unders, _kernel_size(factors))
        of_factors[1::2] = [under.sum((0, 2, 3)) for under in unders]
    return of_x, of_factors


def _is_depthwise(linear: LinearMap, x: Tensor, factors: Factors) -> bool:
    """Whether the kernels for QuadraNet's neuron apply; not while compiling, which fuses for itself."""
    if torch.compiler.is_compiling() or x.ndim != 4 or any(t is None for t in factors):
        return False
    size, channels = _kernel_size(factors), x.shape[1]
    return linear == depthwise(channels, size) and _tensor(factors[0]).shape == (channels, 1, size, size)


def _kernel_size(factors: Factors) -> int:
    return _tensor(factors[0]).shape[-1]


def _tensor(weight: Tensor | None) -> Tensor:
    assert weight is not None
    return weight
