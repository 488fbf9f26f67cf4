"""Discrete searches where every network's accuracy is known already, so that a search costs nothing but its asking.

A strategy sees the accuracy of those networks alone that it asks for. What it finds after some evaluations is what
`nas.search strategy=...` would find with the same supernet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nas.discrete import SEARCHERS, Choices, Region, explore

COUNTS = (6, 12, 24)  # evaluated networks
DRAWS = 5  # searches of a kind, each with a seed of its own
STRATEGIES = ("evolution", "optuna tpe", "optuna nsga2")


@dataclass(frozen=True)
class Finding:
    """The best of the networks that a strategy had asked for after so many `evaluations`."""

    strategy: str
    draw: int
    evaluations: int
    best: Choices


def look_up(region: Region, accuracies: Mapping[Choices, float]) -> Iterator[Finding]:
    """All strategies, draws and counts. accuracies: of every network of the region."""
    for strategy in STRATEGIES:
        for draw in range(DRAWS):
            searcher = SEARCHERS[strategy.removeprefix("optuna ")](region, draw)
            for count in COUNTS:
                trials = explore(searcher, accuracies.__getitem__, count)
                best = max(trials, key=lambda trial: trial.accuracy)
                yield Finding(strategy, draw, count, best.choices)
