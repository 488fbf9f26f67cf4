"""The distinct kernels of search spaces in a runtime: the grid that is timed, and the rows of a shipped profile.

Not for prices: a row's time comes from the header's models.
"""

from __future__ import annotations

from collections.abc import Iterable

from device_profiles import FusionRules, Kernel
from latency_models.fuse import fuse
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.lower import lower_space
from search_space.space import SearchSpace


def grid_kernels(
    spaces: Iterable[SearchSpace], rules: FusionRules, resolution: int = RESOLUTION, num_classes: int = NUM_CLASSES
) -> tuple[Kernel, ...]:
    """Every distinct kernel of every candidate of the spaces, sorted by kind and size."""
    found = {
        kernel
        for space in spaces
        for segment in lower_space(space, resolution, num_classes)
        for nodes in segment.candidates
        for kernel in fuse(nodes, rules)
    }
    return tuple(sorted(found, key=_order))


def _order(kernel: Kernel) -> tuple[object, ...]:
    s = kernel.spec
    sizes = (s.in_channels, s.out_channels, s.height, s.width, s.kernel_size, s.stride, s.padding)
    return kernel.price_kind, *sizes, kernel.fused, kernel.inputs
