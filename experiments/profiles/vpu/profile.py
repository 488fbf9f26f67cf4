"""Rebuilds `vpu`, a Myriad X (NCS2) under OpenVINO fp16, from measured layers and whole networks.

Layers give the price of every kernel, networks the level: a network takes longer than the sum of its
layer counters. Needs scipy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from device_profiles import IMAGE_CHANNELS, MEASURED, FusionRules, Header, KernelRow, KindModel, Scenario, Source
from experiments.profiles import EVALUATED_BY
from experiments.profiles.assemble import into, network_interval, solved_model, table_rows
from experiments.profiles.regression import conformal_factors
from experiments.profiles.tables import MYRIAD_LAYERS, MYRIAD_MICRO, read_rows
from experiments.profiles.vpu.evaluation import COVERAGE, distinct_layers, evaluations
from experiments.profiles.vpu.fit import (
    Level,
    fit_layers,
    fit_level,
    unseen_depthwise,
    unseen_engine_layers,
    unseen_networks,
)
from experiments.profiles.vpu.frames import fit_frames, frame_errors, side, synchronous_ms
from experiments.profiles.vpu.networks import PASSES_OF_HARD_SWISH
from experiments.profiles.vpu.oak import passes_saved_by_hard_swish
from experiments.profiles.vpu.samples import (
    ELEMENT_WISE_GB_PER_S,
    FORM,
    IMAGE,
    LANES,
    VECTOR_POOL_GB_PER_S,
    Measured,
    measured,
)
from latency_models.fit.kind_model import Evidence, kind_model
from latency_models.fit.regression import mape, round_significant, summary
from search_space.layer import Kind

__all__ = ["evaluations", "rebuild"]

# LayerNorm as separate operators: mean, subtract, square, mean, times 1/sigma, times gamma, plus beta; of 12 tensors
# read or written two make a pass.
LAYER_NORM_KERNELS, LAYER_NORM_PASSES = 7, 6
# Intel's cost model of later SHAVE cores (intel/npu-nn-cost-model @8a2ae92b) over its plain activations.
SLOW_GELU, SLOW_HARD_SWISH = 9.1, 4.1
PRICED_GELU = 3  # passes: the geometric mean of one and SLOW_GELU; of hard swish that is two
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
    models = {
        **_fitted_models(folder, data, coefficients, level, one_kernel),
        **_derived_models(folder, coefficients, one_kernel),
    }
    models = {kind: replace(model, in_network=level.in_network) for kind, model in models.items()}
    rows = table_rows(models, RULES, LANES)
    names = ", ".join(
        f"{s.name} {s.latency_ms:.1f}/{s.latency_ms * r:.1f}" for s, r in zip(data.networks, unseen, strict=True)
    )
    frames, errors = fit_frames(folder), np.array(frame_errors(folder))
    sync_ms = synchronous_ms(folder)
    in_sync = np.array([network.name in sync_ms for network in data.networks])
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
            "derived": "element-wise kinds: passes over the tensor at a published bandwidth (additions, products and "
            f"activations one, GELU {PRICED_GELU}, LayerNorm {LAYER_NORM_PASSES} in {LAYER_NORM_KERNELS} operators)",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=LANES,
        fitted_range=_fitted_range(data),
        models=models,
        scenarios=_scenarios(coefficients),
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
            "from frames/s (mobile networks, ResNet-18, -34, SE-ResNet-50): "
            f"{summary(unseen[~in_sync])}, n = {(~in_sync).sum()}",
            "convolutions_of_an_unseen_network": f"{summary(unseen_layers)}; n = {len(data.engine)}",
            "sources": f"networks with frames/s alone are taken at {frames.in_flight:g} x (1000/fps - "
            f"{frames.request_ms:g}) + {frames.image_ms:g} ms a million elements of the image; of the {len(errors)} "
            f"classifiers measured both ways that is {mape(errors):.1f} % off, {errors[0]:.2f} to {errors[-1]:.2f} of "
            "the time of one request alone",
            "command": EVALUATED_BY.format(device="vpu"),
            "note": "The forms were compared on these same held-out sets. Layers of the Inception networks carry the "
            f"convolutions; networks add two numbers, kernels x {level.in_network} + {level.image_ms} ms a million "
            "elements of the image (call and transfer), priced with the first convolution.",
        },
    )
    return header, rows


def _fitted_models(
    folder: Path, data: Measured, coefficients: Mapping[str, float], level: Level, factors: tuple[float, float]
) -> dict[str, KindModel]:
    origin = f"fitted together to {MYRIAD_LAYERS} and {MYRIAD_MICRO}"
    notes = {
        "dwconv": "; thin: ten micro-benchmark rows, all of stride 1",
        "conv_image": "; call and transfer of the image (input_elements) set on whole networks",
        "global_pool": f"; wider ones than 15 pixels by annette's {VECTOR_POOL_GB_PER_S:g} GB/s of the vector cores",
    }
    rows, values = _rows(folder), {**coefficients, IMAGE: level.image_ms / level.in_network}
    doubts = {"dwconv": _doubt_of_size(data, 7)}
    models = {}
    for kind in (kind for kind in FORM if kind not in ("add", "mul")):
        evidence = Evidence("fitted", origin + notes.get(kind, ""), rows[kind].support, *doubts.get(kind, ()))
        model = solved_model(kind, FORM, values, evidence, factors)
        models[kind] = replace(model, fitted_range=rows[kind].fitted_range)
    for name, launched in (("pool", "launch"), ("concat", "launch_shave")):
        times = {"launch": coefficients[launched], "output_elements": coefficients[f"moved_{name}"]}
        models[name] = kind_model(times, Evidence("fitted", origin, {}), factors)
    return models


def _doubt_of_size(data: Measured, size: int) -> tuple[float, str, dict[int, float]]:
    """A judged factor of 1 and its reason, and the factor of a depthwise kernel size that no network holds."""
    ratios = unseen_depthwise(data, size)
    reason = (
        f"{size}x{size}: no network of the interval holds it; without its {len(ratios)} rows the fit puts them at "
        f"{ratios.min():.2f} to {ratios.max():.2f} times what was measured"
    )
    return 1.0, reason, {size: float(f"{max(1 / ratios.min(), ratios.max()):.3g}")}


def _fitted_range(data: Measured) -> dict[str, tuple[float, float]]:
    """Of the whole networks."""
    times, sides = [n.latency_ms for n in data.networks], [side(n.name) for n in data.networks]
    return {
        "network_ms": (round_significant(min(times)), round_significant(max(times))),
        "resolution": (float(min(sides)), float(max(sides))),
    }


def _passes(coefficients: Mapping[str, float], kernels: float, passes: float) -> dict[str, float]:
    """Coefficients of kernels of the vector cores that together pass over their tensor so often."""
    return {"launch": kernels * coefficients["launch_shave"], "output_elements": passes * coefficients["output_add"]}


def _derived_models(
    folder: Path, coefficients: Mapping[str, float], factors: tuple[float, float]
) -> dict[str, KindModel]:
    """Kinds of which no row is known.

    A judged factor stands where the networks of the interval do not hold the kind, and not where scenarios say how far
    off the price may be.
    """

    def derived(what: str, kernels: int, passes: int, judged: float = 1.0, reason: str = "") -> KindModel:
        source = f"{what}, each in and out at {ELEMENT_WISE_GB_PER_S:.2f} GB/s (annette: 2.9-3.4); no single row"
        evidence = Evidence("derived", source, {}, judged, reason)
        return kind_model(_passes(coefficients, kernels, passes), evidence, factors)

    saved = passes_saved_by_hard_swish(folder, coefficients)
    return {
        "add": derived("one pass", 1, 1),
        "mul": derived("one pass", 1, 1, 1.5, "networks hold it as the gate of a squeeze only, with its pools"),
        "relu6": derived("one pass", 1, 1),
        "batch_norm": derived("one pass", 1, 1),
        "hard_swish": derived(
            f"{PASSES_OF_HARD_SWISH} passes",
            PASSES_OF_HARD_SWISH,
            PASSES_OF_HARD_SWISH,
            2.0,
            f"from one pass to the {SLOW_HARD_SWISH:g} of a plain activation's time that Intel states for later SHAVE "
            f"cores; a kernel of its own saved MobileNetV3-small {saved:.1f} passes of the four or five it had",
        ),
        "gelu": derived(f"{PRICED_GELU} passes", 1, PRICED_GELU),
        "layer_norm": derived(
            f"{LAYER_NORM_KERNELS} operators, {LAYER_NORM_PASSES} passes",
            LAYER_NORM_KERNELS,
            LAYER_NORM_PASSES,
            1.3,
            "five to nine operators: the compiler has none that normalises over channels alone",
        ),
        "transpose": derived(
            "one pass", 1, 1, 3.0, "no network holds it, and no bandwidth of scattered moves is known"
        ),
        "softmax": derived(
            "one pass", 1, 1, 2.0, "no network holds it over pixels; Intel's older table has it as fast as a clamp"
        ),
    }


def _scenarios(coefficients: Mapping[str, float]) -> dict[str, Scenario]:
    """How far off the guesses at LayerNorm and GELU may be, either way."""
    one = _rounded(_passes(coefficients, 1, 1))
    return {
        "one_pass": Scenario(
            {"layer_norm": one, "gelu": one},
            "LayerNorm and GELU are one kernel each that takes no longer than a pass over the tensor",
        ),
        "slow_gelu": Scenario(
            {"gelu": _rounded(_passes(coefficients, 1, SLOW_GELU))},
            f"GELU takes {SLOW_GELU:g} times a plain activation, as Intel states for later SHAVE cores (4.8 for the "
            "latest)",
        ),
    }


def _rounded(coefficients: Mapping[str, float]) -> dict[str, float]:
    return {feature: round_significant(value) for feature, value in coefficients.items()}


@dataclass
class _Rows:
    """The measured single rows of one kind: how many by kernel size (square windows), and their shapes."""

    counts: Counter[int] = field(default_factory=Counter)
    channels: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)

    def add(self, size: int, channels: int, pixels: int) -> None:
        self.counts[size] += 1
        self.channels.append(channels)
        self.pixels.append(pixels)

    @property
    def support(self) -> dict[int, int]:
        return dict(sorted(self.counts.items()))

    @property
    def fitted_range(self) -> dict[str, tuple[float, float]]:
        shapes = {"channels": self.channels, "pixels": self.pixels}
        return {name: (float(min(found)), float(max(found))) for name, found in shapes.items() if found}


def _rows(folder: Path) -> dict[str, _Rows]:
    """Kernel kind -> what was measured alone. Whole networks are not counted."""
    found: dict[str, _Rows] = {kind: _Rows() for kind in FORM}
    for row in read_rows(folder, MYRIAD_LAYERS):
        channels = max(row.integer("in_c"), row.integer("out_c"))
        pixels = row.integer("out_h") * row.integer("out_w")
        if row.text("ov_type") == "Convolution" and row.text("kh") == row.text("kw"):
            size = row.integer("kh")
            image = row.integer("in_c") <= IMAGE_CHANNELS
            found["conv_image" if image else "conv_1x1" if size == 1 else "conv_kxk"].add(size, channels, pixels)
        elif row.text("ov_type") == "Pooling" and row.integer("out_h") == 1:
            found["global_pool"].add(1, channels, pixels)
    for row in read_rows(folder, MYRIAD_MICRO):
        if row.text("kind") == "depthwise_conv":
            pixels = row.integer("num_outputs") // row.integer("channels")
            found["dwconv"].add(row.integer("k"), row.integer("channels"), pixels)
        elif row.text("kind") == "fully_connected":
            found["linear"].add(1, max(row.integer("channels"), row.integer("filters")), 1)
    return found


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
            "latency",
        ),
        Source(
            "github.com/intel/npu-nn-cost-model @8a2ae92b",
            "Apache-2.0",
            "coefficients of activations on SHAVE cores two generations later, as ratios: GELU, hard swish",
        ),
        Source(
            "docs.luxonis.com/hardware/platform/rvc/rvc2; github.com/openvinotoolkit/openvino/pull/2775",
            "stated facts",
            "networks on an OAK, for checking; MobileNetV3-small before and after a kernel of hard swish",
        ),
    )
