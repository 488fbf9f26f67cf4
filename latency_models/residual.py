"""What a kind's measured rows teach beyond its physical form: a Gaussian process on the log ratio.

Far from every row it returns to the form, and its standard deviation says so. Sums are taken by one thread, so that
the last digit of a prediction does not depend on how many cores a machine has.
Not for fitting hyper-parameters (`fit.kernels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from device_profiles import Kernel, Residual
from latency_models.features import COORDINATES

Array = NDArray[np.float64]


class GaussianProcess:
    """Matern 5/2 with a length scale per coordinate, zero mean.

    points: (N, D) already divided by the length scales; targets: (N,). A weight of its own per row is
    not supported. Raises `numpy.linalg.LinAlgError` for a degenerate covariance.
    """

    def __init__(self, points: Array, targets: Array, amplitude: float, noise: float) -> None:
        self.points, self.amplitude = points, amplitude
        with one_thread():
            covariance = amplitude**2 * matern(points, points)
            covariance[np.diag_indices_from(covariance)] += noise**2
            self.inverse: Array = np.asarray(np.linalg.inv(covariance), dtype=np.float64)
            self.weights: Array = self.inverse @ targets

    def at(self, points: Array) -> tuple[Array, Array]:
        """points: (M, D) scaled -> mean (M,) and standard deviation (M,) of the log ratio, noise left out."""
        with one_thread():
            cross = self.amplitude**2 * matern(points, self.points)
            variance = self.amplitude**2 - np.einsum("ij,jk,ik->i", cross, self.inverse, cross, optimize=True)
            return cross @ self.weights, np.sqrt(np.maximum(variance, 0.0))

    def left_out(self, targets: Array) -> tuple[Array, Array]:
        """Mean and standard deviation (noise included) at every row as if it had been left out, (N,) each."""
        diagonal = np.diag(self.inverse)
        return targets - self.weights / diagonal, np.sqrt(1 / diagonal)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def one_thread() -> AbstractContextManager[object]:
    """In this block numpy's linear algebra runs in the calling thread alone."""
    limited: AbstractContextManager[object] = _libraries().limit(limits=1)
    return limited


def matern(a: Array, b: Array) -> Array:
    """(N, D), (M, D) -> (N, M), 1 at distance 0."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    distance = np.sqrt(5 * np.maximum(squared, 0.0))
    result: Array = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return result


def coordinates(kernels: Sequence[Kernel], residual: Residual) -> Array:
    """(N, D): the coordinates that `residual` names, over its length scales."""
    named = [(COORDINATES[name], scale) for name, scale in residual.length_scales.items()]
    return np.array([[read(kernel) / scale for read, scale in named] for kernel in kernels])


def fit_residual(residual: Residual, kernels: Sequence[Kernel], log_ratios: Sequence[float]) -> GaussianProcess:
    """The process over rows with log(measured / form), (N,)."""
    return GaussianProcess(coordinates(kernels, residual), np.array(log_ratios), residual.amplitude, residual.noise)
