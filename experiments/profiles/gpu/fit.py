"""The A100 under TensorRT fp16: work per kernel from the V100's kernels, and the networks that set its level.

Needs scipy. Not for whole profiles (`profile`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from device_profiles import Kernel, Lanes
from experiments.profiles.networks import gpunet, resnet50
from experiments.profiles.tables import (
    A100_ELEMENTWISE,
    A100_NETWORKS,
    GPUNET_LAYERS,
    MILLION,
    V100_OPS,
    Op,
    Row,
    read_rows,
)
from latency_models.features import FEATURES
from latency_models.fit.regression import Form, Sample, Terms, fit_coefficients
from search_space.layer import Kind, LayerSpec

# Vendor's data sheets: HBM2 GB/s (A100 40 GB), dense fp16 tensor TFLOP/s.
V100_GB_PER_S, A100_GB_PER_S = 900.0, 1555.0
V100_TENSOR_TFLOPS, A100_TENSOR_TFLOPS = 125.0, 312.0
BYTES = 2  # fp16
LARGEST_SIZE, LARGEST_WIDTH = 112, 2048  # of the V100 rows used: what networks at 224 hold
# Depthwise rows of small tensors split in two groups, near 0.01 and 0.024 ms whatever their size (another
# tactic was chosen there): their work is read from tensors large enough to show it.
DEPTHWISE_ELEMENTS = 1e6
LARGE_ELEMENTS = 2e7  # element-wise rows beyond the 25 us of launch that they hold
GPUNETS = ("GPUNet-0", "GPUNet-2", "GPUNet-P0", "GPUNet-P1", "GPUNet-D1")
RESNET50 = ("resnet50", "AITemplate")  # model, framework
_CONV = ("launch", "macs", "input_elements", "output_elements", "weights")
V100_FORM: Form = {
    "conv_1x1": {feature: feature for feature in _CONV},
    "conv_kxk": {feature: feature for feature in _CONV},
    "conv_image": {feature: feature for feature in _CONV},
    "dwconv": {feature: feature for feature in ("launch", "macs", "input_elements", "output_elements")},
}
# Kernel sizes of the V100 rows that each kind is read from.
V100_KERNEL_SIZES = {"conv_1x1": (1,), "conv_kxk": (3,), "conv_image": (3, 5, 7), "dwconv": (3, 5, 7)}


def work_of_kernels(folder: Path) -> dict[str, dict[str, float]]:
    """Kernel kind -> feature -> ms per million on the A100, launches left out, before any network sets the level."""
    forms = {kind: fit_coefficients(samples) for kind, samples in v100_samples(folder, "fp16").items()}
    return {**_rescaled(forms), **_element_wise_work(read_rows(folder, A100_ELEMENTWISE))}


def v100_samples(folder: Path, precision: str) -> dict[str, list[Sample]]:
    """The V100's batch-1 kernels of a precision, by kind."""
    found: dict[str, list[Sample]] = {kind: [] for kind in V100_FORM}
    for row in read_rows(folder, V100_OPS):
        if not uses_v100_row(row, precision):
            continue
        kernel, terms = _v100_kernel(row), Terms(V100_FORM)
        terms.add(kernel)
        found[kernel.price_kind].append(Sample(str(kernel), terms.values, row.number("latency_ms")))
    return found


def uses_v100_row(row: Row, precision: str) -> bool:
    """Whether a row is a sample: batch 1, no addition merged in, of sizes that networks at 224 pixels hold."""
    if (row.text("batch"), row.text("precision"), row.text("fused_add")) != ("1", precision, "0"):
        return False
    kernel = _v100_kernel(row)
    kind, spec = kernel.price_kind, kernel.spec
    too_small = kind == "dwconv" and spec.in_elements < DEPTHWISE_ELEMENTS
    too_large = spec.height > LARGEST_SIZE or max(spec.in_channels, spec.out_channels) > LARGEST_WIDTH
    return spec.kernel_size in V100_KERNEL_SIZES[kind] and not too_small and not too_large


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
        "hard_swish": {"input_elements": touch, "output_elements": touch},
        "transpose": {"input_elements": touch, "output_elements": touch},
        "softmax": {"output_elements": fp16["layernorm"]},  # likewise over channels, at every pixel
        "linear": {"weights": BYTES / A100_GB_PER_S},  # bytes / (GB/s) = ns each = ms per million
    }


def uses_network(row: Row) -> bool:
    """Whether a row of the networks' table is a sample: fp16 at batch 1 under TensorRT or AITemplate."""
    model, framework = row.text("model"), row.text("framework")
    named = (model, framework) == RESNET50 or (model in GPUNETS and framework == "TensorRT8")
    return named and row.text("batch") == "1" and row.text("precision") == "FP16"


def network_samples(folder: Path, work: Mapping[str, Mapping[str, float]]) -> list[Sample]:
    """The networks that set the level; a group is a network."""
    measured = {
        row.text("model"): row.number("latency_ms") for row in read_rows(folder, A100_NETWORKS) if uses_network(row)
    }
    layers = read_rows(folder, GPUNET_LAYERS)
    samples = []
    for name in GPUNETS:
        ops = gpunet([row for row in layers if row.text("network") == name])
        samples.append(_sample(name, ops, measured[name], work))
    return [*samples, _sample("ResNet-50 (AITemplate)", resnet50(merged_add=True), measured[RESNET50[0]], work)]


def _sample(name: str, ops: Sequence[Op], latency_ms: float, work: Mapping[str, Mapping[str, float]]) -> Sample:
    """Two terms: kernels launched, and the work derived for them in ms. Window pooling counts as one launch."""
    lanes = Lanes()
    kernels = [op for op in ops if isinstance(op, Kernel)]
    total = sum(value * FEATURES[f](k, lanes) for k in kernels for f, value in work[k.price_kind].items())
    return Sample(name, {"kernel": float(len(ops)), "work": total}, latency_ms, group=name)
