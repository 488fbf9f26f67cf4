"""From a user's ONNX classifier to the layers that profiles price. Nothing is ever priced at 0 ms for being unknown.

Operators that no kind of layer stands for are refused by name. Not for prices (`predict`), not for file
errors (`onnx.file`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from latency_models.onnx.file import read_graph
from latency_models.onnx.layers import SUPPORTED, Refused, Translation
from latency_models.onnx.patterns import find_activations
from search_space.errors import UserError
from search_space.layer import SEGMENT_INPUT, Node
from search_space.lower import Segment

OWN_SEGMENT = re.compile(r"(stem|head|down\d+|stage\d+_block\d+)\.(.+)")  # the names that search_space.to_onnx writes
HINTS = {
    "Sqrt": "a LayerNorm in pieces? export with opset 17 or later",
    "Erf": "a GELU in pieces? export with opset 20",
    "Pad": "give the convolution its own padding",
}


@dataclass(frozen=True)
class ReadNetwork:
    """The layers of a model for one image, and what was assumed on the way. precision: of the file's weights."""

    segments: tuple[Segment, ...]
    notes: tuple[str, ...]
    precision: str = "fp32"

    def notes_on(self, device: str, precision: str) -> tuple[str, ...]:
        """With what is to be known where a device's times, of a precision, are for it."""
        if self.precision == "fp32" or self.precision == precision:
            return self.notes
        return (f"the file's weights are {self.precision}; the times of {device} are of {precision}", *self.notes)


def read_onnx(path: Path, resolution: int | None = None) -> ReadNetwork:
    """The network of an ONNX file at batch 1; `resolution` is for models with free height and width.

    A model written by this project has its own segments, any other is one segment. Raises `BadFile` for
    what is not a sound ONNX file, `UserError` naming the operators that no layer kind stands for.
    """
    graph, refused = read_graph(path), _Refusals(str(path))
    activations = tuple(find_activations(graph.operators, graph.static))
    within = {i for activation in activations for i in activation.operators}
    ends = {max(activation.operators): activation for activation in activations}
    computed = [(i, o) for i, o in enumerate(graph.operators) if not graph.static.issuperset(o.outputs)]
    for i, operator in computed:
        if i not in within and operator.op not in SUPPORTED:
            refused.add(operator.op, operator.name)
    refused.raise_any()
    translation = Translation(graph, graph.sizes(resolution))
    for i, operator in computed:
        try:
            if i in ends:
                translation.activation(ends[i], operator.name)
            elif i not in within:
                translation.layer(operator)
        except Refused as reason:
            refused.add(f"{operator.op} {reason}", operator.name)
            translation.pass_on(operator)
    refused.raise_any()
    if not translation.nodes:
        raise UserError(f"'{path}' has no layer to price")
    nodes = translation.finished()
    segments = _own_segments(nodes) or (Segment("network", (tuple(nodes),)),)
    return ReadNetwork(segments, translation.notes(), graph.precision)


class _Refusals:
    """What cannot be priced: how often, and where first."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def add(self, what: str, node: str) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, node)

    def raise_any(self) -> None:
        if not self.counts:
            return
        listed = "; ".join(
            f"{what} ({count} of them, first '{self.first[what]}')" for what, count in self.counts.most_common()
        )
        hints = "".join(f"; {hint}" for op, hint in HINTS.items() if op in self.counts)
        raise UserError(f"'{self.where}' has operators that no layer kind stands for: {listed}{hints}")


def _own_segments(nodes: Sequence[Node]) -> tuple[Segment, ...] | None:
    """The segments of a network that this project wrote, by its nodes' names; None for any other."""
    segments: list[Segment] = []
    inside: dict[int, int] = {SEGMENT_INPUT: SEGMENT_INPUT}  # position in the network -> in the present segment
    members: list[Node] = []
    current = ""
    for i, node in enumerate(nodes):
        match = OWN_SEGMENT.fullmatch(node.name)
        if match is None:
            return None
        if match[1] != current:
            if members:
                segments.append(Segment(current, (tuple(members),)))
                inside = {i - 1: SEGMENT_INPUT}
            current, members = match[1], []
        if not inside.keys() >= set(node.inputs):
            return None
        members.append(replace(node, name=match[2], inputs=tuple(inside[x] for x in node.inputs)))
        inside[i] = len(members) - 1
    segments.append(Segment(current, (tuple(members),)))
    names = [segment.name for segment in segments]
    return tuple(segments) if len(set(names)) == len(names) else None
