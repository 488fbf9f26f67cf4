"""Networks that others published: what they reach on ImageNet, and what they take on a device.

Two tables of facts stand beside this module. `networks.csv`: top-1 accuracy of timm's weights, from
huggingface/pytorch-image-models @aa4b5850 (Apache-2.0), whose results name the best weights of each network.
`times.csv`: times that others measured, each with its source. Networks of the shipped spaces are predicted where no
time was measured. Not for a run's own network, nor for weights to start from: those are `nas.pretrained`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from device_profiles import DeviceProfile
from device_profiles.profile import shipped_digest
from latency_models import LatencyModel
from search_space import Architecture, load_space, lower
from search_space.tables import Column, Schema, parse_rows

CLASSES = 1000
NETWORKS = Schema(
    "networks.csv",
    (
        Column("network", "str", "as people call it"),
        Column("top1", "float", "ImageNet top-1 accuracy, % of the validation images", above=0, most=100),
        Column("weights", "str", "whose accuracy it is: timm's name and tag"),
        Column("resolution", "int", "pixels a side, of accuracy and times", least=1),
        Column("space", "str", "a shipped space whose largest network it is", empty=True),
        Column("space_width", "float", "that multiplies the space's widths", empty=True, above=0),
    ),
)
TIMES = Schema(
    "times.csv",
    (
        Column("network", "str", "as in networks.csv"),
        Column("device", "str", "the shipped profile that is of this device, runtime and precision"),
        Column("latency_ms", "float", "at batch 1, ms", above=0),
        Column("where", "str", "'there', or on what else with the same chip"),
        Column("name_there", "str", "what the source calls the network"),
        Column("source", "str", "repository and commit, or page and date"),
    ),
)


@dataclass(frozen=True)
class Published:
    """A published network on a device.

    top1: share of ImageNet's validation images; weights: timm's, that reach it; resolution: pixels a side.
    latency_ms: at batch 1; measured: '' where it is a prediction, else where ('there', or on what else); source: of the
    time, '' of a prediction.
    """

    network: str
    top1: float
    weights: str
    resolution: int
    latency_ms: float
    measured: str = ""
    source: str = ""


def best_published(
    model: LatencyModel, budget_ms: float, by_upper_end: bool = False, calibration: str = "measured"
) -> Published | None:
    """The most accurate published network within a budget on a model's device; None where none is known.

    Measured times count where the profile is a shipped one as it ships; elsewhere networks are predicted. by_upper_end:
    predictions keep the budget by the upper ends of their intervals. Another calibration than the measured one is no
    real time, so nothing is known of it.
    """
    if calibration != "measured":
        return None
    within = [one for one, kept_ms in _on(model, by_upper_end) if kept_ms <= budget_ms]
    return max(within, key=lambda one: (one.top1, -one.latency_ms), default=None)


def _on(model: LatencyModel, by_upper_end: bool) -> Iterator[tuple[Published, float]]:
    """Every network with a time on the model's device, and the ms that keep a budget."""
    measured = _times().get(model.profile.name, {}) if _as_shipped(model.profile) else {}
    for row in _networks():
        if time := measured.get(row["network"]):
            ms, high_ms, where, source = time["latency_ms"], time["latency_ms"], time["where"], time["source"]
        elif row["space"]:
            network = _largest(row["space"], row["space_width"])
            predicted = model.predict(lower(network, row["resolution"], CLASSES))
            ms, high_ms, where, source = predicted.latency_ms, predicted.high_ms, "", ""
        else:
            continue
        found = Published(
            row["network"], round(row["top1"] / 100, 6), row["weights"], row["resolution"], ms, where, source
        )
        yield found, high_ms if by_upper_end else ms


def _as_shipped(profile: DeviceProfile) -> bool:
    return shipped_digest(profile.name) == profile.digest


@cache
def _largest(space: str, width: float) -> Architecture:
    return load_space(space, width).largest()


@cache
def _networks() -> tuple[dict[str, Any], ...]:
    return tuple(_rows(NETWORKS))


@cache
def _times() -> dict[str, dict[str, dict[str, Any]]]:
    """By device and network."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in _rows(TIMES):
        found.setdefault(row["device"], {})[row["network"]] = row
    return found


def _rows(schema: Schema) -> Iterator[dict[str, Any]]:
    text = resources.files("nas.published").joinpath(schema.name).read_text(encoding="utf-8")
    return (row for _, row in parse_rows(text, schema, f"nas/published/{schema.name}"))
