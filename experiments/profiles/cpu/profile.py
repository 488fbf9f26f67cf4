"""Rebuilds `cpu`, a Cortex-A76 core under TFLite fp32, from whole networks measured on a Pixel 4.

No kernel was measured alone: an additive form is fitted to 82 convolutional networks and 23 vision transformers. Needs
scipy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from device_profiles import MEASURED, FusionRules, Header, Kernel, KernelRow, KindModel, Source
from experiments.profiles import EVALUATED_BY
from experiments.profiles.assemble import into, network_interval, solved_model, table_rows
from experiments.profiles.cpu.evaluation import COVERAGE, Measured, evaluations, measured, unseen
from experiments.profiles.cpu.networks import (
    FORM,
    FP32,
    LANES,
    OPERATORS,
    Variant,
    kind_and_size,
    measured_layers,
    support,
    terms,
)
from experiments.profiles.cpu.pairs import PAIRS, measured_over_predicted
from experiments.profiles.regression import conformal_factors
from experiments.profiles.tables import A76_NETWORKS, A76_TRANSFORMERS, AttentionOp
from latency_models.fit.fitted_range import with_ranges
from latency_models.fit.kind_model import Evidence, kind_model
from latency_models.fit.regression import fit_coefficients, summary
from latency_models.support import FEW_ROWS
from search_space.family import RESOLUTION
from search_space.layer import Kind

__all__ = ["evaluations", "rebuild"]

RULES = FusionRules(
    frozenset({Kind.SCALE}),
    into(
        conv=[Kind.BATCH_NORM, Kind.RELU6], dwconv=[Kind.BATCH_NORM, Kind.RELU6], add=[Kind.RELU6], linear=[Kind.RELU6]
    ),
)
FORMS = {
    "gelu": "GELU by the error function, as several operators; a later runtime has one, which is faster, and the form "
    "by tanh was never measured",
    "layer_norm": "LayerNorm as the operators of its formula",
    "softmax": "softmax of attention",
}
SHARED = "at the coefficient of all that moves elements"
MOVING = {
    "add": "a sum of two tensors: two reads and a write an element",
    "mul": "a product: a read of every full tensor and a write",
    "batch_norm": "a norm and its ReLU, where they follow no convolution: a product and a sum",
    "transpose": "elements moved to other places, as heads of attention are",
}
UNTOLD = {
    "relu6": (
        2.0,
        "no network of the fit holds one alone; those of NAS-Bench-201 do and are priced right with it at this price, "
        "on tensors of 16,384 elements and fewer",
    ),
    "hard_swish": (
        4.0,
        "MobileNetV3's eight networks hold 160 and are priced best with them at nothing; a runtime without the "
        "operator takes four passes",
    ),
}
WINDOWS = ("conv_kxk", "conv_image", "dwconv")  # kinds that come in several kernel sizes
MOST_DOUBT = 2.0  # of a kernel size: the form is one for all sizes of a kind, and networks bear it out on the others
AS_IT_STANDS = (
    "Element-wise layers, which the source does not list, are put back from the networks' structure, so an exported "
    "graph is priced as it stands; padding ahead of a convolution is not in such a graph."
)
NOTES = {
    "cpu": "The form was chosen on these same held-out networks. The letters of a name put some networks with equal "
    "layers in two families (mobilenet, mobilenetb; preresnet, resnet): with such families left out together all stay "
    f"within 10 %. {AS_IT_STANDS}",
    "cpu_2420mhz": f"The form is that of `cpu`, chosen on the same networks at 2.84 GHz. {AS_IT_STANDS}",
    "cpu_int8": "The form is that of fp32 but for pooling, which was chosen on these same networks. " + AS_IT_STANDS,
}

AGE = (
    "Its times are of TensorFlow Lite of 2022-23, whose version the source does not state: three years old or more in "
    "November 2026"
)
OTHER_7X7 = (
    "Today's runtime has other kernels: in LiteRT 2.3 with XNNPACK, on an x86-64 core and not on an A76, a 7x7 "
    "depthwise convolution over 128x14x14 took 25 times as long as a 5x5 one (0.340 and 0.0136 ms), 1.8 times by "
    "this profile; time networks with 7x7 on the device, or leave it out by avoid=[dwconv7]"
)
CAVEATS = {
    "cpu": (AGE, OTHER_7X7),
    "cpu_2420mhz": (
        "The nearest public stand-in for a core of a Raspberry Pi 5 (Cortex-A76, 2.4 GHz), and not timed on one: it is "
        "a Pixel 4's core. Three networks on a Pi 5 took 0.22 to 0.34 times what this says, under a runtime of 2025-26 "
        "(ExecuTorch, XNNPACK) and on a number of threads that is not stated",
        AGE,
        OTHER_7X7,
    ),
    "cpu_int8": (
        AGE,
        "Today's runtime has other kernels: in LiteRT 2.3, on an x86-64 core and not on an A76, static int8 made a "
        "network with LayerNorm and GELU slower than fp32 (12.0 and 5.7 ms, in 58 delegate partitions), and "
        "MobileNetV2 faster (1.4 and 2.9 ms, in one); time the network on the device",
    ),
}


def rebuild(folder: Path, variant: Variant = FP32) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile of a variant."""
    data = measured(folder, variant)
    ratios = unseen(data)
    together = np.concatenate([ratios.families, ratios.transformers])
    layers = measured_layers(folder, variant)
    kernels = [layer for of_network in layers.values() for layer in of_network if isinstance(layer, Kernel)]
    models = with_ranges(_models(variant, data, layers, conformal_factors(together, COVERAGE)), kernels)
    rows = table_rows(models, RULES, LANES)
    networks, transformers = len(data.networks), len(data.transformers)
    header = Header(
        device=variant.device,
        title="Cortex-A76, one core of a Pixel 4",
        runtime="TFLite",
        runtime_version="version not stated by the source (2022-23: LayerNorm and exact GELU run as several operators)",
        caveats=CAVEATS[variant.device],
        precision=variant.precision,
        threads=1,
        clock=variant.clock,
        date="not stated by the source",
        measured_by="qed-usc/mobile-ml-benchmark",
        sources=(
            Source(
                "github.com/qed-usc/mobile-ml-benchmark @40ba833a",
                "MIT",
                f"{networks} ImageNet CNNs and {transformers} vision transformers, mean of runs, standard deviation "
                "0.1-0.5 % (stated for fp32); whole networks only; the transformers' layers follow from their papers",
            ),
        ),
        row_origins={
            "fitted": "from an additive form fitted to whole networks: no kernel was measured alone on this device",
            "derived": "element-wise kinds of which the networks tell no time: one pass over the tensor, at the fitted "
            "time of a moved element",
        },
        kernel_rows=len(rows),
        fusion=RULES,
        lanes=LANES,
        models=models,
        interval=network_interval(
            COVERAGE,
            together,
            "measured over predicted time of the networks, each predicted without its family (letters of its name)",
        ),
        calibration={"measured": MEASURED},
        accuracy={
            "leave_one_network_out": f"{summary(ratios.twins)}; n = {networks}, twins of equal MACs left out together",
            "leave_one_family_out": f"{summary(ratios.families)}; n = {networks}",
            "transformers_leave_one_family_out": f"{summary(ratios.transformers)}; n = {transformers}",
            "command": EVALUATED_BY.format(device=variant.device),
            "note": NOTES[variant.device],
        },
        fitted_range={
            "network_ms": _ends(sample.latency_ms for sample in data.together),
            "resolution": (
                float(RESOLUTION),
                float(max(kernel.spec.height for kernel in kernels if kernel.spec.in_channels == 3)),
            ),
        },
    )
    return header, rows


def _ends(values: Iterable[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[-1]


def _models(
    variant: Variant, data: Measured, layers: Mapping[str, Sequence[AttentionOp]], factors: tuple[float, float]
) -> dict[str, KindModel]:
    coefficients, counts = fit_coefficients(data.together), support(chain.from_iterable(layers.values()))
    source = f"fitted with every other kind to whole networks ({A76_NETWORKS}, {A76_TRANSFORMERS}, {variant.column})"
    doubts = _doubts(data, coefficients)
    rare = _rare_sizes(data, layers, coefficients, factors, variant)
    models = {}
    for kind in FORM:
        what = f"{FORMS[kind]}: {source}" if kind in FORMS else source
        evidence = Evidence("fitted", what, counts[kind], *doubts.get(kind, rare.get(kind, (1.0, ""))))
        models[kind] = solved_model(kind, FORM, coefficients, evidence, factors)
    moved = coefficients["moved"]  # an element read once and written once

    def touching(operators: int) -> dict[str, float]:
        """Every input read and the output written; reading two tensors counts by itself: input_elements sums them."""
        return dict.fromkeys(("input_elements", "output_elements"), operators * moved / 2)

    pooled = "im2col_elements" if variant.pools_add_windows else "input_elements"  # im2col: elements of all windows
    shared = f"{source}; {SHARED}"
    models["pool"] = kind_model({pooled: moved}, Evidence("fitted", shared, counts["pool"]), factors)
    models["concat"] = kind_model({"output_elements": moved}, Evidence("fitted", shared, counts["concat"]), factors)
    for name, what in MOVING.items():
        evidence = Evidence("fitted", f"{what}; {shared}", counts[name], *doubts.get(name, (1.0, "")))
        models[name] = kind_model(touching(OPERATORS[name]), evidence, factors)
    for name, (judged, reason) in UNTOLD.items():
        derived = f"one pass, where it merges into nothing: a read and a write {SHARED}; not told by the networks"
        models[name] = kind_model(touching(1), Evidence("derived", derived, {}, judged, reason), factors)
    return models


def _doubts(data: Measured, coefficients: Mapping[str, float]) -> dict[str, tuple[float, str]]:
    """Kind -> by what factor fits without one family, or pairs of networks, disagree on its price, and how."""
    families = {sample.group for sample in data.together}
    fits = [fit_coefficients([s for s in data.together if s.group != family]) for family in families]
    found = {}
    for kind in (*FORMS, *PAIRS):
        name = kind if kind in FORMS else "moved"
        ratios = [fit[name] / coefficients[name] for fit in fits]
        low, high = min(ratios), max(ratios)
        reason = f"fits without one family of networks put it at {low:.2f} to {high:.2f} times this"
        if kind in PAIRS:
            least, most = measured_over_predicted(data.networks, kind, coefficients)
            apart = f"{least:.2f} to {most:.2f} times" if round(least, 2) < round(most, 2) else f"{most:.2f} times"
            reason += f"; networks that differ in it and little else differ by {apart} what is predicted"
            low, high = min(low, least), max(high, most)
        found[kind] = float(f"{max(1 / low, high):.3g}"), reason
    return found


def _rare_sizes(
    data: Measured,
    layers: Mapping[str, Sequence[AttentionOp]],
    coefficients: Mapping[str, float],
    factors: tuple[float, float],
    variant: Variant,
) -> dict[str, tuple[float, str, dict[int, float]]]:
    """Kind -> 1, a reason, and by what factor the price of each kernel size with few rows may be off.

    The networks that hold the size say so little: an error of the whole network, as wide as the interval, on that
    part of its time.
    """
    measured_ms = {sample.name: sample.latency_ms for sample in data.together}
    found = {}
    for kind in WINDOWS:
        sizes, reasons = {}, []
        for size, rows in support(chain.from_iterable(layers.values()))[kind].items():
            if rows >= FEW_ROWS:
                continue
            shares = {}
            for name, of_network in layers.items():
                alike = terms([layer for layer in of_network if kind_and_size(layer) == (kind, size)], variant).values
                if alike:
                    shares[name] = sum(coefficients[term] * value for term, value in alike.items()) / measured_ms[name]
            share = max(shares.values())
            sizes[size] = float(f"{min(MOST_DOUBT, 1 + max(1 - factors[0], factors[1] - 1) / share):.3g}")
            reasons.append(f"{size}x{size} ({rows} rows) {100 * share:.1f} % at most")
        if sizes:
            why = f"few rows, and little of the time of the networks that hold them: {', '.join(reasons)}"
            found[kind] = 1.0, why, sizes
    return found
