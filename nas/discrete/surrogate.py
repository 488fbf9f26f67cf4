"""A Gaussian process over choices, to say which network is worth evaluating.

k(x, y) = exp(-(share of slots that differ) / length) + slope**2 * effort(x) * effort(y), about a mean that grows with
effort: what the candidates are is unknown to it, but that more work tends to pay is known before the first evaluation.
Targets are ranks mapped to normal quantiles, since the few networks that fail altogether would else set the scale.
Length and noise are those of a small grid with the largest likelihood. Not for predicting accuracies.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]
Networks = NDArray[np.int64]

SLOPE = 0.5  # standard deviations of accuracy's rank by one of effort: prior mean, and its own deviation
LENGTHS = (0.15, 0.3, 0.6, 1.2)
NOISES = (0.01, 0.03, 0.1, 0.3)  # variance; the whole is about 1
REFIT = 1.2  # the grid is searched again when there are so many times more networks


class Surrogate:
    """`fit`, then `expected_improvement`. The grid's choice is kept from one fit to the next."""

    def __init__(self) -> None:
        self.length, self.noise = LENGTHS[1], NOISES[1]
        self.searched_at = 0

    def fit(self, networks: Networks, effort: Array, accuracies: Array) -> None:
        """networks: (N, S); effort, accuracies: (N,), effort standardised over the region."""
        self.networks, self.effort = networks, effort
        self.best = normal_scores(accuracies).max()
        self.targets = normal_scores(accuracies) - SLOPE * effort
        self.level = self.targets.mean()
        self.targets -= self.level
        differing = (networks[:, None] != networks[None]).mean(2)
        if len(networks) >= REFIT * self.searched_at:
            self.searched_at = len(networks)
            grid = itertools.product(LENGTHS, NOISES)
            self.length, self.noise = max(grid, key=lambda pair: self._likelihood(differing, *pair))
        self.factor = self._factor(differing, self.length, self.noise)
        self.weights: Array = cho_solve((self.factor, True), self.targets)

    def expected_improvement(self, networks: Networks, effort: Array) -> Array:
        """(M, S), (M,) -> (M,), over the best so far, in quantiles."""
        differing = (networks[:, None] != self.networks[None]).mean(2)
        kernel = np.exp(-differing / self.length) + SLOPE**2 * np.outer(effort, self.effort)
        mean = SLOPE * effort + self.level + kernel @ self.weights
        explained = solve_triangular(self.factor, kernel.T, lower=True)
        variance = 1 + SLOPE**2 * effort**2 - (explained**2).sum(0)
        deviation = np.sqrt(np.maximum(variance, 1e-9))
        z = (mean - self.best) / deviation
        improvement: Array = deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
        return improvement

    def _likelihood(self, differing: Array, length: float, noise: float) -> float:
        """Log marginal likelihood, the constant left out."""
        factor = self._factor(differing, length, noise)
        fit = self.targets @ cho_solve((factor, True), self.targets)
        return float(-0.5 * fit - np.log(np.diag(factor)).sum())

    def _factor(self, differing: Array, length: float, noise: float) -> Array:
        """The lower Cholesky factor of the covariance."""
        trend = SLOPE**2 * np.outer(self.effort, self.effort)
        factor: Array = cholesky(np.exp(-differing / length) + trend + noise * np.eye(len(differing)), lower=True)
        return factor


def normal_scores(values: Array) -> Array:
    """(N,) -> (N,), the quantiles of a standard normal at the values' ranks; equal values share one."""
    ordered = np.sort(values)
    ranks = 0.5 * (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right"))
    scores: Array = ndtri(ranks / len(values))
    return scores
