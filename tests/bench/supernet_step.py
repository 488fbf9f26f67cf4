"""Question: what does a supernet step cost beside its path as a plain network, does memory grow with candidates?

Command:  python -m tests.bench.supernet_step [CASE ...] [batch=N] [precision=bf16] [lean=false]
Cost:     about 4 minutes on 2 cores; seconds a case on a GPU, where torch finds one
Expected: weight step at most 1.05 x plain, architecture step `two` at most 1.4 x, peak at most 1.1 x and flat from 2 to
          18 candidates; gates, expected latency and their gradients under 1 ms a step

One process a case. A weight step is a whole training step, with clipping and AdamW, as is the plain network's. Steps
take turns on the same path and images, so that a busy machine slows all alike; the ratio is the median of the rounds'
ratios of CPU time; on a GPU, of the time until it is idle, in TF32 unless precision=bf16. Peak: the most bytes alive at
once in a step above those at its start, gradients of weights off, on the path of first candidates; times are on random
paths. lean=false runs the modules one by one.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock


@dataclass(frozen=True)
class Case:
    """A supernet and its images; kernels and ratios replace the space's, width multiplies its widths."""

    space: str
    share_weights: bool
    resolution: int
    batch: int
    kernels: tuple[int, ...] = (3, 5, 7)
    ratios: tuple[int, ...] = (3, 6)
    width: float | None = None
    rounds: int = 8
    precision: str = "fp32"
    lean: bool = True


WIDE = {"kernels": (3, 5, 7, 9, 11, 13), "ratios": (3, 4, 6)}
CASES: dict[str, Case] = {
    "separate_2": Case("quadranet", False, 64, 16, (3,), (3, 6)),
    "separate_18": Case("quadranet", False, 64, 16, **WIDE),  # type: ignore[arg-type]
    "shared_2": Case("quadranet", True, 64, 16, (3,), (3, 6)),
    "shared_18": Case("quadranet", True, 64, 16, **WIDE),  # type: ignore[arg-type]
    "official_224": Case("proxyless", False, 224, 8, width=1.0, rounds=5),
    "official_32": Case("proxyless", False, 32, 8, width=1.0),
}
STEPS = ("plain", "weight", "two", "full_v2")


def measure(case: Case) -> dict[str, Any]:
    """Of every step: wall ms, CPU seconds, ratio to plain, peak MiB; ms a step for the gates on the host."""
    from search_space.build import Block

    if case.lean:
        return _measure(case)
    with mock.patch.object(Block, "runs_lean", lambda block, x: False):
        return _measure(case)


def _measure(case: Case) -> dict[str, Any]:
    import random

    import torch
    from torch import nn
    from torch.nn import functional as F

    from nas.run.distributed import place
    from nas.supernet.gates import Gates
    from nas.supernet.network import Supernet, frozen
    from nas.training.loop import computing_in, make_optimizer, take_step
    from search_space import GatePath, load_space
    from search_space.build import to_channels_last

    space = replace(load_space(case.space, case.width), kernel_sizes=case.kernels, expand_ratios=case.ratios)
    torch.manual_seed(0)
    supernet = Supernet(space, case.resolution, 1000, share_weights=case.share_weights)
    device = place("auto").device
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    to_channels_last(supernet).to(device)
    optimizer = make_optimizer(supernet, 1e-4, 0.05)
    x = torch.randn(case.batch, 3, case.resolution, case.resolution).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 1000, (case.batch,))
    x, y = x.to(device), y.to(device)
    rng, draws = random.Random(0), torch.Generator().manual_seed(0)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], *path: GatePath) -> None:
        with computing_in(case.precision, device):
            loss = F.cross_entropy(model(x, *path), y)
        loss.backward()
        take_step(optimizer, weights, loss, 1.0, "the benchmark")

    def steps_on(path: GatePath) -> dict[str, Callable[[], None]]:
        plain = supernet.extract(path)
        to_channels_last(plain).to(device)
        own = make_optimizer(plain, 1e-4, 0.05)
        gates = Gates(space)
        with torch.no_grad():
            gates.alpha[torch.arange(len(path.choices)), list(path.choices)] += 20.0  # the path is all but certain

        def architecture(mode: str) -> None:
            sample = gates.sample(mode, draws)
            with frozen(supernet.path_parameters(sample.path)):
                with computing_in(case.precision, device):
                    loss = F.cross_entropy(supernet(x, sample.path, sample), y)
                loss.backward()

        return {
            "plain": lambda: train(plain, own, list(plain.parameters())),
            "weight": lambda: train(supernet, optimizer, supernet.path_parameters(path), path),
            "two": lambda: architecture("two"),
            "full_v2": lambda: architecture("full_v2"),
        }

    first = GatePath((0,) * len(space.slots))  # the same network whatever the candidates
    peak_bytes = _gpu_peak_bytes if on_gpu else _peak_bytes
    peaks = {name: peak_bytes(step) for name, step in steps_on(first).items()}
    for name, weights in (("plain", supernet.extract(first).parameters()), ("weight", supernet.path_parameters(first))):
        peaks[name] -= sum(p.numel() * p.element_size() for p in weights)  # their gradients
    wall: dict[str, list[float]] = {name: [] for name in STEPS}
    cpu: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(case.rounds):
        steps = steps_on(space.random_path(rng))
        for step in (steps["plain"], steps["weight"]):
            step()  # makes the optimizer's moments
        if on_gpu:
            for step in steps.values():
                step()  # cuDNN chooses its algorithms for the path
        for name, step in steps.items():
            start, used = time.perf_counter(), time.process_time()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - used)
    spent = wall if on_gpu else cpu
    return {
        "gates_ms": _gates_ms(),
        **{
            name: {
                "ms": 1000 * statistics.median(wall[name]),
                "cpu_s": statistics.median(cpu[name]),
                "ratio": statistics.median(a / b for a, b in zip(spent[name], spent["plain"], strict=True)),
                "peak_mib": peaks[name] / 2**20,
            }
            for name in STEPS
        },
    }


def _peak_bytes(step: Callable[[], None]) -> int:
    """The most bytes alive at once in a step above those at its start, the optimizer's moments there already."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    assert watched.profiler is not None and watched.profiler.kineto_results is not None
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).cumsum(0)
    return int(alive.max())


def _gpu_peak_bytes(step: Callable[[], None]) -> int:
    """As `_peak_bytes`, of the GPU, by torch's allocator."""
    import torch

    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - before


def _gates_ms() -> float:
    """What the host adds to an architecture step `two`: draw, expected latency, gradients, update. ms of CPU time."""
    import torch

    from nas.penalties.multiplier import Multiplier
    from nas.run.plan import plan_search
    from nas.run.settings import SearchSettings
    from nas.supernet.expected_latency import ExpectedLatency
    from nas.supernet.gates import Gates

    plan = plan_search(SearchSettings(device="cpu", budget_ms=1000.0, space="quadranet"), 10)
    gates, draws = Gates(plan.space), torch.Generator().manual_seed(0)
    expected, multiplier = ExpectedLatency(plan.table), Multiplier(30.0)
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.1, betas=(0.0, 0.999))

    def step() -> None:
        gates.sample_path(draws)
        sample = gates.sample("two", draws)
        optimizer.zero_grad()
        loss = (sample.values * 0.1).sum()  # in place of the network
        multiplier.loss(loss, expected(sample.probabilities)).backward()
        before = gates.alpha.detach().clone()
        optimizer.step()
        gates.keep_unsampled(sample, before)
        with torch.no_grad():
            multiplier.observe(float(expected(gates.probabilities())))

    for _ in range(20):
        step()
    start = time.thread_time()
    for _ in range(200):
        step()
    return 5 * (time.thread_time() - start)


def case_of(name: str, options: Mapping[str, str]) -> Case:
    """A case as asked for. Raises `KeyError` and `ValueError` for what does not exist."""
    case = CASES[name]
    if unknown := sorted(options.keys() - {"batch", "precision", "lean"}):
        raise ValueError(f"unknown option {unknown[0]}=; known: batch, precision, lean")
    precision, lean = options.get("precision", case.precision), options.get("lean", "true")
    if precision not in ("fp32", "bf16") or lean not in ("true", "false"):
        raise ValueError("precision is fp32 or bf16, lean is true or false")
    return replace(case, batch=int(options.get("batch", case.batch)), precision=precision, lean=lean == "true")


def main() -> None:
    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    if names[:1] == ["measure"]:
        print(json.dumps(measure(case_of(names[1], options))))
        return
    import torch

    cases = {name: case_of(name, options) for name in names or CASES}
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    asked = " ".join(f"{name}={value}" for name, value in options.items()) or "precision=fp32 lean=true"
    print(f"{gpu}{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {asked}\n")
    print("| case | batch | step | ms | CPU-seconds | x plain | peak, MiB | x plain |", flush=True)
    print("|---|---|---|---|---|---|---|---|", flush=True)
    gates_ms = []
    for name, case in cases.items():
        given = [f"{key}={value}" for key, value in options.items()]
        command = [sys.executable, "-m", "tests.bench.supernet_step", "measure", name, *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
        results = json.loads(done.stdout)
        gates_ms.append(results.pop("gates_ms"))
        for step in STEPS:
            r, plain = results[step], results["plain"]
            print(
                f"| {name} | {case.batch} | {step} | {r['ms']:.1f} | {r['cpu_s']:.3f} | {r['ratio']:.2f} "
                f"| {r['peak_mib']:.0f} | {r['peak_mib'] / plain['peak_mib']:.2f} |",
                flush=True,
            )
    print(f"\ngates, expected latency and their gradients on the host: {statistics.median(gates_ms):.2f} ms a step")


if __name__ == "__main__":
    main()
