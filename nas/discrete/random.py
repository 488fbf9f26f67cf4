"""The baseline to beat: networks of the region drawn uniformly, none twice. Not for learning from accuracies."""

from __future__ import annotations

import numpy as np

from nas.discrete.base import Choices, Region, Trial, as_choices

DRAWS = 200  # a region whose draws are all known counts as exhausted


class RandomSearch:
    """Uniform over networks, not over gate paths: a network that many paths stand for is no likelier than others."""

    def __init__(self, region: Region, seed: int) -> None:
        self.region = region
        self.rng = np.random.default_rng(seed)
        self.known: dict[Choices, float] = {}

    @property
    def trials(self) -> list[Trial]:
        """In the order they were reported in."""
        return [Trial(choices, accuracy) for choices, accuracy in self.known.items()]

    def ask(self) -> Choices | None:
        """A uniform draw; accuracies play no part."""
        return draw_new(self.region, self.known, self.rng)

    def tell(self, choices: Choices, accuracy: float) -> None:
        """Keep an accuracy, so that its network is not drawn again."""
        self.known[choices] = accuracy


def draw_new(region: Region, known: dict[Choices, float], rng: np.random.Generator) -> Choices | None:
    """A uniform draw from what is not known; None after `DRAWS` draws of known networks."""
    fresh = (choices for choices in as_choices(region.sample(rng, DRAWS)) if choices not in known)
    return next(fresh, None)
