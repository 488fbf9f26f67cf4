"""Single kernels of an A100 under eager PyTorch, fp32, as the public tables list them, and their split.

Not for fitting (`fit`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device_profiles import Kernel
from experiments.profiles.tables import A100_CONV, A100_ELEMENTWISE, A100_LINEAR, Row, read_rows
from search_space.errors import BadFile
from search_space.layer import Kind, LayerSpec

Array = NDArray[np.float64]
Places = NDArray[np.intp]

OPS = {"add": Kind.ADD, "mul": Kind.MUL, "gelu": Kind.GELU, "relu": Kind.RELU6, "layernorm": Kind.LAYER_NORM}
TWO_INPUTS = (Kind.ADD, Kind.MUL)
SPLIT_SEED, UNSEEN_SHARE = 0, 0.2


@dataclass(frozen=True)
class Drift:
    """What a run adds to a time, whatever the kernel: ms by power of the share of the run that has elapsed."""

    ms_by_power: tuple[float, ...] = ()

    def ms(self, elapsed: Array) -> Array:
        """elapsed: (N,), 0..1 -> (N,)."""
        return sum((ms * elapsed**power for power, ms in enumerate(self.ms_by_power, 1)), np.zeros(len(elapsed)))

    @property
    def mean_ms(self) -> float:
        """Over the whole run."""
        return sum(ms / (power + 1) for power, ms in enumerate(self.ms_by_power, 1))


@dataclass(frozen=True, eq=False)
class Measured:
    """Kernels and their times. kernels: N; latency_ms: (N,); elapsed: (N,), the share of its table above a row."""

    kernels: Sequence[Kernel]
    latency_ms: Array
    elapsed: Array

    def at(self, places: Places) -> Measured:
        """The rows at these places. places: (M,), from 0."""
        return Measured([self.kernels[i] for i in places], self.latency_ms[places], self.elapsed[places])

    def without(self, drift: Drift) -> Measured:
        """Times with the drift taken off. Raises `BadFile` where nothing would remain."""
        left_ms = self.latency_ms - drift.ms(self.elapsed)
        if not (left_ms > 0).all():
            worst = int(left_ms.argmin())
            raise BadFile(f"{self.kernels[worst]}: {self.latency_ms[worst]:g} ms is less than its run's drift")
        return Measured(self.kernels, left_ms, self.elapsed)

    def by_kind(self) -> dict[str, Measured]:
        """One part a kernel kind, in order of the kinds' names."""
        kinds = np.array([kernel.price_kind for kernel in self.kernels])
        return {kind: self.at(np.flatnonzero(kinds == kind)) for kind in sorted(set(kinds.tolist()))}


def split(rows: Measured) -> tuple[Measured, Measured]:
    """(seen, unseen): a fifth, drawn at random with a fixed seed, is unseen."""
    order = np.random.default_rng(SPLIT_SEED).permutation(len(rows.kernels))
    unseen = round(len(order) * UNSEEN_SHARE)
    return rows.at(np.sort(order[unseen:])), rows.at(np.sort(order[:unseen]))


def linear_rows(folder: Path) -> Measured:
    """Matrix products; a product keeps its rows as the tensor's height.

    The file's n is the dimension that is summed over, its k the width of the output: only so do times step where the
    output's blocks fill the 108 multiprocessors.
    """
    return _measured(
        read_rows(folder, A100_LINEAR),
        lambda row: Kernel(LayerSpec(Kind.LINEAR, row.integer("n"), row.integer("k"), row.integer("m"), 1)),
    )


def conv_rows(folder: Path) -> Measured:
    """A batch of B square images is one tensor B times as high as wide."""

    def kernel(row: Row) -> Kernel:
        size, batch = row.integer("hw"), row.integer("batch")
        channels = row.integer("in_channels"), row.integer("out_channels")
        window = row.integer("kernel"), row.integer("stride"), row.integer("padding")
        return Kernel(LayerSpec(Kind.CONV, *channels, batch * size, size, *window))

    return _measured(read_rows(folder, A100_CONV), kernel)


def element_wise_rows(folder: Path) -> Measured:
    """One row of the matrix is one pixel, its columns are the channels."""

    def kernel(row: Row) -> Kernel:
        kind = OPS.get(row.text("op"))
        if kind is None:
            raise BadFile(f"{row.where}: unknown op '{row.text('op')}'; known: {', '.join(OPS)}")
        spec = LayerSpec(kind, row.integer("cols"), row.integer("cols"), row.integer("rows"), 1)
        return Kernel(spec, inputs=2 if kind in TWO_INPUTS else 1)

    return _measured(read_rows(folder, A100_ELEMENTWISE), kernel)


def _measured(rows: Sequence[Row], kernel: Callable[[Row], Kernel]) -> Measured:
    times = np.array([row.number("latency_ms") for row in rows])
    return Measured([kernel(row) for row in rows], times, np.arange(len(rows)) / len(rows))
