"""Search over choices alone: which network to evaluate next, given the accuracies so far. No weights, no torch here.

A `Region` holds the networks that keep a budget; a `Searcher` proposes (`ask`) and learns (`tell`); `explore` runs one
with an accuracy callback. A new searcher is one module here and one line in `SEARCHERS`;
`tests/contracts/test_searchers.py` then holds it to what every searcher keeps.
"""

from collections.abc import Callable, Mapping
from functools import partial

from nas.discrete.base import Choices, Region, Searcher, Trial, explore
from nas.discrete.evolution import Evolution
from nas.discrete.optuna import OptunaSearch
from nas.discrete.random import RandomSearch

SEARCHERS: Mapping[str, Callable[[Region, int], Searcher]] = {  # name -> from a region and a seed
    "random": RandomSearch,
    "evolution": Evolution,
    "tpe": partial(OptunaSearch, sampler="tpe"),
    "nsga2": partial(OptunaSearch, sampler="nsga2"),
}

__all__ = [
    "SEARCHERS",
    "Choices",
    "Evolution",
    "OptunaSearch",
    "RandomSearch",
    "Region",
    "Searcher",
    "Trial",
    "explore",
]
