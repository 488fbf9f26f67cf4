"""NAS-Bench-201 networks on the Myriad X: the additive form, and what the shape of the cell adds to it.

The runtime hides element-wise layers behind the neural engine and elides copies, depending on which operations
meet where, so the same kernels take up to 40 % longer in one cell than in another. A Gaussian process on
log(measured / additive) over a description of the cell learns that. For evaluation; no other network has such cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latency_models.intervals import rank_quantiles
from latency_models.public.data import NAS_BENCH_201, MovedElements, Row, nas_bench_201_terms, read_rows
from latency_models.public.vpu_samples import FORM, LANES, moved
from latency_models.regression import Sample, Terms, fit_coefficients, predicted_ratios
from latency_models.residual import GaussianProcess

Array = NDArray[np.float64]
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # in the order of the string
OPERATIONS = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect")
CELLS = 5  # a stage
STAGES = ((16, 32), (32, 16), (64, 8))  # channels, pixels a side
TRAINED = 500  # of the 1,000
SEED = 0
# Choices of the process, by the likelihood of the left-out training networks.
LENGTHS, AMPLITUDES, NOISES = (6.0, 8.0, 12.0, 16.0, 24.0), (0.1, 0.2, 0.4), (0.01, 0.02, 0.03)


@dataclass(frozen=True)
class Cell:
    """The operations of a cell by edge (start, end). used: those on a path from the input to the output."""

    named: dict[tuple[int, int], str]
    used: dict[tuple[int, int], str]

    @property
    def rectifications(self) -> int:
        """ReLUs that are kernels of their own: a convolution begins with one, which merges into the convolution
        before where that alone feeds it."""
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


def nas_bench_samples(table: Sequence[Row]) -> list[Sample]:
    """The additive form of every network, unmerged ReLUs as passes over their tensor included."""
    found = []
    for row in table:
        terms = Terms(FORM, LANES)
        nas_bench_201_terms(row.text("arch_str"), terms, "output_add", "launch", "moved_pool")
        rectifications = parse_cell(row.text("arch_str")).rectifications
        for width, size in STAGES:
            one = MovedElements("pass", width * size**2)
            moved(terms, one, CELLS * rectifications + 1)  # and the one that ends the stage
        found.append(Sample(row.text("arch_str"), terms.values, row.number("vpu_ms"), group="nas_bench_201"))
    return found


@dataclass(frozen=True, eq=False)
class UnseenHalf:
    """The half that was not fitted: names, measured and predicted ms and the interval's ends, (N,) each."""

    names: list[str]
    measured_ms: Array
    predicted_ms: Array
    low_ms: Array
    high_ms: Array


def unseen_half(folder: Path, coverage: float) -> UnseenHalf:
    """Fit on a random half, predict the other. The interval's ends are rank quantiles of the errors of the fitted
    half's networks, each left out of the process in turn, in standard deviations of the process."""
    samples = nas_bench_samples(read_rows(folder, NAS_BENCH_201))
    order = np.random.default_rng(SEED).permutation(len(samples))
    seen, unseen = ([samples[i] for i in part] for part in (order[:TRAINED], order[TRAINED:]))
    coefficients = fit_coefficients(seen)
    targets = -np.log(predicted_ratios(seen, coefficients))
    points, new_points = _standardised(seen, seen), _standardised(seen, unseen)
    chosen = _best_process(points, targets)
    left_out, deviation = chosen.process.left_out(targets)
    scores = sorted(float(score) for score in (targets - left_out) / deviation)
    low, high = rank_quantiles(scores, scores, coverage)
    correction, deviation = chosen.process.at(new_points / chosen.length)
    spread = np.hypot(deviation, chosen.noise)
    measured = np.array([sample.latency_ms for sample in unseen])
    predicted = predicted_ratios(unseen, coefficients) * measured * np.exp(correction)
    ends = (predicted * np.exp(score * spread) for score in (low, high))
    return UnseenHalf([sample.name for sample in unseen], measured, predicted, *ends)


def _standardised(reference: Sequence[Sample], samples: Sequence[Sample]) -> Array:
    """(N, D) descriptions: mean 0 and deviation 1 over `reference`; those that do not vary there stay as they are."""
    known, asked = (np.array([parse_cell(s.name).describe() for s in part]) for part in (reference, samples))
    deviation = known.std(0)
    result: Array = (asked - known.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    return result


@dataclass(frozen=True, eq=False)
class Chosen:
    """A process and the choices it was made with."""

    length: float
    noise: float
    process: GaussianProcess


def _best_process(points: Array, targets: Array) -> Chosen:
    """The process under which the left-out training networks are likeliest."""
    best_score, best = np.inf, None
    for length, amplitude, noise in product(LENGTHS, AMPLITUDES, NOISES):
        process = GaussianProcess(points / length, targets, amplitude, noise)
        mean, deviation = process.left_out(targets)
        score = float((((targets - mean) / deviation) ** 2 / 2 + np.log(deviation)).sum())
        if score < best_score:
            best_score, best = score, Chosen(length, noise, process)
    assert best is not None
    return best
