"""y = scale * neuron(pre(x)) as one function whose training stores x only; pre is nothing, LayerNorm or GELU.

What plain autograd would keep beside x (the LayerNorm's or GELU's output, both factors of a quadratic neuron, the
value before the layer scale) is computed again in backward, or not needed: the scale is folded into the weights,
so that its gradient passes through tensors of their size. QuadraNet's block (arXiv 2311.17956) is three such layers
and keeps 6 activations of C channels at expansion ratio 4: its input, that of its second branch, and the 4 before the
GELU. First derivatives alone, but for `plain_layer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_space.operators import neuron
from search_space.operators.linear_maps import Gradients, LinearMap, last_to_second, second_to_last

UNSCALED = (2, 3)  # s * (a * b + c) is (s * a) * b + s * c: the second factor keeps its weight and bias


class Norm(NamedTuple):
    """LayerNorm over channels; weight, bias: (C,)."""

    weight: Tensor
    bias: Tensor
    eps: float


class Gelu(NamedTuple):
    """The exact GELU."""


def lean_layer(
    x: Tensor,
    linear: LinearMap,
    factors: Sequence[Tensor | None],
    pre: Norm | Gelu | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """x: what `linear` takes, (N, C, H, W) with a norm or scale; factors: see `neuron.value`; scale: (O,).

    channels_last stays so. Under autocast types are those of the plain modules; in float16 small scales vanish in
    the weights. Gradients that are not needed cost nothing.
    """
    weight, bias, eps = pre if isinstance(pre, Norm) else (None, None, 0.0)
    plan = _Plan(linear, isinstance(pre, Gelu), eps, autocast_dtype(x))
    y: Tensor = _LeanLayer.apply(plan, x, weight, bias, scale, *factors)  # type: ignore[no-untyped-call]
    return y


def plain_layer(
    x: Tensor, linear: LinearMap, factors: Sequence[Tensor | None], norm: Norm, scale: Tensor | None = None
) -> Tensor:
    """What `lean_layer` gives, in the steps of the plain modules, which store more and have no fixed cost."""
    inner = last_to_second(F.layer_norm(second_to_last(x), norm.weight.shape, norm.weight, norm.bias, norm.eps))
    a, *bc = (
        linear(inner, weight, factors[i + 1]) for i, weight in enumerate(factors) if not i % 2 and weight is not None
    )
    y = a if not bc else a * bc[0] if len(bc) == 1 else bc[1].addcmul_(a, bc[0])
    return y if scale is None else y * scale.view(-1, 1, 1)


class _Plan(NamedTuple):
    linear: LinearMap
    gelu: bool
    eps: float  # of the norm
    dtype: torch.dtype | None  # autocast's

    def ready(self, factors: Sequence[Tensor | None], scale: Tensor | None) -> list[Tensor | None]:
        """The factors that are computed with: scaled, in autocast's type."""
        if scale is not None:
            factors = [t if t is None or i in UNSCALED else t * _beside(scale, t) for i, t in enumerate(factors)]
        return [None if t is None else cast(t, self.dtype) for t in factors]


class _LeanLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: _Plan,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        scale: Tensor | None,
        *factors: Tensor | None,
    ) -> Tensor:
        """weight, bias: the norm's."""
        inner = F.gelu(x) if plan.gelu else x
        if weight is not None:
            inner = last_to_second(F.layer_norm(second_to_last(x), weight.shape, weight, bias, plan.eps))
        ctx.plan, ctx.inner_dtype = plan, inner.dtype
        ctx.save_for_backward(x, weight, bias, scale, *factors)
        y = neuron.value(plan.linear, cast(inner, plan.dtype), plan.ready(factors, scale))
        return y if scale is None else _to(y, torch.promote_types(y.dtype, scale.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a layer that stores its input only has no second derivative: build the network or layer with "
                "lean=False, or call backward without create_graph"
            )
        plan: _Plan = ctx.plan
        x, weight, bias, scale, *factors = ctx.saved_tensors
        of_pre, of_scale, of_factors = ctx.needs_input_grad[1:4], ctx.needs_input_grad[4], ctx.needs_input_grad[5:]
        wanted = [w or (of_scale and i not in UNSCALED) for i, w in enumerate(of_factors)]
        found_pre: Gradients = (None, None, None)
        with nullcontext() if autocast_dtype(x) is None else torch.autocast(x.device.type, enabled=False):
            inner = x = _to(x, ctx.inner_dtype)
            if plan.gelu:
                inner = F.gelu(x)
            elif weight is not None:
                last = second_to_last(x).contiguous()
                inner, mean, rstd = torch.native_layer_norm(last, weight.shape, weight, bias, plan.eps)
                inner = last_to_second(inner)
            inner = cast(inner, plan.dtype)
            grad, found = neuron.gradients(
                plan.linear, _like(grads[0], inner), inner, plan.ready(factors, scale), (any(of_pre), *wanted)
            )
            found_scale, found = _unscaled(found, factors, scale, of_scale)
            if grad is not None:
                grad = _to(grad, x.dtype)
                if plan.gelu:
                    grad = torch.ops.aten.gelu_backward(grad, x)
                found_pre = grad, None, None
                if weight is not None:
                    of_last, *of_norm = torch.ops.aten.native_layer_norm_backward(
                        second_to_last(grad), last, weight.shape, mean, rstd, weight, bias, of_pre
                    )
                    found_pre = None if of_last is None else last_to_second(of_last), *of_norm
        return None, *found_pre, found_scale, *found


def _unscaled(
    found: list[Tensor | None], factors: Sequence[Tensor | None], scale: Tensor | None, wanted: bool
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of the scale and of the factors, from those of the scaled factors, which it overwrites."""
    if scale is None:
        return None, found
    of_scale: Tensor | None = None
    of_factors: list[Tensor | None] = []
    for i, (grad, factor) in enumerate(zip(found, factors, strict=True)):
        if grad is not None and factor is not None and i not in UNSCALED:
            grad = _to(grad, factor.dtype)
            if wanted:
                part = grad * factor if grad.ndim == 1 else torch.linalg.vecdot(grad.flatten(1), factor.flatten(1))
                of_scale = part if of_scale is None else of_scale.add_(part)
            grad.mul_(_beside(scale, grad))
        of_factors.append(grad)
    return of_scale, of_factors


def _beside(scale: Tensor, weight: Tensor) -> Tensor:
    """Layer scale (O,) shaped to multiply a weight (O, ...)."""
    return scale if weight.ndim == 1 else scale.view(-1, *[1] * (weight.ndim - 1))


def _like(grad: Tensor, values: Tensor) -> Tensor:
    """A gradient in the type and memory format of the values it stands beside."""
    last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return _to(grad, values.dtype).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The type that autocast asks for on x's device, None outside of it."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if on else None


def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """As autocast does before a convolution: float64 is left alone."""
    return tensor if dtype is None or tensor.dtype is torch.float64 else _to(tensor, dtype)


def _to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Tensor.to(dtype), without the microseconds of a call where nothing changes."""
    return tensor if tensor.dtype is dtype else tensor.to(dtype)


def is_plain(module: nn.Module | None, *types: type[nn.Module]) -> bool:
    """Whether calling a module does what its type does and nothing else, so that its tensors say it all."""
    if module is None or type(module) not in types:
        return False
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return not any(hooks) and "forward" not in vars(module)
