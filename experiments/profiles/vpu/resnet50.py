"""ResNet-50's element-wise layers on the Myriad X by the runtime's own counters: rows that no fit has seen.

Source: embedded-machine-learning/inference_modules @dd374a00, tests/data/ov_reports, ResNet-50 v1 of TensorFlow at
224 pixels (the last unit of a stage strides). ReLUs run alone behind most additions there. Shapes follow from the
network. Not for fitting.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.profiles.tables import MILLION
from latency_models.fit.regression import Sample

Counter = tuple[int, int, float]  # channels, pixels a side, ms
ADDITIONS: Sequence[Counter] = (
    (256, 56, 1.117), (256, 56, 1.098), (256, 28, 0.499),
    (512, 28, 0.345), (512, 28, 0.337), (512, 28, 0.339), (512, 14, 0.160),
    (1024, 14, 0.450), (1024, 14, 0.279), (1024, 14, 0.278), (1024, 14, 0.277), (1024, 14, 0.281), (1024, 7, 0.084),
    (2048, 7, 0.162), (2048, 7, 0.159), (2048, 7, 0.194),
)  # fmt: skip
RELUS: Sequence[Counter] = (
    (256, 28, 0.172), (512, 28, 0.479), (512, 28, 0.478), (512, 28, 0.477), (512, 14, 0.087),
    (1024, 14, 0.254), (1024, 14, 0.246), (1024, 14, 0.246), (1024, 14, 0.253), (1024, 14, 0.164), (1024, 7, 0.058),
    (2048, 7, 0.088), (2048, 7, 0.088),
)  # fmt: skip


def counted(counters: Sequence[Counter]) -> list[Sample]:
    """Each a pass over its tensor, as the profile prices an addition or an activation alone."""
    return [
        Sample(f"{c}x{side}x{side}", {"launch_shave": 1.0, "output_add": c * side * side / MILLION}, ms)
        for c, side, ms in counters
    ]
