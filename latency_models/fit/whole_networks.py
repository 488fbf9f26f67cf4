"""A device of which only a few whole networks were timed borrows its shape from known devices.

Its time is taken for a non-negative mix of theirs and a constant. Needs scipy. Not for devices whose kernels
were timed (`kernels`), and not for reading files (`whole_networks_file`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from device_profiles import (
    MEASURED,
    DeviceProfile,
    FusionRules,
    Header,
    Interval,
    Kernel,
    KernelRow,
    KindModel,
    Lanes,
    Source,
)
from latency_models.fit.fitted_range import networks_range
from latency_models.fit.kind_model import WIDENING_RULE, Evidence, kind_model
from latency_models.fit.regression import Form, Sample, Terms, fit_coefficients, round_significant, summary
from latency_models.fuse import fuse
from latency_models.grid import grid_kernels
from latency_models.intervals import largest_coverage, rank_quantiles
from latency_models.model import LatencyModel, fit_latency_model
from search_space.errors import UserError
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.layer import Kind, LayerSpec
from search_space.lower import Segment, lower
from search_space.space import Architecture, SearchSpace
from search_space.space_file import available_spaces, load_space

Array = NDArray[np.float64]

HOLD = 0.01  # moving one device's share of the time by 1 weighs as much as an error of 10 % on one network
LEAST_SHARE = 1e-3  # of the time; a device below it is left out
FEWEST_NETWORKS = 3
COVERAGE = 0.9
UNSEEN = 2.0  # by what the price of a kind that no network holds may be off: a judgement
OFF_GRID = (96, 160)  # pixels at which forms are fitted as well, beside those of the rows
_BINARY = frozenset({Kind.ADD, Kind.MUL})


def mix(known_ms: Array, measured_ms: Array) -> tuple[Array, float]:
    """Weights (D,) >= 0 and a constant >= 0 in ms: measured ~ weights @ known + constant.

    known_ms: (D, N), what D known devices take for N networks; measured_ms: (N,), both above 0. Least squares on
    relative errors, held to the best single device scaled, so that one measurement is enough for an answer.
    """
    from scipy.optimize import nnls

    columns = np.vstack([known_ms, np.ones_like(measured_ms)]) / measured_ms  # (D + 1, N)
    scales = columns.sum(1) / (columns**2).sum(1)  # every one alone, fitted
    columns = columns * scales[:, None]
    best = int(((columns[:-1] - 1) ** 2).sum(1).round(12).argmin())  # the first of equals, as with one network
    hold = HOLD**0.5 * np.eye(len(columns))
    shares, _ = nnls(np.vstack([columns.T, hold]), np.concatenate([np.ones_like(measured_ms), hold[best]]))
    weights = np.where(shares < LEAST_SHARE, 0.0, shares) * scales
    return weights[:-1], float(weights[-1])


class Measurement(NamedTuple):
    """A network and the time it took at batch 1 on the new device."""

    architecture: Architecture
    resolution: int
    num_classes: int
    latency_ms: float


@dataclass(frozen=True)
class _Mix:
    """Known devices with a weight above 0, their models, and the constant in ms."""

    models: tuple[LatencyModel, ...]
    weights: tuple[float, ...]
    constant_ms: float

    def __str__(self) -> str:
        parts = [f"{weight:.3g} {model.profile.name}" for model, weight in self.parts()]
        return " + ".join([*parts, f"{self.constant_ms:.3g} ms"] if self.constant_ms else parts)

    def parts(self) -> Iterable[tuple[LatencyModel, float]]:
        return zip(self.models, self.weights, strict=True)

    @property
    def network_ms(self) -> float:
        return self.constant_ms + sum(weight * model.runtime_price.ms for model, weight in self.parts())

    @property
    def lanes(self) -> Lanes:
        """Of the engines together; only a device with lanes has features that read them."""
        all_lanes = [model.profile.header.lanes for model in self.models]
        names = ("in_channels", "out_channels", "height", "width")
        return Lanes(*(max(getattr(lanes, name) for lanes in all_lanes) for name in names))

    @property
    def fusion(self) -> FusionRules:
        """The coarsest rules: whatever one of the devices merges. Every device's own kernels are pieces of theirs."""
        rules = [model.fusion for model in self.models]
        leaders = {kind for r in rules for kind in r.into}
        into = {kind: frozenset[Kind]().union(*(r.into.get(kind, ()) for r in rules)) for kind in sorted(leaders)}
        grown = True
        while grown:  # what a merged kind takes along, its leader takes along as well
            closed = {kind: kinds.union(*(into.get(k, frozenset()) for k in kinds)) for kind, kinds in into.items()}
            grown, into = closed != into, closed
        return FusionRules(frozenset.intersection(*(r.folded for r in rules)), into)

    def kernel_ms(self, kernel: Kernel) -> float | None:
        """The mixed time, every device's by its own kernels; None where one of them has no model of a kind."""
        total = 0.0
        for model, weight in self.parts():
            for piece in pieces(kernel, model.fusion):
                if piece.price_kind not in model.profile.header.models:
                    return None
                total += weight * model.kernel_price(piece).ms
        return total


def few_profile(
    name: str, measured: Sequence[Measurement], known: Sequence[DeviceProfile]
) -> tuple[Header, list[KernelRow]]:
    """A device's header and rows from a few whole networks and the profiles of other devices.

    Known devices that cannot price these networks are left out. Raises `UserError` for fewer than three different
    networks, and where no known device is left.
    """
    networks = [lower(m.architecture, m.resolution, m.num_classes) for m in measured]
    if (distinct := len(set(networks))) < max(FEWEST_NETWORKS, len(networks)):
        raise UserError(
            f"{len(networks)} whole networks were timed, {distinct} of them different; at least {FEWEST_NETWORKS} "
            "different ones are needed to know how far predictions are off, each with one time"
        )
    models, known_ms = _predictions(known, networks)
    times = np.array([m.latency_ms for m in measured])
    mixed = _mixed(models, known_ms, times)
    ratios = _left_out(known_ms, times)
    interval = _interval(ratios)
    seen = {kernel.price_kind for network in networks for s in network for kernel in fuse(s.nodes, mixed.fusion)}
    shipped = [load_space(space) for space in available_spaces()]
    settings = [(space, RESOLUTION, NUM_CLASSES) for space in shipped]
    settings += [(m.architecture.space, m.resolution, m.num_classes) for m in measured]
    kernel_ms = dict(_grid(mixed, dict.fromkeys(settings)))
    off_grid = _grid(mixed, ((space, resolution, NUM_CLASSES) for space in shipped for resolution in OFF_GRID))
    forms = _forms(mixed, {**kernel_ms, **dict(off_grid)}, seen, interval)
    rows = []
    for kernel, ms in kernel_ms.items():
        form = forms[kernel.price_kind]
        spread_ms = ms * (form.high_factor - form.low_factor) / 2
        rows.append(KernelRow(kernel, ms, spread_ms, 0, "derived", str(mixed)))
    accuracy = {MIX: str(mixed), "leave_one_network_out": f"{summary(ratios)}; n = {len(ratios)}"}
    header = _header(name, mixed, len(rows), len(ratios))
    ranges = networks_range(zip(networks, times.tolist(), strict=True))
    return replace(header, models=forms, interval=interval, accuracy=accuracy, fitted_range=ranges), rows


MIX = "mix"
"""The entry of a header's `accuracy` that marks a mixed device as one."""


def pieces(kernel: Kernel, rules: FusionRules) -> Iterator[Kernel]:
    """The kernels that a device with finer rules launches for this one. All tensors read are taken for different."""
    s = kernel.spec
    after = LayerSpec(s.kind, s.out_channels, s.out_channels, s.out_height, s.out_width)
    groups: list[tuple[LayerSpec, list[Kind]]] = []
    for position, kind in enumerate((s.kind, *kernel.fused)):
        if kind in rules.folded:
            continue
        if groups and kind in rules.into.get(groups[-1][0].kind, frozenset()):
            groups[-1][1].append(kind)
        else:
            groups.append((replace(after, kind=kind) if position else s, []))
    if len(groups) == 1 and groups[0][0] == s:
        yield Kernel(s, tuple(groups[0][1]), kernel.inputs)
        return
    for spec, fused in groups:
        read = sum(kind in _BINARY for kind in (spec.kind, *fused)) + 1
        yield Kernel(spec, tuple(fused), min(read, kernel.inputs) if spec == s else read)


def _predictions(
    known: Sequence[DeviceProfile], networks: Sequence[tuple[Segment, ...]]
) -> tuple[list[LatencyModel], Array]:
    """The models of the devices that price all networks, D of them, and their times (D, N)."""
    models, times = [], []
    for model in map(fit_latency_model, known):
        try:
            times.append([model.predict(network).latency_ms for network in networks])
        except UserError:  # a kind that it does not price
            continue
        models.append(model)
    if not models:
        raise UserError("no known device prices these networks")
    return models, np.array(times)


def _mixed(models: Sequence[LatencyModel], known_ms: Array, measured_ms: Array) -> _Mix:
    weights, constant = mix(known_ms, measured_ms)
    kept = [(model, float(weight)) for model, weight in zip(models, weights, strict=True) if weight]
    if not kept:
        raise UserError("the measured times do not follow those of any known device; look at them again")
    return _Mix(tuple(model for model, _ in kept), tuple(weight for _, weight in kept), constant)


def _left_out(known_ms: Array, measured_ms: Array) -> Array:
    """Predicted over measured, (N,), every network by a mix of the others."""
    ratios = np.empty_like(measured_ms)
    for i in range(len(measured_ms)):
        weights, constant = mix(np.delete(known_ms, i, axis=1), np.delete(measured_ms, i))
        ratios[i] = (weights @ known_ms[:, i] + constant) / measured_ms[i]
    return ratios


def _interval(ratios: Array) -> Interval:
    """As wide as so few networks can claim. ratios: predicted over measured, (N,)."""
    scores, most = tuple(sorted(float(f"{score:.4g}") for score in 1 / ratios)), largest_coverage(len(ratios))
    return Interval(
        min(COVERAGE, floor(100 * most) / 100),
        f"measured over predicted time of {len(ratios)} whole networks, each predicted by a mix of the others",
        f"Rank quantiles of the left-out networks; so few reach a coverage of at most {most:.2f}. {WIDENING_RULE}",
        scores,
        scores,
    )


Setting = tuple[SearchSpace, int, int]
"""A space, pixels, classes."""


def _grid(mixed: _Mix, settings: Iterable[Setting]) -> Iterator[tuple[Kernel, float]]:
    """The kernels of the settings with their mixed times, those that all devices price."""
    for space, resolution, num_classes in settings:
        for kernel in grid_kernels([space], mixed.fusion, resolution, num_classes):
            ms = mixed.kernel_ms(kernel)
            if ms:
                yield kernel, ms


def _forms(mixed: _Mix, kernel_ms: Mapping[Kernel, float], seen: set[str], interval: Interval) -> dict[str, KindModel]:
    """A form for every kind: fitted to the kernels, or for kinds without any the mix of the devices' forms."""
    low, high = rank_quantiles(interval.low_scores, interval.high_scores, interval.coverage)
    factors = min(1.0, low), max(1.0, high)
    models = [(model.profile.header.models, weight * model.scale.factor) for model, weight in mixed.parts()]
    forms = {}
    for kind in (kind for kind in models[0][0] if all(kind in m for m, _ in models)):
        features = list(dict.fromkeys(f for m, _ in models for f in m[kind].coefficients))
        form: Form = {kind: {feature: feature for feature in features}}
        samples = []
        for kernel, ms in kernel_ms.items():
            if kernel.price_kind == kind:
                terms = Terms(form, mixed.lanes)
                terms.add(kernel)
                samples.append(Sample(str(kernel), terms.values, ms))
        if samples:
            coefficients = {feature: value for feature, value in fit_coefficients(samples).items() if value}
        else:
            coefficients = {
                f: sum(w * m[kind].in_network * m[kind].coefficients.get(f, 0.0) for m, w in models) for f in features
            }
        judged = (1.0, "") if kind in seen else (UNSEEN, "none of the device's own networks holds it")
        forms[kind] = kind_model(coefficients, Evidence("derived", str(mixed), {}, *judged), factors)
    return forms


def _header(name: str, mixed: _Mix, rows: int, networks: int) -> Header:
    """What is known of the device itself: nothing but those networks' times."""
    unsaid = "not stated by the measurer"
    known = [
        Source(f"profile {m.profile.name} {m.profile.digest}", "as in that profile", f"{m.profile.title}, x {w:.4g}")
        for m, w in mixed.parts()
    ]
    origin = f"a mix of known devices set on {networks} whole networks: {mixed}; no kernel was timed"
    return Header(
        device=name,
        title=f"{name}, known by {networks} whole networks",
        runtime="runtime",
        runtime_version=unsaid,
        precision=unsaid,
        threads=0,
        clock=unsaid,
        date=unsaid,
        measured_by="its user",
        sources=(Source("whole networks timed by the user", "the user's own", f"{networks} networks"), *known),
        row_origins={"derived": origin},
        kernel_rows=rows,
        fusion=mixed.fusion,
        lanes=mixed.lanes,
        models={},
        interval=Interval(0.5, "nothing yet", "nothing yet", (1.0,) * 3, (1.0,) * 3),
        calibration={"measured": MEASURED},
        accuracy={},
        network_ms=round_significant(mixed.network_ms),
    )
