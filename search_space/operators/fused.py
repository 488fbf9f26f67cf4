"""The quadratic depthwise neuron y = (A * x + ba)(B * x + bb) + C * x + bc as one GPU kernel, and its gradients.

A, B, C are depthwise k x k windows of stride 1 that keep the map's size. Three convolutions and two element-wise
steps would pass over the map about a dozen times; forward here reads x once and writes y once. Backward needs the
output's gradient G, x and the weights only: one kernel writes G b and G a (the factors a, b are computed again), one
reads them and writes dx, one sums the weights' gradients, each in float32 in a fixed order. Storage may be float32,
bfloat16 or float16, NCHW or channels_last. Kernels are compiled once per map's size, kept on disk.

Floors, for E = N C H W elements of s bytes: forward moves 2 s E bytes and does 3 k^2 E multiply-adds; backward cannot
move less than 3 s E, moves 12 s E here, and does 8 k^2 E. At k = 7 the multiply-adds are the larger time on an A100
or H200. Functions only, not for autograd: `quadratic` wraps them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

KERNEL_SIZES = (3, 5, 7)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST_CAPABILITY = (8, 0)  # triton's
PADDING = 64  # packed weights hold a multiple of so many channels: no tile reads behind their end
STRIP = 14  # of the weights' gradients: rows of a strip at most
PROGRAMS = 528  # of them about: twice two per multiprocessor of an H200; fixed, so that sums are equal everywhere
SPLITS = 32  # partial sums that are added at once

Sizes = dict[str, int]

Gradients = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None, Tensor, Tensor | None]


@functools.cache
def _kernels() -> ModuleType | None:
    try:
        from search_space.operators import fused_kernels
    except (ImportError, AttributeError):  # no triton, or too old a one
        return None
    return fused_kernels


@functools.cache
def _capable(device: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= SMALLEST_CAPABILITY


def usable(x: Tensor, kernel_size: int) -> bool:
    """Whether `forward` and `backward` take x: (N, C, H, W) with windows of this size.

    They need triton and an NVIDIA GPU (or triton's interpreter, TRITON_INTERPRET=1, for tests), k = 3, 5 or 7, and
    32-bit offsets inside an image.
    """
    if not (x.is_cuda and _capable(x.get_device())) and (x.is_cuda or os.environ.get("TRITON_INTERPRET") != "1"):
        return False  # the first question, since CPUs ask it in every call
    if kernel_size not in KERNEL_SIZES or x.dtype not in DTYPES or x.ndim != 4 or x.numel() == 0:
        return False
    if max(2 * x[0].numel(), 2 * x.shape[0] * x.shape[3]) >= 2**31:
        return False
    kernels = _kernels()
    return kernels is not None and (x.is_cuda or bool(kernels.INTERPRETED))


def forward(
    x: Tensor,
    weight_a: Tensor,
    bias_a: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
    weight_c: Tensor,
    bias_c: Tensor | None,
) -> Tensor:
    """x: (N, C, H, W); weights: (C, 1, k, k); biases: (C,) -> (N, C, H, W) in x's type and layout.

    ValueError for what `usable` refuses and for other shapes.
    """
    factors = (weight_a, bias_a, weight_b, bias_b, weight_c, bias_c)
    kernels = _checked(x, factors)
    with _on(x):
        x, sizes = _laid_out(x, weight_a.shape[-1])
        y = torch.empty_like(x)
        _launch_value(kernels, x, x, _packed(kernels, factors, sizes), y, y, sizes, products=False)
    return y


def backward(
    grad: Tensor,
    x: Tensor,
    weight_a: Tensor,
    bias_a: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
    weight_c: Tensor,
    bias_c: Tensor | None,
) -> Gradients:
    """Gradients of x and of all six factors, None for None.

    grad = dL/dy, x: (N, C, H, W); weights: (C, 1, k, k); biases: (C,). Two maps like x are held meanwhile.
    ValueError for what `usable` refuses and for other shapes.
    """
    factors = (weight_a, bias_a, weight_b, bias_b, weight_c, bias_c)
    kernels = _checked(x, factors)
    if grad.shape != x.shape or grad.device != x.device:
        raise ValueError(f"grad {tuple(grad.shape)} on {grad.device} is not like x {tuple(x.shape)} on {x.device}")
    with _on(x):
        x, sizes = _laid_out(x, weight_a.shape[-1])
        memory_format = torch.channels_last if sizes["LAST"] else torch.contiguous_format
        grad = grad.to(x.dtype).contiguous(memory_format=memory_format)
        packed = _packed(kernels, factors, sizes)
        grad_b, grad_a, of_x = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
        _launch_value(kernels, x, grad, packed, grad_b, grad_a, sizes, products=True)
        kernels.input_gradient_kernel[_programs(kernels, x, sizes)](
            grad_b, grad_a, grad, packed, of_x, len(x), **sizes, enable_fp_fusion=True
        )
        weights, biases = _weight_gradients(kernels, x, grad_b, grad_a, grad, weight_a.dtype, sizes)
    of_weights = [w.to(factor.dtype) for w, factor in zip(weights, (weight_a, weight_b, weight_c), strict=True)]
    of_biases = [
        None if factor is None else b.to(factor.dtype)
        for b, factor in zip(biases, (bias_a, bias_b, bias_c), strict=True)
    ]
    return of_x, of_weights[0], of_biases[0], of_weights[1], of_biases[1], of_weights[2], of_biases[2]


def _checked(x: Tensor, factors: Sequence[Tensor | None]) -> ModuleType:
    """The kernels, if they can take these tensors."""
    weight = factors[0]
    assert weight is not None
    kernels = _kernels()
    if kernels is None or weight.ndim != 4 or not usable(x, weight.shape[-1]):
        raise ValueError(
            f"the fused neuron takes (N, C, H, W) of {', '.join(map(str, DTYPES))} with k in {KERNEL_SIZES}, and needs "
            f"triton and an NVIDIA GPU, not x {tuple(x.shape)} of {x.dtype} on {x.device} with weights "
            f"{tuple(weight.shape)}; ask usable() first"
        )
    channels, size = x.shape[1], weight.shape[-1]
    for i, factor in enumerate(factors):
        expected = (channels,) if i % 2 else (channels, 1, size, size)
        if factor is not None and (factor.shape != expected or factor.device != x.device):
            raise ValueError(
                f"{'bias' if i % 2 else 'weight'} {'abc'[i // 2]} is {tuple(factor.shape)} on {factor.device}; "
                f"expected {expected} on {x.device}"
            )
    return kernels


def _on(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, which may be another one than x's."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _laid_out(x: Tensor, kernel_size: int) -> tuple[Tensor, Sizes]:
    """Input x in one of the two layouts, and what the kernels are compiled for."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    channels, height, width = x.shape[1:]
    padded = _parts(channels, PADDING) * PADDING
    sizes: Sizes = {"C": channels, "H": height, "W": width, "K": kernel_size, "PADDED": padded, "LAST": last}
    return x if last else x.contiguous(), sizes


def _parts(whole: int, part: int) -> int:
    return -(-whole // part)


def _packed(kernels: ModuleType, factors: Sequence[Tensor | None], sizes: Sizes) -> Tensor:
    """Weights and biases as the kernels read them: (k dx * k dy + 1, 3, PADDED) float32."""
    weights = [w.contiguous() for w in factors[0::2] if w is not None]
    biases = [b if b is None else b.contiguous() for b in factors[1::2]]
    taps, padded = sizes["K"] ** 2 + 1, sizes["PADDED"]
    packed = torch.empty(taps, 3, padded, dtype=torch.float32, device=weights[0].device)
    kernels.pack_kernel[(taps, padded // PADDING)](
        *weights, *biases, packed, C=sizes["C"], K=sizes["K"], PADDED=padded, BLOCK=PADDING, num_warps=2
    )
    return packed


def _programs(kernels: ModuleType, x: Tensor, sizes: Sizes) -> Callable[[dict[str, Any]], tuple[int]]:
    """The number of programs under a kernel's configuration."""
    batch, channels, height, width = x.shape

    def programs(meta: dict[str, Any]) -> tuple[int]:
        wide, block = kernels.tile_of(channels, sizes["LAST"], meta["VECTOR"])
        strips = _parts(height, kernels.rows_of(height, meta["STRIP"]))
        groups = batch * _parts(width, meta["COLUMNS"])
        return (_parts(channels, block) * strips * _parts(groups, wide),)

    return programs


def _launch_value(
    kernels: ModuleType,
    x: Tensor,
    grad: Tensor,
    packed: Tensor,
    first_out: Tensor,
    second_out: Tensor,
    sizes: Sizes,
    products: bool,
) -> None:
    kernels.value_kernel[_programs(kernels, x, sizes)](
        x, grad, packed, first_out, second_out, len(x), **sizes, PRODUCTS=products, enable_fp_fusion=True
    )


def _weight_gradients(
    kernels: ModuleType, x: Tensor, grad_b: Tensor, grad_a: Tensor, grad: Tensor, dtype: torch.dtype, sizes: Sizes
) -> tuple[Tensor, Tensor]:
    """(3, C, 1, k, k) and (3, C)."""
    batch, channels, height, width = x.shape
    size, padded, last = sizes["K"], sizes["PADDED"], sizes["LAST"]
    taps = 1 << size.bit_length()
    strips = _parts(height, kernels.rows_of(height, STRIP))
    columns = batch * width
    lanes = 64 if last and x.itemsize == 2 and channels % 64 == 0 else 32  # two 16-bit words are loaded as one
    blocks, steps = (_parts(channels, lanes), columns * strips) if last else (channels, _parts(columns, lanes) * strips)
    steps_each = _parts(steps, max(1, min(steps, PROGRAMS // blocks)))
    splits = _parts(steps, steps_each)
    partial = torch.empty(splits, 3, size, taps, padded, dtype=torch.float32, device=x.device)
    kernels.weight_gradient_kernel[(blocks, splits)](
        x,
        grad_b,
        grad_a,
        grad,
        partial,
        columns,
        steps,
        steps_each,
        **sizes,
        STRIP=STRIP,
        TAPS=taps,
        LANES=lanes,
        num_warps=taps,
        enable_fp_fusion=True,
    )
    weights = torch.empty(3, channels, 1, size, size, dtype=dtype, device=x.device)
    biases = torch.empty(3, channels, dtype=dtype, device=x.device)
    kernels.finish_kernel[(3 * size * (size + 1), _parts(channels, 32))](
        partial, weights, biases, splits, C=channels, K=size, PADDED=padded, TAPS=taps, SPLITS=SPLITS, BLOCK=32
    )
    return weights, biases
