"""From a block's layers to the kernels that a runtime launches, by the rules in a profile's header.

A layer merges into the kernel that made its input if the rules allow the kind there and nobody else
reads that input. Nothing merges across blocks. Not for prices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from device_profiles import FusionRules, Kernel
from search_space.layer import SEGMENT_INPUT, Kind, LayerSpec, Node


def fuse(nodes: Sequence[Node], rules: FusionRules) -> tuple[Kernel, ...]:
    """The kernels of one list of layers, in the order in which they start. Empty for an empty list."""
    source = _through_folded(nodes, rules)
    reads = [tuple(source[x] for x in node.inputs) for node in nodes]
    readers = Counter(x for position, node in enumerate(nodes) if node.spec.kind not in rules.folded
                      for x in set(reads[position]))  # fmt: skip
    if nodes:
        readers[source[len(nodes) - 1]] += 1  # the block's output is read by the next block
    leaders: dict[int, LayerSpec] = {}
    merged: dict[int, list[int]] = {}  # position of the leader -> positions in its kernel
    kernel_of: dict[int, int] = {}  # position of a layer -> position of its kernel's leader
    for position, node in enumerate(nodes):
        if node.spec.kind in rules.folded:
            continue
        last = max(reads[position])  # the input made last; the others are ready by then
        leader = kernel_of.get(last)
        if (
            leader is not None
            and merged[leader][-1] == last
            and readers[last] == 1
            and node.spec.kind in rules.into.get(leaders[leader].kind, frozenset[Kind]())
        ):
            merged[leader].append(position)
            kernel_of[position] = leader
        else:
            # a bias rides along: it is no part of a kernel's key
            leaders[position] = replace(node.spec, bias=False) if node.spec.bias else node.spec
            merged[position] = [position]
            kernel_of[position] = position
    return tuple(
        Kernel(spec, tuple(nodes[p].spec.kind for p in merged[leader][1:]), _outside(merged[leader], reads))
        for leader, spec in leaders.items()
    )


def _through_folded(nodes: Sequence[Node], rules: FusionRules) -> dict[int, int]:
    """For every position the one whose output it really holds: folded layers pass their input on."""
    source = {SEGMENT_INPUT: SEGMENT_INPUT, **{x: x for node in nodes for x in node.inputs if x < 0}}
    for position, node in enumerate(nodes):
        source[position] = source[node.inputs[0]] if node.spec.kind in rules.folded else position
    return source


def _outside(members: Sequence[int], reads: Sequence[tuple[int, ...]]) -> int:
    """How many distinct tensors a kernel reads that it does not make itself."""
    return len({x for position in members for x in reads[position]} - set(members))
