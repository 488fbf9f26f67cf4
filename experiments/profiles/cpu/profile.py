"""Rebuilds `cpu`, a Cortex-A76 core under TFLite fp32, from 82 whole networks measured on a Pixel 4.

No kernel was measured alone: an additive form is fitted to whole networks. Needs scipy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from device_profiles import MEASURED, FusionRules, Header, KernelRow, KindModel, Source
from experiments.profiles import EVALUATED_BY
from experiments.profiles.assemble import into, network_interval, solved_model, table_rows
from experiments.profiles.cpu.evaluation import COVERAGE, evaluations, network_evaluations
from experiments.profiles.cpu.networks import FORM, FP32, LANES, Variant, samples, support
from experiments.profiles.regression import conformal_factors
from experiments.profiles.tables import A76_NETWORKS
from latency_models.fit.kind_model import Evidence, kind_model
from latency_models.fit.regression import fit_coefficients, summary
from search_space.layer import Kind

__all__ = ["evaluations", "rebuild"]

# LayerNorm priced as separate operators: mean, subtract, square, mean, times 1/sigma, times gamma, plus beta.
LAYER_NORM_READS, LAYER_NORM_WRITES = 7, 5
RULES = FusionRules(
    frozenset({Kind.SCALE}),
    into(
        conv=[Kind.BATCH_NORM, Kind.RELU6], dwconv=[Kind.BATCH_NORM, Kind.RELU6], add=[Kind.RELU6], linear=[Kind.RELU6]
    ),
)
NOTES = {
    "fp32": "The form was chosen among some twenty on these same held-out networks. The letters of a name put some "
    "networks with equal layers in two families (mobilenet, mobilenetb; preresnet, resnet): with such families left "
    "out together all stay within 10 %. The source's layer lists lack residual additions: their time sits in the "
    "fitted convolutions, so the derived additions are counted slightly twice.",
    "int8": "The source's layer lists lack additions, normalisations before a convolution and activations, which cost "
    "more of an int8 network: eleven pairs with equal lists differ by 13 to 20 %, so no predictor that reads these "
    "lists has both networks of such a pair within 6 %. The form is that of fp32 but for pooling, which was chosen on "
    "these same networks.",
}


def rebuild(folder: Path, variant: Variant = FP32) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile of a variant."""
    networks = samples(folder, variant)
    coefficients = fit_coefficients(networks)
    twins, families = network_evaluations(folder, variant)
    models = _models(folder, variant, coefficients, conformal_factors(families.ratios, COVERAGE))
    rows = table_rows(models, RULES, LANES)
    header = Header(
        device=variant.device,
        title="Cortex-A76, one core of a Pixel 4",
        runtime="TFLite",
        runtime_version="version not stated by the source",
        precision=variant.precision,
        threads=1,
        clock="2.84 GHz",
        date="not stated by the source",
        measured_by="qed-usc/mobile-ml-benchmark",
        sources=(
            Source(
                "github.com/qed-usc/mobile-ml-benchmark @40ba833a",
                "MIT",
                f"{len(networks)} ImageNet networks, mean of runs, standard deviation 0.1-0.5 % (stated for fp32); "
                "whole networks only",
            ),
        ),
        row_origins={
            "fitted": "from an additive form fitted to whole networks: no kernel was measured alone on this device",
            "derived": "element-wise kinds that no measured network lists: elements read and written at the fitted "
            "time of a moved element (pooling, concatenation)",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=LANES,
        models=models,
        interval=network_interval(
            COVERAGE,
            families.ratios,
            "measured over predicted time of the networks, each predicted without its family (letters of its name)",
        ),
        calibration={"measured": MEASURED},
        accuracy={
            "leave_one_network_out": f"{summary(twins.ratios)}; n = {len(networks)}, "
            "twins of equal MACs left out together",
            "leave_one_family_out": f"{summary(families.ratios)}; n = {len(networks)}",
            "command": EVALUATED_BY.format(device=variant.device),
            "note": NOTES[variant.precision],
        },
    )
    return header, rows


def _models(
    folder: Path, variant: Variant, coefficients: Mapping[str, float], factors: tuple[float, float]
) -> dict[str, KindModel]:
    counts = support(folder, variant)
    source = f"fitted with every other kind to whole networks ({A76_NETWORKS}, {variant.column})"
    models = {
        kind: solved_model(kind, FORM, coefficients, Evidence("fitted", source, counts[kind]), factors) for kind in FORM
    }
    pooled = "im2col_elements" if variant.pools_add_windows else "input_elements"  # im2col: elements of all windows
    moving = Evidence("fitted", f"{source}; one coefficient for all that moves elements", {})
    models["pool"] = kind_model({pooled: coefficients["moved"]}, moving, factors)
    models["concat"] = kind_model({"output_elements": coefficients["moved"]}, moving, factors)
    touched = coefficients["moved"] / 2  # a moved element is read once and written once

    def element_wise(reads: int, writes: int, what: str) -> Evidence:
        note = f"{what}: {reads} reads and {writes} writes an element at half the fitted time of a moved element"
        return Evidence(
            "derived", f"{note}; never measured on this device", {}, 2.0, "no network that was fitted lists it"
        )

    for name, reads, writes, what in (
        ("add", 1, 1, "sum of two tensors"),
        ("mul", 1, 1, "product of two tensors"),
        ("gelu", 1, 1, "one vectorised pass, the arithmetic hidden behind it"),
        ("relu6", 1, 1, "one pass, where it merges into nothing"),
        ("batch_norm", 1, 1, "one pass, where it merges into nothing"),
        ("layer_norm", LAYER_NORM_READS, LAYER_NORM_WRITES, "seven TFLite operators, for lack of one"),
    ):
        # reading two tensors counts by itself: input_elements sums them
        evidence = element_wise(2 if name in ("add", "mul") else reads, writes, what)
        model = {"input_elements": touched * reads, "output_elements": touched * writes}
        models[name] = kind_model(model, evidence, factors)
    return models
