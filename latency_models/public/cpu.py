"""Rebuilds `cpu`, a Cortex-A76 core under TFLite fp32, from 82 whole networks measured on a Pixel 4.

No kernel was measured alone: an additive form is fitted to whole networks. Needs scipy.
"""

from __future__ import annotations

import re
from pathlib import Path

from device_profiles import FusionRules, Header, KernelRow, Lanes, Source
from latency_models.assemble import Evidence, into, kind_model, network_interval, solved_model, table_rows
from latency_models.public.data import (
    A76_NETWORKS,
    A76_OPS,
    MILLION,
    GroupedConv,
    MovedElements,
    a76_network_ops,
    read_rows,
)
from latency_models.regression import (
    Form,
    Sample,
    Terms,
    conformal_factors,
    fit_coefficients,
    held_out_ratios,
    summary,
)
from search_space.layer import Kind

COVERAGE = 0.9
LATENCY_COLUMN = "a76_2840mhz_fp32_ms"
FORM: Form = {
    "conv_1x1": {"macs": "mac_1x1", "output_elements": "output", "weights": "weight"},
    "conv_kxk": {"macs": "mac_kxk", "im2col_elements": "im2col", "output_elements": "output", "weights": "weight"},
    "conv_image": {
        "macs": "mac_kxk",
        "im2col_elements": "im2col_image",
        "output_elements": "output",
        "weights": "weight",
    },
    "dwconv": {"macs": "mac_dw", "input_elements": "dw_element", "output_elements": "dw_element"},
    "linear": {"weights": "linear_weight"},
    "global_pool": {"input_elements": "moved"},
}
# LayerNorm priced as separate operators: mean, subtract, square, mean, times 1/sigma, times gamma, plus beta.
LAYER_NORM_READS, LAYER_NORM_WRITES = 7, 5
RULES = FusionRules(
    frozenset({Kind.SCALE}),
    into(
        conv=[Kind.BATCH_NORM, Kind.RELU6], dwconv=[Kind.BATCH_NORM, Kind.RELU6], add=[Kind.RELU6], linear=[Kind.RELU6]
    ),
)


def samples(folder: Path) -> list[Sample]:
    """The 82 networks; a group is a network and its twins of equal MACs."""
    networks, ops = read_rows(folder, A76_NETWORKS), read_rows(folder, A76_OPS)
    found = []
    for network in networks:
        terms = Terms(FORM)
        for op in a76_network_ops(ops, network.text("model")):
            match op:
                case GroupedConv(macs, out_elements):
                    terms.add_value("grouped_mac", macs / MILLION)
                    terms.add_value("grouped_output", out_elements / MILLION)
                case MovedElements(_, elements):
                    terms.add_value("moved", elements / MILLION)
                case _:
                    terms.add(op)
        found.append(
            Sample(network.text("model"), terms.values, network.number(LATENCY_COLUMN), group=network.integer("macs"))
        )
    return found


def by_family(networks: list[Sample]) -> list[Sample]:
    """The same samples, grouped by the letters that their names begin with."""
    return [
        Sample(s.name, s.terms, s.latency_ms, s.weight, (re.match(r"[a-z]+", s.name) or [s.name])[0]) for s in networks
    ]


def support(folder: Path) -> dict[str, dict[int, int]]:
    """Kernel kind -> kernel size -> layers of that kind and size in the measured networks."""
    counts: dict[str, dict[int, int]] = {}
    networks, ops = read_rows(folder, A76_NETWORKS), read_rows(folder, A76_OPS)
    for network in networks:
        for op in a76_network_ops(ops, network.text("model")):
            if not isinstance(op, GroupedConv | MovedElements):
                sizes = counts.setdefault(op.price_kind, {})
                sizes[op.spec.kernel_size] = sizes.get(op.spec.kernel_size, 0) + 1
    return {kind: dict(sorted(sizes.items())) for kind, sizes in counts.items()}


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    networks = samples(folder)
    coefficients = fit_coefficients(networks)
    twins, families = held_out_ratios(networks, networks), by_family(networks)
    unseen = held_out_ratios(families, families)
    factors = conformal_factors(unseen, COVERAGE)
    touched = coefficients["moved"] / 2  # a moved element is read once and written once
    counts = support(folder)
    source = f"fitted with every other kind to {len(networks)} whole networks ({A76_NETWORKS})"
    models = {
        kind: solved_model(kind, FORM, coefficients, Evidence("fitted", source, counts[kind], True), factors)
        for kind in FORM
    }

    def element_wise(reads: int, writes: int, what: str) -> Evidence:
        note = f"{what}: {reads} reads and {writes} writes an element at half the fitted time of a moved element"
        return Evidence("derived", f"{note}; never measured on this device", {}, False)

    for name, reads, writes, what in (
        ("add", 1, 1, "sum of two tensors"),
        ("mul", 1, 1, "product of two tensors"),
        ("gelu", 1, 1, "one vectorised pass, the arithmetic hidden behind it"),
        ("layer_norm", LAYER_NORM_READS, LAYER_NORM_WRITES, "seven TFLite operators, for lack of one"),
    ):
        # reading two tensors counts by itself: input_elements sums them
        evidence = element_wise(2 if name in ("add", "mul") else reads, writes, what)
        model = {"input_elements": touched * reads, "output_elements": touched * writes}
        models[name] = kind_model(model, evidence, factors)
    lanes = Lanes()
    rows = table_rows(models, RULES, lanes)
    command = "python -m latency_models.fit device=cpu source=DIR"
    header = Header(
        device="cpu",
        title="Cortex-A76, one core of a Pixel 4",
        runtime="TFLite",
        runtime_version="version not stated by the source",
        precision="fp32",
        threads=1,
        clock="2.84 GHz",
        date="not stated by the source",
        measured_by="qed-usc/mobile-ml-benchmark",
        sources=(
            Source(
                "github.com/qed-usc/mobile-ml-benchmark @40ba833a",
                "MIT",
                "82 ImageNet networks, mean of runs, standard deviation 0.1-0.5 %; whole networks only",
            ),
        ),
        row_origins={
            "fitted": "from an additive form fitted to whole networks: no kernel was measured alone on this device",
            "derived": "element-wise kinds that no measured network lists: elements read and written at the fitted "
            "time of a moved element (pooling, concatenation)",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=lanes,
        models=models,
        interval=network_interval(
            COVERAGE,
            unseen,
            "measured over predicted time of the networks, each predicted without its family (letters of its name)",
        ),
        calibration={"measured": 1.0},
        accuracy={
            "leave_one_network_out": f"{summary(twins)}; n = {len(networks)}, twins of equal MACs left out together",
            "leave_one_family_out": f"{summary(unseen)}; n = {len(networks)}",
            "command": command,
            "note": "The form was chosen among a dozen on these same held-out networks. "
            "The source's layer lists lack residual additions: their time sits in the fitted convolutions, "
            "so the derived additions are counted slightly twice (about 1 % of MobileNetV2).",
        },
    )
    return header, rows
