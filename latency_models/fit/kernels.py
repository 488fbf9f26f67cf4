"""The models of a device from its own measurements: kernels timed alone, and a few whole networks.

Kernels give every kind its form and residual; networks say how a kernel's time inside a network differs
from its time alone, and how far predictions of networks may be off. Needs scipy. Not for timing (`profile`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

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
    Residual,
    Source,
)
from latency_models.features import form_ms
from latency_models.fit.fitted_range import kernels_range, networks_range
from latency_models.fit.regression import Form, Sample, Terms, fit_coefficients, mape, round_significant, within
from latency_models.fuse import fuse
from latency_models.intervals import largest_coverage, rank_quantiles, tolerance_limits
from latency_models.model import LatencyModel
from latency_models.residual import GaussianProcess, coordinates, fit_residual
from search_space.errors import UserError
from search_space.lower import Segment

Array = NDArray[np.float64]

COVERAGE = 0.9
FEWEST_NETWORKS = 5
FEWEST_ROWS_FOR_SCALES = 6
THIN = (1.0, 0.3, 0.03)  # length scale, amplitude and noise where fewer rows can teach none: a judgement
MOST_ROWS_FOR_SCALES = 300  # hyper-parameters are found on so many rows at most
NORMAL_90 = 1.645  # standard deviations that hold 90 % of a normal distribution
OTHER_PATH = 1.5  # kernel sizes whose times over a common form differ so much have forms of their own
FEWEST_ROWS_OF_PATH = 3
UNSEEN = 4.0  # by what factor at least a kernel size without rows may be off: a judgement (litert, 7x7: 17 and 25)
SHRINKAGE = 0.15  # how strongly a kind's factor inside networks is held to the common one
_CONV = ("launch", "macs", "input_elements", "output_elements", "weights")
_WINDOWED = ("launch", "macs", "input_elements", "output_elements")
_TOUCHING = ("launch", "input_elements", "output_elements")
FORMS: Mapping[str, tuple[str, ...]] = {
    "conv_1x1": _CONV,
    "conv_kxk": _CONV,
    "conv_image": _CONV,
    "dwconv": _WINDOWED,
    "linear": ("launch", "weights"),
}
"""Features of a kind's form; kinds not named move their inputs and outputs."""
_DENSE = ("log_in_channels", "log_out_channels", "log_pixels", "log_kernel_size", "log_stride")
_CHANNELWISE = ("log_in_channels", "log_pixels", "log_kernel_size", "log_stride")


@dataclass(frozen=True)
class Facts:
    """What a profile's header says of the device, beside its models. `title`: in words."""

    device: str
    title: str
    runtime: str
    runtime_version: str
    runtime_options: Mapping[str, str]
    precision: str
    threads: int
    clock: str
    date: str
    measured_by: str


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network and its time: ms at batch 1, and half the range over rounds."""

    name: str
    segments: tuple[Segment, ...]
    latency_ms: float
    spread_ms: float


def fit_kinds(rows: Sequence[KernelRow]) -> dict[str, KindModel]:
    """One model for every kind that has measured rows: a physical form and a residual."""
    by_kind: dict[str, list[KernelRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kernel.price_kind, []).append(row)
    return {kind: _fit_kind(kind, measured) for kind, measured in sorted(by_kind.items())}


def left_out_errors(rows: Sequence[KernelRow], models: Mapping[str, KindModel]) -> Array:
    """(N,): log(measured / predicted) of every row as if it had not been measured; the forms are kept."""
    errors = np.zeros(len(rows))
    for kind, model in models.items():
        at = [i for i, row in enumerate(rows) if row.kernel.price_kind == kind]
        ratios = _log_ratios(model, [rows[i] for i in at])
        assert model.residual is not None
        process = fit_residual(model.residual, [rows[i].kernel for i in at], list(ratios))
        errors[at] = ratios - process.left_out(ratios)[0]
    return errors


def fit_device(
    facts: Facts, rules: FusionRules, rows: Sequence[KernelRow], networks: Sequence[MeasuredNetwork]
) -> Header:
    """The header of a device measured by its user.

    Raises `UserError` for fewer than five networks, and for a network with a kernel kind that no row has.
    """
    if len(networks) < FEWEST_NETWORKS:
        raise UserError(
            f"{len(networks)} whole networks were timed; at least {FEWEST_NETWORKS} are needed to know how far "
            "predictions of networks are off"
        )
    models = fit_kinds(rows)
    alone = LatencyModel(
        DeviceProfile(facts.device, _header(facts, rules, rows, models), tuple(rows), ""), MEASURED, 0.5
    )
    sums = _Sums(alone, networks)
    measured = np.array([network.latency_ms for network in networks])
    weights = sums.weights(measured)
    low_scores, high_scores, ratios = sums.left_out(measured)
    coverage = min(COVERAGE, round(largest_coverage(len(networks)) - 0.025, 2))
    low, high = rank_quantiles(sorted(low_scores), sorted(high_scores), coverage)
    models = {
        kind: replace(model, in_network=round_significant(max(weights.get(kind, sums.common(measured)), 1e-3)))
        for kind, model in models.items()
    }
    errors = left_out_errors(rows, models)
    interval = Interval(
        coverage,
        f"measured over predicted time of {len(networks)} random networks on this device, each predicted with "
        "in-network factors fitted without it",
        "Rank quantiles of the left-out networks. A kernel that was not timed widens its share by the standard "
        "deviation of its kind's residual.",
        tuple(sorted(float(f"{score:.4g}") for score in low_scores)),
        tuple(sorted(float(f"{score:.4g}") for score in high_scores)),
    )
    accuracy = {
        "leave_one_network_out": f"MAPE {mape(ratios):.2f} %, {within(ratios, 0.05):.1f} % within 5 %, "
        f"{within(ratios, 0.1):.1f} % within 10 %; n = {len(networks)}; interval {low - 1:+.1%}..{high - 1:+.1%}",
        "leave_one_kernel_out": f"MAPE {100 * np.abs(np.expm1(errors)).mean():.1f} %; n = {len(rows)}",
    }
    network_ms = round_significant(weights[_CONSTANT])
    return replace(
        _header(facts, rules, rows, models),
        interval=interval,
        accuracy=accuracy,
        network_ms=network_ms,
        fitted_range=networks_range([(n.segments, n.latency_ms) for n in networks]),
    )


_CONSTANT = "constant"


class _Sums:
    """Networks as sums of the times that their kernels take alone, by kind; plus one constant a network."""

    def __init__(self, model: LatencyModel, networks: Sequence[MeasuredNetwork]) -> None:
        kernels = [[k for s in network.segments for k in fuse(s.nodes, model.fusion)] for network in networks]
        self.names = [*sorted({k.price_kind for ks in kernels for k in ks}), _CONSTANT]
        self.ms, self.low, self.high = (np.zeros((len(networks), len(self.names))) for _ in range(3))
        for i, network_kernels in enumerate(kernels):
            for kernel in network_kernels:
                ms, deviation = model.kernel_alone(kernel)
                at = self.names.index(kernel.price_kind)
                self.ms[i, at] += ms
                self.low[i, at] += ms * exp(-deviation)
                self.high[i, at] += ms * exp(deviation)
        for table in (self.ms, self.low, self.high):
            table[:, -1] = 1.0

    def common(self, measured: Array) -> float:
        """One factor for all kinds: measured over the sum of kernels alone."""
        return float(np.median(measured / self.ms[:, :-1].sum(1)))

    def weights(self, measured: Array) -> dict[str, float]:
        """Factor per kind, held to the common one, and the constant in ms, held to 0."""
        return dict(zip(self.names, self._solve(np.arange(len(measured)), measured), strict=True))

    def left_out(self, measured: Array) -> tuple[list[float], list[float], Array]:
        """Low and high scores as in `Interval`, and predicted over measured, by networks left out one by one."""
        low, high, ratios = [], [], np.zeros(len(measured))
        for i in range(len(measured)):
            weights = self._solve(np.delete(np.arange(len(measured)), i), measured)
            low.append(float(measured[i] / (self.low[i] @ weights)))
            high.append(float(measured[i] / (self.high[i] @ weights)))
            ratios[i] = self.ms[i] @ weights / measured[i]
        return low, high, ratios

    def _solve(self, keep: NDArray[np.intp], measured: Array) -> Array:
        from scipy.optimize import nnls

        ms, y = self.ms[keep], measured[keep]
        prior = np.full(len(self.names), np.median(y / ms[:, :-1].sum(1)))
        prior[-1] = 0.0
        hold = SHRINKAGE * ms.mean(0) / y.mean()
        matrix = np.vstack([ms / y[:, None], np.diag(hold)])
        solution, _ = nnls(matrix, np.concatenate([np.ones(len(y)), hold * prior]))
        result: Array = solution
        return result


def _fit_kind(kind: str, rows: Sequence[KernelRow]) -> KindModel:
    model = KindModel(
        coefficients=_fit_form(kind, rows),
        origin="measured",
        source="kernels timed alone on this device",
        support=dict(sorted(Counter(row.kernel.spec.kernel_size for row in rows).items())),
        low_factor=1.0,
        high_factor=1.0,
        fitted_range=kernels_range(row.kernel for row in rows),
        unseen=UNSEEN,
    )
    model = _with_paths(kind, model, rows)
    residual = _fit_residual(kind, rows, _log_ratios(model, rows))
    model = replace(model, residual=residual)
    low, high = kernel_interval(left_out_errors(rows, {kind: model}), residual.amplitude)
    return replace(model, low_factor=low, high_factor=high)


def _fit_form(kind: str, rows: Sequence[KernelRow]) -> dict[str, float]:
    form: Form = {kind: {feature: feature for feature in FORMS.get(kind, _TOUCHING)}}
    samples = []
    for row in rows:
        terms = Terms(form)
        terms.add(row.kernel)
        samples.append(Sample(str(row.kernel), terms.values, row.latency_ms))
    coefficients = {name: value for name, value in fit_coefficients(samples).items() if value}
    if not coefficients:
        raise UserError(f"the measured rows of kernel kind '{kind}' fit no form with positive rates")
    return coefficients


def _with_paths(kind: str, model: KindModel, rows: Sequence[KernelRow]) -> KindModel:
    """Forms of their own for the kernel sizes, where the common form shows that they take different paths."""
    by_size: dict[int, list[KernelRow]] = {}
    for row in rows:
        by_size.setdefault(row.kernel.spec.kernel_size, []).append(row)
    known = {size: own for size, own in sorted(by_size.items()) if len(own) >= FEWEST_ROWS_OF_PATH}
    levels = [float(np.median(_log_ratios(model, own))) for own in known.values()]
    if not levels or (apart := exp(max(levels) - min(levels))) < OTHER_PATH:
        return model
    sizes = {size: _fit_form(kind, own) for size, own in known.items()}
    return replace(model, sizes=sizes, unseen=max(UNSEEN, round(apart, 1)))


def other_paths(model: KindModel, kernels: Iterable[Kernel]) -> dict[int, float]:
    """Kernel size with a form of its own -> how many times what the cheapest other size's form gives its kernels.

    The median over these kernels; sizes below `OTHER_PATH` are left out.
    """
    found: dict[int, list[float]] = {}
    for kernel in kernels:
        size = kernel.spec.kernel_size
        others = [replace(model, sizes={size: form}) for other, form in model.sizes.items() if other != size]
        if size in model.sizes and others:
            cheapest = min(form_ms(other, kernel, Lanes()) for other in others)
            found.setdefault(size, []).append(form_ms(model, kernel, Lanes()) / max(cheapest, 1e-12))
    times = {size: float(np.median(values)) for size, values in sorted(found.items())}
    return {size: value for size, value in times.items() if value >= OTHER_PATH}


def _log_ratios(model: KindModel, rows: Sequence[KernelRow]) -> Array:
    """log(measured / form), (N,)."""
    return np.array([log(row.latency_ms / form_ms(model, row.kernel, Lanes())) for row in rows])


def _fit_residual(kind: str, rows: Sequence[KernelRow], ratios: Array) -> Residual:
    """One length scale for all coordinates, amplitude and noise of the highest marginal likelihood."""
    from scipy.optimize import minimize

    names = _DENSE if kind.startswith("conv") or kind == "linear" else _CHANNELWISE
    step = max(1, len(rows) // MOST_ROWS_FOR_SCALES)
    if len(rows) < FEWEST_ROWS_FOR_SCALES:
        return Residual(dict.fromkeys(names, THIN[0]), *THIN[1:])
    unit = Residual(dict.fromkeys(names, 1.0), 1.0, 1.0)
    points, targets = coordinates([row.kernel for row in rows[::step]], unit), ratios[::step]

    def loss(logs: Array) -> float:
        scale, amplitude, noise = np.exp(np.clip(logs, -5, 3))
        process = GaussianProcess(points / scale, targets, amplitude, noise)
        sign, determinant = np.linalg.slogdet(process.inverse)
        return float(targets @ process.weights - determinant) if sign > 0 else 1e9

    spread = max(float(np.std(targets)), 0.01)
    start = np.log([1.0, spread, max(spread / 5, 0.005)])
    best = minimize(loss, start, method="Nelder-Mead", options={"maxfev": 120})
    scale, amplitude, noise = np.exp(np.clip(best.x, [-1.5, -5, -5], [3, 1, 0]))
    scales = dict.fromkeys(names, round_significant(float(scale)))
    return Residual(scales, round_significant(float(amplitude)), round_significant(float(noise)))


def kernel_interval(errors: Array, amplitude: float) -> tuple[float, float]:
    """Ends for a kernel not timed, from rows left out.

    Tolerance limits where they reach; below, normal ones that are no narrower than the residual's amplitude, since so
    few rows say little.
    """
    half = NORMAL_90 * max(amplitude, float(np.sqrt((errors**2).mean())))
    low, high = tolerance_limits(np.exp(errors).tolist(), COVERAGE) or (exp(-half), exp(half))
    return min(1.0, round(low, 4)), max(1.0, round(high, 4))


def _header(facts: Facts, rules: FusionRules, rows: Sequence[KernelRow], models: Mapping[str, KindModel]) -> Header:
    """Without what whole networks teach."""
    return Header(
        device=facts.device,
        title=facts.title,
        runtime=facts.runtime,
        runtime_version=facts.runtime_version,
        precision=facts.precision,
        threads=facts.threads,
        clock=facts.clock,
        date=facts.date,
        measured_by=facts.measured_by,
        sources=(Source("latency_models.profile", "the measurer's own", "kernels timed alone and whole networks"),),
        row_origins={"measured": "kernels timed alone by the protocol of latency_models.measure.timing"},
        kernel_rows=len(rows),
        fusion=rules,
        lanes=Lanes(),
        models=models,
        interval=Interval(0.5, "nothing yet", "nothing yet", (1.0,) * 3, (1.0,) * 3),
        calibration={"measured": MEASURED},
        accuracy={"leave_one_network_out": "not measured"},
        runtime_options=facts.runtime_options,
    )
