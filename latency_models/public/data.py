"""Reads the public measurements that the shipped profiles are fitted on.

Not for fitting, and nothing here is needed to predict.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device_profiles import Kernel
from latency_models.regression import Terms
from search_space.errors import BadFile
from search_space.layer import Kind, LayerSpec

MILLION = 1e6
A76_NETWORKS = "a76_tflite_networks.csv"
A76_OPS = "a76_tflite_network_ops.csv"
MYRIAD_LAYERS = "myriad_ncs2_layers.csv"
MYRIAD_MICRO = "myriad_ncs2_micro.csv"
MYRIAD_SYNC = "myriad_networks_sync.csv"
MYRIAD_FPS = "myriad_ncs2_networks_fps.csv"
NAS_BENCH_201 = "nb201_a76_vpu.csv"
A100_NETWORKS = "a100_networks.csv"
A100_ELEMENTWISE = "a100_elementwise_fp32.csv"
V100_OPS = "v100_tensorrt_ops.csv.gz"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file; `where` names file and row for messages."""

    where: str
    fields: dict[str, str]

    def text(self, name: str) -> str:
        if name not in self.fields:
            raise BadFile(f"{self.where}: no column '{name}'")
        return self.fields[name]

    def number(self, name: str) -> float:
        text = self.text(name)
        try:
            return float(text)
        except ValueError:
            raise BadFile(f"{self.where}: {name} is '{text}', not a number") from None

    def integer(self, name: str) -> int:
        value = self.number(name)
        if value != int(value):
            raise BadFile(f"{self.where}: {name} is {value}, not an integer")
        return int(value)


def read_rows(folder: Path, name: str) -> list[Row]:
    """One file of the public data. Raises `BadFile` where it is missing."""
    path = require(folder, name)
    raw = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    reader = csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""))
    return [Row(f"{name} row {i}", fields) for i, fields in enumerate(reader, start=2)]


def require(folder: Path, name: str) -> Path:
    """The path of a file. Raises `BadFile` where it is missing."""
    if not (folder / name).is_file():
        raise BadFile(f"no file '{folder / name}'; source= must name the folder of the public latency measurements")
    return folder / name


def square(
    kind: Kind, in_channels: int, out_channels: int, size: int, kernel_size: int = 1, stride: int = 1, inputs: int = 1
) -> Kernel:
    """A kernel over a square input, padded to keep its size before the stride."""
    spec = LayerSpec(kind, in_channels, out_channels, size, size, kernel_size, stride, kernel_size // 2)
    return Kernel(spec, inputs=inputs)


@dataclass(frozen=True, slots=True)
class MovedElements:
    """A pooling or concatenation: out of this project's vocabulary, but part of the measured networks."""

    op: str
    elements: int


@dataclass(frozen=True, slots=True)
class GroupedConv:
    """A grouped convolution, out of this project's vocabulary."""

    macs: int
    out_elements: int


Op = Kernel | MovedElements | GroupedConv


def a76_network_ops(ops: Iterable[Row], model: str) -> Iterator[Op]:
    """The layers of one network of the A76 list. Its element-wise layers are not listed in the source."""
    return (_a76_op(row) for row in ops if row.text("model") == model)


def _a76_op(row: Row) -> Op:
    match row.text("op"):
        case "CONV_2D":
            return Kernel(_a76_spec(row, Kind.CONV))
        case "DEPTHWISE_CONV_2D":
            return Kernel(_a76_spec(row, Kind.DWCONV))
        case "FULLY_CONNECTED":
            return Kernel(LayerSpec(Kind.LINEAR, row.integer("in_c"), row.integer("out_c"), 1, 1))
        case "CONV_2D_GROUP":
            return GroupedConv(row.integer("macs"), row.integer("out_c") * row.integer("out_hw") ** 2)
        case "MEAN":
            return square(Kind.GLOBAL_POOL, row.integer("in_c"), row.integer("in_c"), row.integer("in_hw"))
        case "CONCATENATION":
            return MovedElements("concat", row.integer("out_c") * row.integer("out_hw") ** 2)
        case "MAX_POOL_2D" | "AVERAGE_POOL_2D":
            return MovedElements("pool", row.integer("in_c") * row.integer("in_hw") ** 2)
    raise BadFile(f"{row.where}: unknown operator '{row.text('op')}'")


def _a76_spec(row: Row, kind: Kind) -> LayerSpec:
    """The source's in_hw holds explicit padding where the runtime pads beforehand: take it out again."""
    kernel_size, stride, padded = row.integer("kernel"), row.integer("stride"), row.integer("in_hw")
    padding = kernel_size // 2
    for size, pad in ((padded - 2 * padding, padding), (padded, padding), (padded, 0)):
        spec = LayerSpec(kind, row.integer("in_c"), row.integer("out_c"), size, size, kernel_size, stride, pad)
        if spec.out_height == row.integer("out_hw"):
            return spec
    raise BadFile(f"{row.where}: the sizes of this layer do not fit together")


_EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # in the order of the string


def nas_bench_201_terms(arch: str, terms: Terms, add_name: str, moved_launch: str, moved: str) -> None:
    """Add a NAS-Bench-201 network (32x32 pixels, widths 16/32/64, five cells a stage) to `terms`.

    Edges that no path from input to output uses cost nothing. Pooling goes to the two `moved` terms.
    """
    ops = [op.split("~")[0] for part in arch.split("+") for op in part.strip("|").split("|")]
    used = _used_edges(ops)
    sums = sum(max(0, sum(end == node for _, end in used) - 1) for node in (1, 2, 3))
    terms.add(square(Kind.CONV, 3, 16, 32, 3))
    for width, size in ((16, 32), (32, 16), (64, 8)):
        for edge, op in zip(_EDGES, ops, strict=True):
            if edge not in used:
                continue
            if op in ("nor_conv_3x3", "nor_conv_1x1"):
                terms.add(square(Kind.CONV, width, width, size, 3 if op == "nor_conv_3x3" else 1), 5)
            elif op == "avg_pool_3x3":
                _moved(terms, moved_launch, moved, width * size**2, 5)
        terms.add(square(Kind.ADD, width, width, size, inputs=2), 5 * sums)
        if width < 64:
            terms.add(square(Kind.CONV, width, 2 * width, size, 3, 2))
            terms.add(square(Kind.CONV, 2 * width, 2 * width, size // 2, 3))
            terms.add(square(Kind.CONV, width, 2 * width, size // 2))
            _moved(terms, moved_launch, moved, width * size**2 // 4)
            terms.add(square(Kind.ADD, 2 * width, 2 * width, size // 2, inputs=2))
    _moved(terms, moved_launch, moved, 64 * 8**2)
    terms.add(Kernel(LayerSpec(Kind.LINEAR, 64, 10, 1, 1)))


def _moved(terms: Terms, launch: str, moved: str, elements: int, count: int = 1) -> None:
    terms.add_value(launch, count)
    terms.add_value(moved, count * elements / MILLION)


def _used_edges(ops: list[str]) -> set[tuple[int, int]]:
    alive = [edge for edge, op in zip(_EDGES, ops, strict=True) if op != "none"]
    forward, backward = {0}, {3}
    for start, end in alive:
        if start in forward:
            forward.add(end)
    for start, end in sorted(alive, reverse=True):
        if end in backward:
            backward.add(start)
    return {(start, end) for start, end in alive if start in forward and end in backward}
