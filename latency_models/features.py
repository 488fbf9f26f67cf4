"""What a kernel's time is linear in: named features of a fused kernel, in millions.

A coefficient on such a feature is ms per million, which is ns per one. All features are >= 0 and
never fall when a kernel gets larger (but where one says so), so that predicted times do not. Not for coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil, log

from device_profiles import Kernel, KindModel, Lanes
from latency_models.gpu_blocks import Block, Product, winograd_macs
from latency_models.neural_engine import LARGEST_POOL, EngineConv
from search_space.layer import WEIGHTED, Kind

MILLION = 1e6


def _launch(kernel: Kernel, lanes: Lanes) -> float:
    return 1.0


def _macs(kernel: Kernel, lanes: Lanes) -> float:
    return kernel.spec.macs / MILLION


def _padded_macs(kernel: Kernel, lanes: Lanes) -> float:
    """MACs the engine spends: channels and output pixels rounded up to its lanes."""
    s = kernel.spec
    inputs = 1 if s.kind is Kind.DWCONV else _up(s.in_channels, lanes.in_channels)
    outputs = _up(s.out_channels, lanes.out_channels)
    pixels = _up(s.out_height, lanes.height) * _up(s.out_width, lanes.width)
    return s.kernel_size**2 * inputs * outputs * pixels / MILLION


def _input_elements(kernel: Kernel, lanes: Lanes) -> float:
    """Elements read, those of tensors that merged additions and products read included."""
    return (kernel.spec.in_elements + (kernel.inputs - 1) * kernel.spec.out_elements) / MILLION


def _output_elements(kernel: Kernel, lanes: Lanes) -> float:
    return kernel.spec.out_elements / MILLION


def _weights(kernel: Kernel, lanes: Lanes) -> float:
    return kernel.spec.weights / MILLION if kernel.spec.kind in WEIGHTED else 0.0


def _im2col_elements(kernel: Kernel, lanes: Lanes) -> float:
    """Elements of the patch matrix that a windowed convolution is unrolled into."""
    s = kernel.spec
    return s.kernel_size**2 * s.in_channels * s.out_height * s.out_width / MILLION


def _window_line_elements(kernel: Kernel, lanes: Lanes) -> float:
    """Outputs times window lines: vector cores walk a depthwise window line by line."""
    return kernel.spec.kernel_size * kernel.spec.out_elements / MILLION


def _further_line_inputs(kernel: Kernel, lanes: Lanes) -> float:
    """Inputs times the window's lines beyond the first: a core that walks a window at stride 1 and then thins out."""
    return (kernel.spec.kernel_size - 1) * kernel.spec.in_elements / MILLION


def _wide_pool_elements(kernel: Kernel, lanes: Lanes) -> float:
    """Inputs of a global pool whose window is too large for the Myriad's neural engine; 0 for any other kernel."""
    s = kernel.spec
    wide = s.kind is Kind.GLOBAL_POOL and max(s.height, s.width) > LARGEST_POOL
    return s.in_elements / MILLION if wide else 0.0


def _gemm_macs(kernel: Kernel, lanes: Lanes) -> float:
    """MACs of a convolution run as one matrix product.

    Output channels, and output pixels in one run, are rounded up to the block that the inner loop computes. 0 for a
    single pixel: a matrix-vector product waits for its weights.
    """
    s = kernel.spec
    pixels = s.out_height * s.out_width
    if s.kind is not Kind.CONV or pixels == 1:
        return 0.0
    columns, outputs = _up(pixels, lanes.height * lanes.width), _up(s.out_channels, lanes.out_channels)
    return s.kernel_size**2 * s.in_channels * outputs * columns / MILLION


def _engine_cycles(kernel: Kernel, lanes: Lanes) -> float:
    """Clock cycles of the Myriad's neural engine."""
    return _engine_conv(kernel).cycles / MILLION


def _striped_elements(kernel: Kernel, lanes: Lanes) -> float:
    """Elements that the Myriad's neural engine reads again since the input's lines do not fit its memory.

    Unlike the other features it may fall where a kernel grows and its channels are split instead.
    """
    return _engine_conv(kernel).striped_elements / MILLION


def _engine_conv(kernel: Kernel) -> EngineConv:
    s = kernel.spec
    return EngineConv(
        s.in_channels,
        s.out_channels,
        s.height,
        s.width,
        s.out_height,
        s.out_width,
        s.kernel_size,
        s.kernel_size,
        s.stride,
    )


def _padded_product_macs(kernel: Kernel, lanes: Lanes) -> float:
    """MACs of a GPU's smallest blocks of the matrix product."""
    return Product.of(kernel).padded_macs / MILLION


def _wave_macs(kernel: Kernel, lanes: Lanes) -> float:
    """MACs that a GPU has time for in whole waves of blocks of 128x128."""
    return Product.of(kernel).wave_macs((128, 128)) / MILLION


def _winograd_macs(kernel: Kernel, lanes: Lanes) -> float:
    """Multiplications of a GPU's 3x3 convolution. Of a tensor that is not square it may fall where the width grows."""
    return winograd_macs(kernel) / MILLION


def _depth(kernel: Kernel, lanes: Lanes) -> float:
    """Products summed up in one output: what a single block of a GPU takes its time for."""
    return Product.of(kernel).depth / MILLION


def _merged(kind: Kind) -> Callable[[Kernel, Lanes], float]:
    """Output elements, once for every layer of a kind that merged into the kernel."""
    return lambda kernel, lanes: kernel.fused.count(kind) * kernel.spec.out_elements / MILLION


def _up(size: int, lanes: int) -> int:
    return ceil(size / lanes) * lanes


FEATURES: Mapping[str, Callable[[Kernel, Lanes], float]] = {
    "launch": _launch,
    "macs": _macs,
    "padded_macs": _padded_macs,
    "input_elements": _input_elements,
    "output_elements": _output_elements,
    "weights": _weights,
    "im2col_elements": _im2col_elements,
    "window_line_elements": _window_line_elements,
    "further_line_inputs": _further_line_inputs,
    "wide_pool_elements": _wide_pool_elements,
    "gemm_macs": _gemm_macs,
    "engine_cycles": _engine_cycles,
    "striped_elements": _striped_elements,
    "padded_product_macs": _padded_product_macs,
    "wave_macs": _wave_macs,
    "winograd_macs": _winograd_macs,
    "depth": _depth,
    **{f"merged_{kind}": _merged(kind) for kind in Kind if kind not in WEIGHTED},
}

BLOCKS: tuple[Block, ...] = (
    (32, 32),
    (64, 32),
    (32, 64),
    (64, 64),
    (128, 32),
    (32, 128),
    (128, 64),
    (64, 128),
    (128, 128),
)
"""Rows and columns that a thread block of a GPU's matrix product may have."""


def form_ms(model: KindModel, kernel: Kernel, lanes: Lanes) -> float:
    """A kernel's ms by its kind's physical form, the dearest of all paths where its size was never measured."""
    forms = model.forms(kernel.spec.kernel_size)
    return max(sum(c * FEATURES[name](kernel, lanes) for name, c in form.items()) for form in forms)


SHAPES: Mapping[str, Callable[[Kernel], int]] = {
    "channels": lambda kernel: max(kernel.spec.in_channels, kernel.spec.out_channels),
    "pixels": lambda kernel: kernel.spec.out_height * kernel.spec.out_width,
}
"""What of a kernel's shape a kind's `fitted_range` may limit."""


def _idle(block: Block, at_once: int = 1) -> Callable[[Kernel], float]:
    return lambda kernel: Product.of(kernel).idle(block, at_once)


def _padding(block: Block) -> Callable[[Kernel], float]:
    return lambda kernel: Product.of(kernel).padding(block)


COORDINATES: Mapping[str, Callable[[Kernel], float]] = {
    "log_in_channels": lambda kernel: log(kernel.spec.in_channels),
    "log_out_channels": lambda kernel: log(kernel.spec.out_channels),
    "log_pixels": lambda kernel: log(kernel.spec.out_height * kernel.spec.out_width),
    "log_kernel_size": lambda kernel: log(kernel.spec.kernel_size),
    "log_stride": lambda kernel: log(kernel.spec.stride),
    "log_width": lambda kernel: log(kernel.spec.out_width),
    "log_height_over_width": lambda kernel: log(kernel.spec.out_height / kernel.spec.out_width),
    "log_elements": lambda kernel: log(kernel.spec.out_elements),
    **{f"idle_{block[0]}x{block[1]}": _idle(block) for block in BLOCKS},
    **{f"idle_{block[0]}x{block[1]}_two_at_once": _idle(block, 2) for block in ((32, 32), (64, 64))},
    **{f"padding_{block[0]}x{block[1]}": _padding(block) for block in ((32, 32), (64, 64), (128, 128))},
}
"""Where a kernel lies among others, for interpolating between measured ones: natural logarithms of sizes, shares."""
