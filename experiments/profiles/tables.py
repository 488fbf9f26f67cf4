"""Reads the public measurements that the shipped profiles are fitted on: one CSV a table, plain or as .csv.gz.

Not for fitting; `collect` writes the tables.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device_profiles import Kernel
from search_space.errors import BadFile, one_line
from search_space.layer import Kind, LayerSpec

MILLION = 1e6
A76_NETWORKS = "a76_tflite_networks.csv"
A76_OPS = "a76_tflite_network_ops.csv"
MYRIAD_LAYERS = "myriad_ncs2_layers.csv"
MYRIAD_MICRO = "myriad_ncs2_micro.csv"
MYRIAD_SYNC = "myriad_networks_sync.csv"
MYRIAD_FPS = "myriad_ncs2_networks_fps.csv"
MYRIAD_OAK = "myriad_rvc2_networks.csv"
A100_NETWORKS = "a100_networks.csv"
A100_ELEMENTWISE = "a100_elementwise_fp32.csv"
A100_CONV = "a100_conv_fp32.csv"
A100_LINEAR = "a100_linear_fp32.csv"
V100_OPS = "v100_tensorrt_ops.csv.gz"
GPUNET_LAYERS = "gpunet_layers.csv"
NAS_BENCH_201 = "nb201_a76_vpu.csv"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table; `where` names table and row for messages. Getters raise `BadFile`."""

    where: str
    fields: dict[str, str]

    def text(self, name: str) -> str:
        """The cell of a column."""
        if name not in self.fields:
            raise BadFile(f"{self.where}: no column '{name}'")
        return self.fields[name]

    def number(self, name: str) -> float:
        """The cell as a number."""
        text = self.text(name)
        try:
            return float(text)
        except ValueError:
            raise BadFile(f"{self.where}: {name} is '{text}', not a number") from None

    def integer(self, name: str) -> int:
        """The cell as an integer; 299.0 is one."""
        value = self.number(name)
        if value != int(value):
            raise BadFile(f"{self.where}: {name} is {value}, not an integer")
        return int(value)


def read_rows(folder: Path, name: str) -> list[Row]:
    """The rows of one table, in its order.

    Raises `BadFile` where neither `name` nor `name`.gz is in the folder, or where it is damaged.
    """
    path = folder / name
    if not path.is_file():
        path = folder / f"{name}.gz"
    if not path.is_file():
        raise BadFile(f"no file '{folder / name}'; source= must name a folder that experiments.profiles.collect wrote")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadFile(f"cannot read '{path}': {one_line(error)}") from error
    return [Row(f"{name} row {i}", fields) for i, fields in enumerate(reader, start=2)]


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
