"""Question: what does a supernet step cost beside its path as a plain network, does memory grow with candidates?

Command:  python -m tests.bench.supernet_step
Cost:     about 5 minutes on 2 cores
Expected: weight step about 1.0 x, architecture step `two` at most 1.4 x, peak memory flat from 2 to 18 candidates

Every measurement runs in a process of its own (peak memory is the process' high-water mark above its
state before the first step); rounds are interleaved, medians are reported.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
import time

KERNELS = {2: ((3,), (3, 6)), 18: ((3, 5, 7, 9, 11, 13), (3, 4, 6))}
STEPS = ("plain", "weight", "two", "full_v2")
ROUNDS, REPEATS = 3, 6


def measure(step: str, candidates: int, shared: bool) -> dict[str, float]:
    """Median seconds of one step (batch 16, 64 pixels, all blocks k3e3) and peak MiB above the start."""
    from dataclasses import replace

    import torch
    from torch.nn import functional as F

    from nas.gates import Gates
    from nas.supernet import Supernet, frozen
    from search_space import GatePath, load_space
    from search_space.build import to_channels_last

    kernels, ratios = KERNELS[candidates]
    space = replace(load_space("quadranet"), kernel_sizes=kernels, expand_ratios=ratios)
    torch.manual_seed(0)
    supernet = Supernet(space, 64, 10, share_weights=shared)
    path = GatePath((0,) * len(space.slots))
    model = supernet.extract(path) if step == "plain" else supernet
    to_channels_last(model)
    gates = Gates(space)
    with torch.no_grad():
        gates.alpha[:, 0] += 20.0  # the path that is measured is all but certain
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (16,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS):
        sample = gates.sample(step, draws) if step in ("two", "full_v2") else None
        start = time.perf_counter()
        if step == "plain":
            F.cross_entropy(model(x), y).backward()
            model.zero_grad()
        elif sample is None:
            F.cross_entropy(supernet(x, path), y).backward()
            supernet.zero_grad()
        else:
            with frozen(list(supernet.path_parameters(sample.path))):
                F.cross_entropy(supernet(x, sample.path, sample), y).backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"seconds": statistics.median(seconds[1:]), "peak_mib": peak / 1024}


def main() -> None:
    if len(sys.argv) > 1:
        step, candidates, shared = json.loads(sys.argv[1])
        print(json.dumps(measure(step, candidates, shared)))
        return
    import torch

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    cases = [(step, n, shared) for shared in (False, True) for n in KERNELS for step in STEPS]
    results: dict[tuple[str, int, bool], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for case in cases:
            command = [sys.executable, "-m", "tests.bench.supernet_step", json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[case].append(json.loads(done.stdout))
    print("| weights | candidates | step | ms | x plain | peak MiB |\n|---|---|---|---|---|---|")
    for (step, n, shared), runs in results.items():
        seconds = statistics.median(r["seconds"] for r in runs)
        plain = statistics.median(r["seconds"] for r in results[("plain", n, shared)])
        peak = statistics.median(r["peak_mib"] for r in runs)
        weights = "shared" if shared else "separate"
        print(f"| {weights} | {n} | {step} | {1000 * seconds:.0f} | {seconds / plain:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
