"""What a device is asked to time: every kernel that the spaces need there, and whole random networks.

Names are stable, so that times taken elsewhere find their kernels and networks again. Not for timing.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Any

from device_profiles import FusionRules, Kernel
from latency_models.fuse import fuse
from latency_models.grid import grid_kernels
from latency_models.measure.kernel_onnx import kernel_item, kernel_name, network_item, reference_item
from latency_models.measure.timing import Item, Settings, find_runtime
from search_space.errors import UserError
from search_space.family import NUM_CLASSES
from search_space.layer import Kind
from search_space.lower import Segment, lower, lower_space
from search_space.space import GatePath, SearchSpace, size_of

GOLDEN = (sqrt(5) - 1) / 2  # its multiples fill (0, 1) evenly, however many there are


@dataclass(frozen=True)
class Workload:
    """The kernels and networks of some spaces at one resolution, in one runtime; everything follows from the fields."""

    spaces: tuple[SearchSpace, ...]
    resolution: int
    network_count: int
    settings: Settings

    def __post_init__(self) -> None:
        names = Counter(space.name for space in self.spaces)
        if twice := [name for name, count in names.items() if count > 1]:
            raise UserError(f"two spaces are named '{twice[0]}'")

    @property
    def rules(self) -> FusionRules:
        """What the runtime merges at this optimization."""
        return fusion_rules(self.settings)

    @cached_property
    def kernels(self) -> Mapping[str, Kernel]:
        """Item name -> kernel, sorted by kind and size."""
        return {kernel_name(k): k for k in grid_kernels(self.spaces, self.rules, self.resolution, NUM_CLASSES)}

    @cached_property
    def networks(self) -> Mapping[str, tuple[Segment, ...]]:
        """Item name -> random networks, the spaces in turn, from small to large ones."""
        found = {}
        for i in range(self.network_count):
            space = self.spaces[i % len(self.spaces)]
            number = i // len(self.spaces)
            found[f"{re.sub(r'[^A-Za-z0-9_.-]', '-', space.name)}_{number:02d}"] = random_network(
                space, number, self.resolution
            )
        return found

    @cached_property
    def counts(self) -> Mapping[Kernel, float]:
        """How often a network holds a kernel, on average over all networks of all spaces."""
        counts: dict[Kernel, float] = {}
        for space in self.spaces:
            for segment in lower_space(space, self.resolution, NUM_CLASSES):
                share = 1 / len(segment.candidates) / len(self.spaces)
                for nodes in segment.candidates:
                    for kernel in fuse(nodes, self.rules):
                        counts[kernel] = counts.get(kernel, 0.0) + share
        return counts

    @cached_property
    def items(self) -> Mapping[str, Item]:
        """All kernels, then all networks."""
        kernels = {name: kernel_item(kernel) for name, kernel in self.kernels.items()}
        return kernels | {name: network_item(name, segments) for name, segments in self.networks.items()}

    @property
    def reference(self) -> Item:
        """The network that is timed before and after every timing."""
        return reference_item()

    def export_facts(self) -> dict[str, Any]:
        """What the workload follows from, beside its settings, as JSON."""
        return {
            "spaces": [space.to_dict() for space in self.spaces],
            "resolution": self.resolution,
            "networks": self.network_count,
        }

    @property
    def digest(self) -> str:
        """A short hash: equal only for workloads of equal items."""
        settings = [self.settings.runtime, self.settings.optimization, self.settings.precision, 1]
        parts = [self.export_facts(), settings, list(self.kernels), list(self.networks)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def fusion_rules(settings: Settings) -> FusionRules:
    """What merges in a runtime, as its class says. Raises `UserError` for a kind of layer that does not exist."""
    runtime = find_runtime(settings.runtime)
    merged = runtime.optimizations[settings.optimization]
    try:
        into = {Kind(leader): frozenset(map(Kind, kinds)) for leader, kinds in merged.items()}
        return FusionRules(frozenset(map(Kind, runtime.folded)), into)
    except ValueError as error:
        raise UserError(f"runtime={settings.runtime}: {error}; kinds are {', '.join(Kind)}") from error


def workload_of(facts: Mapping[str, Any], settings: Settings) -> Workload:
    """The inverse of `export_facts`. Raises `UserError` where the facts are none."""
    try:
        spaces = tuple(SearchSpace.from_dict(space) for space in facts["spaces"])
        return Workload(spaces, int(facts["resolution"]), int(facts["networks"]), settings)
    except (KeyError, TypeError) as error:
        raise UserError(f"not the facts of an export: {error}") from error


def random_network(space: SearchSpace, number: int, resolution: int) -> tuple[Segment, ...]:
    """The number-th random network of a space.

    Slots draw three candidates and keep the largest, else the smallest, with a probability that differs from network
    to network, so that sizes spread.
    """
    rng = random.Random(f"{space.name} {number}")
    level = (number * GOLDEN) % 1
    choices = []
    for slot in space.slots:
        drawn = [rng.randrange(len(slot.candidates)) for _ in range(3)]
        by_size = sorted(drawn, key=lambda i: size_of(slot.candidates[i]))
        choices.append(by_size[-1 if rng.random() < level else 0])
    return lower(space.architecture(GatePath(tuple(choices))), resolution, NUM_CLASSES)
