"""The Myriad's latency from frames a second with several requests in flight, by networks measured both ways.

Not for kernels. Needs scipy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from experiments.profiles.tables import MILLION, MYRIAD_FPS, MYRIAD_SYNC, Row, read_rows
from latency_models.fit.regression import round_significant
from search_space.errors import BadFile

# A network of 62 pixels and 47 MMACs, the fastest of the table: its frames take what a request takes.
SMALLEST = "age-gender-recognition-retail-0013"
SIDES: Mapping[str, int] = {
    "alexnet": 227,
    "googlenet-v3": 299,
    "googlenet-v4": 299,
    "inception-resnet-v2": 299,
    "mobilenet-v1-0.25-128": 128,
    "mobilenet-v1-0.50-160": 160,
}
"""Pixels a side of the networks that do not take 224."""


@dataclass(frozen=True)
class Frames:
    """latency = in_flight x (ms a frame - request_ms) + image_ms x millions of the image's elements.

    request_ms: what every frame takes at least, whatever the network. With requests in flight a frame's time holds
    neither the wait for the image's transfer nor the half of the chip that another request keeps busy.
    """

    in_flight: float
    image_ms: float
    request_ms: float

    def latency_ms(self, fps: float, side: int) -> float:
        """Of a network over an image of `side` x `side` pixels."""
        return self.in_flight * (1000 / fps - self.request_ms) + self.image_ms * image_elements(side) / MILLION


def image_elements(side: int) -> int:
    """Of a square image of three channels."""
    return 3 * side**2


def side(name: str) -> int:
    """Pixels a side of a network's image."""
    return SIDES.get(name, 224)


def synchronous_ms(folder: Path) -> dict[str, float]:
    """Latency of one request at a time, by network."""
    return _batch_one(read_rows(folder, MYRIAD_SYNC), "avg_ms")


def frames_per_second(folder: Path) -> dict[str, float]:
    """Of several requests in flight, the median over releases, by network."""
    return _batch_one(read_rows(folder, MYRIAD_FPS), "fps")


def both_ways(folder: Path) -> list[str]:
    """Classifiers that both tables hold. Detectors end on the host, whose part is not the device's."""
    return sorted(n for n in synchronous_ms(folder).keys() & frames_per_second(folder).keys() if "ssd" not in n)


def fit_frames(folder: Path) -> Frames:
    """By non-negative least squares on relative error over the classifiers measured both ways."""
    from scipy.optimize import nnls

    sync_ms, fps = synchronous_ms(folder), frames_per_second(folder)
    if SMALLEST not in fps:
        raise BadFile(f"{MYRIAD_FPS}: no row of '{SMALLEST}' at batch 1, the network whose frames are a request's time")
    request_ms = round_significant(1000 / fps[SMALLEST])
    names = both_ways(folder)
    rows = [
        [(1000 / fps[name] - request_ms) / sync_ms[name], image_elements(side(name)) / MILLION / sync_ms[name]]
        for name in names
    ]
    (in_flight, image_ms), _ = nnls(np.array(rows), np.ones(len(rows)))
    return Frames(round_significant(float(in_flight)), round_significant(float(image_ms)), request_ms)


def frame_errors(folder: Path) -> list[float]:
    """Latency from frames over latency one request at a time, of the classifiers measured both ways, sorted."""
    frames, sync_ms, fps = fit_frames(folder), synchronous_ms(folder), frames_per_second(folder)
    return sorted(frames.latency_ms(fps[name], side(name)) / sync_ms[name] for name in both_ways(folder))


def _batch_one(rows: Sequence[Row], column: str) -> dict[str, float]:
    """Topology -> median over its rows at batch 1."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.text("batch") == "1":
            values.setdefault(row.text("topology"), []).append(row.number(column))
    return {topology: median(found) for topology, found in values.items()}
