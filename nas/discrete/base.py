"""The two roles of a discrete search, and its loop. Arrays of networks are (N, S): N networks, a choice for S slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Choices = tuple[int, ...]
"""One network: the index of the candidate in every slot."""


class Region(Protocol):
    """The networks that keep the limits. Where several choices stand for one network, one of them is canonical."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Candidates of every slot."""

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(count, S) networks of the region, every network as probable as any other; canonical."""

    def canonical(self, networks: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, S) -> (N, S), the same networks in their canonical choices."""

    def excess(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, S) -> (N,) how far outside the limits as a share of the budget; 0 or less within."""

    def effort(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, S) -> (N,) above 0: a cost known without looking, which accuracy tends to grow with, as MACs are."""


def as_choices(networks: NDArray[np.int64]) -> list[Choices]:
    """(N, S) -> N networks."""
    return [tuple(row) for row in networks.tolist()]


@dataclass(frozen=True)
class Trial:
    """A network that was looked at."""

    choices: Choices
    accuracy: float


class Searcher(Protocol):
    """Proposes networks of its region and learns from their accuracies."""

    @property
    def trials(self) -> Sequence[Trial]:
        """All distinct networks told so far, in order."""

    def ask(self) -> Choices | None:
        """A network of the region that was not told yet; None when no other was found."""

    def tell(self, choices: Choices, accuracy: float) -> None: ...


def explore(
    searcher: Searcher,
    evaluate: Callable[[Choices], float],
    count: int,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Sequence[Trial]:
    """Look at networks until the searcher knows `count` of them or finds no other; all that it knows."""
    while len(searcher.trials) < count and (choices := searcher.ask()) is not None:
        accuracy = evaluate(choices)
        searcher.tell(choices, accuracy)
        on_trial(Trial(choices, accuracy))
    return searcher.trials
