"""The table of a profile, `kernels.csv`: one row per distinct fused kernel, times in ms at batch 1.

Reading refuses whatever is not a number of milliseconds, naming file and row. Not for prediction.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

from device_profiles.kernel import Kernel
from search_space.errors import BadFile
from search_space.layer import Kind, LayerSpec

ORIGINS = ("measured", "fitted", "derived")
_SIZES = ("in_channels", "out_channels", "height", "width", "kernel_size", "stride", "padding")
COLUMNS = ("kind", "fused", "inputs", *_SIZES, "latency_ms", "spread_ms", "count", "origin", "source")


@dataclass(frozen=True, slots=True)
class KernelRow:
    """What is known of one kernel.

    latency_ms: at batch 1; spread_ms: half the width of its interval; count: how many measured rows
    of its kind and kernel size stand behind it; origin: measured | fitted | derived; source: a note.
    """

    kernel: Kernel
    latency_ms: float
    spread_ms: float
    count: int
    origin: str
    source: str


def parse_rows(text: str, where: str) -> tuple[KernelRow, ...]:
    """The rows of a table. Raises `BadFile` naming `where` and the line (the header line is row 1)."""
    if not text.endswith("\n"):
        raise BadFile(f"{where}: the last row is cut off (no newline at the end of the file)")
    reader = csv.reader(io.StringIO(text))
    header = next(reader)
    if missing := [name for name in COLUMNS if name not in header]:
        raise BadFile(f"{where} row 1: no column {', '.join(missing)}; it needs {','.join(COLUMNS)}")
    if len(set(header)) != len(header) or len(header) != len(COLUMNS):
        raise BadFile(f"{where} row 1: columns must be exactly {','.join(COLUMNS)}, got {','.join(header)}")
    rows: list[KernelRow] = []
    first_seen: dict[Kernel, int] = {}
    for number, fields in enumerate(reader, start=2):
        here = f"{where} row {number}"
        if len(fields) != len(header):
            raise BadFile(f"{here}: {len(fields)} fields where {len(header)} are needed")
        row = _parse_row(dict(zip(header, fields, strict=True)), here)
        if row.kernel in first_seen:
            raise BadFile(f"{here}: the kernel {row.kernel} is already in row {first_seen[row.kernel]}")
        first_seen[row.kernel] = number
        rows.append(row)
    if not rows:
        raise BadFile(f"{where}: no rows")
    return tuple(rows)


def _parse_row(fields: dict[str, str], here: str) -> KernelRow:
    kind = _kind(fields["kind"], here)
    fused = tuple(_kind(name, here) for name in fields["fused"].split("+") if name)
    c_in, c_out, height, width, kernel_size, stride = (_integer(fields, name, here, least=1) for name in _SIZES[:-1])
    spec = LayerSpec(kind, c_in, c_out, height, width, kernel_size, stride, _integer(fields, "padding", here, least=0))
    if fields["origin"] not in ORIGINS:
        raise BadFile(f"{here}: origin is '{fields['origin']}', not one of {', '.join(ORIGINS)}")
    latency_ms = _number(fields, "latency_ms", here)
    if latency_ms == 0:
        raise BadFile(f"{here}: latency_ms is 0; a kernel that costs nothing has no row")
    return KernelRow(
        kernel=Kernel(spec, fused, _integer(fields, "inputs", here, least=1)),
        latency_ms=latency_ms,
        spread_ms=_number(fields, "spread_ms", here),
        count=_integer(fields, "count", here, least=0),
        origin=fields["origin"],
        source=fields["source"],
    )


def _kind(name: str, here: str) -> Kind:
    try:
        return Kind(name)
    except ValueError:
        raise BadFile(f"{here}: unknown layer kind '{name}'; known: {', '.join(Kind)}") from None


def _integer(fields: dict[str, str], name: str, here: str, least: int) -> int:
    text = fields[name]
    if not text.isascii() or not text.isdecimal() or int(text) < least:
        raise BadFile(f"{here}: {name} is '{text}', not an integer >= {least}")
    return int(text)


def _number(fields: dict[str, str], name: str, here: str) -> float:
    try:
        value = float(fields[name])
    except ValueError:
        raise BadFile(f"{here}: {name} is '{fields[name]}', not a number") from None
    if not math.isfinite(value) or value < 0:
        raise BadFile(f"{here}: {name} is {fields[name]}, not a finite number >= 0")
    return value


def render_rows(rows: Iterable[KernelRow]) -> str:
    """The table as text, the inverse of `parse_rows` (times keep six significant digits)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        spec = row.kernel.spec
        fused = "+".join(kind.value for kind in row.kernel.fused)
        sizes = [getattr(spec, name) for name in _SIZES]
        times = [f"{row.latency_ms:.6g}", f"{row.spread_ms:.6g}"]
        writer.writerow([spec.kind.value, fused, row.kernel.inputs, *sizes, *times, row.count, row.origin, row.source])
    return out.getvalue()
