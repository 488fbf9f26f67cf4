"""Device-independent cost of a lowered network: MACs, parameters, activation memory.

The first step of the paper's hardware awareness. Latency is `latency_models`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_space.layer import SEGMENT_INPUT
from search_space.lower import Segment


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-accumulates, learnable values and activation memory of one image.

    peak_activation_bytes: the most that live tensors need at any layer of batch-1 inference run in order, input and
    output of that layer included, weights not (fp32 unless said).
    """

    macs: int
    params: int
    peak_activation_bytes: int


def cost_of(segments: Sequence[Segment], bytes_per_element: int = 4) -> Cost:
    """Cost of a network without alternatives (every segment has one list of layers)."""
    specs = [node.spec for segment in segments for node in segment.nodes]
    peak = max(_peak_elements(segment) for segment in segments)
    return Cost(sum(s.macs for s in specs), sum(s.params for s in specs), peak * bytes_per_element)


def _peak_elements(segment: Segment) -> int:
    last_use: dict[int, int] = {}
    for position, node in enumerate(segment.nodes):
        for x in node.inputs:
            last_use[x] = position
    live: dict[int, int] = {SEGMENT_INPUT: segment.nodes[0].spec.in_elements} if segment.nodes else {}
    peak = 0
    for position, node in enumerate(segment.nodes):
        live[position] = node.spec.out_elements
        peak = max(peak, sum(live.values()))
        for x in node.inputs:
            if last_use[x] == position:
                live.pop(x, None)
    return peak
