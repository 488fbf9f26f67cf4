"""Rebuilds `gpu`, an A100 under TensorRT fp16 at batch 1, nearly all of it derived. Needs scipy.

The shape of every kind comes from V100 kernels under TensorRT, rescaled by the devices' rates; a time
per kernel and one factor on the work are then set on whole networks measured on the A100.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from device_profiles import MEASURED, FusionRules, Header, KernelRow, KindModel, Lanes, Source
from experiments.profiles import EVALUATED_BY
from experiments.profiles.assemble import into, network_interval, table_rows
from experiments.profiles.gpu.evaluation import evaluations
from experiments.profiles.gpu.fit import A100_GB_PER_S, V100_FORM, network_samples, v100_samples, work_of_kernels
from experiments.profiles.regression import conformal_factors, held_out_ratios, predicted_ratios
from experiments.profiles.tables import A100_ELEMENTWISE, A100_NETWORKS, V100_OPS
from latency_models.fit.kind_model import Evidence, kind_model
from latency_models.fit.regression import fit_coefficients, mape, summary
from search_space.layer import Kind

__all__ = ["evaluations", "rebuild"]

COVERAGE = 0.7
RULES = FusionRules(
    frozenset({Kind.SCALE}),
    into(
        conv=[Kind.BATCH_NORM, Kind.RELU6, Kind.GELU, Kind.HARD_SWISH, Kind.ADD],
        dwconv=[Kind.BATCH_NORM, Kind.RELU6, Kind.GELU, Kind.HARD_SWISH],
        linear=[Kind.RELU6, Kind.GELU, Kind.HARD_SWISH],
        mul=[Kind.ADD],
        add=[Kind.ADD, Kind.RELU6],
    ),
)


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    work = work_of_kernels(folder)
    networks = network_samples(folder, work)
    level = fit_coefficients(networks)
    unseen = held_out_ratios(networks, networks)
    factors = conformal_factors(unseen, COVERAGE)
    models = _models(work, level, factors)
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
        calibration={"measured": MEASURED},
        accuracy={
            "leave_one_network_out": f"{summary(unseen)}; n = {len(unseen)}",
            "v100_kernels": "MAPE of the forms on the V100 rows fitted on: "
            + ", ".join(f"{kind} {error:.0f} %" for kind, error in _v100_errors(folder).items()),
            "command": EVALUATED_BY.format(device="gpu"),
            "note": "The form was chosen among three on these same networks. "
            "GPUNet-D2 is not used: its configuration does not give the sizes of its first layers. GELU, hard swish "
            "and a residual addition are taken to ride in the convolution before them.",
        },
    )
    return header, rows


def _v100_errors(folder: Path) -> dict[str, float]:
    """MAPE of the forms on the rows that they were fitted to, by kind."""
    kinds = v100_samples(folder, "fp16").items()
    return {kind: mape(predicted_ratios(samples, fit_coefficients(samples))) for kind, samples in kinds}


A_PASS = (
    "a pass bound by memory as on this GPU in fp32; no network that set the level holds it, so its launch is a guess"
)
OVER_CHANNELS = "measured over the last dimension; over the channels of an image it may take several kernels"
JUDGED: Mapping[str, tuple[float, str]] = {
    **dict.fromkeys(("add", "mul", "gelu", "relu6", "batch_norm", "hard_swish", "pool", "concat"), (1.5, A_PASS)),
    "layer_norm": (2.0, OVER_CHANNELS),
    "softmax": (3.0, f"priced as LayerNorm, {OVER_CHANNELS}"),
    "transpose": (3.0, "priced as a pass in order, and elements that are moved out of order may take longer"),
}
"""By what factor, and why, the kinds that no network of the level holds alone may be off."""


def _models(
    work: Mapping[str, Mapping[str, float]],
    level: Mapping[str, float],
    factors: tuple[float, float],
) -> dict[str, KindModel]:
    calibrated = f"level set on whole networks ({A100_NETWORKS})"
    models = {}
    for kind, coefficients in work.items():
        scaled = {feature: value * level["work"] for feature, value in coefficients.items() if value}
        if kind in V100_FORM:
            source = f"shape from V100 rows ({V100_OPS}) rescaled to the A100; {calibrated}"
        elif kind == "linear":
            source = f"weights over {A100_GB_PER_S:g} GB/s; {calibrated}"
        else:
            source = f"large fp32 rows of the A100 ({A100_ELEMENTWISE}) at half the bytes; {calibrated}"
        # support counts rows measured on this device: none of these kernels was
        evidence = Evidence("derived", source, {}, *JUDGED.get(kind, (1.0, "")))
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
