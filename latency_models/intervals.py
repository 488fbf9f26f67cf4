"""Ends of intervals from held-out networks, and whether a claimed coverage holds.

Rank quantiles (split conformal): valid where a new network's error is exchangeable with the held-out ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

from search_space.errors import UserError

TOLERANCE_CONFIDENCE = 0.95


def rank_quantiles(low_scores: Sequence[float], high_scores: Sequence[float], coverage: float) -> tuple[float, float]:
    """(low, high): both tails hold at most (1 - coverage) / 2 of new networks. Scores sorted, as in `Interval`.

    Raises `UserError` where there are too few scores for the coverage.
    """
    n, tail = len(high_scores), (1 - coverage) / 2
    low, high = floor((n + 1) * tail + 1e-9), ceil((n + 1) * (1 - tail) - 1e-9)
    if low < 1 or high > n:
        raise UserError(
            f"{n} held-out networks cannot claim a coverage of {coverage:.4g}; "
            f"they reach {largest_coverage(n):.4g} (confidence {(1 + largest_coverage(n)) / 2:.4g})"
        )
    return low_scores[low - 1], high_scores[high - 1]


def tolerance_limits(factors: Sequence[float], coverage: float) -> tuple[float, float] | None:
    """Ends between which a share `coverage` of new factors lies with 95 % confidence, however distributed: (low, high).

    factors: measured over predicted, any order; as many are left out below as above. `rank_quantiles` hold their
    coverage on the average only. None where there are too few factors. Needs scipy.

    Wilks, Annals of Mathematical Statistics 12 (1941): the share between ends that leave out 2k - 2 of n is Beta(n + 1
    - 2k, 2k).
    """
    from scipy.stats import beta

    known, n, left_out = sorted(factors), len(factors), 0
    while (
        2 * left_out + 2 < n and beta.cdf(coverage, n - 1 - 2 * left_out, 2 * left_out + 2) <= 1 - TOLERANCE_CONFIDENCE
    ):
        left_out += 1
    return (known[left_out - 1], known[n - left_out]) if left_out else None


def largest_coverage(count: int) -> float:
    """The largest two-sided coverage that so many held-out networks can claim."""
    return max(0.0, (count - 1) / (count + 1))


def binomial_interval(inside: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a share observed as `inside` of `count`. Needs scipy."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if inside == 0 else float(beta.ppf(tail, inside, count - inside + 1))
    high = 1.0 if inside == count else float(beta.ppf(1 - tail, inside + 1, count - inside))
    return low, high
