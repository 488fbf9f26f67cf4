"""The eager A100's kinds that no table lists, and the whole networks that set the level of all kinds. Needs scipy.

Not for the measured kinds (`fit`) nor for the profile (`profile`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from device_profiles import Kernel
from experiments.profiles.gpu.fit import A100_GB_PER_S, V100_GB_PER_S, v100_samples
from experiments.profiles.gpu_eager_fp32.fit import Fitted, fit_kinds, form_ms
from experiments.profiles.gpu_eager_fp32.networks import efficientnet, resnet50
from experiments.profiles.gpu_eager_fp32.rows import Measured, conv_rows, element_wise_rows, linear_rows
from experiments.profiles.tables import A100_NETWORKS, V100_OPS, Row, read_rows
from latency_models.fit.regression import Sample, fit_coefficients

TF32, FP16 = ("PyTorch 1.x eager", "TF32"), ("PyTorch 1.12 eager", "FP16")
# Name in the table, framework and precision, kernels, group: what is held out together.
NETWORKS = (
    ("efficientnet-b0", TF32, efficientnet(1.0, 1.0, 224), "b0"),
    ("efficientnet-widese-b0", TF32, efficientnet(1.0, 1.0, 224, wide_squeeze=True), "b0"),
    ("efficientnet-b4", TF32, efficientnet(1.4, 1.8, 380), "b4"),
    ("efficientnet-widese-b4", TF32, efficientnet(1.4, 1.8, 380, wide_squeeze=True), "b4"),
    ("resnet50", FP16, resnet50(), "resnet50"),
)


@dataclass(frozen=True)
class Derived:
    """A kind that was not measured: coefficients of its form, and from what."""

    coefficients: Mapping[str, float]
    source: str


@dataclass(frozen=True)
class Kinds:
    """Every kind of a kernel timed alone."""

    fitted: Mapping[str, Fitted]
    derived: Mapping[str, Derived]

    def ms(self, kernels: Sequence[Kernel]) -> list[float]:
        """Times of all kernels in ms, in order."""
        times: dict[Kernel, float] = {}
        for kind, part in _by_kind(kernels).items():
            known = self.fitted.get(kind)
            ms = known.predict(part) if known else form_ms(self.derived[kind].coefficients, part)
            times |= dict(zip(part, ms.tolist(), strict=True))
        return [times[kernel] for kernel in kernels]


def tables(folder: Path) -> list[Measured]:
    """The measured rows whose kinds share a form."""
    return [linear_rows(folder), conv_rows(folder), *element_wise_rows(folder).by_kind().values()]


def fit_alone(folder: Path) -> Kinds:
    """Every kind of a kernel timed alone, fitted or derived, before any network sets the level."""
    fitted = {kind: model for table in tables(folder) for kind, model in fit_kinds(table).items()}
    return Kinds(fitted, _derived(folder, {kind: model.coefficients for kind, model in fitted.items()}))


def uses_network(row: Row) -> bool:
    """Whether a row of the networks' table is a sample: one of `NETWORKS` at batch 1."""
    return row.text("batch") == "1" and _stack(row) in {(name, stack) for name, stack, _, _ in NETWORKS}


def _stack(row: Row) -> tuple[str, tuple[str, str]]:
    return row.text("model"), (row.text("framework"), row.text("precision"))


def network_samples(folder: Path, kinds: Kinds) -> list[Sample]:
    """One term a network: the sum of its kernels alone, in ms. A group is a network and its twin."""
    measured = {_stack(row): row.number("latency_ms") for row in read_rows(folder, A100_NETWORKS) if uses_network(row)}
    return [
        Sample(name, {"kernels": sum(kinds.ms(kernels))}, measured[name, stack], group=group)
        for name, stack, kernels, group in NETWORKS
    ]


def _derived(folder: Path, known: Mapping[str, Mapping[str, float]]) -> dict[str, Derived]:
    product, passed = known["linear"], known["relu6"]
    a_pass = passed["output_elements"]  # an element read and an element written
    slower = V100_GB_PER_S / A100_GB_PER_S
    depthwise = fit_coefficients(v100_samples(folder, "fp32")["dwconv"])
    work = {feature: value * slower for feature, value in depthwise.items() if feature != "launch" and value}
    moves = {"launch": passed["launch"], "output_elements": a_pass}
    pools = {"launch": passed["launch"], "input_elements": a_pass / 2, "output_elements": a_pass / 2}
    return {
        "conv_1x1": Derived(product, "the form of matrix products, pixels as rows"),
        "dwconv": Derived(
            {"launch": product["launch"], **work},
            f"V100 fp32 rows under TensorRT ({V100_OPS}), work by bandwidth {V100_GB_PER_S:g}/{A100_GB_PER_S:g}, the "
            "launch of a matrix product",
        ),
        "batch_norm": Derived({**moves, "launch": known["layer_norm"]["launch"]}, "launch of LayerNorm, pass of ReLU"),
        "global_pool": Derived(pools, "launch of ReLU, half its pass for reading"),
        "pool": Derived(pools, "launch of ReLU, half its pass for reading and half for writing"),
        "concat": Derived(moves, "as ReLU"),
        "hard_swish": Derived(moves, "as ReLU, a kernel of its own in eager PyTorch too"),
        "transpose": Derived(moves, "as ReLU"),
        "softmax": Derived(known["layer_norm"], "as LayerNorm: a row at a time, read and written once"),
    }


def _by_kind(kernels: Sequence[Kernel]) -> dict[str, list[Kernel]]:
    """The distinct kernels of every kind."""
    found: dict[str, dict[Kernel, None]] = {}
    for kernel in kernels:
        found.setdefault(kernel.price_kind, {})[kernel] = None
    return {kind: list(distinct) for kind, distinct in found.items()}
