"""The additive model: what it learns from few and noisy looks, and that its gains lead the exact choice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.discrete.additive import Additive

WIDTHS = (3, 2, 4, 3, 3)
ALL = np.array(list(itertools.product(*map(range, WIDTHS))))


def additive(seed: int) -> np.ndarray:
    """Scores of all networks, each slot's candidates drawn."""
    draws = np.random.default_rng(seed)
    return sum(draws.standard_normal(width)[ALL[:, slot]] for slot, width in enumerate(WIDTHS))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(3))
def test_it_ranks_networks_that_no_look_had(seed: int) -> None:
    scores, looked = additive(seed), np.random.default_rng(seed).choice(len(ALL), 40, replace=False)
    model = Additive(WIDTHS, ALL[looked], scores[looked])
    assert kendalltau(model.predict(ALL), scores).statistic > 0.85
    best = np.array([[gains.argmax() for gains in model.gains]])
    assert scores[(best == ALL).all(1)] > np.quantile(scores, 0.97)


def test_many_noisy_looks_choose_better_together_than_the_luckiest() -> None:
    """On average, where the noise is as large as what networks differ by."""
    draws, gained = np.random.default_rng(0), []
    for seed in range(60):
        scores = additive(seed)
        truth, looked = (scores - scores.mean()) / scores.std(), draws.choice(len(ALL), 80, replace=False)
        noisy = truth[looked] + draws.standard_normal(80)
        liked = Additive(WIDTHS, ALL[looked], noisy).predict(ALL[looked])
        gained.append(truth[looked[liked.argmax()]] - truth[looked[noisy.argmax()]])
    assert np.mean(gained) > 5 * np.std(gained) / np.sqrt(len(gained))


def test_only_ranks_count_and_what_is_not_there_is_never_chosen() -> None:
    scores = additive(0)
    looked = np.arange(0, len(ALL), 7)
    model, warped = (Additive(WIDTHS, ALL[looked], s) for s in (scores[looked], np.exp(3 * scores[looked])))
    np.testing.assert_allclose(model.gains, warped.gains)
    assert (np.isneginf(model.gains) == (np.arange(4) >= np.array(WIDTHS)[:, None])).all()
    few = Additive(WIDTHS, ALL[:1], np.array([0.5]))
    assert few.predict(ALL).tolist() == [0.0] * len(ALL)


def test_where_all_scores_are_equal_so_are_all_networks() -> None:
    assert np.ptp(Additive(WIDTHS, ALL[:4], np.full(4, 0.1)).predict(ALL)) == 0
