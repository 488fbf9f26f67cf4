"""Question: how much do lean layers store between forward and backward, and what do they cost in time?

Command:  python -m tests.bench.lean_block
Cost:     about 2 minutes on one core
Expected: 16 C-units per block become 6 (released code: 18), 11 on small maps; no network's step takes more than 1.1 x
          the plain modules'

One C-unit is one activation of C channels. What is stored is counted exactly; of weights, autocast's copies
count. A step is forward, loss and backward, in CPU time of one thread; plain and lean take turns and the ratio is the
median of the rounds' ratios, with their quartiles.
"""

from __future__ import annotations

import platform
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from search_space import Architecture, load_space, lower
from search_space.blocks import SHIPPED
from search_space.build import Block, Network, to_channels_last
from search_space.family import family_architecture, quadranet
from tests.saved_activations import saved_activations

ROUNDS, BATCH = 15, 8
NETWORKS: dict[str, Architecture] = {
    "QuadraNet36-T": family_architecture("quadranet36-t"),
    "12 blocks, C = 64": quadranet("12x64", 64, (2, 2, 6, 2)),
    "12 blocks, C = 32": quadranet("12x32", 32, (2, 2, 6, 2)),
    "12 blocks, C = 16": quadranet("12x16", 16, (2, 2, 6, 2)),
    "quadranet, largest": load_space("quadranet").largest(),
    "quadranet, smallest": load_space("quadranet").smallest(),
}


def stored_bytes(model: torch.nn.Module, x: Tensor) -> int:
    with saved_activations(model) as storages:
        model(x)
    return sum(storages.values())


def block_units(family: str, lean: bool, resolution: int = 56, width: int = 64) -> float:
    """C-units that a block with kernel 7 and expansion ratio 4 stores for one image, its input included."""
    nodes = lower(quadranet("one", width, (1,), family), 4 * resolution, 10)[1].nodes
    x = torch.randn(1, width, resolution, resolution).contiguous(memory_format=torch.channels_last).requires_grad_()
    return stored_bytes(Block(nodes, lean=lean), x) / x.untyped_storage().nbytes()


def pair(architecture: Architecture, resolution: int) -> tuple[Network, Network]:
    """The network plain and lean, with equal weights."""
    segments = lower(architecture, resolution, 10)
    torch.manual_seed(0)
    plain, lean = Network(segments, lean=False), Network(segments)
    lean.load_state_dict(plain.state_dict())
    to_channels_last(plain), to_channels_last(lean)
    return plain, lean


def images(resolution: int) -> Tensor:
    return torch.randn(BATCH, 3, resolution, resolution).contiguous(memory_format=torch.channels_last)


def step_seconds(model: Network, x: Tensor, labels: Tensor, bf16: bool) -> float:
    start = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = F.cross_entropy(model(x), labels)
    loss.backward()
    seconds = time.process_time() - start
    model.zero_grad()
    return seconds


def row(name: str, resolution: int, bf16: bool) -> str:
    plain, lean = models = pair(NETWORKS[name], resolution)
    x, labels = images(resolution), torch.randint(0, 10, (BATCH,))
    mib = []
    for model in models:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            mib.append(stored_bytes(model, x) / 2**20)
    seconds: list[tuple[float, float]] = []
    for i in range(ROUNDS + 1):
        order = models if i % 2 else models[::-1]
        found = {id(model): step_seconds(model, x, labels, bf16) for model in order}
        seconds.append((found[id(plain)], found[id(lean)]))
    ratios = [b / a for a, b in seconds[1:]]
    low, middle, high = statistics.quantiles(ratios, n=4)
    times = [1000 * statistics.median(column) for column in zip(*seconds[1:], strict=True)]
    return (
        f"| {name} | {resolution} | {'bf16' if bf16 else 'fp32'} | {mib[0]:.2f} | {mib[1]:.2f} | {mib[1] / mib[0]:.2f} "
        f"| {times[0]:.0f} | {times[1]:.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
    )


def main() -> None:
    torch.set_num_threads(1)
    print(f"{platform.machine()}, 1 thread, torch {torch.__version__}, batch {BATCH}\n")
    print("| block | C-units, plain | lean | lean, 14 x 14 pixels |\n|---|---|---|---|")
    for family in SHIPPED:
        if family != "mbconv":
            units = block_units(family, False), block_units(family, True), block_units(family, True, 14)
            print(f"| {family} | {' | '.join(f'{u:.2f}' for u in units)} |")
    print("\n| network | pixels | type | MiB, plain | lean | lean / plain | ms, plain | lean | lean / plain |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in NETWORKS:
        for resolution, bf16 in ((64, False), (96, False), (64, True)):
            print(row(name, resolution, bf16), flush=True)


if __name__ == "__main__":
    main()
