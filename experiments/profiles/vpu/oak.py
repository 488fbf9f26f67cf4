"""The Myriad X on other boards: whole networks to check predictions by, and what a kernel of hard swish saved.

Not for fitting; no coefficient rests on these rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.profiles.tables import MYRIAD_OAK, MovedElements, Op, Row, read_rows
from experiments.profiles.vpu.frames import fit_frames, side
from experiments.profiles.vpu.networks import (
    MOBILENET_V3_SMALL,
    PASSES_OF_HARD_SWISH,
    mobilenet_v3,
    mobileone_s0,
    resnet,
)
from experiments.profiles.vpu.samples import FORM, LANES, moved, network_terms
from latency_models.fit.regression import Sample, Terms

NETWORKS: Mapping[str, Sequence[Op]] = {"ResNet-50": resnet(50), "MobileOne-S0": mobileone_s0()}
# The same build of the runtime before and after hard swish had a kernel of its own.
HARD_SWISH = ("MobileNetV3-small (HSwish decomposed)", "MobileNetV3-small (HSwish native)")


def uses_oak(row: Row) -> bool:
    """Whether a row is in use: networks whose layers are known here, and those with and without hard swish."""
    return row.text("model") in (*NETWORKS, *HARD_SWISH)


def oak_samples(folder: Path) -> list[Sample]:
    """Whole networks of an OAK, whose chip has the camera's image at hand."""
    rows = [row for row in read_rows(folder, MYRIAD_OAK) if row.text("model") in NETWORKS]
    return [
        Sample(name, network_terms(name, NETWORKS[name]), row.number("latency_ms"), group="oak")
        for row in rows
        for name in [row.text("model")]
    ]


def passes_saved_by_hard_swish(folder: Path, coefficients: Mapping[str, float]) -> float:
    """How many passes over the same tensors MobileNetV3-small was slower before hard swish had a kernel of its own."""
    fps = {row.text("model"): row.number("fps") for row in read_rows(folder, MYRIAD_OAK) if uses_oak(row)}
    frames = fit_frames(folder)
    apart_ms, native_ms = (frames.latency_ms(fps[name], side(name)) for name in HARD_SWISH)
    one = Terms(FORM, LANES)
    swishes = [op for op in mobilenet_v3(MOBILENET_V3_SMALL, 576, 1024) if isinstance(op, MovedElements)]
    for op in swishes[::PASSES_OF_HARD_SWISH]:
        moved(one, op)
    return (apart_ms - native_ms) / sum(coefficients[name] * value for name, value in one.values.items())
