"""Evolution whose children a Gaussian process picks: of many changes of the best networks, the most promising one.

Like evolution it changes and crosses good parents; unlike it, only the child with the largest expected
improvement costs an evaluation. It starts with networks that do much work within the budget.
"""

from __future__ import annotations

import numpy as np

from nas.discrete.base import Choices, Region, Trial, as_choices
from nas.discrete.random import draw_new
from nas.discrete.surrogate import Array, Networks, Surrogate

START = 3  # networks ahead of the first model
PARENTS = 10
CHILDREN = 300  # proposed an evaluation; most break a tight budget
IMMIGRANTS = 200  # uniform draws beside them, so that no part of the region is out of reach
CHANGES = 4  # slots drawn anew in a child, at most


class Evolution:
    """The seed and the accuracies reported decide what is proposed."""

    def __init__(self, region: Region, seed: int) -> None:
        self.region = region
        self.rng = np.random.default_rng(seed)
        self.known: dict[Choices, float] = {}
        self.surrogate = Surrogate()
        effort = np.log(region.effort(region.sample(self.rng, IMMIGRANTS)))
        self.usual_effort, self.effort_spread = effort.mean(), max(effort.std(), 1e-9)

    @property
    def trials(self) -> list[Trial]:
        """In the order they were reported in."""
        return [Trial(choices, accuracy) for choices, accuracy in self.known.items()]

    def tell(self, choices: Choices, accuracy: float) -> None:
        """Keep an accuracy; the surrogate is fitted anew by the next `ask`."""
        self.known[choices] = accuracy

    def ask(self) -> Choices | None:
        """Before `START` trials the draw with the most effort, then the child with the largest expected improvement."""
        pool = as_choices(self.region.sample(self.rng, IMMIGRANTS))
        if len(self.known) >= START:
            pool += self._children()
        fresh = [choices for choices in dict.fromkeys(pool) if choices not in self.known]
        if not fresh:
            return draw_new(self.region, self.known, self.rng)
        networks = np.array(fresh)
        if len(self.known) < START:
            return fresh[int(self._effort(networks).argmax())]
        known = np.array(list(self.known))
        self.surrogate.fit(known, self._effort(known), np.array(list(self.known.values())))
        return fresh[int(self.surrogate.expected_improvement(networks, self._effort(networks)).argmax())]

    def _effort(self, networks: Networks) -> Array:
        """(N, S) -> (N,) log effort, standardised over the region."""
        effort: Array = (np.log(self.region.effort(networks)) - self.usual_effort) / self.effort_spread
        return effort

    def _children(self) -> list[Choices]:
        """Feasible children of the best networks: half of them crossed with a mate, then some slots drawn anew."""
        best = sorted(self.known, key=lambda choices: -self.known[choices])[:PARENTS]
        parents = np.array(best)[self.rng.integers(len(best), size=(2, CHILDREN))]
        slots = len(self.region.widths)
        crossed = (self.rng.random((CHILDREN, slots)) < 0.5) & (self.rng.random((CHILDREN, 1)) < 0.5)
        children = np.where(crossed, parents[1], parents[0])
        changes = self.rng.integers(1, min(CHANGES, slots) + 1, size=(CHILDREN, 1))
        changed = self.rng.random((CHILDREN, slots)).argsort(1).argsort(1) < changes
        children = np.where(changed, self.rng.integers(self.region.widths, size=(CHILDREN, slots)), children)
        children = self.region.canonical(children)
        return as_choices(children[self.region.excess(children) <= 0])
