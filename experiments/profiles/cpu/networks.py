"""The form of the Cortex-A76's predictors and the 82 networks that it is fitted to, once per precision.

TFLite runs a convolution as a matrix product over 8 channels x 8 pixels; a product with a single pixel waits for its
weights, like a fully connected layer. Needs scipy.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from device_profiles import Lanes
from experiments.profiles.tables import (
    A76_NETWORKS,
    A76_OPS,
    MILLION,
    GroupedConv,
    MovedElements,
    Op,
    Row,
    a76_network_ops,
    read_rows,
)
from latency_models.fit.regression import Form, Sample, Terms

LANES = Lanes(in_channels=1, out_channels=8, height=1, width=8)
FORM: Form = {
    "conv_1x1": {"gemm_macs": "mac", "output_elements": "output", "weights": "weight"},
    "conv_kxk": {"gemm_macs": "mac", "im2col_elements": "im2col", "output_elements": "output", "weights": "weight"},
    "conv_image": {
        "gemm_macs": "mac",
        "im2col_elements": "im2col_image",
        "output_elements": "output",
        "weights": "weight",
    },
    "dwconv": {"launch": "launch_dw", "macs": "mac_dw", "input_elements": "input_dw"},
    "linear": {"weights": "weight"},
    "global_pool": {"input_elements": "moved"},
}
POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")


@dataclass(frozen=True, slots=True)
class Variant:
    """A profile rebuilt from the 82 networks: its device, precision and column of ms.

    pools_add_windows: pooling takes as long as adding every element of every window to its output, one at a time
    (fp32); else as long as moving its input (int8, where one instruction holds 16 elements).
    """

    device: str
    precision: str
    column: str
    pools_add_windows: bool


FP32 = Variant("cpu", "fp32", "a76_2840mhz_fp32_ms", pools_add_windows=True)
INT8 = Variant("cpu_int8", "int8", "a76_2840mhz_int8_ms", pools_add_windows=False)


def samples(folder: Path, variant: Variant) -> list[Sample]:
    """The networks that the column has a value for; a group is a network and its twins of equal MACs."""
    return [
        Sample(name, _terms(ops, variant).values, network.number(variant.column), group=network.integer("macs"))
        for network, ops in _networks(folder)
        if network.text(variant.column) and (name := network.text("model"))
    ]


def by_family(networks: list[Sample]) -> list[Sample]:
    """The same samples, grouped by the letters that their names begin with."""
    return [replace(s, group=(re.match(r"[a-z]+", s.name) or [s.name])[0]) for s in networks]


def support(folder: Path, variant: Variant) -> dict[str, dict[int, int]]:
    """Kernel kind -> kernel size -> layers of that kind and size in the measured networks."""
    counts: dict[str, Counter[int]] = {kind: Counter() for kind in FORM}
    for network, ops in _networks(folder):
        for _, op in ops if network.text(variant.column) else ():
            if not isinstance(op, GroupedConv | MovedElements):
                counts[op.price_kind][op.spec.kernel_size] += 1
    return {kind: dict(sorted(sizes.items())) for kind, sizes in counts.items()}


def _networks(folder: Path) -> list[tuple[Row, list[tuple[Row, Op]]]]:
    """Every network's row and its layers, each with the row that lists it."""
    networks, layers = read_rows(folder, A76_NETWORKS), dict[str, list[Row]]()
    for row in read_rows(folder, A76_OPS):
        layers.setdefault(row.text("model"), []).append(row)
    found = []
    for network in networks:
        model = network.text("model")
        mine = layers.get(model, [])
        found.append((network, list(zip(mine, a76_network_ops(mine, model), strict=True))))
    return found


def _terms(ops: list[tuple[Row, Op]], variant: Variant) -> Terms:
    terms = Terms(FORM, LANES)
    for row, op in ops:
        match op:
            case GroupedConv(macs, out_elements):
                terms.add_value("grouped_mac", macs / MILLION)
                terms.add_value("grouped_output", out_elements / MILLION)
            case MovedElements(_, elements):
                pooled = variant.pools_add_windows and row.text("op") in POOLS
                terms.add_value("moved", (_window_elements(row) if pooled else elements) / MILLION)
            case _:
                terms.add(op)
    return terms


def _window_elements(pool: Row) -> int:
    return pool.integer("kernel") ** 2 * pool.integer("in_c") * pool.integer("out_hw") ** 2
