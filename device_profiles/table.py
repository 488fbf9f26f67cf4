"""The table of a profile, `kernels.csv`: one row per distinct fused kernel, times in ms at batch 1.

`KERNELS` says what stands in it; what does not fit is refused by file, row and column. Not for prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from device_profiles.kernel import Kernel
from search_space.errors import BadFile
from search_space.layer import Kind, LayerSpec
from search_space.tables import Column, Schema, make_table, parse_rows, render_table

if TYPE_CHECKING:
    from pandas import DataFrame

ORIGINS = ("measured", "fitted", "derived")
_SIZES = (
    Column("in_channels", "int", "of the first layer's input", least=1),
    Column("out_channels", "int", "of the first layer's output", least=1),
    Column("height", "int", "of the input, pixels", least=1),
    Column("width", "int", "of the input, pixels", least=1),
    Column("kernel_size", "int", "of the first layer, pixels", least=1),
    Column("stride", "int", "of the first layer, pixels", least=1),
    Column("padding", "int", "of the first layer on every side, pixels", least=0),
)
KERNELS = Schema(
    "kernels.csv",
    (
        Column("kind", "str", "the first layer's", allowed=tuple(Kind)),
        Column("fused", "str", "kinds of the layers that run within the kernel after it, with + between", empty=True),
        Column("inputs", "int", "how many tensors it reads", least=1),
        *_SIZES,
        Column("latency_ms", "float", "time at batch 1, ms; a kernel that costs nothing has no row", above=0),
        Column("spread_ms", "float", "half the width of the time's interval, ms", least=0),
        Column("count", "int", "measured rows of its kind and kernel size behind it", least=0),
        Column("origin", "str", "where the time comes from", allowed=ORIGINS),
        Column("source", "str", "a note", empty=True),
    ),
)


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


def read_kernels(text: str, where: str) -> tuple[KernelRow, ...]:
    """The rows of a table. Raises `BadFile` naming `where`, row (the header line is row 1) and column.

    Row by row, not by pandas: every search reads a profile before it refuses a budget, and importing pandas alone
    takes several times as long as reading the largest shipped table so.
    """
    rows: dict[Kernel, tuple[str, KernelRow]] = {}
    for here, values in parse_rows(text, KERNELS, where):
        row = _kernel_row(values, here)
        if row.kernel in rows:
            before = rows[row.kernel][0].removeprefix(f"{where} ")
            raise BadFile(f"{here}: the kernel {row.kernel} already stands in {before}")
        rows[row.kernel] = here, row
    if not rows:
        raise BadFile(f"{where}: no rows")
    return tuple(row for _, row in rows.values())


def _kernel_row(values: Mapping[str, Any], here: str) -> KernelRow:
    fused = tuple(_kind(name, here) for name in (values["fused"] or "").split("+") if name)
    spec = LayerSpec(Kind(values["kind"]), *(values[size.name] for size in _SIZES))
    return KernelRow(
        kernel=Kernel(spec, fused, values["inputs"]),
        latency_ms=values["latency_ms"],
        spread_ms=values["spread_ms"],
        count=values["count"],
        origin=values["origin"],
        source=values["source"] or "",
    )


def _kind(name: str, here: str) -> Kind:
    try:
        return Kind(name)
    except ValueError:
        raise BadFile(f"{here}: fused names {name!r}, not one of {', '.join(Kind)}") from None


def kernel_table(rows: Iterable[KernelRow]) -> DataFrame:
    """The rows with the columns of `KERNELS`, times as they are; NaN where nothing is fused or noted."""
    return make_table(map(_values, rows), KERNELS)


def _values(row: KernelRow) -> list[str | int | float | None]:
    spec = row.kernel.spec
    fused = "+".join(kind.value for kind in row.kernel.fused) or None
    sizes = [getattr(spec, size.name) for size in _SIZES]
    times = (row.latency_ms, row.spread_ms)
    return [spec.kind.value, fused, row.kernel.inputs, *sizes, *times, row.count, row.origin, row.source or None]


def render_kernels(rows: Iterable[KernelRow]) -> str:
    """The table as text, the inverse of `read_kernels` (times keep six significant digits)."""
    return render_table(kernel_table(rows), KERNELS)
