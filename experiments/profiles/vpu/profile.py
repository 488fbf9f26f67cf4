"""Rebuilds `vpu`, a Myriad X (NCS2) under OpenVINO fp16, from measured layers and whole networks.

Layers give the price of every kernel, networks the level: a network takes longer than the sum of its
layer counters. Needs scipy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from device_profiles import IMAGE_CHANNELS, MEASURED, FusionRules, Header, KernelRow, KindModel, Source
from experiments.profiles import EVALUATED_BY
from experiments.profiles.assemble import into, network_interval, solved_model, table_rows
from experiments.profiles.regression import conformal_factors
from experiments.profiles.tables import MYRIAD_LAYERS, MYRIAD_MICRO, read_rows
from experiments.profiles.vpu.evaluation import COVERAGE, distinct_layers, evaluations
from experiments.profiles.vpu.fit import Level, fit_layers, fit_level, unseen_engine_layers, unseen_networks
from experiments.profiles.vpu.samples import (
    FORM,
    FPS_TO_LATENCY,
    LANES,
    TOUCHES_OF_ADD,
    TOUCHES_OF_PASS,
    measured,
    source_ratios,
    synchronous,
)
from latency_models.fit.kind_model import Evidence, kind_model
from latency_models.fit.regression import summary
from search_space.layer import Kind

__all__ = ["evaluations", "rebuild"]

# LayerNorm priced as separate operators: mean, subtract, square, mean, times 1/sigma, times gamma, plus beta.
LAYER_NORM_KERNELS, LAYER_NORM_TOUCHES = 7, 12
RULES = FusionRules(
    frozenset({Kind.SCALE}),
    into(conv=[Kind.BATCH_NORM, Kind.RELU6], dwconv=[Kind.BATCH_NORM, Kind.RELU6], add=[Kind.RELU6]),
)


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    data = measured(folder)
    coefficients = fit_layers(data)
    level = fit_level(data.networks, coefficients)
    unseen = unseen_networks(data)
    unseen_layers = unseen_engine_layers(data)
    one_kernel = conformal_factors(distinct_layers(data.engine, unseen_layers).ratios, COVERAGE)
    models = _models(folder, coefficients, level, one_kernel)
    rows = table_rows(models, RULES, LANES)
    names = ", ".join(
        f"{s.name} {s.latency_ms:.1f}/{s.latency_ms * r:.1f}" for s, r in zip(data.networks, unseen, strict=True)
    )
    agree = source_ratios(folder)
    in_sync = np.array([network.name in synchronous(folder) for network in data.networks])
    header = Header(
        device="vpu",
        title="Intel Myriad X (Neural Compute Stick 2)",
        runtime="OpenVINO",
        runtime_version="2018-2020 (layer counters: 2019-2020)",
        precision="fp16",
        threads=1,
        clock="not stated by the sources",
        date="2018-2021",
        measured_by="annette and inference_modules (TU Wien), dl-benchmark (itlab-vision)",
        sources=_sources(),
        row_origins={
            "fitted": "forms fitted to layer counters and micro-benchmarks; kernels timed alone",
            "derived": "product, GELU, LayerNorm: passes over the tensor at the time of an addition's elements "
            "(LayerNorm as seven operators)",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=LANES,
        models=models,
        interval=network_interval(
            COVERAGE,
            unseen,
            "measured over predicted time of whole networks, each predicted without its family (Inceptions whose "
            f"layers were counted: without their own layers): {names} (measured/predicted ms)",
        ),
        calibration={"measured": MEASURED},
        accuracy={
            "leave_one_family_out": f"{summary(unseen)}; n = {len(unseen)}",
            "leave_one_family_out_by_source": f"synchronous times: {summary(unseen[in_sync])}, n = {in_sync.sum()}; "
            f"from frames/s (mobile networks, ResNet-18, -34): {summary(unseen[~in_sync])}, n = {(~in_sync).sum()}",
            "convolutions_of_an_unseen_network": f"{summary(unseen_layers)}; n = {len(data.engine)}",
            "sources": f"synchronous ms x frames/s / 1000 of the networks that both tables hold: {agree[0]:.2f} to "
            f"{agree[-1]:.2f}, n = {len(agree)}; networks with frames/s alone are taken at {FPS_TO_LATENCY:.2f}, "
            "uncertain by 15 %",
            "command": EVALUATED_BY.format(device="vpu"),
            "note": "The forms were compared on these same held-out sets. Layers of the Inception networks carry the "
            f"convolutions; networks add two numbers, kernels x {level.in_network} + {level.network_ms} ms.",
        },
        network_ms=level.network_ms,
    )
    return header, rows


def _models(
    folder: Path, coefficients: Mapping[str, float], level: Level, factors: tuple[float, float]
) -> dict[str, KindModel]:
    origin = f"fitted together to {MYRIAD_LAYERS} and {MYRIAD_MICRO}"
    notes = {
        "dwconv": "; thin: ten micro-benchmark rows",
        "add": "; from the element-wise bandwidth of 2.9-3.4 GB/s (annette); no single row",
    }
    support = _support(folder)
    models = {
        kind: solved_model(
            kind,
            FORM,
            coefficients,
            Evidence("fitted", origin + notes.get(kind, ""), support[kind]),
            factors,
        )
        for kind in FORM
        if kind != "mul"
    }
    for name, launched in (("pool", "launch"), ("concat", "launch_shave")):
        times = {"launch": coefficients[launched], "output_elements": coefficients[f"moved_{name}"]}
        models[name] = kind_model(times, Evidence("fitted", origin, {}), factors)
    launch = coefficients["launch_shave"]
    touch = coefficients["output_add"] / TOUCHES_OF_ADD

    def derived(what: str, kernels: int, touches: int) -> KindModel:
        note = f"{what}: {kernels} kernels reading or writing {touches} elements per element at the time of add"
        values = {"launch": kernels * launch, "output_elements": touches * touch}
        source = f"{note}; never measured alone on this device"
        return kind_model(values, Evidence("derived", source, {}, 2.0, "no network holds it alone"), factors)

    # Three of the networks hold products: too few to take them for calibrated.
    models["mul"] = derived("product as an addition", 1, TOUCHES_OF_ADD)
    for kind in ("gelu", "relu6", "batch_norm"):
        models[kind] = derived("one pass", 1, TOUCHES_OF_PASS)
    models["layer_norm"] = derived("seven operators", LAYER_NORM_KERNELS, LAYER_NORM_TOUCHES)
    return {kind: replace(model, in_network=level.in_network) for kind, model in models.items()}


def _support(folder: Path) -> dict[str, dict[int, int]]:
    """Kernel kind -> kernel size -> measured single rows (square windows). Whole networks are not counted."""
    counts: dict[str, Counter[int]] = {kind: Counter() for kind in FORM}
    for row in read_rows(folder, MYRIAD_LAYERS):
        if row.text("ov_type") == "Convolution" and row.text("kh") == row.text("kw"):
            size = row.integer("kh")
            image = row.integer("in_c") <= IMAGE_CHANNELS
            counts["conv_image" if image else "conv_1x1" if size == 1 else "conv_kxk"][size] += 1
        elif row.text("ov_type") == "Pooling" and row.integer("out_h") == 1:
            counts["global_pool"][1] += 1
    for row in read_rows(folder, MYRIAD_MICRO):
        if row.text("kind") == "depthwise_conv":
            counts["dwconv"][row.integer("k")] += 1
        elif row.text("kind") == "fully_connected":
            counts["linear"][1] += 1
    return {kind: dict(sorted(sizes.items())) for kind, sizes in counts.items()}


def _sources() -> tuple[Source, ...]:
    return (
        Source(
            "github.com/embedded-machine-learning/inference_modules @aceecd96, annette @a8107fdf",
            "annette Apache-2.0; inference_modules states none",
            "378 layers of Inception v1, v3, v4 from the runtime's counters; 30 micro-benchmark rows",
        ),
        Source(
            "github.com/openvinotoolkit/openvino (formerly opencv/dldt), Myriad plug-in, 2019-2020",
            "Apache-2.0",
            "modes, memory sizes and tiling rules of the neural engine; no times",
        ),
        Source(
            "github.com/itlab-vision/dl-benchmark @ec4106e2",
            "Apache-2.0",
            "whole networks: synchronous times (2018) and frames/s with several requests in flight, turned into a "
            f"latency by {FPS_TO_LATENCY:.2f} x 1000/fps (1.6-2.1)",
        ),
    )
