"""How long do a latency model's answers take?

    python -m tests.bench.latency_speed [device ...]

Median ms of repeated calls in one process: a profile read and its table of candidates made from cold; one
network by `predict(lower(a))` from cold and by the table; many networks by the table; the expectation under gate
probabilities with its gradients. Expected on 2 cores: tables under a second, a network under 5 ms from its
layers and under 100 us from the table, more than a million networks a second.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from device_profiles import load_profile
from latency_models import fit_latency_model, latency_table
from nas.supernet.expected_latency import ExpectedLatency
from search_space import available_spaces, load_space, lower

NETWORKS = 200_000


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return median(times)


def bench(device: str, space_name: str) -> tuple[float, ...]:
    """(profile + table, table, predict(lower), path_ms, networks a second, expectation with gradients)."""
    space, profile = load_space(space_name), load_profile(device)
    table = latency_table(fit_latency_model(profile), space, 224, 1000)
    rng = random.Random(0)
    paths = [space.random_path(rng) for _ in range(200)]
    architectures = iter([space.architecture(path) for path in paths])
    counts = [len(slot.candidates) for slot in space.slots]
    choices = np.stack([np.random.default_rng(0).integers(0, count, NETWORKS) for count in counts], axis=1)
    expected = ExpectedLatency(table)
    exists = torch.as_tensor(np.isfinite(table.slot_ms))
    alpha = torch.zeros(table.slot_ms.shape, requires_grad=True)

    def expectation() -> None:
        expected(alpha.masked_fill(~exists, -torch.inf).softmax(1)).backward()

    one = iter(paths)
    return (
        milliseconds(lambda: latency_table(fit_latency_model(load_profile(device)), space, 224, 1000), 5),
        milliseconds(lambda: latency_table(fit_latency_model(profile), space, 224, 1000), 5),
        milliseconds(lambda: fit_latency_model(profile).predict(lower(next(architectures), 224, 1000)), 20),
        milliseconds(lambda: table.path_ms(next(one)), 200),
        NETWORKS / milliseconds(lambda: table.paths_ms(choices), 5) * 1e3,
        milliseconds(expectation, 100),
    )


def main() -> None:
    print(
        "| device | space | read + table ms | table ms | predict(lower) ms | table lookup us | networks/s | E[lat] us |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for device in sys.argv[1:] or ("cpu", "vpu", "gpu", "gpu_eager_fp32"):
        for space in available_spaces():
            cold, table, predict, lookup, rate, expectation = bench(device, space)
            print(
                f"| {device} | {space} | {cold:.0f} | {table:.0f} | {predict:.2f} | {lookup * 1e3:.1f} | "
                f"{rate / 1e6:.2f}M | {expectation * 1e3:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
