"""NAS-Bench-201: what a network's string says of its cell. For evaluation; no shipped profile rests on it."""

from __future__ import annotations

from dataclasses import dataclass

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # in the order of the string
OPERATIONS = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect")
WINDOWS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
CELLS = 5  # a stage
STAGES = ((16, 32), (32, 16), (64, 8))  # channels, pixels a side
CLASSES = 10


@dataclass(frozen=True)
class Cell:
    """The operations of a cell by edge (start, end). used: those on a path from the input to the output."""

    named: dict[tuple[int, int], str]
    used: dict[tuple[int, int], str]

    @property
    def rectifications(self) -> int:
        """ReLUs that are kernels of their own.

        A convolution begins with one, which merges into the convolution before where that alone feeds it.
        """
        return sum(name.startswith("nor_conv") and not self._merges(start) for (start, _), name in self.used.items())

    def describe(self) -> list[float]:
        """Numbers that a cell's time depends on: how many of each, how they meet, and what stands on every edge."""
        used = self.used
        inputs = [sum(end == node for _, end in used) for node in (1, 2, 3)]
        outputs = [sum(start == node for start, _ in used) for node in (0, 1, 2)]
        convolving = {start for (start, _), name in used.items() if name.startswith("nor_conv")}
        convolutions = sum(name.startswith("nor_conv") for name in used.values())
        # The sum of two absent edges is computed all the same where an operation reads it.
        absent = (2, 3) not in used and self.named[2, 3] != "none"
        counts = [
            *(list(used.values()).count(name) for name in OPERATIONS),
            sum(max(0, count - 1) for count in inputs),
            sum(max(0, count - 2) for count in inputs),
            self.rectifications,
            convolutions - self.rectifications,
            len(convolving),
            self._longest_chain(),
            len({node for edge in used for node in edge}),
            sum(name == "skip_connect" and end == 3 for (_, end), name in used.items()),
            sum(name == "skip_connect" and start == 0 for (start, _), name in used.items()),
            sum(name == "avg_pool_3x3" and start == 0 for (start, _), name in used.items()),
            max(inputs),
            max(outputs),
            not used,
            absent,
            absent and self.named[2, 3].startswith("nor_conv"),
        ]
        on_edges = [used.get(edge) == name for edge in EDGES for name in OPERATIONS]
        return [float(value) for value in (*counts, *on_edges)]

    def _merges(self, node: int) -> bool:
        before = [name for (_, end), name in self.used.items() if end == node]
        readers = sum(start == node for start, _ in self.used)
        return len(before) == 1 and before[0].startswith("nor_conv") and readers == 1

    def _longest_chain(self) -> int:
        """Operations other than copies on the longest path."""
        depth = [0, 0, 0, 0]
        for (start, end), name in sorted(self.used.items()):
            depth[end] = max(depth[end], depth[start] + (name != "skip_connect"))
        return depth[3]


def parse_cell(arch: str) -> Cell:
    """A NAS-Bench-201 string."""
    named = [op.split("~")[0] for part in arch.split("+") for op in part.strip("|").split("|")]
    alive = [edge for edge, name in zip(EDGES, named, strict=True) if name != "none"]
    reached, needed = {0}, {3}
    for start, end in sorted(alive):
        if start in reached:
            reached.add(end)
    for start, end in sorted(alive, reverse=True):
        if end in needed:
            needed.add(start)
    by_edge = dict(zip(EDGES, named, strict=True))
    used = {edge: by_edge[edge] for edge in alive if edge[0] in reached and edge[1] in needed}
    return Cell(by_edge, used)
