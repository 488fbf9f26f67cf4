"""Rebuilds `gpu_eager_fp32`, an A100 under eager PyTorch fp32, from single kernels. Needs scipy.

Matrix products, 3x3 convolutions and element-wise layers were measured; the other kinds are derived from them
(depthwise: from a V100). One factor on all of them is set on whole networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from device_profiles import MEASURED, FusionRules, Header, Kernel, KernelRow, KindModel, Lanes, Source
from experiments.profiles import EVALUATED_BY
from experiments.profiles.assemble import network_interval, tabled_spaces
from experiments.profiles.gpu_eager_fp32.evaluation import evaluations
from experiments.profiles.gpu_eager_fp32.fit import Fitted
from experiments.profiles.gpu_eager_fp32.level import Kinds, fit_alone, network_samples
from experiments.profiles.gpu_eager_fp32.rows import Drift
from experiments.profiles.regression import conformal_factors, held_out_ratios
from experiments.profiles.tables import A100_CONV, A100_ELEMENTWISE, A100_LINEAR, A100_NETWORKS
from latency_models.fit.kernels import NORMAL_90
from latency_models.fit.kind_model import Evidence, kind_model
from latency_models.fit.regression import fit_coefficients, summary
from latency_models.grid import grid_kernels
from search_space.layer import Kind

__all__ = ["evaluations", "rebuild"]

COVERAGE = 0.6  # what five networks can claim
FILES = {"linear": A100_LINEAR, "conv_kxk": A100_CONV, "conv_image": A100_CONV}  # others: A100_ELEMENTWISE
# Eager: every layer is a kernel, but for layer scales, which a network that is done training has in its weights.
RULES = FusionRules(frozenset({Kind.SCALE}), {})
JUDGED: Mapping[str, tuple[float, str]] = {
    "concat": (1.5, "a copy of several tensors; no network that set the level holds it"),
    "hard_swish": (1.2, "ReLU and GELU, both timed, are a few per cent apart; no network that set the level holds it"),
    "transpose": (3.0, "priced as a pass in order, and elements that are moved out of order may take longer"),
    "softmax": (1.5, "timed as LayerNorm only, which differs in what it sums; no network that set the level holds it"),
}
"""By what factor, and why, the derived kinds that no network of the level holds may be off."""


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    kinds = fit_alone(folder)
    networks = network_samples(folder, kinds)
    level = fit_coefficients(networks)["kernels"]
    unseen = held_out_ratios(networks, networks)
    models = _models(kinds, level, conformal_factors(unseen, COVERAGE))
    rows = [*_measured_rows(kinds), *_grid_rows(kinds, models)]
    names = ", ".join(
        f"{s.name} {s.latency_ms:.2f}/{s.latency_ms * r:.2f}" for s, r in zip(networks, unseen, strict=True)
    )
    header = Header(
        device="gpu_eager_fp32",
        title="NVIDIA A100",
        runtime="PyTorch",
        runtime_version="eager (version not stated for kernels, 1.x for networks)",
        precision="fp32",
        threads=1,
        clock="not stated by the sources",
        date="not stated by the sources",
        measured_by="NeuSight (kernels); NVIDIA DeepLearningExamples, AITemplate (networks); V100 kernels: alibaba",
        sources=_sources(),
        row_origins={
            "measured": "single kernels between CUDA events, about 0.025 ms of launch included; TF32 off. Those of "
            "each kind that spread furthest: forms were fitted to more. A batch of images stands as one higher tensor. "
            "Convolutions without their run's drift: " + _drift(kinds.fitted["conv_kxk"].drift),
            "fitted": "kernels of the shipped spaces, of a measured kind: its form and what its measured rows teach",
            "derived": "kernels of the shipped spaces, of a kind that no table lists: see the models",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=Lanes(),
        models=models,
        interval=network_interval(
            COVERAGE,
            unseen,
            "measured over predicted time of whole networks in TF32 and fp16 (none was published in fp32), each "
            f"predicted by a level fitted without it and its twin: {names} (measured/predicted ms)",
        ),
        calibration={"measured": MEASURED},
        accuracy={
            "leave_one_network_out": f"{summary(unseen)}; n = {len(unseen)}, twins left out together",
            "command": EVALUATED_BY.format(device="gpu_eager_fp32"),
            "note": f"Kernels inside a network take {level} of their time alone. LayerNorm over channels is priced as "
            "measured, over the last dimension: the permutations around it are not counted. The run of the 3x3 "
            "convolutions slowed down as it went on, by a time that does not depend on the kernel: it was fitted "
            "along with their form and is not part of any time here. GPUNet's published 'FP16 latency' (A100, batch 1; "
            "a100_networks lists it under PyTorch) is not used: at 11 to 14 us an operator it is no eager run, whose "
            "networks take 34 to 44, and its page gives trtexec as the one way to time.",
        },
    )
    return header, rows


def _drift(drift: Drift) -> str:
    """In words."""
    return f"what came later in the table took up to {drift.ms(np.ones(1))[0]:.2f} ms longer, whatever its size"


def _models(kinds: Kinds, level: float, factors: tuple[float, float]) -> dict[str, KindModel]:
    models = {kind: _measured_model(kind, fitted) for kind, fitted in kinds.fitted.items()}
    for kind, derived in kinds.derived.items():
        source = f"{derived.source}; level set on whole networks ({A100_NETWORKS})"
        evidence = Evidence("derived", source, {}, *JUDGED.get(kind, (1.0, "")))
        models[kind] = kind_model(derived.coefficients, evidence, factors)
    return {kind: replace(model, in_network=level) for kind, model in models.items()}


def _measured_model(kind: str, fitted: Fitted) -> KindModel:
    return KindModel(
        coefficients=fitted.coefficients,
        origin="measured",
        source=f"kernels timed alone ({FILES.get(kind, A100_ELEMENTWISE)})",
        support={fitted.rows.kernels[0].spec.kernel_size: fitted.seen},
        low_factor=fitted.low_factor,
        high_factor=fitted.high_factor,
        residual=fitted.residual,
    )


def _measured_rows(kinds: Kinds) -> list[KernelRow]:
    """The rows behind the residuals, each with the half width that holds 90 % of repeated measurements."""
    rows = []
    for kind, fitted in kinds.fitted.items():
        for kernel, ms in zip(fitted.rows.kernels, fitted.rows.latency_ms.tolist(), strict=True):
            spread_ms = ms * NORMAL_90 * fitted.residual.noise
            rows.append(KernelRow(kernel, ms, spread_ms, fitted.seen, "measured", FILES.get(kind, A100_ELEMENTWISE)))
    return rows


def _grid_rows(kinds: Kinds, models: Mapping[str, KindModel]) -> list[KernelRow]:
    """The kernels of the shipped spaces that were not measured."""
    known = {kernel for fitted in kinds.fitted.values() for kernel in fitted.rows.kernels}
    kernels = [k for k in grid_kernels(tabled_spaces(), RULES) if k not in known]
    return [
        _grid_row(kernel, ms, models[kernel.price_kind]) for kernel, ms in zip(kernels, kinds.ms(kernels), strict=True)
    ]


def _grid_row(kernel: Kernel, ms: float, model: KindModel) -> KernelRow:
    origin = "fitted" if model.residual else "derived"
    spread_ms = ms * (model.high_factor - model.low_factor) / 2
    return KernelRow(kernel, ms, spread_ms, model.count(kernel.spec.kernel_size), origin, f"models.{kernel.price_kind}")


def _sources() -> tuple[Source, ...]:
    return (
        Source(
            "github.com/sitar-lab/NeuSight @6945927d",
            "MIT",
            "matrix products and element-wise kernels (A100 40 GB), 3x3 convolutions of stride 1 (A100 80 GB)",
        ),
        Source(
            "github.com/NVIDIA/DeepLearningExamples @729963dd",
            "per model",
            "EfficientNets under eager PyTorch, TF32, batch 1 (A100 80 GB)",
        ),
        Source(
            "github.com/facebookincubator/AITemplate",
            "Apache-2.0",
            "ResNet-50 under eager PyTorch 1.12, fp16, batch 1 (A100 40 GB)",
        ),
        Source(
            "github.com/alibaba/lightweight-neural-architecture-search @8ccaf889",
            "Apache-2.0",
            "TensorRT depthwise convolutions on the V100, fp32, batch 1",
        ),
    )
