"""Where the residuals of `fit` come from: length scales, amplitude and noise of the highest likelihood.

    python -m experiments.profiles.gpu_eager_fp32.scales [source=FOLDER]

Prints them for every kind, from the seen part of the split alone. About a minute; needs scipy. The printed numbers
are copied into `RESIDUALS` by hand, so that a profile's rebuild does not depend on an optimiser's last digits.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import exp, log
from pathlib import Path

import numpy as np

from device_profiles import Residual
from experiments.profiles import DATA
from experiments.profiles.gpu_eager_fp32.fit import SCREENED, fit_form, log_ratios, without_outliers
from experiments.profiles.gpu_eager_fp32.rows import (
    OPS,
    Array,
    Measured,
    conv_rows,
    element_wise_rows,
    linear_rows,
    split,
)
from latency_models.features import BLOCKS, COORDINATES
from latency_models.options import Options, run

USAGE = "usage: python -m experiments.profiles.gpu_eager_fp32.scales [source=FOLDER]"
OPTIONS = {"source": "folder of the public rows (default: experiments/profiles/data)"}
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
FIRST = Residual(dict(zip(_SIZES, (2.5, 3.0, 2.5), strict=True)), amplitude=0.15, noise=0.06)  # to screen by, once
MOST, PULL, ITERATIONS = 1000, 4.0, 100  # PULL: standard deviations (of the log) that hold the scales to their start


def likely_residual(names: Sequence[str], rows: Measured, coefficients: Mapping[str, float]) -> Residual:
    """The residual of the highest likelihood on at most `MOST` rows.

    The scales are held weakly to the spread of their coordinates. Of a marginal likelihood with its gradient, since
    there are up to 19 numbers to find.
    """
    from scipy.optimize import minimize

    few = rows.at(np.sort(np.random.default_rng(0).permutation(len(rows.kernels))[:MOST]))
    points = np.array([[COORDINATES[name](kernel) for name in names] for kernel in few.kernels])
    targets = log_ratios(few, coefficients)
    squares = [(column[:, None] - column[None, :]) ** 2 for column in points.T]
    prior = np.log(points.std(0) * len(names) ** 0.5)

    def loss(logs: Array) -> tuple[float, Array]:
        scales, amplitude, noise = np.exp(logs[:-2]), exp(logs[-2]), exp(logs[-1])
        root = np.sqrt(5 * sum(square / scale**2 for square, scale in zip(squares, scales, strict=True)))
        decay = np.exp(-root)
        correlation = (1 + root + root**2 / 3) * decay
        inverse = np.linalg.inv(amplitude**2 * correlation + noise**2 * np.eye(len(targets)))
        weights = inverse @ targets
        _, determinant = np.linalg.slogdet(inverse)
        slope = inverse - np.outer(weights, weights)
        by_distance = slope * (amplitude**2 * 5 / 3 * (1 + root) * decay)
        pull = (logs[:-2] - prior) / PULL
        gradient = [(by_distance * square).sum() / (2 * s**2) for square, s in zip(squares, scales, strict=True)]
        ends = [amplitude**2 * (slope * correlation).sum(), noise**2 * np.trace(slope)]
        value = (targets @ weights - determinant + (pull**2).sum()) / 2
        return float(value), np.array([*(np.array(gradient) + pull / PULL), *ends])

    start = np.array([*prior, log(targets.std()), log(0.4 * targets.std())])
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    *scales, amplitude, noise = (float(f"{value:.3g}") for value in np.exp(best.x))
    return Residual(dict(zip(names, scales, strict=True)), amplitude, noise)


def residual_of(kind: str, seen: Measured) -> Residual:
    """Of one kind's rows; screened by the residual itself where the kind is."""
    coefficients, drift = fit_form(seen)
    seen = seen.without(drift)
    if kind != SCREENED:
        return likely_residual(NAMES[kind], seen, coefficients)
    residual = FIRST
    for _ in range(2):
        residual = likely_residual(NAMES[kind], without_outliers(seen, coefficients, residual), coefficients)
    return residual


def _scales(options: Options) -> str:
    folder = Path(options.text("source", str(DATA)))
    found = {
        "linear": residual_of("linear", split(linear_rows(folder))[0]),
        "conv_kxk": residual_of("conv_kxk", split(conv_rows(folder))[0]),
    }
    for kind, seen in split(element_wise_rows(folder))[0].by_kind().items():
        found[kind] = residual_of(kind, seen)
    return "\n".join(f"{kind}: {residual}" for kind, residual in found.items())


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_scales, OPTIONS, USAGE, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
