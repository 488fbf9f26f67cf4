"""A fused kernel: what a runtime launches once. It keys a row of a profile's table.

Not for its time, and not for the rules that say what fuses (those stand in a profile's header).
"""

from __future__ import annotations

from dataclasses import dataclass

from search_space.layer import Kind, LayerSpec

IMAGE_CHANNELS = 4  # a convolution reading at most so many channels reads the image


@dataclass(frozen=True, slots=True)
class Kernel:
    """A fused kernel: the layer that leads it and what merges into it.

    fused: the kinds merged into the leader, in order; inputs: how many distinct tensors it reads from outside itself
    (a residual addition merged into a convolution makes 2).
    """

    spec: LayerSpec
    fused: tuple[Kind, ...] = ()
    inputs: int = 1

    @property
    def price_kind(self) -> str:
        """Which model of a profile prices it.

        The layer's kind; convolutions are split in three, as runtimes implement them apart: over the image, pointwise,
        and with a window.
        """
        if self.spec.kind is not Kind.CONV:
            return self.spec.kind.value
        if self.spec.in_channels <= IMAGE_CHANNELS:
            return "conv_image"
        return "conv_1x1" if self.spec.kernel_size == 1 else "conv_kxk"

    def __str__(self) -> str:
        s = self.spec
        kinds = "+".join((s.kind.value, *(kind.value for kind in self.fused)))
        return f"{kinds} {s.in_channels}x{s.height}x{s.width}->{s.out_channels} k{s.kernel_size}s{s.stride}"


PRICE_KINDS = frozenset({"conv_image", "conv_1x1", "conv_kxk", *(kind.value for kind in Kind)} - {Kind.CONV.value})
