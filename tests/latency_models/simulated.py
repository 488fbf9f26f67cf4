"""A simulated device whose truth is known: kernel rows and whole networks with a little noise."""

from __future__ import annotations

import random
from math import exp

import numpy as np

from device_profiles import FusionRules, Kernel, KernelRow, Lanes
from latency_models.features import FEATURES
from latency_models.fit.kernels import Facts, MeasuredNetwork
from latency_models.fuse import fuse
from search_space import Kind, load_space, lower

RULES = FusionRules(frozenset({Kind.SCALE}), {Kind.CONV: frozenset({Kind.BATCH_NORM, Kind.RELU6})})
FACTS = Facts("mine", "a simulated device", "onnxruntime", "1", {"optimization": "all"}, "fp32", 1, "?", "2026", "test")
IN_NETWORK = {"layer_norm": 0.7, "gelu": 1.3}
SPACE = load_space("quadranet")


def alone_ms(kernel: Kernel) -> float:
    """A launch, MACs at a rate that falls with few channels, bytes."""
    lanes = Lanes()
    work = FEATURES["macs"](kernel, lanes) * 0.05 * (1 + 1 / (1 + (kernel.spec.in_channels / 100) ** 2))
    moved = FEATURES["input_elements"](kernel, lanes) + FEATURES["output_elements"](kernel, lanes)
    return 0.004 + work + moved * 0.4


def rows_of(kernels: list[Kernel], noise: float = 0.0) -> list[KernelRow]:
    rng = np.random.default_rng(0)
    return [KernelRow(k, alone_ms(k) * exp(noise * rng.standard_normal()), 0.0, 10, "measured", "sim") for k in kernels]


def networks(count: int, seed: int, noise: float = 0.01) -> list[MeasuredNetwork]:
    rng, noisy = random.Random(seed), np.random.default_rng(seed)
    found = []
    for i in range(count):
        segments = lower(SPACE.architecture(SPACE.random_path(rng)), 224, 1000)
        kernels = [k for s in segments for k in fuse(s.nodes, RULES)]
        ms = 0.05 + sum(alone_ms(k) * IN_NETWORK.get(k.price_kind, 1.0) for k in kernels)
        found.append(MeasuredNetwork(f"n{i}", segments, ms * exp(noise * noisy.standard_normal()), 0.0))
    return found
