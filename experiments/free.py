"""What chooses a network under a budget at no cost: the baselines that a search has to beat. Not for trained scores.

Each is a score by the network's counts alone; the network of the largest score within the budget is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.results import Row, number
from experiments.truth import Accuracies

PARAMETERS, MACS, SLOWEST = "most parameters", "most MACs", "slowest"
BLOCKS, UNIFORM = "most blocks, then MACs", "uniform scaling: equal blocks, equal depth, the slowest"


def free_scores(rows: Sequence[Row]) -> Mapping[str, Accuracies]:
    """Baseline -> score of every network that it can take; rows of kind 'space', with network, latency_ms and counts.

    Uniform scaling takes networks whose blocks are all the same and whose stages are all as deep as a number allows.
    Counts that the rows lack have no baseline.
    """
    costs = [row for row in rows if row["kind"] == "space"]
    found: dict[str, Accuracies] = {}
    for name, column in ((PARAMETERS, "params"), (MACS, "macs"), (SLOWEST, "latency_ms")):
        if all(column in row for row in costs):
            found[name] = {str(row["network"]): number(row, column) for row in costs}
    if MACS in found:
        most = max(found[MACS].values(), default=0) + 1
        found[BLOCKS] = {name: sum(_depths(name)) + macs / most for name, macs in found[MACS].items()}
    deepest = [max(depths) for depths in zip(*map(_depths, found[SLOWEST]), strict=True)]
    found[UNIFORM] = {name: ms for name, ms in found[SLOWEST].items() if _uniform(name, deepest)}
    return found


def _depths(network: str) -> list[int]:
    return [len(stage.split()) for stage in network.split("|")]


def _uniform(network: str, deepest: Sequence[int]) -> bool:
    blocks, depths = set(network.replace("|", " ").split()), _depths(network)
    return len(blocks) == 1 and depths == [min(max(depths), most) for most in deepest]
