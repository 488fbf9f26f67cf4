"""The header of a profile, `device.yaml`: where its times come from and the models fitted to them.

Everything a predictor needs stands here as named numbers. Not for reading folders (`profile`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
class KindModel:
    """latency_ms = sum of coefficient x feature, every coefficient >= 0.

    coefficients: feature name -> ms per million of that feature (ms for `launch`).
    origin: measured | fitted | derived; source: from what. support: kernel size -> measured rows
    behind it. low_factor, high_factor: the interval's ends over the prediction.
    """

    coefficients: Mapping[str, float]
    origin: str
    source: str
    support: Mapping[int, int]
    low_factor: float
    high_factor: float

    def count(self, kernel_size: int) -> int:
        """Measured rows of this kind and kernel size; 0 where none was measured."""
        return self.support.get(kernel_size, 0)


@dataclass(frozen=True, slots=True)
class Interval:
    """What the intervals claim: the share of networks inside, and on how many which networks it was set."""

    coverage: float
    networks: int
    calibrated_on: str
    rule: str


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
    calibration: Mapping[str, float]
    accuracy: Mapping[str, str]
    batch: int = 1


def parse_header(data: object, where: str) -> Header:
    """Read the mapping of a YAML file. Raises `BadFile` naming `where` and the field at fault."""
    top = _Fields(data, where, "")
    if top.number("schema") != SCHEMA:
        raise BadFile(f"{where}: schema is {top.get('schema')}; this version reads schema {SCHEMA}")
    if top.get("unit") != UNIT:
        raise BadFile(f"{where}: unit is '{top.get('unit')}'; times must be in '{UNIT}'")
    if top.integer("batch") != 1:
        raise BadFile(f"{where}: batch is {top.get('batch')}; profiles are taken at batch 1")
    header = Header(
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
        row_origins={name: top.inside("row_origins").text(name) for name in top.inside("row_origins").data},
        kernel_rows=top.integer("kernel_rows"),
        fusion=_fusion(top.inside("fusion")),
        lanes=_lanes(top.inside("lanes")),
        models=_models(top.inside("models")),
        interval=_interval(top.inside("interval")),
        calibration={n: top.inside("calibration").number(n) for n in top.inside("calibration").data},
        accuracy={name: top.inside("accuracy").text(name) for name in top.inside("accuracy").data},
    )
    if any(factor <= 0 for factor in header.calibration.values()) or "measured" not in header.calibration:
        raise BadFile(f"{where}: calibration needs 'measured' and factors above 0")
    return header


def render_header(header: Header) -> dict[str, Any]:
    """The plain mapping of a header, the inverse of `parse_header`."""
    lanes, interval = header.lanes, header.interval
    return {
        "schema": SCHEMA,
        "device": header.device,
        "title": header.title,
        "runtime": header.runtime,
        "runtime_version": header.runtime_version,
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
        "models": {
            name: {
                "coefficients": dict(model.coefficients),
                "origin": model.origin,
                "source": model.source,
                "support": dict(model.support),
                "low_factor": model.low_factor,
                "high_factor": model.high_factor,
            }
            for name, model in header.models.items()
        },
        "interval": {
            "coverage": interval.coverage,
            "networks": interval.networks,
            "calibrated_on": interval.calibrated_on,
            "rule": interval.rule,
        },
        "calibration": dict(header.calibration),
        "accuracy": dict(header.accuracy),
    }


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

    def _wrong(self, name: str, wanted: str) -> BadFile:
        return BadFile(f"{self.where}: {self.path}{name} is {self.data[name]!r}, not {wanted}")

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(name, "text")
        return value

    def integer(self, name: str) -> int:
        value = self.get(name)
        if type(value) is not int or value < 0:
            raise self._wrong(name, "an integer >= 0")
        return value

    def number(self, name: str) -> float:
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise self._wrong(name, "a finite number >= 0")
        return float(value)

    def inside(self, name: str) -> _Fields:
        return _Fields(self.get(name), self.where, f"{self.path}{name}")

    def items(self, name: str) -> list[_Fields]:
        value = self.get(name)
        if not isinstance(value, list) or not value:
            raise self._wrong(name, "a list")
        return [_Fields(item, self.where, f"{self.path}{name}[{i}]") for i, item in enumerate(value)]

    def kinds(self, name: str) -> frozenset[Kind]:
        value = self.get(name)
        known = {kind.value for kind in Kind}
        if not isinstance(value, list) or not known.issuperset(map(str, value)):
            raise self._wrong(name, f"a list of layer kinds ({', '.join(Kind)})")
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
        )
        if model.origin not in ORIGINS:
            raise BadFile(f"{fields.where}: models.{name}.origin is '{model.origin}', not one of {', '.join(ORIGINS)}")
        if not 0 < model.low_factor <= 1 <= model.high_factor:
            raise BadFile(f"{fields.where}: models.{name} needs 0 < low_factor <= 1 <= high_factor")
        if not any(model.coefficients.values()):
            raise BadFile(f"{fields.where}: models.{name} would price every kernel at 0 ms")
        models[name] = model
    return models


def _interval(fields: _Fields) -> Interval:
    interval = Interval(
        fields.number("coverage"), fields.integer("networks"), fields.text("calibrated_on"), fields.text("rule")
    )
    if not 0 < interval.coverage < 1:
        raise BadFile(f"{fields.where}: interval.coverage is {interval.coverage}, not between 0 and 1")
    return interval
