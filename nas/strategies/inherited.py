"""A strategy that trains nothing: it chooses by gates and weights that an earlier training left."""

from __future__ import annotations

from pathlib import Path

from nas.data import DataSet
from nas.export import load_supernet
from nas.gates import Gates
from nas.log import SearchLog
from nas.preflight import Plan
from nas.progress import SearchProgress
from nas.strategies.base import Found, choose
from nas.strategies.weights import new_supernet


class Inherited:
    """checkpoint: the file with the supernet and gates; key: the name of the gates in it."""

    def __init__(self, checkpoint: Path, key: str) -> None:
        self.checkpoint, self.key = checkpoint, key

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        return 0

    def search(self, plan: Plan, data: DataSet, log: SearchLog, progress: SearchProgress) -> Found:
        """The course of that training, if its files are in the log's folder, is the beginning of this one's.

        Raises `BadFile` for a checkpoint that is missing, damaged or of another space.
        """
        supernet, gates = new_supernet(plan, data), Gates(plan.space)
        load_supernet(self.checkpoint, supernet, gates, self.key)
        log.read_back()
        return choose(plan, data, supernet, gates)
