"""Question: what do cheap norms and activations, and int8, buy in the runtimes of today?

Command:  python -m tests.bench.runtimes       (every runtime that is installed)
Cost:     about two minutes on one core
Expected: in LiteRT `quadranet_lite` takes at most 1 / 1.5 of what `quadranet` takes at equal MACs in fp32, and in int8
          at most 0.6 of its own fp32 time

Six random networks of `quadranet` and the same, choice by choice, of `quadranet_lite`: equal stages, kernels, expansion
ratios and MACs; three of them without 7x7 kernels, which XNNPACK runs on a slow path. 224 pixels, batch 1, one thread,
the files that `latency_models.verify` times: in int8 their ranges are made up, which times of `quadranet_lite` do not
depend on. All files take turns, and a ratio is of one turn; the table has medians over turns and networks.
"""

from __future__ import annotations

import platform
import random
from collections.abc import Iterator
from statistics import median

from latency_models.measure.kernel_onnx import network_item
from latency_models.measure.timing import (
    Refused,
    Run,
    Runtime,
    cpu_name,
    load_average,
    load_item,
    make_settings,
    open_runtime,
    pinned,
    sample,
)
from search_space import Architecture, cost_of, load_space, lower
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.narrowed import narrowed

FILES = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("litert", "fp32"), ("litert", "int8"))
PAPER, LITE = "quadranet", "quadranet_lite"
KERNELS = ((3, 5, 7), (3, 5))
NETWORKS, ROUNDS, WARM_MS, ROUND_MS = 3, 7, 20.0, 100.0  # networks of each set of kernels


def twins(kernels: tuple[int, ...]) -> Iterator[dict[str, Architecture]]:
    """One network after the other, of both spaces."""
    spaces = {name: narrowed(load_space(name), kernels) for name in (PAPER, LITE)}
    for seed in range(NETWORKS):
        path = spaces[PAPER].random_path(random.Random(seed))
        yield {name: space.architecture(path) for name, space in spaces.items()}


def installed() -> dict[str, Runtime]:
    """Runtime, precision and version -> open; why others are not there is said."""
    found = {}
    for name, precision in FILES:
        try:
            runtime = open_runtime(make_settings(name, precision=precision))
        except Refused as error:
            print(error)
        else:
            found[f"{name} {precision} {runtime.version}"] = runtime
    return found


def loaded(networks: dict[str, Architecture], runtimes: dict[str, Runtime]) -> dict[tuple[str, str], Run]:
    """(runtime, space) -> ready to run."""
    items = {name: network_item(name, lower(network, RESOLUTION, NUM_CLASSES)) for name, network in networks.items()}
    return {
        (file, name): load_item(runtime, item) for file, runtime in runtimes.items() for name, item in items.items()
    }


def row(label: str, turns: list[dict[tuple[str, str], float]], file: str) -> str:
    """One line of the table."""
    plain = file.replace("int8", "fp32")
    ms = [median(turn[file, name] for turn in turns) for name in (PAPER, LITE)]
    lite = median(turn[file, PAPER] / turn[file, LITE] for turn in turns)
    int8 = [median(turn[file, name] / turn[plain, name] for turn in turns) for name in (PAPER, LITE)]
    of_fp32 = " | ".join("" if file == plain else f"{ratio:.2f}" for ratio in int8)
    return f"| {label} | {file} | {ms[0]:.2f} | {ms[1]:.2f} | {lite:.2f} | {of_fp32} |"


def main() -> None:
    """Print the table."""
    runtimes = installed()
    print(f"| kernels | runtime | {PAPER} ms | {LITE} ms | ratio | {PAPER} int8 / fp32 | {LITE} int8 / fp32 |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    with pinned(1):
        for kernels in KERNELS:
            turns, macs = [], []
            for networks in twins(kernels):
                runs = loaded(networks, runtimes)
                macs += [cost_of(lower(networks[n], RESOLUTION, NUM_CLASSES)).macs for n in (PAPER, LITE)]
                turns += [
                    {key: median(sample(run, WARM_MS, ROUND_MS)) for key, run in runs.items()} for _ in range(ROUNDS)
                ]
            for file in dict.fromkeys(file for file, _ in turns[0]):
                print(row("x".join(map(str, kernels)), turns, file), flush=True)
            print(f"MACs of {LITE} over {PAPER}: {sum(macs[1::2]) / sum(macs[::2]):.3f}")
    print(f"{cpu_name()}, load average {load_average()}, python {platform.python_version()}")


if __name__ == "__main__":
    main()
