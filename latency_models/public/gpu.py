"""Rebuilds `gpu`, an A100 under TensorRT fp16 at batch 1, nearly all of it derived. Needs scipy.

The shape of every kind comes from V100 kernels under TensorRT, rescaled by the devices' rates; a time
per kernel and one factor on the work are then set on whole networks measured on the A100.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from device_profiles import FusionRules, Header, Kernel, KernelRow, KindModel, Lanes, Source
from latency_models.assemble import Evidence, into, kind_model, network_interval, table_rows
from latency_models.features import FEATURES
from latency_models.public.data import A100_ELEMENTWISE, A100_NETWORKS, MILLION, V100_OPS, Op, Row, read_rows, require
from latency_models.public.networks import gpunet, resnet50
from latency_models.regression import (
    Form,
    Sample,
    Terms,
    conformal_factors,
    fit_coefficients,
    held_out_ratios,
    mape,
    predicted_ratios,
    summary,
)
from search_space.layer import Kind, LayerSpec

COVERAGE = 0.7
# Vendor's data sheets: HBM2 GB/s (A100 40 GB), dense fp16 tensor TFLOP/s.
V100_GB_PER_S, A100_GB_PER_S = 900.0, 1555.0
V100_TENSOR_TFLOPS, A100_TENSOR_TFLOPS = 125.0, 312.0
BYTES = 2  # fp16
LARGEST_SIZE, LARGEST_WIDTH = 112, 2048  # of the V100 rows used: what networks at 224 hold
# Depthwise rows of small tensors split in two groups, near 0.01 and 0.024 ms whatever their size (another
# tactic was chosen there): their work is read from tensors large enough to show it.
DEPTHWISE_ELEMENTS = 1e6
LARGE_ELEMENTS = 2e7  # element-wise rows beyond the 25 us of launch that they hold
GPUNETS = {
    "GPUNet-0": "0.65ms.json",
    "GPUNet-2": "1.75ms.json",
    "GPUNet-P0": "0.5ms-D.json",
    "GPUNet-P1": "0.8ms-D.json",
    "GPUNet-D1": "1.25ms-D.json",
}
_CONV = ("launch", "macs", "input_elements", "output_elements", "weights")
V100_FORM: Form = {
    "conv_1x1": {feature: feature for feature in _CONV},
    "conv_kxk": {feature: feature for feature in _CONV},
    "conv_image": {feature: feature for feature in _CONV},
    "dwconv": {feature: feature for feature in ("launch", "macs", "input_elements", "output_elements")},
}
# Kernel sizes of the V100 rows that each kind is read from.
V100_KERNEL_SIZES = {"conv_1x1": (1,), "conv_kxk": (3,), "conv_image": (3, 5, 7), "dwconv": (3, 5, 7)}
RULES = FusionRules(
    frozenset({Kind.SCALE}),
    into(
        conv=[Kind.BATCH_NORM, Kind.RELU6, Kind.GELU, Kind.ADD],
        dwconv=[Kind.BATCH_NORM, Kind.RELU6, Kind.GELU],
        linear=[Kind.RELU6, Kind.GELU],
        mul=[Kind.ADD],
        add=[Kind.ADD, Kind.RELU6],
    ),
)


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    ops = read_rows(folder, V100_OPS)
    v100, counts, errors = _v100_coefficients(ops)
    work = {**_rescaled(v100), **_element_wise_work(read_rows(folder, A100_ELEMENTWISE))}
    networks = _network_samples(folder, work)
    level = fit_coefficients(networks)
    unseen = held_out_ratios(networks, networks)
    factors = conformal_factors(unseen, COVERAGE)
    models = _models(work, level, counts, factors)
    lanes = Lanes()
    rows = table_rows(models, RULES, lanes)
    names = ", ".join(
        f"{s.name} {s.latency_ms:.2f}/{s.latency_ms * r:.2f}" for s, r in zip(networks, unseen, strict=True)
    )
    header = Header(
        device="gpu",
        title="NVIDIA A100",
        runtime="TensorRT",
        runtime_version="8 (the whole networks), in one graph",
        precision="fp16",
        threads=1,
        clock="not stated by the sources",
        date="2021-2022",
        measured_by="NVIDIA DeepLearningExamples, AITemplate; V100 kernels: alibaba; element-wise: NeuSight",
        sources=_sources(),
        row_origins={
            "derived": "V100 kernels rescaled to the A100: element terms by bandwidth 900/1555, multiplications by the "
            "tensor rate 125/312 (depthwise: bandwidth); element-wise kinds from A100 rows at half the bytes; then one "
            f"time per kernel ({level['kernel'] * 1e3:.2f} us) and one factor on the work ({level['work']:.2f}) set on "
            f"{len(networks)} whole networks",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=lanes,
        models=models,
        interval=network_interval(
            COVERAGE,
            unseen,
            f"measured over predicted time of whole networks, each predicted by a fit without it: {names} (measured/"
            "predicted ms)",
        ),
        calibration={"measured": 1.0},
        accuracy={
            "leave_one_network_out": f"{summary(unseen)}; n = {len(unseen)}",
            "v100_kernels": "MAPE of the forms on the V100 rows fitted on: "
            + ", ".join(f"{kind} {error:.0f} %" for kind, error in errors.items()),
            "command": "python -m latency_models.fit device=gpu source=DIR",
            "note": "The form was chosen among three on these same networks. "
            "GPUNet-D2 is not used: its configuration does not give the sizes of its first layers. GELU and a "
            "residual addition are taken to ride in the convolution before them.",
        },
    )
    return header, rows


def _v100_coefficients(
    ops: Sequence[Row],
) -> tuple[dict[str, dict[str, float]], dict[str, dict[int, int]], dict[str, float]]:
    """Coefficients, rows by kernel size and MAPE, by kind, of the fp16 batch-1 rows on the V100."""
    found: dict[str, list[Sample]] = {kind: [] for kind in V100_FORM}
    counts: dict[str, dict[int, int]] = {kind: {} for kind in V100_FORM}
    for row in ops:
        if (row.text("batch"), row.text("precision"), row.text("fused_add")) != ("1", "fp16", "0"):
            continue
        kernel = _v100_kernel(row)
        kind, spec = kernel.price_kind, kernel.spec
        too_small = kind == "dwconv" and spec.in_elements < DEPTHWISE_ELEMENTS
        too_large = spec.height > LARGEST_SIZE or max(spec.in_channels, spec.out_channels) > LARGEST_WIDTH
        if spec.kernel_size not in V100_KERNEL_SIZES[kind] or too_small or too_large:
            continue
        terms = Terms(V100_FORM)
        terms.add(kernel)
        found[kind].append(Sample(kind, terms.values, row.number("latency_ms")))
        counts[kind][spec.kernel_size] = counts[kind].get(spec.kernel_size, 0) + 1
    fitted = {kind: fit_coefficients(samples) for kind, samples in found.items()}
    errors = {kind: mape(predicted_ratios(samples, fitted[kind])) for kind, samples in found.items()}
    return fitted, counts, errors


def _v100_kernel(row: Row) -> Kernel:
    kind = Kind.DWCONV if row.text("kind") == "Depthwise" else Kind.CONV
    in_channels, out_channels = row.integer("in_channels"), row.integer("out_channels")
    kernel_size, stride = row.integer("kernel"), row.integer("stride")
    size, padding = (row.integer("h"), row.integer("w")), kernel_size // 2
    return Kernel(LayerSpec(kind, in_channels, out_channels, *size, kernel_size, stride, padding))


def _rescaled(v100: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Work terms (no launch) on the A100, in ms per million."""
    by_bandwidth = V100_GB_PER_S / A100_GB_PER_S
    factor = {"macs": V100_TENSOR_TFLOPS / A100_TENSOR_TFLOPS}
    factors_dw = {"macs": by_bandwidth}  # no tensor cores in a depthwise convolution
    return {
        kind: {
            feature: value * (factors_dw if kind == "dwconv" else factor).get(feature, by_bandwidth)
            for feature, value in coefficients.items()
            if feature != "launch"
        }
        for kind, coefficients in v100.items()
    }


def _element_wise_work(table: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Work of element-wise kinds from large fp32 rows of the A100, halved for fp16 (ms per million elements)."""
    per_element: dict[str, list[float]] = {}
    for row in table:
        elements = row.integer("rows") * row.integer("cols")
        if elements > LARGE_ELEMENTS:
            per_element.setdefault(row.text("op"), []).append(row.number("latency_ms") * MILLION / elements)
    fp16 = {op: median(values) * BYTES / 4 for op, values in per_element.items()}
    touch = fp16["add"] / 3  # two reads and one write
    return {
        "add": {"input_elements": touch, "output_elements": touch},
        "mul": {"input_elements": touch, "output_elements": touch},
        "gelu": {"output_elements": fp16["gelu"]},
        "layer_norm": {"output_elements": fp16["layernorm"]},
        "global_pool": {"input_elements": touch},
        "relu6": {"input_elements": touch, "output_elements": touch},
        "batch_norm": {"input_elements": touch, "output_elements": touch},
        "pool": {"input_elements": touch, "output_elements": touch},
        "concat": {"input_elements": touch, "output_elements": touch},
        "linear": {"weights": BYTES / A100_GB_PER_S},  # bytes / (GB/s) = ns each = ms per million
    }


def _network_samples(folder: Path, work: Mapping[str, Mapping[str, float]]) -> list[Sample]:
    measured = {
        (row.text("model"), row.text("framework")): row.number("latency_ms")
        for row in read_rows(folder, A100_NETWORKS)
        if row.text("batch") == "1" and row.text("precision") == "FP16"
    }
    samples = []
    for name, file in GPUNETS.items():
        layers = json.loads(require(folder, f"gpunet/{file}").read_text(encoding="utf-8"))
        samples.append(_sample(name, gpunet(layers), measured[name, "TensorRT8"], work))
    latency_ms = measured["resnet50", "AITemplate"]
    return [*samples, _sample("ResNet-50 (AITemplate)", resnet50(merged_add=True), latency_ms, work)]


def _sample(name: str, ops: Sequence[Op], latency_ms: float, work: Mapping[str, Mapping[str, float]]) -> Sample:
    """Two terms: kernels launched, and the work derived for them in ms. Window pooling counts as one launch."""
    lanes = Lanes()
    kernels = [op for op in ops if isinstance(op, Kernel)]
    total = sum(value * FEATURES[f](k, lanes) for k in kernels for f, value in work[k.price_kind].items())
    return Sample(name, {"kernel": float(len(ops)), "work": total}, latency_ms, group=name)


def _models(
    work: Mapping[str, Mapping[str, float]],
    level: Mapping[str, float],
    counts: Mapping[str, Mapping[int, int]],
    factors: tuple[float, float],
) -> dict[str, KindModel]:
    calibrated = f"level set on whole networks ({A100_NETWORKS})"
    models = {}
    for kind, coefficients in work.items():
        scaled = {feature: value * level["work"] for feature, value in coefficients.items() if value}
        if kind in counts:
            source = f"shape from V100 rows ({V100_OPS}) rescaled to the A100; {calibrated}"
        elif kind == "linear":
            source = f"weights over {A100_GB_PER_S:g} GB/s; {calibrated}"
        else:
            source = f"large fp32 rows of the A100 ({A100_ELEMENTWISE}) at half the bytes; {calibrated}"
        in_networks = kind in counts or kind in ("linear", "global_pool")
        # support counts rows measured on this device: none of these kernels was
        evidence = Evidence("derived", source, {}, in_networks)
        models[kind] = kind_model({"launch": level["kernel"], **scaled}, evidence, factors)
    return models


def _sources() -> tuple[Source, ...]:
    return (
        Source(
            "github.com/NVIDIA/DeepLearningExamples @729963dd", "per model", "GPUNet under TensorRT 8 fp16, batch 1"
        ),
        Source("github.com/facebookincubator/AITemplate", "Apache-2.0", "ResNet-50 fp16, batch 1, on the A100"),
        Source(
            "github.com/alibaba/lightweight-neural-architecture-search @8ccaf889",
            "Apache-2.0",
            "TensorRT convolutions on the V100, fp16, batch 1",
        ),
        Source("github.com/sitar-lab/NeuSight @6945927d", "MIT", "add, mul, gelu, layernorm on the A100, fp32, eager"),
    )
