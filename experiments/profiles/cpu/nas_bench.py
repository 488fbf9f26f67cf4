"""NAS-Bench-201 networks on the Cortex-A76, as terms of the form fitted to ImageNet networks. For evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from device_profiles import Kernel
from experiments.profiles.cpu.networks import FORM, LANES
from experiments.profiles.nas_bench_201 import CELLS, CLASSES, STAGES, WINDOWS, Cell, parse_cell
from experiments.profiles.tables import MILLION, NAS_BENCH_201, read_rows, square
from latency_models.fit.regression import Sample, Terms
from search_space.layer import Kind, LayerSpec

MOVES_OF_ADD = 1.5  # two reads and a write; a moved element is read once and written once


def nas_bench_samples(folder: Path) -> list[Sample]:
    """The 1,000 networks with ms of TFLite 2.1, fp32."""
    rows = read_rows(folder, NAS_BENCH_201)
    return [
        Sample(arch, cell_terms(executed(parse_cell(arch))).values, row.number("a76_ms"))
        for row in rows
        if (arch := row.text("arch_str"))
    ]


def executed(cell: Cell) -> Cell:
    """The cell as it runs.

    Unused edges are dropped, but the sum of two 'none' edges is a tensor of zeros like any other: what reads it runs.
    """
    zeros = cell.named[0, 2] == cell.named[1, 2] == "none"
    if zeros and cell.named[2, 3] != "none":
        return replace(cell, used={**cell.used, (2, 3): cell.named[2, 3]})
    return cell


def cell_terms(cell: Cell) -> Terms:
    """32x32 pixels, a residual block between stages; ReLUs that merge into no convolution move their tensor."""
    terms = Terms(FORM, LANES)
    operations = list(cell.used.values())
    additions = sum(max(0, sum(end == node for _, end in cell.used) - 1) for node in (1, 2, 3))
    moves = operations.count("avg_pool_3x3") * 3**2 + additions * MOVES_OF_ADD + cell.rectifications
    terms.add(square(Kind.CONV, 3, STAGES[0][0], STAGES[0][1], 3))
    for width, size in STAGES:
        for operation in operations:
            if operation in WINDOWS:
                terms.add(square(Kind.CONV, width, width, size, WINDOWS[operation]), CELLS)
        _move(terms, CELLS * moves + 1, width * size**2)  # and the ReLU behind the stage
        if (width, size) != STAGES[-1]:
            _residual_block(terms, width, size)
    width, size = STAGES[-1]
    terms.add(square(Kind.GLOBAL_POOL, width, width, size))
    terms.add(Kernel(LayerSpec(Kind.LINEAR, width, CLASSES, 1, 1)))
    return terms


def _residual_block(terms: Terms, width: int, size: int) -> None:
    terms.add(square(Kind.CONV, width, 2 * width, size, 3, 2))
    terms.add(square(Kind.CONV, 2 * width, 2 * width, size // 2, 3))
    terms.add(square(Kind.CONV, width, 2 * width, size // 2))
    _move(terms, 2**2, width * (size // 2) ** 2)  # average pooling 2x2
    _move(terms, MOVES_OF_ADD, 2 * width * (size // 2) ** 2)


def _move(terms: Terms, times: float, elements: int) -> None:
    terms.add_value("moved", times * elements / MILLION)
