"""Single kernels of an A100 under eager PyTorch, fp32: a form and a residual per kernel kind.

A table's rows may be of two kinds (convolutions over an image, and others): they share the form, not the residual.
Needs scipy. Not for whole profiles (`profile`) nor for finding length scales (`scales`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from device_profiles import Kernel, Lanes, Residual
from experiments.profiles.gpu_eager_fp32.rows import OPS, Array, Drift, Measured, Places
from experiments.profiles.regression import fit_absolute
from latency_models.features import FEATURES
from latency_models.fit.kernels import kernel_interval
from latency_models.fit.regression import Sample
from latency_models.residual import GaussianProcess, coordinates, fit_residual

_CONV = ("launch", "winograd_macs", "wave_macs", "input_elements", "output_elements", "weights", "depth")
FORMS: Mapping[str, tuple[str, ...]] = {
    "linear": ("launch", "padded_product_macs", "input_elements", "weights", "output_elements"),
    "conv_kxk": _CONV,
    "conv_image": _CONV,
    **{kind.value: ("launch", "output_elements") for kind in OPS.values()},
}
# A convolution's time grows by its place in the table, whatever its size: the shortest of the first hundred is 0.07 ms,
# of the last 0.35. The run slowed down as it went on, and left-out folds follow a square better than a line.
DRIFT_POWERS = {"conv_kxk": 2, "conv_image": 2}
# Found on the rows of the split's seen part alone: python -m experiments.profiles.gpu_eager_fp32.scales
_CONV_RESIDUAL = Residual(
    {
        "log_in_channels": 1.04,
        "log_out_channels": 1.44,
        "log_width": 0.931,
        "log_height_over_width": 0.555,
        # Not found but judged: every row has a 3x3 window and stride 1, and teaches next to nothing of others.
        "log_kernel_size": 0.2,
        "log_stride": 0.2,
    },
    amplitude=0.184,
    noise=0.159,
)
RESIDUALS: Mapping[str, Residual] = {
    "linear": Residual(
        {
            "log_in_channels": 2.56,
            "log_out_channels": 3.04,
            "log_pixels": 2.78,
            "idle_32x32": 0.0709,
            "idle_64x32": 3.44,
            "idle_32x64": 0.391,
            "idle_64x64": 5.07,
            "idle_128x32": 0.539,
            "idle_32x128": 0.641,
            "idle_128x64": 2.85,
            "idle_64x128": 1.85,
            "idle_128x128": 1.52,
            "padding_32x32": 0.483,
            "padding_64x64": 0.689,
            "padding_128x128": 0.845,
            "idle_32x32_two_at_once": 1.02,
            "idle_64x64_two_at_once": 0.929,
        },
        amplitude=0.162,
        noise=0.0355,
    ),
    "conv_kxk": _CONV_RESIDUAL,
    "conv_image": _CONV_RESIDUAL,
    "add": Residual({"log_elements": 0.459, "log_in_channels": 3.13}, amplitude=0.0952, noise=0.00948),
    "mul": Residual({"log_elements": 0.397, "log_in_channels": 2.59}, amplitude=0.0881, noise=0.00956),
    "gelu": Residual({"log_elements": 0.62, "log_in_channels": 3.17}, amplitude=0.0799, noise=0.00936),
    "relu6": Residual({"log_elements": 0.583, "log_in_channels": 3.32}, amplitude=0.0822, noise=0.00976),
    "layer_norm": Residual({"log_elements": 0.995, "log_in_channels": 0.337}, amplitude=0.0965, noise=0.026),
}
MOST_ROWS = {"linear": 1500, "conv_kxk": 700, "conv_image": 50} | {kind.value: 150 for kind in OPS.values()}
"""How many rows of a kind the profile's table holds at most. By left-out folds of the split's seen part, products are
5.1 % off with 1,000 rows and 4.9 % with 1,500; convolutions 11.5 % with 700 and 10.6 % with all."""
SCREENED = "linear"  # the one kind with rows that the rows around them contradict, nearly all of them too slow
OUTLIER = 0.3  # of the logarithm
SCREENED_TOGETHER, SCREENING_NOISE = 1200, 0.1
FOLDS, FOLD_SEED = 4, 1


@dataclass(frozen=True, eq=False)
class Fitted:
    """A kind's form and residual.

    rows: those behind the residual, without their run's drift; seen: how many the form was fitted to; low_factor,
    high_factor: between which multiples of a prediction 90 % of unseen rows lie.
    """

    coefficients: Mapping[str, float]
    residual: Residual
    rows: Measured
    seen: int
    drift: Drift
    low_factor: float = 1.0
    high_factor: float = 1.0

    def predict(self, kernels: list[Kernel]) -> Array:
        """ms, (N,)."""
        process = _process(self.residual, self.rows, self.coefficients)
        mean, _ = process.at(coordinates(kernels, self.residual))
        return form_ms(self.coefficients, kernels) * np.exp(mean)


def fit_kinds(rows: Measured) -> dict[str, Fitted]:
    """Every kind of one table, with the interval of rows that folds left out."""
    fold_of = np.random.default_rng(FOLD_SEED).integers(0, FOLDS, len(rows.kernels))
    errors: dict[str, list[float]] = {}
    for fold in range(FOLDS):
        models = _fit_kinds(rows.at(np.flatnonzero(fold_of != fold)))
        for kind, unseen in rows.at(np.flatnonzero(fold_of == fold)).by_kind().items():
            steady = unseen.without(models[kind].drift)
            ratios = np.log(steady.latency_ms / models[kind].predict(list(unseen.kernels)))
            errors.setdefault(kind, []).extend(ratios.tolist())
    fitted = {}
    for kind, model in _fit_kinds(rows).items():
        low, high = kernel_interval(np.array(errors[kind]), model.residual.amplitude)
        fitted[kind] = replace(model, low_factor=low, high_factor=high)
    return fitted


def _fit_kinds(rows: Measured) -> dict[str, Fitted]:
    """The form from all rows of a table, residuals from the rows of each kind that spread furthest."""
    coefficients, drift = fit_form(rows)
    fitted = {}
    for kind, part in rows.without(drift).by_kind().items():
        residual = RESIDUALS[kind]
        kept = without_outliers(part, coefficients, residual) if kind == SCREENED else part
        chosen = spread_out(coordinates(kept.kernels, residual), MOST_ROWS[kind])
        fitted[kind] = Fitted(coefficients, residual, kept.at(chosen), len(part.kernels), drift)
    return fitted


def fit_form(rows: Measured) -> tuple[dict[str, float], Drift]:
    """Coefficients of the form that the kinds of a table share, those of 0 left out, and the drift of its run."""
    kind, lanes = rows.kernels[0].price_kind, Lanes()
    drifts = [f"drift {power}" for power in range(1, DRIFT_POWERS.get(kind, 0) + 1)]
    samples = []
    for kernel, ms, elapsed in zip(rows.kernels, rows.latency_ms.tolist(), rows.elapsed.tolist(), strict=True):
        terms = {feature: FEATURES[feature](kernel, lanes) for feature in FORMS[kind]}
        terms |= {name: elapsed**power for power, name in enumerate(drifts, 1)}
        samples.append(Sample(str(kernel), terms, ms))
    solved = fit_absolute(samples)
    drift = Drift(tuple(solved.pop(name) for name in drifts))
    return {name: value for name, value in solved.items() if value}, drift


def form_ms(coefficients: Mapping[str, float], kernels: list[Kernel]) -> Array:
    """Times by the form alone, in ms: (N,)."""
    lanes = Lanes()
    return np.array([sum(c * FEATURES[name](kernel, lanes) for name, c in coefficients.items()) for kernel in kernels])


def log_ratios(rows: Measured, coefficients: Mapping[str, float]) -> Array:
    """log(measured / form), (N,)."""
    ratios: Array = np.log(rows.latency_ms / form_ms(coefficients, list(rows.kernels)))
    return ratios


def without_outliers(rows: Measured, coefficients: Mapping[str, float], residual: Residual) -> Measured:
    """Rows that the others around them do not contradict: some products were timed 1.4-20 times too slow."""
    wide = Residual(residual.length_scales, residual.amplitude, SCREENING_NOISE)
    parts = -(-len(rows.kernels) // SCREENED_TOGETHER)
    kept = np.zeros(len(rows.kernels), dtype=bool)
    for part in range(parts):
        some = rows.at(np.arange(part, len(rows.kernels), parts))
        targets = log_ratios(some, coefficients)
        expected, _ = _process(wide, some, coefficients).left_out(targets)
        kept[part::parts] = np.abs(targets - expected) < OUTLIER
    return rows.at(np.flatnonzero(kept))


def spread_out(points: Array, count: int) -> Places:
    """Places of at most `count` points, each the furthest from those before it.

    The first is the one nearest to the middle, and no two lie at one place. points: (N, D).
    """
    nearest = ((points - points.mean(0)) ** 2).sum(1)
    chosen = [int(nearest.argmin())]
    nearest = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < count and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(1))
    return np.array(sorted(chosen))


def _process(residual: Residual, rows: Measured, coefficients: Mapping[str, float]) -> GaussianProcess:
    return fit_residual(residual, rows.kernels, log_ratios(rows, coefficients).tolist())
