"""What each candidate of each slot adds to a score, learned from all networks looked at.

The best of many noisy scores is likely to be one that was lucky. A ridge regression over the slots' candidates uses
every look for every network, so that luck averages out; and since its prediction is a sum over slots, the exact
choice (`nas.choose.derive`) finds its best network among all that keep the limits. Scores are ranks mapped to normal
quantiles, since the few networks that fail altogether would else set the scale. The ridge's strength is the one of a
small grid with the largest evidence. Not for proposing network after network: see `nas.discrete.surrogate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_solve, cholesky

from nas.discrete.surrogate import Array, Networks, normal_scores

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # variance of a score's noise by that of what a candidate adds


class Additive:
    """A linear model on one-hot slots.

    gains: (slots, most candidates), what a candidate adds, in quantiles; 0 for one that no look had, -inf where a slot
    has no such candidate. `level` and their sum over a network are its predicted score.
    """

    def __init__(self, widths: Sequence[int], networks: Networks, scores: Array) -> None:
        """widths: candidates of every slot; networks: (N, S); scores: (N,) finite, larger is better; N at least 1."""
        targets = normal_scores(scores)
        self.level = float(targets.mean())
        targets -= self.level
        columns = [np.eye(width)[chosen] for width, chosen in zip(widths, networks.T, strict=True)]
        known = np.concatenate(columns, axis=1)
        gram = known @ known.T
        ridge = max(RIDGES, key=lambda strength: _evidence(gram, targets, strength))
        added = known.T @ np.linalg.solve(gram + ridge * np.eye(len(gram)), targets)
        self.gains = np.full((len(widths), max(widths)), -np.inf)
        self.gains[np.arange(max(widths)) < np.array(widths)[:, None]] = added

    def predict(self, networks: Networks) -> Array:
        """(M, S) -> (M,), in quantiles of the scores looked at."""
        predicted: Array = self.level + self.gains[np.arange(len(self.gains)), networks].sum(1)
        return predicted


def _evidence(gram: Array, targets: Array, ridge: float) -> float:
    """Log marginal likelihood of a ridge's strength, the scale of both variances at its best; the constant left out."""
    factor = cholesky(gram / ridge + np.eye(len(targets)), lower=True)
    misfit = float(targets @ cho_solve((factor, True), targets)) / len(targets)
    return float(-0.5 * len(targets) * np.log(max(misfit, 1e-300)) - np.log(np.diag(factor)).sum())
