"""The header of a profile, `device.yaml`: where its times come from and the models fitted to them.

Everything a predictor needs stands here as named numbers. Not for reading folders (`profile`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from device_profiles.kernel import PRICE_KINDS
from device_profiles.table import ORIGINS
from search_space.errors import BadFile
from search_space.layer import Kind

SCHEMA = 1
UNIT = "ms"


@dataclass(frozen=True, slots=True)
class Source:
    """One body of measurements: what it is, who took it, under which licence."""

    name: str
    licence: str
    what: str


@dataclass(frozen=True, slots=True)
class Lanes:
    """How many channels and pixels the engine takes at once; sizes are rounded up to these. 1 = no rounding."""

    in_channels: int = 1
    out_channels: int = 1
    height: int = 1
    width: int = 1


@dataclass(frozen=True)
class FusionRules:
    """Which layers cost nothing (`folded` into weights before the runtime sees them) and, for the
    kind that leads a kernel, which kinds that directly follow it merge into it (`into`)."""

    folded: frozenset[Kind]
    into: Mapping[Kind, frozenset[Kind]]


@dataclass(frozen=True)
class Residual:
    """A Gaussian process over log(measured / form) of a kind's measured rows, Matern 5/2.

    length_scales: coordinate (`latency_models.features.COORDINATES`) -> distance over which rows
    resemble each other; amplitude, noise: standard deviations of the log ratio.
    """

    length_scales: Mapping[str, float]
    amplitude: float
    noise: float


@dataclass(frozen=True)
class KindModel:
    """latency_ms = sum of coefficient x feature, every coefficient >= 0.

    coefficients: feature name -> ms per million of that feature (ms for `launch`).
    origin: measured | fitted | derived; source: from what. support: kernel size -> measured rows
    behind it. low_factor, high_factor: ends of the interval of one kernel over its prediction.
    widen: by how much more than other kinds' its share of a network is uncertain. in_network: time
    inside a network over time alone. residual: what the table's rows teach beyond the form.
    """

    coefficients: Mapping[str, float]
    origin: str
    source: str
    support: Mapping[int, int]
    low_factor: float
    high_factor: float
    widen: float = 1.0
    in_network: float = 1.0
    residual: Residual | None = None

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

    coverage: float
    calibrated_on: str
    rule: str
    low_scores: tuple[float, ...]
    high_scores: tuple[float, ...]

    @property
    def networks(self) -> int:
        return len(self.high_scores)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A scale to predict on: what times are multiplied by, and the kernel kinds that cost nothing there."""

    factor: float
    unpriced: tuple[str, ...] = ()


MEASURED = Calibration(1.0)


@dataclass(frozen=True)
class Header:
    """The fields of `device.yaml`. Times are ms at batch 1."""

    device: str
    title: str
    runtime: str
    runtime_version: str
    precision: str
    threads: int
    clock: str
    date: str
    measured_by: str
    sources: tuple[Source, ...]
    row_origins: Mapping[str, str]
    kernel_rows: int
    fusion: FusionRules
    lanes: Lanes
    models: Mapping[str, KindModel]
    interval: Interval
    calibration: Mapping[str, Calibration]
    accuracy: Mapping[str, str]
    batch: int = 1
    network_ms: float = 0.0  # what every network pays beside its kernels
    runtime_options: Mapping[str, str] = field(default_factory=dict)  # what changes times, such as optimization


def parse_header(data: object, where: str) -> Header:
    """Read the mapping of a YAML file. Raises `BadFile` naming `where` and the field at fault."""
    top = _Fields(data, where, "")
    if top.number("schema") != SCHEMA:
        raise BadFile(f"{where}: schema is {top.get('schema')}; this version reads schema {SCHEMA}")
    if top.get("unit") != UNIT:
        raise BadFile(f"{where}: unit is '{top.get('unit')}'; times must be in '{UNIT}'")
    if top.integer("batch") != 1:
        raise BadFile(f"{where}: batch is {top.get('batch')}; profiles are taken at batch 1")
    return Header(
        device=top.text("device"),
        title=top.text("title"),
        runtime=top.text("runtime"),
        runtime_version=top.text("runtime_version"),
        precision=top.text("precision"),
        threads=top.integer("threads"),
        clock=top.text("clock"),
        date=top.text("date"),
        measured_by=top.text("measured_by"),
        sources=tuple(_source(item) for item in top.items("sources")),
        row_origins=_texts(top, "row_origins"),
        kernel_rows=top.integer("kernel_rows"),
        fusion=_fusion(top.inside("fusion")),
        lanes=_lanes(top.inside("lanes")),
        models=_models(top.inside("models")),
        interval=_interval(top.inside("interval")),
        calibration=_calibrations(top.inside("calibration")),
        accuracy=_texts(top, "accuracy"),
        network_ms=top.number("network_ms", 0.0),
        runtime_options=_texts(top, "runtime_options") if "runtime_options" in top.data else {},
    )


def render_header(header: Header) -> dict[str, Any]:
    """The plain mapping of a header, the inverse of `parse_header`."""
    lanes, interval = header.lanes, header.interval
    return {
        "schema": SCHEMA,
        "device": header.device,
        "title": header.title,
        "runtime": header.runtime,
        "runtime_version": header.runtime_version,
        "runtime_options": dict(header.runtime_options),
        "precision": header.precision,
        "batch": header.batch,
        "threads": header.threads,
        "clock": header.clock,
        "date": header.date,
        "unit": UNIT,
        "measured_by": header.measured_by,
        "sources": [{"name": s.name, "licence": s.licence, "what": s.what} for s in header.sources],
        "row_origins": dict(header.row_origins),
        "kernel_rows": header.kernel_rows,
        "fusion": {
            "folded": sorted(kind.value for kind in header.fusion.folded),
            "into": {a.value: sorted(kind.value for kind in into) for a, into in header.fusion.into.items()},
        },
        "lanes": {
            "in_channels": lanes.in_channels,
            "out_channels": lanes.out_channels,
            "height": lanes.height,
            "width": lanes.width,
        },
        "models": {name: _render_model(model) for name, model in header.models.items()},
        "network_ms": header.network_ms,
        "interval": {
            "coverage": interval.coverage,
            "calibrated_on": interval.calibrated_on,
            "rule": interval.rule,
            "low_scores": " ".join(f"{score:.4g}" for score in interval.low_scores),
            "high_scores": " ".join(f"{score:.4g}" for score in interval.high_scores),
        },
        "calibration": {
            name: {"factor": scale.factor, "unpriced": list(scale.unpriced)} if scale.unpriced else scale.factor
            for name, scale in header.calibration.items()
        },
        "accuracy": dict(header.accuracy),
    }


def _render_model(model: KindModel) -> dict[str, Any]:
    rendered: dict[str, Any] = {
        "coefficients": dict(model.coefficients),
        "origin": model.origin,
        "source": model.source,
        "support": dict(model.support),
        "low_factor": model.low_factor,
        "high_factor": model.high_factor,
        "widen": model.widen,
        "in_network": model.in_network,
    }
    if (residual := model.residual) is not None:
        rendered["residual"] = {
            "length_scales": dict(residual.length_scales),
            "amplitude": residual.amplitude,
            "noise": residual.noise,
        }
    return rendered


class _Fields:
    """A mapping of the file, with the path to it for messages."""

    def __init__(self, data: object, where: str, path: str) -> None:
        if not isinstance(data, dict):
            raise BadFile(f"{where}: {path or 'the file'} is not a mapping of fields")
        self.data: dict[Any, Any] = data
        self.where, self.path = where, f"{path}." if path else ""

    def get(self, name: str) -> Any:
        if self.data.get(name) is None:
            raise BadFile(f"{self.where}: no field '{self.path}{name}'")
        return self.data[name]

    def wrong(self, name: str, wanted: str) -> BadFile:
        return BadFile(f"{self.where}: {self.path}{name} is {self.data[name]!r}, not {wanted}")

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "text")
        return value

    def integer(self, name: str) -> int:
        value = self.get(name)
        if type(value) is not int or value < 0:
            raise self.wrong(name, "an integer >= 0")
        return value

    def number(self, name: str, missing: float | None = None) -> float:
        if missing is not None and name not in self.data:
            return missing
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise self.wrong(name, "a finite number >= 0")
        return float(value)

    def scores(self, name: str) -> tuple[float, ...]:
        """Numbers above 0 in rising order, written in one text with blanks between."""
        text = str(self.get(name))
        try:
            values = tuple(float(part) for part in text.split())
        except ValueError:
            raise self.wrong(name, "numbers with blanks between") from None
        if not values or not all(0 < v < math.inf for v in values) or list(values) != sorted(values):
            raise self.wrong(name, "finite numbers above 0 in rising order")
        return values

    def inside(self, name: str) -> _Fields:
        return _Fields(self.get(name), self.where, f"{self.path}{name}")

    def items(self, name: str) -> list[_Fields]:
        value = self.get(name)
        if not isinstance(value, list) or not value:
            raise self.wrong(name, "a list")
        return [_Fields(item, self.where, f"{self.path}{name}[{i}]") for i, item in enumerate(value)]

    def kinds(self, name: str) -> frozenset[Kind]:
        value = self.get(name)
        known = {kind.value for kind in Kind}
        if not isinstance(value, list) or not known.issuperset(map(str, value)):
            raise self.wrong(name, f"a list of layer kinds ({', '.join(Kind)})")
        return frozenset(Kind(item) for item in value)


def _source(fields: _Fields) -> Source:
    return Source(fields.text("name"), fields.text("licence"), fields.text("what"))


def _fusion(fields: _Fields) -> FusionRules:
    into = fields.inside("into")
    for name in into.data:
        if name not in set(Kind):
            raise BadFile(f"{fields.where}: fusion.into.{name} is not a layer kind; known: {', '.join(Kind)}")
    return FusionRules(fields.kinds("folded"), {Kind(name): into.kinds(name) for name in into.data})


def _lanes(fields: _Fields) -> Lanes:
    lanes = Lanes(*(fields.integer(name) for name in ("in_channels", "out_channels", "height", "width")))
    if min(lanes.in_channels, lanes.out_channels, lanes.height, lanes.width) < 1:
        raise BadFile(f"{fields.where}: lanes must be >= 1")
    return lanes


def _calibrations(fields: _Fields) -> dict[str, Calibration]:
    """By name: a number, or a number and the kinds that it leaves out."""
    found = {}
    for name in fields.data:
        if isinstance(fields.data[name], dict):
            one = fields.inside(name)
            found[name] = Calibration(one.number("factor"), _kernel_kinds(one, "unpriced"))
        else:
            found[name] = Calibration(fields.number(name))
    if any(scale.factor <= 0 for scale in found.values()) or "measured" not in found:
        raise BadFile(f"{fields.where}: calibration needs 'measured' and factors above 0")
    if found["measured"].unpriced:
        raise BadFile(f"{fields.where}: calibration.measured leaves kernel kinds out; what is measured prices them all")
    return found


def _kernel_kinds(fields: _Fields, name: str) -> tuple[str, ...]:
    value = fields.get(name)
    if not isinstance(value, list) or not value or not PRICE_KINDS.issuperset(map(str, value)):
        raise fields.wrong(name, f"a list of kernel kinds ({', '.join(sorted(PRICE_KINDS))})")
    return tuple(map(str, value))


def _models(fields: _Fields) -> dict[str, KindModel]:
    models = {}
    for name in fields.data:
        if name not in PRICE_KINDS:
            raise BadFile(
                f"{fields.where}: models.{name} is not a kernel kind; known: {', '.join(sorted(PRICE_KINDS))}"
            )
        one = fields.inside(name)
        coefficients, support = one.inside("coefficients"), one.inside("support")
        model = KindModel(
            coefficients={feature: coefficients.number(feature) for feature in coefficients.data},
            origin=one.text("origin"),
            source=one.text("source"),
            support={size: support.integer(size) for size in support.data},
            low_factor=one.number("low_factor"),
            high_factor=one.number("high_factor"),
            widen=one.number("widen", 1.0),
            in_network=one.number("in_network", 1.0),
            residual=_residual(one.inside("residual")) if "residual" in one.data else None,
        )
        if model.origin not in ORIGINS:
            raise BadFile(f"{fields.where}: models.{name}.origin is '{model.origin}', not one of {', '.join(ORIGINS)}")
        if not 0 < model.low_factor <= 1 <= model.high_factor:
            raise BadFile(f"{fields.where}: models.{name} needs 0 < low_factor <= 1 <= high_factor")
        if model.widen < 1 or model.in_network == 0:
            raise BadFile(f"{fields.where}: models.{name} needs widen >= 1 and in_network above 0")
        if not any(model.coefficients.values()):
            raise BadFile(f"{fields.where}: models.{name} would price every kernel at 0 ms")
        models[name] = model
    return models


def _residual(fields: _Fields) -> Residual:
    scales = fields.inside("length_scales")
    residual = Residual(
        {name: scales.number(name) for name in scales.data}, fields.number("amplitude"), fields.number("noise")
    )
    if not residual.length_scales or not all((*residual.length_scales.values(), residual.amplitude, residual.noise)):
        raise BadFile(f"{fields.where}: {fields.path}length_scales, amplitude and noise must be above 0")
    return residual


def _texts(fields: _Fields, name: str) -> dict[str, str]:
    inside = fields.inside(name)
    return {key: inside.text(key) for key in inside.data}


def _interval(fields: _Fields) -> Interval:
    interval = Interval(
        fields.number("coverage"),
        fields.text("calibrated_on"),
        fields.text("rule"),
        fields.scores("low_scores"),
        fields.scores("high_scores"),
    )
    if not 0 < interval.coverage < 1:
        raise BadFile(f"{fields.where}: interval.coverage is {interval.coverage}, not between 0 and 1")
    if len(interval.low_scores) != len(interval.high_scores):
        raise BadFile(f"{fields.where}: interval.low_scores and high_scores are not equally many")
    return interval
