"""The two roles of a discrete search, region and searcher, and its loop. Not for any one way of searching.

Arrays of networks are (N, S): N networks, the index of the chosen candidate for each of S slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
        """(N, S) -> (N,) above 0: a cost known without evaluating that accuracy tends to grow with, such as MACs."""


def as_choices(networks: NDArray[np.int64]) -> list[Choices]:
    """(N, S) -> N networks."""
    return [tuple(row) for row in networks.tolist()]


@dataclass(frozen=True)
class Trial:
    """An evaluated network; accuracies may be on any scale, larger is better."""

    choices: Choices
    accuracy: float


class Searcher(Protocol):
    """Proposes networks of its region and learns from their accuracies."""

    @property
    def trials(self) -> Sequence[Trial]:
        """All distinct networks reported so far by `tell`, in order."""

    def ask(self) -> Choices | None:
        """A canonical network of the region that has not been reported yet; None when no other was found."""

    def tell(self, choices: Choices, accuracy: float) -> None:
        """Report the accuracy of a network, whether it was asked for or not."""


@runtime_checkable
class SharedSearcher(Searcher, Protocol):
    """One whose trials several processes may share."""

    def take(self, choices: Choices) -> bool:
        """Whether this process is to evaluate a network that it wants, and report it; not where another did or does."""


def explore(
    searcher: Searcher,
    evaluate: Callable[[Choices], float],
    count: int,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> Sequence[Trial]:
    """Evaluate networks until the searcher knows `count` of them or finds no other; all that it knows.

    on_trial: called after every network evaluated here.
    """
    while len(searcher.trials) < count and (choices := searcher.ask()) is not None:
        accuracy = evaluate(choices)
        searcher.tell(choices, accuracy)
        on_trial(Trial(choices, accuracy))
    return searcher.trials
