"""A strategy that trains nothing: it chooses by gates and weights that an earlier training left."""

from __future__ import annotations

from dataclasses import dataclass

from nas.data import DataSet
from nas.run.log import SearchLog
from nas.run.plan import Plan
from nas.run.progress import SearchProgress
from nas.strategies.base import Found, choose
from nas.supernet.gates import Gates
from nas.supernet.network import Supernet


@dataclass(frozen=True)
class Inherited:
    """The supernet may be that of other targets too; the gates are this one's."""

    supernet: Supernet
    gates: Gates

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        return 0

    def search(self, plan: Plan, data: DataSet, log: SearchLog, progress: SearchProgress) -> Found:
        """The course of that training, if its files are in the log's folder, is the beginning of this one's."""
        log.read_back()
        return choose(plan, data, self.supernet, self.gates)
