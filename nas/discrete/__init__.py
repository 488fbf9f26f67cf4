"""Search over choices alone: which network to look at next, given the accuracies of those looked at. No torch here.

A `Region` holds the networks that keep a budget; a `Searcher` proposes (`ask`) and learns (`tell`);
`explore` runs one with an accuracy callback.
"""

from nas.discrete.base import Choices, Region, Searcher, Trial, explore
from nas.discrete.evolution import Evolution
from nas.discrete.random import RandomSearch

__all__ = ["Choices", "Evolution", "RandomSearch", "Region", "Searcher", "Trial", "explore"]
