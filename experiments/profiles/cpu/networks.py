"""The form of the Cortex-A76's predictors and the networks that it is fitted to, once per precision.

TFLite runs a convolution as a matrix product over 8 channels x 8 pixels; a product with a single pixel waits for its
weights, like a fully connected layer. Whatever only moves elements (element-wise operators, pooling, concatenation)
shares one coefficient, `moved`: the time to read an element and write one; padding ahead of a convolution has its own.
Needs scipy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from device_profiles import Kernel, Lanes
from experiments.profiles.cpu.unlisted import unlisted_layers
from experiments.profiles.tables import (
    A76_NETWORKS,
    A76_OPS,
    A76_TRANSFORMERS,
    MILLION,
    AttentionOp,
    Gated,
    GroupedConv,
    MatrixProduct,
    MovedElements,
    Op,
    Row,
    a76_network_ops,
    read_rows,
)
from experiments.profiles.transformers import transformer
from latency_models.features import FEATURES
from latency_models.fit.regression import Form, Sample, Terms
from search_space.layer import Kind

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
    "gelu": {"output_elements": "gelu"},
    "layer_norm": {"output_elements": "layer_norm"},
    "softmax": {"output_elements": "softmax"},
}
OPERATORS: Mapping[str, int] = {Kind.ADD: 1, Kind.MUL: 1, Kind.BATCH_NORM: 2, Kind.TRANSPOSE: 1}
"""Kind -> operators that run for it (a norm is a product and a sum); each reads its inputs and writes its output."""
SWISH_MOVES = 4
"""Moved elements that x * sigmoid(x) takes an element: MobileViT, alone with it, reads 4.6 in fp32, 3.2 in int8."""
UNPRICED = frozenset({Kind.HARD_SWISH.value})
"""Kinds in the networks for which no time can be told: MobileNetV3 is priced best with hard swish at nothing."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A profile rebuilt from these networks: its device, clock, precision and column of ms.

    pools_add_windows: pooling takes as long as adding every element of every window to its output, one at a time
    (fp32); else as long as moving its input (int8, where one instruction holds 16 elements).
    """

    device: str
    clock: str
    precision: str
    column: str
    pools_add_windows: bool


FP32 = Variant("cpu", "2.84 GHz", "fp32", "a76_2840mhz_fp32_ms", pools_add_windows=True)
FP32_2420MHZ = Variant("cpu_2420mhz", "2.42 GHz", "fp32", "a76_2420mhz_fp32_ms", pools_add_windows=True)
INT8 = Variant("cpu_int8", "2.84 GHz", "int8", "a76_2840mhz_int8_ms", pools_add_windows=False)


def samples(folder: Path, variant: Variant) -> list[Sample]:
    """The convolutional networks with a value in the column; a group is a network and its twins of equal MACs."""
    return [
        Sample(name, terms(ops, variant).values, network.number(variant.column), group=network.integer("macs"))
        for network, ops in _networks(folder)
        if network.text(variant.column) and (name := network.text("model"))
    ]


def transformer_samples(folder: Path, variant: Variant) -> list[Sample]:
    """The vision transformers with a value in the column, grouped by family as in `by_family`."""
    found = [
        Sample(name, terms(transformer(name), variant).values, row.number(variant.column))
        for row in read_rows(folder, A76_TRANSFORMERS)
        if row.text(variant.column) and (name := row.text("model"))
    ]
    return by_family(found)


def by_family(networks: list[Sample]) -> list[Sample]:
    """The same samples, grouped by the letters that their names begin with."""
    return [replace(s, group=(re.match(r"[a-z]+", s.name) or [s.name])[0]) for s in networks]


def measured_layers(folder: Path, variant: Variant) -> dict[str, Sequence[AttentionOp]]:
    """The layers of every network that the column has a value for, by its name."""
    found: dict[str, Sequence[AttentionOp]] = {
        network.text("model"): ops for network, ops in _networks(folder) if network.text(variant.column)
    }
    for row in read_rows(folder, A76_TRANSFORMERS):
        if row.text(variant.column):
            found[row.text("model")] = transformer(row.text("model"))
    return found


def support(layers: Iterable[AttentionOp]) -> dict[str, dict[int, int]]:
    """Kernel kind -> kernel size -> how many of these layers are of that kind and size."""
    counts: dict[str, Counter[int]] = {}
    for op in layers:
        if (place := kind_and_size(op)) is not None:
            kind, size = place
            counts.setdefault(kind, Counter())[size] += 1
    return {kind: dict(sorted(sizes.items())) for kind, sizes in counts.items()}


def kind_and_size(op: AttentionOp) -> tuple[str, int] | None:
    """The kernel kind and kernel size of a layer; None where no kind of a profile prices it."""
    match op:
        case Kernel():
            return op.price_kind, op.spec.kernel_size
        case MovedElements("pool" | "concat" | "transpose" as kind, _, window):
            return kind, window
        case _:
            return None


def _networks(folder: Path) -> list[tuple[Row, list[Op]]]:
    """Every convolutional network's row and its layers, those that its list leaves out at the end."""
    networks, layers = read_rows(folder, A76_NETWORKS), dict[str, list[Row]]()
    for row in read_rows(folder, A76_OPS):
        layers.setdefault(row.text("model"), []).append(row)
    found = []
    for network in networks:
        model = network.text("model")
        mine = layers.get(model, [])
        found.append((network, [*a76_network_ops(mine, model), *unlisted_layers(model, mine)]))
    return found


def terms(ops: Iterable[AttentionOp], variant: Variant) -> Terms:
    """The layers of a network as terms of the form."""
    found = Terms(FORM, LANES)
    for op in ops:
        match op:
            case GroupedConv():
                found.add_value("grouped_mac", op.macs / MILLION)
                found.add_value("grouped_output", op.out_elements / MILLION)
            case MatrixProduct():
                found.add_value("mac", op.macs / MILLION)
            case Gated():
                found.add_value("moved", SWISH_MOVES * op.elements / MILLION)
            case MovedElements("pad"):
                found.add_value("padded", op.elements / MILLION)
            case MovedElements():
                summed = variant.pools_add_windows and op.op == "pool"
                found.add_value("moved", (op.window_elements if summed else op.elements) / MILLION)
            case Kernel() if op.price_kind in OPERATORS:
                touched = sum(FEATURES[name](op, LANES) for name in ("input_elements", "output_elements"))
                found.add_value("moved", OPERATORS[op.price_kind] * touched / 2)
            case Kernel() if op.price_kind not in UNPRICED:
                found.add(op)
            case _:
                pass
    return found
