"""What each candidate of each slot adds to a score, learned from all networks looked at.

The best of many noisy scores is likely to be one that was lucky. A ridge regression over the slots' candidates uses
every look for every network, so that luck averages out; and since its prediction is a sum over slots, the exact
choice (`nas.choose.derive`) finds its best network among all that keep the limits. Candidates in a slot of which
nothing is known are as good as the mean. The ridge's strength is the one of a small grid with the largest evidence.
Not for proposing networks: see `nas.discrete.surrogate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky

Array = NDArray[np.float64]
Networks = NDArray[np.int64]

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # variance of a score's noise by that of what a candidate adds


class Additive:
    """The posterior of a linear model on one-hot slots.

    gains: (slots, most candidates), what a candidate adds in the scores' unit, its mean over the looks taken off;
    -inf where a slot has no such candidate. Their sum over a network and `level` is its predicted score.
    """

    def __init__(self, widths: Sequence[int], networks: Networks, scores: Array) -> None:
        """widths: candidates of every slot; networks: (N, S); scores: (N,) finite, larger is better; N at least 1."""
        self.widths = tuple(widths)
        self.level, spread = float(scores.mean()), float(scores.std()) or 1.0
        known, targets = self._one_hot(networks), (scores - self.level) / spread
        ridge = max(RIDGES, key=lambda strength: _evidence(known @ known.T, targets, strength))
        inner = cholesky(known.T @ known + ridge * np.eye(known.shape[1]), lower=True)
        added: Array = cho_solve((inner, True), known.T @ targets) * spread
        residual = targets - known @ added / spread
        noise = spread**2 * float((residual @ residual + ridge * (added @ added) / spread**2) / len(targets))
        self._covariance: Array = noise * cho_solve((inner, True), np.eye(known.shape[1]))
        self.gains = np.full((len(self.widths), max(self.widths)), -np.inf)
        self.gains[np.arange(max(self.widths)) < np.array(self.widths)[:, None]] = added

    def predict(self, networks: Networks) -> tuple[Array, Array]:
        """(M, S) -> (M,) mean scores and (M,) standard deviations of those means, in the scores' unit."""
        asked = self._one_hot(networks)
        mean = self.level + self.gains[np.arange(len(self.widths)), networks].sum(1)
        return mean, np.sqrt(np.einsum("ij,jk,ik->i", asked, self._covariance, asked))

    def _one_hot(self, networks: Networks) -> Array:
        """(N, S) -> (N, sum of widths)."""
        columns = [np.eye(width)[chosen] for width, chosen in zip(self.widths, networks.T, strict=True)]
        return np.concatenate(columns, axis=1)


def _evidence(gram: Array, targets: Array, ridge: float) -> float:
    """Log marginal likelihood of a ridge's strength, the scale of both variances at its best; the constant left out."""
    factor = cholesky(gram / ridge + np.eye(len(targets)), lower=True)
    fit = float(targets @ cho_solve((factor, True), targets)) / len(targets)
    return float(-0.5 * len(targets) * np.log(max(fit, 1e-300)) - np.log(np.diag(factor)).sum())
