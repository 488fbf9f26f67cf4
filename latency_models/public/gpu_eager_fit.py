"""Single kernels of an A100 under eager PyTorch, fp32: which rows teach what, and the models they give.

Rows of one table share forms and residuals per kernel kind. Needs scipy. Not for whole profiles (`gpu_eager`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device_profiles import Kernel, Lanes, Residual
from latency_models.features import BLOCKS, COORDINATES, FEATURES
from latency_models.public.data import A100_ELEMENTWISE, Row, read_rows
from latency_models.regression import Sample, Terms, fit_absolute, fit_coefficients
from latency_models.residual import GaussianProcess, coordinates
from search_space.layer import Kind, LayerSpec

Array = NDArray[np.float64]
Places = NDArray[np.intp]

A100_CONV = "a100_conv_fp32.csv"
A100_LINEAR = "a100_linear_fp32.csv"
OPS = {"add": Kind.ADD, "mul": Kind.MUL, "gelu": Kind.GELU, "relu": Kind.RELU6, "layernorm": Kind.LAYER_NORM}
TWO_INPUTS = (Kind.ADD, Kind.MUL)
FORMS: Mapping[str, tuple[str, ...]] = {
    "linear": ("launch", "padded_product_macs", "input_elements", "weights", "output_elements"),
    "conv_kxk": ("launch", "winograd_macs", "wave_macs", "input_elements", "output_elements", "weights", "depth"),
    **{kind.value: ("launch", "output_elements") for kind in OPS.values()},
}
ROWS = {"linear": 850, "conv_kxk": 350, "layer_norm": 100, "add": 50, "mul": 50, "gelu": 50, "relu6": 50}
"""How many rows of a kind the table holds."""
OUTLIER = 0.3  # log of measured over what the other rows say; only products show such rows, all or most too slow
SCREENED_TOGETHER, SCREENING_NOISE = 1200, 0.1
FOLDS, FOLD_SEED = 4, 1


@dataclass(frozen=True, eq=False)
class Measured:
    """Rows of one kernel kind. kernels: N; latency_ms: (N,)."""

    kind: str
    kernels: Sequence[Kernel]
    latency_ms: Array

    def at(self, places: Places) -> Measured:
        return Measured(self.kind, [self.kernels[i] for i in places], self.latency_ms[places])


@dataclass(frozen=True, eq=False)
class Fitted:
    """A kind's form and residual, and the rows that stand behind the residual.

    low, high: standard deviations of the log ratio between which 90 % of unseen rows lie; one such deviation is
    the process's own, noise included.
    """

    kind: str
    coefficients: Mapping[str, float]
    residual: Residual
    rows: Measured
    low: float = 0.0
    high: float = 0.0

    def predict(self, kernels: Sequence[Kernel]) -> tuple[Array, Array]:
        """ms and the standard deviation of its logarithm, noise included, (N,) each."""
        targets = log_ratios(self.rows, self.coefficients)
        process = _process(self.residual, self.rows.kernels, targets)
        mean, deviation = process.at(coordinates(kernels, self.residual))
        return form_ms(self.coefficients, kernels) * np.exp(mean), np.hypot(deviation, self.residual.noise)

    def interval(self, ms: Array, deviation: Array) -> tuple[Array, Array]:
        return ms * np.exp(self.low * deviation), ms * np.exp(self.high * deviation)


def linear_rows(folder: Path) -> Measured:
    """A matrix product keeps its rows as the tensor's height. The file's n is the dimension that is summed over, its k
    the width of the output: only so do times step where the output's blocks fill the 108 multiprocessors."""
    return _measured(
        "linear",
        read_rows(folder, A100_LINEAR),
        lambda row: Kernel(LayerSpec(Kind.LINEAR, row.integer("n"), row.integer("k"), row.integer("m"), 1)),
    )


def conv_rows(folder: Path) -> Measured:
    """A batch of B square images is one tensor B times as high as wide."""

    def kernel(row: Row) -> Kernel:
        size, batch = row.integer("hw"), row.integer("batch")
        channels = row.integer("in_channels"), row.integer("out_channels")
        window = row.integer("kernel"), row.integer("stride"), row.integer("padding")
        return Kernel(LayerSpec(Kind.CONV, *channels, batch * size, size, *window))

    return _measured("conv_kxk", read_rows(folder, A100_CONV), kernel)


def element_wise_rows(folder: Path, op: str) -> Measured:
    """One row of the matrix is one pixel, its columns are the channels."""
    kind = OPS[op]

    def kernel(row: Row) -> Kernel:
        spec = LayerSpec(kind, row.integer("cols"), row.integer("cols"), row.integer("rows"), 1)
        return Kernel(spec, inputs=2 if kind in TWO_INPUTS else 1)

    rows = [row for row in read_rows(folder, A100_ELEMENTWISE) if row.text("op") == op]
    return _measured(kind.value, rows, kernel)


def fit_kind(rows: Measured, residual: Residual, count: int) -> Fitted:
    """The form from all rows, the residual from `count` of them that spread furthest; its deviations from folds."""
    fold_of = np.random.default_rng(FOLD_SEED).integers(0, FOLDS, len(rows.kernels))
    scores = np.zeros(len(rows.kernels))
    for fold in range(FOLDS):
        rest, unseen = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        ms, deviation = _fit(rows.at(rest), residual, count).predict(rows.at(unseen).kernels)
        scores[unseen] = np.log(rows.latency_ms[unseen] / ms) / deviation
    fitted = _fit(rows, residual, count)
    low, high = np.quantile(scores, (0.05, 0.95))
    return Fitted(rows.kind, fitted.coefficients, residual, fitted.rows, float(low), float(high))


def _fit(rows: Measured, residual: Residual, count: int) -> Fitted:
    coefficients = fit_form(rows)
    kept = without_outliers(rows, coefficients, residual) if rows.kind == "linear" else rows
    chosen = spread_out(coordinates(kept.kernels, residual), count)
    return Fitted(rows.kind, coefficients, residual, kept.at(chosen))


def fit_form(rows: Measured) -> dict[str, float]:
    """Coefficients of the kind's form, those of 0 left out."""
    features = FORMS[rows.kind]
    samples = []
    for kernel, ms in zip(rows.kernels, rows.latency_ms, strict=True):
        terms = Terms({rows.kind: {feature: feature for feature in features}})
        for feature in features:
            terms.add_value(feature, FEATURES[feature](kernel, Lanes()))
        samples.append(Sample(str(kernel), terms.values, float(ms)))
    solve = fit_coefficients if rows.kind == "conv_kxk" else fit_absolute
    return {name: value for name, value in solve(samples).items() if value}


def form_ms(coefficients: Mapping[str, float], kernels: Sequence[Kernel]) -> Array:
    lanes = Lanes()
    return np.array([sum(c * FEATURES[name](kernel, lanes) for name, c in coefficients.items()) for kernel in kernels])


def log_ratios(rows: Measured, coefficients: Mapping[str, float]) -> Array:
    """log(measured / form), (N,)."""
    return np.log(rows.latency_ms / form_ms(coefficients, rows.kernels))


def without_outliers(rows: Measured, coefficients: Mapping[str, float], residual: Residual) -> Measured:
    """Rows that the others around them do not contradict: some products were timed 1.4-20 times too slow."""
    targets = log_ratios(rows, coefficients)
    wide = Residual(residual.length_scales, residual.amplitude, SCREENING_NOISE)
    parts = -(-len(targets) // SCREENED_TOGETHER)
    kept = np.zeros(len(targets), dtype=bool)
    for part in range(parts):
        process = _process(wide, rows.kernels[part::parts], targets[part::parts])
        expected, _ = process.left_out(targets[part::parts])
        kept[part::parts] = np.abs(targets[part::parts] - expected) < OUTLIER
    return rows.at(np.flatnonzero(kept))


def spread_out(points: Array, count: int) -> Places:
    """Places of `count` points, each the furthest from those before it, the first the one nearest to the middle."""
    nearest = ((points - points.mean(0)) ** 2).sum(1)
    chosen = [int(nearest.argmin())]
    nearest = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.array(sorted(chosen))


def _process(residual: Residual, kernels: Sequence[Kernel], targets: Array) -> GaussianProcess:
    return GaussianProcess(coordinates(kernels, residual), targets, residual.amplitude, residual.noise)


def likely_residual(names: Sequence[str], rows: Measured, coefficients: Mapping[str, float], most: int) -> Residual:
    """Length scales, amplitude and noise of the highest marginal likelihood on at most `most` rows, the scales held
    weakly to the spread of their coordinates. This is where `RESIDUALS` come from."""
    from scipy.optimize import minimize

    few = rows.at(np.sort(np.random.default_rng(0).permutation(len(rows.kernels))[:most]))
    points = np.array([[COORDINATES[name](kernel) for name in names] for kernel in few.kernels])
    targets = log_ratios(few, coefficients)
    squares = [(column[:, None] - column[None, :]) ** 2 for column in points.T]
    prior = np.log(points.std(0) * len(names) ** 0.5)

    def loss(logs: Array) -> tuple[float, Array]:
        scales, amplitude, noise = np.exp(logs[:-2]), exp(logs[-2]), exp(logs[-1])
        root = np.sqrt(5 * sum(square / scale**2 for square, scale in zip(squares, scales, strict=True)))
        decay = np.exp(-root)
        correlation = (1 + root + root**2 / 3) * decay
        covariance = amplitude**2 * correlation + noise**2 * np.eye(len(targets))
        inverse = np.linalg.inv(covariance)
        weights = inverse @ targets
        _, determinant = np.linalg.slogdet(covariance)
        slope = inverse - np.outer(weights, weights)
        by_distance = slope * (amplitude**2 * 5 / 3 * (1 + root) * decay)
        pull = (logs[:-2] - prior) / _PULL
        gradient = [(by_distance * square).sum() / (2 * s**2) for square, s in zip(squares, scales, strict=True)]
        ends = [amplitude**2 * (slope * correlation).sum(), noise**2 * np.trace(slope)]
        value = (targets @ weights + determinant + (pull**2).sum()) / 2
        return float(value), np.array([*(np.array(gradient) + pull / _PULL), *ends])

    start = np.array([*prior, log(targets.std()), log(0.4 * targets.std())])
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100})
    *scales, amplitude, noise = (float(f"{value:.3g}") for value in np.exp(best.x))
    return Residual(dict(zip(names, scales, strict=True)), amplitude, noise)


_PULL = 4.0
_SIZES = ("log_in_channels", "log_out_channels", "log_pixels")
NAMES: Mapping[str, tuple[str, ...]] = {
    "linear": (
        *_SIZES,
        *(f"idle_{rows}x{columns}" for rows, columns in BLOCKS),
        *(f"padding_{size}x{size}" for size in (32, 64, 128)),
        *(f"idle_{size}x{size}_two_at_once" for size in (32, 64)),
    ),
    "conv_kxk": ("log_in_channels", "log_out_channels", "log_width", "log_height_over_width"),
    **{kind.value: ("log_elements", "log_in_channels") for kind in OPS.values()},
}


def _measured(kind: str, rows: Sequence[Row], kernel: Callable[[Row], Kernel]) -> Measured:
    """Kernels measured more than once keep the shortest time."""
    shortest: dict[Kernel, float] = {}
    for row in rows:
        key, ms = kernel(row), row.number("latency_ms")
        shortest[key] = min(ms, shortest.get(key, ms))
    return Measured(kind, list(shortest), np.array(list(shortest.values())))
