"""Question: what does a supernet step cost beside its path as a plain network, does memory grow with candidates?

Command:  python -m tests.bench.supernet_step
Cost:     about 2 minutes on 2 cores
Expected: weight step about 1.0 x, architecture step `two` at most 1.4 x, saved activations flat from 2 to 18 candidates

One process a case. Steps take turns, so that a busy machine slows all alike; the ratio is the median of
the rounds' ratios. Memory is exact: the bytes that autograd keeps between forward and backward.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

KERNELS = {2: ((3,), (3, 6)), 18: ((3, 5, 7, 9, 11, 13), (3, 4, 6))}
STEPS = ("plain", "weight", "two", "full_v2")
ROUNDS = 12


def measure(candidates: int, shared: bool) -> dict[str, dict[str, float]]:
    """ms, ratio to plain, and saved MiB of every step (batch 16, 64 pixels, all 16 blocks k3e3)."""
    import torch
    from torch.nn import functional as F

    from nas.gates import Gates
    from nas.supernet import Supernet, frozen
    from search_space import GatePath, load_space
    from search_space.build import to_channels_last
    from tests.saved_activations import saved_activations

    kernels, ratios = KERNELS[candidates]
    space = replace(load_space("quadranet"), kernel_sizes=kernels, expand_ratios=ratios)
    torch.manual_seed(0)
    supernet = Supernet(space, 64, 10, share_weights=shared)
    path = GatePath((0,) * len(space.slots))
    plain = supernet.extract(path)
    to_channels_last(plain)
    to_channels_last(supernet)
    gates = Gates(space)
    with torch.no_grad():
        gates.alpha[:, 0] += 20.0  # the path that is measured is all but certain
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (16,))

    def weight_step(model: torch.nn.Module, *arguments: Any) -> None:
        F.cross_entropy(model(x, *arguments), y).backward()
        model.zero_grad()

    def gate_step(mode: str) -> None:
        sample = gates.sample(mode, draws)
        with frozen(list(supernet.path_parameters(sample.path))):
            F.cross_entropy(supernet(x, sample.path, sample), y).backward()

    steps: dict[str, Callable[[], None]] = {
        "plain": lambda: weight_step(plain),
        "weight": lambda: weight_step(supernet, path),
        "two": lambda: gate_step("two"),
        "full_v2": lambda: gate_step("full_v2"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)

    results = {}
    for name, step in steps.items():
        with saved_activations(supernet, plain) as storages:
            step()
        ratios_to_plain = [a / b for a, b in zip(seconds[name][1:], seconds["plain"][1:], strict=True)]
        results[name] = {
            "ms": 1000 * statistics.median(seconds[name][1:]),
            "ratio": statistics.median(ratios_to_plain),
            "saved_mib": sum(storages.values()) / 2**20,
        }
    return results


def main() -> None:
    if len(sys.argv) > 1:
        candidates, shared = json.loads(sys.argv[1])
        print(json.dumps(measure(candidates, shared)))
        return
    import torch

    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| weights | candidates | step | ms | x plain | saved activations, MiB |\n|---|---|---|---|---|---|")
    for shared in (False, True):
        for candidates in KERNELS:
            command = [sys.executable, "-m", "tests.bench.supernet_step", json.dumps([candidates, shared])]
            results = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for step in STEPS:
                r = results[step]
                weights = "shared" if shared else "separate"
                print(
                    f"| {weights} | {candidates} | {step} | {r['ms']:.0f} | {r['ratio']:.2f} | {r['saved_mib']:.1f} |"
                )


if __name__ == "__main__":
    main()
