"""A region whose networks all stand in a table with their latency (NAS-Bench-201). Not for spaces too large for one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search_space.errors import UserError

Array = NDArray[np.float64]


class TabularRegion:
    """The networks of a full table that take `budget_ms` or less."""

    def __init__(self, widths: tuple[int, ...], latency_ms: Array, macs: Array, budget_ms: float) -> None:
        """latency_ms, macs: (product of widths,), ordered as by `index`. Raises `UserError` if none is fast enough."""
        self.widths = widths
        self.latency_ms, self.macs = latency_ms, macs
        self.budget_ms = budget_ms
        self.within = np.flatnonzero(latency_ms <= budget_ms)
        if not len(self.within):
            raise UserError(f"no network takes {budget_ms:g} ms or less; the fastest takes {latency_ms.min():.4g} ms")

    def index(self, networks: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, S) -> (N,), places in the table: the last slot runs fastest."""
        return np.ravel_multi_index(tuple(networks.T), self.widths)

    def sample(self, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
        """(count, S), uniform over the networks within the budget, with repetition."""
        places = rng.choice(self.within, count)
        return np.stack(np.unravel_index(places, self.widths), axis=1)

    def canonical(self, networks: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same array: no two rows of a table are one network."""
        return networks

    def excess(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, S) -> (N,), latency over budget, less 1."""
        return self.latency_ms[self.index(networks)] / self.budget_ms - 1

    def effort(self, networks: NDArray[np.int64]) -> NDArray[np.float64]:
        """(N, S) -> (N,), MACs."""
        return self.macs[self.index(networks)]
