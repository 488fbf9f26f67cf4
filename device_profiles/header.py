"""The header of a profile, `device.yaml`: where its times come from and the models fitted to them.

Everything a predictor needs stands here as named numbers. Not for reading folders (`profile`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from device_profiles.kernel import PRICE_KINDS
from device_profiles.table import ORIGINS
from search_space.errors import BadFile
from search_space.layer import Kind
from search_space.reading import (
    NOT_BLANK,
    NOT_EMPTY,
    REQUIRED,
    Above,
    AtLeast,
    AtMost,
    Below,
    Must,
    OneOf,
    Spelled,
    read,
    to_plain,
    without_schema,
)

SCHEMA = 1
UNIT = "ms"
UNSEEN = 2.0  # by what a price may be off of a kernel size that was never measured while others of its kind were

Text = Annotated[str, NOT_BLANK]
Texts = Mapping[str, Text]
Count = Annotated[int, AtLeast(0)]
Lane = Annotated[int, AtLeast(1), REQUIRED]
NonNegative = Annotated[float, AtLeast(0)]
Positive = Annotated[float, Above(0)]
KernelKind = Annotated[str, OneOf(PRICE_KINDS)]


def _parse_scores(text: object) -> list[float]:
    try:
        return [float(part) for part in str(text).split()]
    except ValueError:
        raise ValueError("numbers with blanks between") from None


Scores = Annotated[  # written in one text
    tuple[Positive, ...],
    Spelled(_parse_scores, lambda scores: " ".join(f"{score:.4g}" for score in scores)),
    Must("numbers in rising order", lambda scores: len(scores) > 0 and list(scores) == sorted(scores)),
]


Range = Annotated[tuple[NonNegative, NonNegative], Must("a low and a high end", lambda ends: ends[0] <= ends[1])]


@dataclass(frozen=True, slots=True)
class Source:
    """One body of measurements: what it is, who took it, under which licence."""

    name: Text
    licence: Text
    what: Text


@dataclass(frozen=True, slots=True)
class Lanes:
    """How many channels and pixels the engine takes at once; sizes are rounded up to these. 1 = no rounding."""

    in_channels: Lane = 1
    out_channels: Lane = 1
    height: Lane = 1
    width: Lane = 1


@dataclass(frozen=True)
class FusionRules:
    """Which layers cost nothing, and which merge into one kernel.

    folded: into weights, before the runtime sees them. into: the kind that leads a kernel -> the kinds that, where
    they directly follow it, merge into it.
    """

    folded: frozenset[Kind]
    into: Mapping[Kind, frozenset[Kind]]


@dataclass(frozen=True)
class Residual:
    """A Gaussian process over log(measured / form) of a kind's measured rows, Matern 5/2.

    length_scales: coordinate (`latency_models.features.COORDINATES`) -> distance over which rows
    resemble each other; amplitude, noise: standard deviations of the log ratio.
    """

    length_scales: Annotated[Mapping[str, Positive], Must("one scale or more", lambda scales: len(scales) > 0)]
    amplitude: Positive
    noise: Positive


Coefficients = Annotated[
    Mapping[str, NonNegative],
    Must("numbers with one above 0: they would price every kernel at 0 ms", lambda values: any(values.values())),
]


@dataclass(frozen=True)
class Scenario:
    """Another guess at what the runtime does with kinds that were never timed.

    coefficients: kernel kind -> its coefficients instead of those of `models`. reason: what would then be so, and what
    speaks for it.
    """

    coefficients: Annotated[Mapping[KernelKind, Coefficients], Must("one kind or more", lambda kinds: len(kinds) > 0)]
    reason: Text


@dataclass(frozen=True)
class KindModel:
    """latency_ms = sum of coefficient x feature, every coefficient >= 0.

    coefficients: feature name -> ms per million of that feature (ms for `launch`).
    origin: measured | fitted | derived; source: from what. support: kernel size -> measured rows
    behind it. low_factor, high_factor: ends of the interval of one kernel over its prediction.
    widen: by how much more than other kinds' its share of a network is uncertain, and widen_sizes, by how much more
    again a kernel size is: judgements whose reason `judged` gives. in_network: time inside a network over time alone.
    residual: what the table's rows teach beyond the form. fitted_range: lowest and highest of what its rows have, by
    `channels` (the more of in and out) and `pixels` (of the output); empty: not stated. sizes: kernel size ->
    coefficients of its own, where measured sizes take different paths in the runtime. unseen: by what factor a kernel
    size without rows may be off either way, whose price is derived then; 1: not judged.
    """

    coefficients: Coefficients
    origin: Annotated[str, OneOf(ORIGINS)]
    source: Text
    support: Mapping[int, Count]
    low_factor: Annotated[float, Above(0), AtMost(1)]
    high_factor: Annotated[float, AtLeast(1)]
    widen: Annotated[float, AtLeast(1)] = 1.0
    judged: str = ""
    in_network: Positive = 1.0
    residual: Residual | None = None
    widen_sizes: Mapping[int, Annotated[float, AtLeast(1)]] = field(default_factory=dict)
    fitted_range: Mapping[Annotated[str, OneOf(("channels", "pixels"))], Range] = field(default_factory=dict)
    sizes: Mapping[int, Coefficients] = field(default_factory=dict)
    unseen: Annotated[float, AtLeast(1)] = 1.0

    def forms(self, kernel_size: int) -> tuple[Mapping[str, float], ...]:
        """The coefficients that price a kernel size; those of every path for one without rows, whose dearest counts."""
        if kernel_size in self.sizes:
            return (self.sizes[kernel_size],)
        return (self.coefficients,) if self.count(kernel_size) else (self.coefficients, *self.sizes.values())

    def origin_of(self, kernel_size: int) -> str:
        """As `origin`; 'derived' where sizes are judged by their rows and this one has none."""
        return "derived" if self.unseen > 1 and not self.count(kernel_size) else self.origin

    def widening(self, kernel_size: int) -> float:
        """By how much more than other kinds' its price is uncertain.

        A size without rows, priced by the form of others, by `UNSEEN`, or as the most uncertain size or the header's
        `unseen` where that is more; where a residual prices it, that says how far from its rows it is.
        """
        unseen = 1.0
        if not self.count(kernel_size):
            by_form = UNSEEN if self.support and not self.residual else 1.0
            unseen = max(by_form, self.unseen, *self.widen_sizes.values())
        return self.widen * self.widen_sizes.get(kernel_size, unseen)

    def count(self, kernel_size: int) -> int:
        """Measured rows of this kind and kernel size; 0 where none was measured."""
        return self.support.get(kernel_size, 0)


@dataclass(frozen=True, slots=True)
class Interval:
    """What the intervals of networks claim, and the held-out networks that the claim rests on.

    coverage: the share of networks inside unless another is asked. low_scores, high_scores: measured
    time over the predicted sum, every kernel's time there divided (low) or multiplied (high) by how
    uncertain it is; sorted, one a held-out network.
    """

    coverage: Annotated[float, Above(0), Below(1)]
    calibrated_on: Text
    rule: Text
    low_scores: Scores
    high_scores: Scores

    @property
    def networks(self) -> int:
        """How many held-out networks the claim rests on."""
        return len(self.high_scores)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A scale to predict on: what times are multiplied by, and the kernel kinds that cost nothing there."""

    factor: Positive
    unpriced: Annotated[tuple[KernelKind, ...], NOT_EMPTY, REQUIRED] = ()


MEASURED = Calibration(1.0)


def _parse_calibration(data: object) -> object:
    """A number alone is a factor that leaves nothing out."""
    if isinstance(data, Mapping):
        return data
    if isinstance(data, bool) or not isinstance(data, int | float) or not 0 < data < math.inf:
        raise ValueError("a finite number above 0, or such a factor and the kernel kinds that are unpriced")
    return Calibration(float(data))


Scale = Annotated[
    Calibration,
    Spelled(_parse_calibration, lambda scale: to_plain(scale) if scale.unpriced else scale.factor),
]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The fields of `device.yaml`, in its order. Times are ms at batch 1.

    runtime_options: what changes times, such as optimization. network_ms: what every network pays beside its kernels.
    scenarios: by name, other guesses at derived kinds; intervals reach over all of them. caveats: sentences on what the
    times stand for that whoever reads a prediction must know; they price nothing.
    """

    device: Text
    title: Text
    runtime: Text
    runtime_version: Text
    runtime_options: Texts = field(default_factory=dict)
    caveats: tuple[Text, ...] = ()
    precision: Text
    batch: Annotated[int, Must("1: profiles are taken at batch 1", lambda batch: batch == 1), REQUIRED] = 1
    threads: Count
    clock: Text
    date: Text
    measured_by: Text
    sources: Annotated[tuple[Source, ...], NOT_EMPTY]
    row_origins: Texts
    kernel_rows: Count
    fusion: FusionRules
    lanes: Lanes
    models: Mapping[KernelKind, KindModel]
    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    network_ms: NonNegative = 0.0
    interval: Interval
    calibration: Annotated[
        Mapping[str, Scale], Must("a mapping with 'measured' and others", lambda scales: "measured" in scales)
    ]
    fitted_range: Mapping[Annotated[str, OneOf(("network_ms", "resolution"))], Range] = field(default_factory=dict)
    accuracy: Texts


def parse_header(data: object, where: str) -> Header:
    """Read the mapping of a YAML file. Raises `BadFile` naming `where` and the field at fault."""
    top = without_schema(data, SCHEMA, where)
    if (unit := top.pop("unit", None)) != UNIT:
        raise BadFile(f"{where}: " + ("no field 'unit'" if unit is None else f"unit is {unit!r}, not '{UNIT}'"))
    header = read(Header, top, where)
    if header.calibration["measured"].unpriced:
        raise BadFile(f"{where}: calibration.measured leaves kernel kinds out; what is measured prices them all")
    for name, scenario in header.scenarios.items():
        if unknown := sorted(set(scenario.coefficients) - set(header.models)):
            raise BadFile(f"{where}: scenarios.{name} prices '{unknown[0]}', which `models` does not")
    if len(header.interval.low_scores) != len(header.interval.high_scores):
        raise BadFile(f"{where}: interval.low_scores and high_scores are not equally many")
    return header


_OPTIONAL = ("judged", "residual", "widen_sizes", "fitted_range", "sizes")  # of a kind's model, left out where empty


def render_header(header: Header) -> dict[str, Any]:
    """The plain mapping of a header, the inverse of `parse_header`."""
    rendered: dict[str, Any] = {"schema": SCHEMA}
    for name, value in to_plain(header).items():
        rendered[name] = value
        if name == "date":
            rendered["unit"] = UNIT
    header_only = ("caveats", "fitted_range", "scenarios")
    for part, optional in ((rendered, header_only), *((m, _OPTIONAL) for m in rendered["models"].values())):
        for name in optional:
            if not part[name]:
                del part[name]
    for model in rendered["models"].values():
        if model["unseen"] == 1:
            del model["unseen"]
    return rendered
