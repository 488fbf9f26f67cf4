"""The rows of data/ from the tables that were collected from public repositories.

Question   which of the collected rows are the shipped profiles fitted on and evaluated with?
Command    python -m experiments.profiles.collect source=FOLDER [out=experiments/profiles/data]
Cost       10 seconds
Expected   the shipped tables, byte for byte

Rows and columns are left out, cells are kept as they are written; GPUNet's layers, JSON files there, become a table.
data/README.md names the source, commit and licence of every table. Not needed to rebuild a profile.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.profiles import DATA
from experiments.profiles.gpu import fit as gpu
from experiments.profiles.gpu_eager_fp32 import level as gpu_eager
from experiments.profiles.tables import (
    A76_NETWORKS,
    A76_OPS,
    A76_TRANSFORMERS,
    A100_CONV,
    A100_ELEMENTWISE,
    A100_LINEAR,
    A100_NETWORKS,
    GPUNET_LAYERS,
    MYRIAD_FPS,
    MYRIAD_LAYERS,
    MYRIAD_MICRO,
    MYRIAD_OAK,
    MYRIAD_SYNC,
    NAS_BENCH_201,
    V100_OPS,
    Row,
    read_rows,
)
from experiments.profiles.vpu import samples as vpu
from experiments.profiles.vpu.frames import synchronous_ms
from experiments.profiles.vpu.oak import uses_oak
from latency_models.options import Options, run
from search_space.errors import BadFile, one_line
from search_space.files import ensure_folder, write_whole

OPTIONS = {
    "source": "folder of the collected tables",
    "out": "where the rows in use go (default: experiments/profiles/data)",
}
USAGE = "usage: python -m experiments.profiles.collect source=FOLDER [out=FOLDER]"
LARGE = 65_536  # bytes; a larger table is written as .csv.gz
A76_COLUMNS = ("a76_2840mhz_fp32_ms", "a76_2420mhz_fp32_ms", "a76_2840mhz_int8_ms")
GPUNET_FILES = {
    "GPUNet-0": "0.65ms.json",
    "GPUNet-2": "1.75ms.json",
    "GPUNet-P0": "0.5ms-D.json",
    "GPUNet-P1": "0.8ms-D.json",
    "GPUNet-D1": "1.25ms-D.json",
}
GPUNET_COLUMNS = (
    "layer_type",
    "img_resolution",
    "num_out_channels",
    "kernel_size",
    "stride",
    "expansion",
    "use_se",
    "num_classes",
)


@dataclass(frozen=True)
class Table:
    """One shipped table: the columns in use, which rows are, and the folder that it is collected from."""

    name: str
    columns: tuple[str, ...]
    uses: Callable[[Row], bool] = lambda row: True
    folder: str = ""


def tables(folder: Path) -> list[Table]:
    """What is shipped of every collected table but GPUNet's layers."""
    named = vpu.named_networks(folder) | synchronous_ms(folder).keys()
    sizes = ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c", "kh", "kw", "stride")
    return [
        Table(A76_NETWORKS, ("model", "macs", *A76_COLUMNS)),
        Table(A76_TRANSFORMERS, ("model", "flops", *A76_COLUMNS)),
        Table(A76_OPS, ("model", "op", "in_hw", "in_c", "out_hw", "out_c", "kernel", "stride", "macs")),
        Table(NAS_BENCH_201, ("arch_str", "a76_ms", "vpu_ms")),
        Table(MYRIAD_LAYERS, ("model", "ov_type", "exec_type", "time_ms", *sizes), vpu.uses_layer),
        Table(
            MYRIAD_MICRO, ("kind", "channels", "filters", "k", "num_inputs", "num_outputs", "time_ms"), vpu.uses_micro
        ),
        Table(MYRIAD_SYNC, ("topology", "batch", "avg_ms"), lambda row: row.text("batch") == "1"),
        Table(
            MYRIAD_FPS,
            ("topology", "batch", "fps"),
            lambda row: row.text("batch") == "1" and row.text("topology") in named,
        ),
        Table(MYRIAD_OAK, ("model", "input", "fps", "latency_ms"), uses_oak, folder="field"),
        Table(
            V100_OPS,
            (
                "kind",
                "precision",
                "batch",
                "in_channels",
                "h",
                "w",
                "out_channels",
                "kernel",
                "stride",
                "fused_add",
                "latency_ms",
            ),
            _uses_v100,
        ),
        Table(A100_CONV, ("batch", "in_channels", "out_channels", "kernel", "hw", "stride", "padding", "latency_ms")),
        Table(A100_LINEAR, ("m", "n", "k", "latency_ms")),
        Table(A100_ELEMENTWISE, ("op", "rows", "cols", "latency_ms")),
        Table(
            A100_NETWORKS,
            ("model", "framework", "precision", "batch", "latency_ms", "source"),
            lambda row: gpu.uses_network(row) or gpu_eager.uses_network(row),
        ),
    ]


def _uses_v100(row: Row) -> bool:
    """fp16 rows give `gpu` its forms; of fp32, `gpu_eager_fp32` takes the depthwise form alone."""
    return gpu.uses_v100_row(row, "fp16") or (row.text("kind") == "Depthwise" and gpu.uses_v100_row(row, "fp32"))


def gpunet_layers(folder: Path) -> list[list[str]]:
    """GPUNet's layers as rows, network by network.

    A row is the network's name, then `GPUNET_COLUMNS`, empty where the file says nothing. Raises `BadFile`.
    """
    found = []
    for name, file in GPUNET_FILES.items():
        path = folder / "gpunet" / file
        try:
            layers: Sequence[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            found += [[name, *(_cell(layer.get(column)) for column in GPUNET_COLUMNS)] for layer in layers]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise BadFile(f"cannot read '{path}': {one_line(error)}") from error
    return found


def _cell(value: object) -> str:
    return "" if value is None else str(int(value)) if isinstance(value, bool) else str(value)


def collect(source: Path, out: Path) -> str:
    """Write the tables in use of `source` to `out`; the text to print. Raises `BadFile` for a missing or bad table."""
    if not source.is_dir():
        raise BadFile(f"no folder '{source}'; source= must name the folder of the collected tables")
    contents = {}
    for table in tables(source):
        rows = [row for row in read_rows(source / table.folder, table.name) if table.uses(row)]
        contents[table.name] = table.columns, [[row.text(column) for column in table.columns] for row in rows]
    contents[GPUNET_LAYERS] = ("network", *GPUNET_COLUMNS), gpunet_layers(source)
    ensure_folder(out)
    lines = []
    for name, (columns, cells) in contents.items():
        written = _write(out, name, columns, cells)
        lines.append(f"{written.name}: {len(cells)} rows, {written.stat().st_size} bytes")
    return "\n".join(lines)


def _write(out: Path, name: str, columns: Iterable[str], cells: Iterable[Iterable[str]]) -> Path:
    """Equal rows give equal bytes: no time and no name in the gzip header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(cells)
    raw = text.getvalue().encode("utf-8")
    plain = name.removesuffix(".gz")
    if len(raw) <= LARGE and plain == name:
        path = out / plain
        write_whole(path, raw)
    else:
        path = out / f"{plain}.gz"
        write_whole(path, gzip.compress(raw, compresslevel=9, mtime=0))
    return path


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_collect, OPTIONS, USAGE, arguments)


def _collect(options: Options) -> str:
    return collect(Path(options.text("source")), Path(options.text("out", str(DATA))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
