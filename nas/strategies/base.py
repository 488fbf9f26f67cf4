"""What a search strategy is: the role, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nas.data import DataSet
from nas.log import SearchLog
from nas.preflight import Plan
from nas.progress import SearchProgress
from nas.supernet import Supernet
from search_space import GatePath


@dataclass(frozen=True)
class Found:
    """A strategy's answer: the chosen path, its accuracy on validation images with inherited
    weights, and the supernet that holds them."""

    path: GatePath
    validation_accuracy: float
    supernet: Supernet


class Strategy(Protocol):
    """Searches; never sees the test split's images."""

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        """Steps that `search` will report to the progress bar."""

    def search(self, plan: Plan, data: DataSet, log: SearchLog, progress: SearchProgress) -> Found: ...
