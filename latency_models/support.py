"""What a prediction rests on: how much of it was derived, from how many rows, and what lies outside what was fitted.

The one place for the words of it, too. Not for working it out (`LatencyModel.support`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from device_profiles import ORIGINS
from search_space.reading import AtLeast, Between, OneOf

FEW_ROWS = 20  # a kernel kind and size with fewer measured rows is named
PARTLY, MOSTLY = 0.1, 0.5  # shares of derived time above which prices are said to be so
MARKED = 1.5  # times its share of the time: so much of the width is said to be wider for few rows
RESTS_ON_LITTLE = f"this is derived or rests on fewer than {FEW_ROWS} measured rows"
LEAST_SHARE = 0.01  # of time or width; what makes up less is not named
NAMES = {
    "add": "addition",
    "batch_norm": "BatchNorm",
    "concat": "concatenation",
    "conv_1x1": "1x1 convolution",
    "conv_image": "{0}x{0} convolution of the image",
    "conv_kxk": "{0}x{0} convolution",
    "dwconv": "{0}x{0} depthwise",
    "gelu": "GELU",
    "global_pool": "global pool",
    "hard_swish": "hard-swish",
    "layer_norm": "LayerNorm",
    "mul": "product",
    "pool": "{0}x{0} pool",
    "relu6": "ReLU6",
}

Share = Annotated[float, Between(0, 1)]


@dataclass(frozen=True, slots=True)
class KernelSupport:
    """All kernels of one kind, size and origin in a network.

    kind: as in a profile's models; origin: measured, fitted or derived; rows: measured rows behind this kind and size.
    share, width: of the predicted time, and of the width of its interval. untimed: the part of `share` in kernels
    that were not timed themselves.
    """

    kind: str
    kernel_size: Annotated[int, AtLeast(1)]
    origin: Annotated[str, OneOf(ORIGINS)]
    rows: Annotated[int, AtLeast(0)]
    share: Share
    untimed: Share
    width: Share

    @property
    def name(self) -> str:
        """In words: '7x7 depthwise'."""
        return kernel_name(self.kind, self.kernel_size)

    @property
    def derived(self) -> bool:
        """Whether its price was neither measured nor fitted on the device."""
        return self.origin == "derived"

    @property
    def thin(self) -> float:
        """The part of `share` that is derived, or neither timed itself nor has `FEW_ROWS` rows behind it."""
        if self.derived:
            return self.share
        return self.untimed if self.rows < FEW_ROWS else 0.0


@dataclass(frozen=True)
class Support:
    """What stands behind the prediction of one network on one device.

    derived: the share of predicted time in kernels whose price is derived. kernels: the widest share of the interval
    first; with what every network pays beside its kernels, their shares sum to 1. outside: what is beyond the range
    that the profile was fitted in, a clause each; empty where the profile does not state its range.
    """

    derived: Share
    kernels: tuple[KernelSupport, ...]
    outside: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """'partly derived prices (16 %)', as `derived_words`."""
        return derived_words(self.derived)

    @property
    def width_words(self) -> str:
        """'LayerNorm is 62 % of the interval's width, GELU 9 %: neither was measured on this device'.

        Derived kinds that make up `PARTLY` of the interval's width together; '' where they make up less.
        """
        widths: dict[str, float] = {}
        for kernel in self.kernels:
            if kernel.derived:
                widths[kernel.name] = widths.get(kernel.name, 0.0) + kernel.width
        if sum(widths.values()) <= PARTLY:
            return ""
        named = sorted(((w, name) for name, w in widths.items() if w >= LEAST_SHARE), reverse=True)
        (first, name), *others = named or [(sum(widths.values()), "all derived kinds together")]
        said = f"{name} is {first:.0%} of the interval's width".replace("%", " %")
        said += "".join(f", {other} {100 * width:.0f} %" for width, other in others)
        none = {1: "it was not", 2: "neither was"}.get(len(named), "none of them was")
        return f"{said}: {none} measured on this device"

    @property
    def thin_words(self) -> str:
        """'product 14 % (derived), 7x7 depthwise 9 % (7 rows)': of the time; '' where all rest on more.

        Derived kernels, and such with fewer than `FEW_ROWS` measured rows behind their kind and size that were not
        timed themselves.
        """
        parts = sorted((k for k in self.kernels if k.thin >= LEAST_SHARE), key=lambda k: -k.thin)
        return ", ".join(f"{k.name} {100 * k.thin:.0f} % ({'derived' if k.derived else _rows(k.rows)})" for k in parts)

    @property
    def wider_words(self) -> str:
        """'7x7 depthwise is 26 % of its width': few rows, and more of the width than of the time; '' if none."""
        parts = [
            f"{k.name} is {100 * k.width:.0f} % of its width"
            for k in self.kernels
            if not k.derived and k.thin >= LEAST_SHARE and k.width > MARKED * k.share
        ]
        return ", ".join(parts)

    @property
    def thin(self) -> float:
        """The share of predicted time that rests on little, as `thin_words` lists."""
        return sum(kernel.thin for kernel in self.kernels)

    def notes(self, device: str) -> tuple[str, ...]:
        """Sentences on what a reader of the prediction must know."""
        found = []
        if self.width_words:
            found.append(f"{device}: {self.width_words}; {remedy(device)}")
        if self.thin_words:
            wider = f"; the interval is wider for it: {self.wider_words}" if self.wider_words else ""
            found.append(f"{device}: of the predicted time, {RESTS_ON_LITTLE}: {self.thin_words}{wider}")
        if self.outside:
            found.append(f"{device}: outside of what its profile was fitted to: {'; '.join(self.outside)}")
        return tuple(found)


def kernel_name(kind: str, kernel_size: int) -> str:
    """A kernel kind of a profile's models in words: '7x7 depthwise'."""
    return NAMES.get(kind, kind).format(kernel_size)


def remedy(device: str, architecture: str = "architecture.json") -> str:
    """What makes a derived price a measured one: the command."""
    return (
        f"time the network there: python -m latency_models.calibrate device={device} architecture={architecture} "
        "measured_ms=MILLISECONDS"
    )


def derived_words(share: float | None) -> str:
    """'partly derived prices (16 %)' above a tenth of the time, 'mostly' above half; '' below, or where not known."""
    if share is None or share <= PARTLY:
        return ""
    return f"{'mostly' if share > MOSTLY else 'partly'} derived prices ({100 * share:.0f} %)"


def outside(what: str, value: float, limits: Sequence[float] | None, unit: str = "") -> str | None:
    """'image of 64 pixels (fitted: 224)' where a value is out of its limits; None inside, or where there are none."""
    if limits is None or limits[0] * (1 - 1e-9) <= value <= limits[1] * (1 + 1e-9):
        return None
    ends = dict.fromkeys(f"{end:.4g}" for end in limits)
    return f"{what} {value:.4g}{unit} (fitted: {' to '.join(ends)})"


def _rows(count: int) -> str:
    return "no row" if not count else f"{count} row{'s' * (count > 1)}"
