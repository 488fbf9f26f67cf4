"""Rebuilds `vpu`, a Myriad X (NCS2) under OpenVINO fp16, from measured layers and whole networks.

Layers give the shape of every kind, networks their level: a network takes longer than the sum of
its layer counters. Needs scipy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from pathlib import Path
from statistics import median

from device_profiles import IMAGE_CHANNELS, FusionRules, Header, KernelRow, KindModel, Lanes, Source
from latency_models.assemble import Evidence, into, kind_model, network_interval, solved_model, table_rows
from latency_models.public.data import (
    A76_OPS,
    MILLION,
    MYRIAD_FPS,
    MYRIAD_LAYERS,
    MYRIAD_MICRO,
    MYRIAD_SYNC,
    NAS_BENCH_201,
    GroupedConv,
    MovedElements,
    Op,
    Row,
    a76_network_ops,
    nas_bench_201_terms,
    read_rows,
)
from latency_models.public.networks import mobilenet_v1, mobilenet_v2, resnet50, vgg
from latency_models.regression import (
    Form,
    Sample,
    Terms,
    conformal_factors,
    fit_coefficients,
    held_out_ratios,
    predicted_ratios,
    summary,
)
from search_space.layer import Kind

COVERAGE = 0.8
# Output channels are taken 32 at once (annette's alignment of the engine). Rounding input channels too changes
# the error on layers of an unseen network by little; rounding pixels to 8 helps 1x1 windows (30 to 25 %) and
# harms the larger ones (5 to 11 %), so pixels are left alone.
LANES = Lanes(in_channels=1, out_channels=32, height=1, width=1)
FORM: Form = {
    "conv_1x1": {
        "launch": "launch",
        "padded_macs": "mac_1x1",
        "input_elements": "input_1x1",
        "output_elements": "output_1x1",
        "weights": "weight_1x1",
    },
    "conv_kxk": {
        "launch": "launch",
        "padded_macs": "mac_kxk",
        "input_elements": "input_kxk",
        "output_elements": "output_kxk",
        "weights": "weight_kxk",
    },
    "conv_image": {"launch": "launch_image", "macs": "mac_image"},
    "dwconv": {"launch": "launch", "window_line_elements": "line_dw", "input_elements": "input_dw"},
    "linear": {"launch": "launch", "weights": "weight_linear"},
    "add": {"launch": "launch", "output_elements": "output_add"},
    "global_pool": {"launch": "launch", "input_elements": "input_global"},
}
FPS_TO_LATENCY = sqrt(1.6 * 2.1)  # several requests are in flight: latency is 1.6-2.1 x 1000/fps
ELEMENT_WISE_GB_PER_S = sqrt(2.9 * 3.4)  # element-wise layers and ReLU run at 2.9-3.4 GB/s (annette)
BYTES = 2  # fp16
TOUCHES_OF_ADD = 3  # two reads, one write
# A network stands for dozens of kernels and is what is predicted; the bandwidth for many rows.
NETWORK_WEIGHT, BANDWIDTH_WEIGHT, LAYER_WEIGHT, NAS_BENCH_WEIGHT = 15.0, 30.0, 1.0, 0.2
# LayerNorm priced as separate operators: mean, subtract, square, mean, times 1/sigma, times gamma, plus beta.
LAYER_NORM_KERNELS, LAYER_NORM_TOUCHES = 7, 12
RULES = FusionRules(
    frozenset({Kind.SCALE}),
    into(conv=[Kind.BATCH_NORM, Kind.RELU6], dwconv=[Kind.BATCH_NORM, Kind.RELU6], add=[Kind.RELU6]),
)


@dataclass(frozen=True)
class Measurements:
    """Samples by kind of measurement; a layer's group is the network it was counted in."""

    layers: list[Sample]
    micro: list[Sample]
    nas_bench: list[Sample]
    networks: list[Sample]

    @property
    def all(self) -> list[Sample]:
        return [*self.layers, *self.micro, *self.nas_bench, *self.networks]


def measurements(folder: Path) -> Measurements:
    layers = read_rows(folder, MYRIAD_LAYERS)
    return Measurements(
        layers=_layer_samples(layers),
        micro=_micro_samples(read_rows(folder, MYRIAD_MICRO)),
        nas_bench=_nas_bench_samples(read_rows(folder, NAS_BENCH_201)),
        networks=_network_samples(folder, layers),
    )


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    data = measurements(folder)
    coefficients = fit_coefficients(data.all)
    unseen = held_out_ratios(data.all, data.networks)
    factors = conformal_factors(unseen, COVERAGE)
    models = _models(folder, coefficients, factors)
    rows = table_rows(models, RULES, LANES)
    layers = [s for s in data.layers if s.name == "conv"]
    unseen_layers = held_out_ratios([*data.layers, *data.micro, *data.nas_bench], layers)
    nas_bench = predicted_ratios(data.nas_bench, coefficients)
    names = ", ".join(
        f"{s.name} {s.latency_ms:.1f}/{s.latency_ms * r:.1f}" for s, r in zip(data.networks, unseen, strict=True)
    )
    header = Header(
        device="vpu",
        title="Intel Myriad X (Neural Compute Stick 2)",
        runtime="OpenVINO",
        runtime_version="2019-2020 (layer counters, NAS-Bench-201: 2019R2)",
        precision="fp16",
        threads=1,
        clock="not stated by the sources",
        date="2018-2021",
        measured_by="annette and inference_modules (TU Wien), nn-Meter via OneProxy, dl-benchmark (itlab-vision)",
        sources=_sources(),
        row_origins={
            "fitted": "forms fitted together to layer counters, micro-benchmarks, NAS-Bench-201 and whole networks",
            "derived": "product, GELU, LayerNorm: passes over the tensor at the fitted time of an addition's elements "
            "(LayerNorm as seven operators)",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=LANES,
        models=models,
        interval=network_interval(
            COVERAGE,
            unseen,
            "measured over predicted time of whole networks, each predicted by a fit without its family: "
            + names
            + " (measured/predicted ms); those from frames/s are uncertain by another 15 %",
        ),
        calibration={"measured": 1.0},
        accuracy={
            "leave_one_family_out": f"{summary(unseen)}; n = {len(unseen)}",
            "convolutions_of_an_unseen_network": f"{summary(unseen_layers)}; n = {len(layers)}, "
            "fitted to layers and NAS-Bench-201 only",
            "nas_bench_201": f"{summary(nas_bench)}; n = {len(nas_bench)}, fitted on",
            "command": "python -m latency_models.fit device=vpu source=DIR",
            "note": "The form and the weights of the sources were chosen on these same held-out networks. Two of them "
            "(densenet-169, googlenet-v3) are under-predicted by a quarter.",
        },
    )
    return header, rows


def _models(folder: Path, coefficients: dict[str, float], factors: tuple[float, float]) -> dict[str, KindModel]:
    origin = f"fitted together to {MYRIAD_LAYERS}, {MYRIAD_MICRO}, {NAS_BENCH_201} and whole networks"
    notes = {
        "dwconv": "; thin: ten micro-benchmark rows and the MobileNets",
        "add": "; from the element-wise bandwidth of 2.9-3.4 GB/s (annette), NAS-Bench-201 and whole networks",
    }
    support = _support(folder)
    models = {
        kind: solved_model(
            kind, FORM, coefficients, Evidence("fitted", origin + notes.get(kind, ""), support[kind], True), factors
        )
        for kind in FORM
    }
    launch = coefficients["launch"]
    touch = coefficients["output_add"] / TOUCHES_OF_ADD

    def derived(what: str, kernels: int, touches: int) -> KindModel:
        note = f"{what}: {kernels} kernels reading or writing {touches} elements per element at the fitted time of add"
        values = {"launch": kernels * launch, "output_elements": touches * touch}
        return kind_model(values, Evidence("derived", f"{note}; never measured on this device", {}, False), factors)

    models["mul"] = derived("product as an addition", 1, 3)
    models["gelu"] = derived("one pass", 1, 2)
    models["layer_norm"] = derived("seven operators", LAYER_NORM_KERNELS, LAYER_NORM_TOUCHES)
    return models


def _layer_samples(layers: Sequence[Row]) -> list[Sample]:
    """Convolutions, poolings and concatenations. Windows may be 1x7 or 7x1, so features are formed here."""
    found = []
    for row in layers:
        terms = Terms(FORM, LANES)
        layer = row.text("ov_type")
        if layer == "Convolution":
            _window_terms(terms, row)
        elif layer == "Pooling" and row.integer("out_h") == 1:
            terms.add_value("launch", 1)
            terms.add_value("input_global", _volume(row, "in") / MILLION)
        elif layer in ("Pooling", "Concat"):
            _moved(terms, MovedElements("pool" if layer == "Pooling" else "concat", _volume(row, "out")))
        else:
            continue
        name = "conv" if layer == "Convolution" and "HwOp" in row.text("exec_type") else "other"
        found.append(Sample(name, terms.values, row.number("time_ms"), LAYER_WEIGHT, row.text("model")))
    return found


def _volume(row: Row, side: str) -> int:
    return row.integer(f"{side}_c") * row.integer(f"{side}_h") * row.integer(f"{side}_w")


def _window_terms(terms: Terms, row: Row) -> None:
    in_c, out_c, window = row.integer("in_c"), row.integer("out_c"), row.integer("kh") * row.integer("kw")
    pixels = row.integer("out_h") * row.integer("out_w")
    if in_c <= IMAGE_CHANNELS:
        values = {"launch_image": 1.0, "mac_image": window * in_c * out_c * pixels / MILLION}
    else:
        suffix = "1x1" if window == 1 else "kxk"
        padded = ceil(out_c / LANES.out_channels) * LANES.out_channels
        values = {
            "launch": 1.0,
            f"mac_{suffix}": window * in_c * padded * pixels / MILLION,
            f"input_{suffix}": _volume(row, "in") / MILLION,
            f"output_{suffix}": out_c * pixels / MILLION,
            f"weight_{suffix}": window * in_c * out_c / MILLION,
        }
    for name, value in values.items():
        terms.add_value(name, value)


def _micro_samples(micro: Sequence[Row]) -> list[Sample]:
    """Fully connected and depthwise rows, and the element-wise bandwidth. The convolution rows hold a
    call's overhead (0.076 ms for one pixel, where networks hold whole layers of 0.02 ms) and are left out."""
    found = []
    for row in micro:
        terms = Terms(FORM, LANES)
        if row.text("kind") == "fully_connected":
            terms.add_value("launch", 1)
            terms.add_value("weight_linear", row.number("channels") * row.number("filters") / MILLION)
        elif row.text("kind") == "depthwise_conv":
            terms.add_value("launch", 1)
            terms.add_value("line_dw", row.number("k") * row.number("num_outputs") / MILLION)
            terms.add_value("input_dw", row.number("num_inputs") / MILLION)
        else:
            continue
        found.append(Sample(row.text("kind"), terms.values, row.number("time_ms"), LAYER_WEIGHT, "micro"))
    million_elements_ms = TOUCHES_OF_ADD * BYTES / ELEMENT_WISE_GB_PER_S
    return [*found, Sample("element-wise", {"output_add": 1.0}, million_elements_ms, BANDWIDTH_WEIGHT, "micro")]


def _nas_bench_samples(table: Sequence[Row]) -> list[Sample]:
    found = []
    for row in table:
        terms = Terms(FORM, LANES)
        nas_bench_201_terms(row.text("arch_str"), terms, "output_add", "launch", "moved_pool")
        found.append(Sample("nas_bench_201", terms.values, row.number("vpu_ms"), NAS_BENCH_WEIGHT, "nas_bench_201"))
    return found


def _network_samples(folder: Path, layers: Sequence[Row]) -> list[Sample]:
    ops = read_rows(folder, A76_OPS)
    sync_ms = _batch_one(read_rows(folder, MYRIAD_SYNC), "avg_ms")
    fps = _batch_one(read_rows(folder, MYRIAD_FPS), "fps")
    listed: dict[str, Sequence[Op]] = {
        "resnet-50": resnet50(merged_add=False),
        "vgg16": vgg(16),
        "vgg19": vgg(19),
        "densenet-169": list(a76_network_ops(ops, "densenet169")),
        "squeezenet1.0": list(a76_network_ops(ops, "squeezenet_v1_0")),
    }
    found = [_network(name, kernels, sync_ms[name]) for name, kernels in listed.items()]
    for name, model in (("googlenet-v3", "cf_inceptionv3"), ("googlenet-v4", "cf_inceptionv4")):
        terms: Counter[str] = Counter()
        for sample in _layer_samples([row for row in layers if row.text("model") == model]):
            terms.update(sample.terms)
        found.append(Sample(name, dict(terms), sync_ms[name], NETWORK_WEIGHT, model))
    in_flight = {
        "mobilenet-v1-0.50-224": mobilenet_v1(0.5, 224),
        "mobilenet-v1-1.0-224": mobilenet_v1(1.0, 224),
        "mobilenet-v2-1.0-224": mobilenet_v2(1.0, 224),
        "mobilenet-v2-1.4-224": mobilenet_v2(1.4, 224),
    }
    for name, kernels in in_flight.items():
        found.append(_network(name, kernels, FPS_TO_LATENCY * 1000 / fps[name]))
    return found


def _batch_one(rows: Sequence[Row], column: str) -> dict[str, float]:
    """Topology -> median over its rows at batch 1."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.text("batch") == "1":
            values.setdefault(row.text("topology"), []).append(row.number(column))
    return {topology: median(found) for topology, found in values.items()}


def _network(name: str, kernels: Sequence[Op], latency_ms: float) -> Sample:
    terms = Terms(FORM, LANES)
    for op in kernels:
        match op:
            case MovedElements():
                _moved(terms, op)
            case GroupedConv():
                raise ValueError(f"network '{name}' has a grouped convolution, which the form does not price")
            case _:
                terms.add(op)
    return Sample(name, terms.values, latency_ms, NETWORK_WEIGHT, _family(name))


def _family(name: str) -> str:
    """'vgg16' and 'vgg19' are one family, 'mobilenet-v2-1.4-224' and 'mobilenet-v2-1.0-224' another."""
    known = [family for family in ("vgg", "mobilenet-v1", "mobilenet-v2") if name.startswith(family)]
    return known[0] if known else name


def _moved(terms: Terms, moved: MovedElements) -> None:
    terms.add_value("launch", 1)
    terms.add_value(f"moved_{moved.op}", moved.elements / MILLION)


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
            "github.com/Ren-Research/OneProxy @e3c9b2c6", "MIT", "1,000 NAS-Bench-201 networks measured by nn-Meter"
        ),
        Source(
            "github.com/itlab-vision/dl-benchmark @ec4106e2",
            "Apache-2.0",
            "whole networks: synchronous times (2018) and frames/s with several requests in flight, turned into a "
            f"latency by {FPS_TO_LATENCY:.2f} x 1000/fps (1.6-2.1)",
        ),
    )
