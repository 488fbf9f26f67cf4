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

from device_profiles import Kernel
from experiments.profiles.nas_bench_201 import CELLS, CLASSES, STAGES, WINDOWS, Cell, parse_cell
from experiments.profiles.regression import predicted_ratios
from experiments.profiles.tables import MILLION, NAS_BENCH_201, MovedElements, Row, read_rows, square
from experiments.profiles.vpu.samples import FORM, LANES, moved
from latency_models.fit.regression import Sample, Terms, fit_coefficients
from latency_models.intervals import rank_quantiles
from latency_models.residual import GaussianProcess
from search_space.layer import Kind, LayerSpec

Array = NDArray[np.float64]
TRAINED = 500  # of the 1,000
SEED = 0
# Choices of the process, by the likelihood of the left-out training networks.
LENGTHS, AMPLITUDES, NOISES = (6.0, 8.0, 12.0, 16.0, 24.0), (0.1, 0.2, 0.4), (0.01, 0.02, 0.03)


def nas_bench_samples(table: Sequence[Row]) -> list[Sample]:
    """The additive form of every network, unmerged ReLUs as passes over their tensor included."""
    found = []
    for row in table:
        cell = parse_cell(row.text("arch_str"))
        terms = _kernels(cell)
        for width, size in STAGES:
            one = MovedElements("pass", width * size**2)
            moved(terms, one, CELLS * cell.rectifications + 1)  # and the one that ends the stage
        found.append(Sample(row.text("arch_str"), terms.values, row.number("vpu_ms"), group="nas_bench_201"))
    return found


def _kernels(cell: Cell) -> Terms:
    """32x32 pixels, a residual block between stages; edges that no path from input to output uses cost nothing."""
    terms = Terms(FORM, LANES)
    sums = sum(max(0, sum(end == node for _, end in cell.used) - 1) for node in (1, 2, 3))
    terms.add(square(Kind.CONV, 3, STAGES[0][0], STAGES[0][1], 3))
    for width, size in STAGES:
        for operation in cell.used.values():
            if operation in WINDOWS:
                terms.add(square(Kind.CONV, width, width, size, WINDOWS[operation]), CELLS)
            elif operation == "avg_pool_3x3":
                _pool(terms, width * size**2, CELLS)
        terms.add(square(Kind.ADD, width, width, size, inputs=2), CELLS * sums)
        if (width, size) != STAGES[-1]:
            terms.add(square(Kind.CONV, width, 2 * width, size, 3, 2))
            terms.add(square(Kind.CONV, 2 * width, 2 * width, size // 2, 3))
            terms.add(square(Kind.CONV, width, 2 * width, size // 2))
            _pool(terms, width * size**2 // 4)
            terms.add(square(Kind.ADD, 2 * width, 2 * width, size // 2, inputs=2))
    width, size = STAGES[-1]
    _pool(terms, width * size**2)
    terms.add(Kernel(LayerSpec(Kind.LINEAR, width, CLASSES, 1, 1)))
    return terms


def _pool(terms: Terms, elements: int, count: int = 1) -> None:
    terms.add_value("launch", count)
    terms.add_value("moved_pool", count * elements / MILLION)


@dataclass(frozen=True, eq=False)
class UnseenHalf:
    """The half that was not fitted: names, measured and predicted ms and the interval's ends, (N,) each."""

    names: list[str]
    measured_ms: Array
    predicted_ms: Array
    low_ms: Array
    high_ms: Array


def unseen_half(folder: Path, coverage: float) -> UnseenHalf:
    """Fit on a random half, predict the other.

    The interval's ends are rank quantiles of the errors of the fitted half's networks, each left out of the process in
    turn, in standard deviations of the process.
    """
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
