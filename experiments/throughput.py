"""Images per second of networks timed side by side in one process.

GPU: Swin's protocol (its released main.py), in TF32 and channels_last: the ConvNeXt rows of Table I agree with
ConvNeXt's own table on an A100, which is so (arXiv 2201.03545, its appendix). 50 passes to warm up, 30 timed between
two events of the GPU. CPU: one pass of every network a round, in an order drawn again each round, so that what else
the machine does hits all alike. Figures are medians over rounds with their quartiles; how many times as fast one
network is as another is taken within each round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles

import torch
from torch import Tensor, nn

from experiments.results import Value
from latency_models.options import Options
from search_space.build import to_channels_last
from search_space.family import RESOLUTION

FEWEST_ROUNDS = 3
GPU_WARM, GPU_TIMED, GPU_ROUNDS = 50, 30, 3


@dataclass(frozen=True)
class Protocol:
    """`minutes`: after which a CPU starts no further round once there are three."""

    device: str
    batch: int
    resolution: int
    minutes: float = 0.0
    seed: int = 0

    def __str__(self) -> str:
        rounds = (
            f"{GPU_WARM} passes to warm up, {GPU_TIMED} timed, TF32"
            if self.device == "cuda"
            else "one pass a round, networks interleaved, fp32"
        )
        return f"inference on {self.device}, batch {self.batch}, {self.resolution} pixels, channels_last; {rounds}"


def read_protocol(options: Options, quick: bool, cpu_batch: int) -> Protocol:
    """From the options batch= and minutes=. `quick`: one image of 64 pixels a pass."""
    device = measured_device()
    batch = 1 if quick else 64 if device == "cuda" else cpu_batch
    return Protocol(
        device,
        options.integer("batch", batch),
        64 if quick else RESOLUTION,
        options.number("minutes", 0.01 if quick else 5),
    )


Rates = tuple[float, ...]
"""Images per second, round by round."""


def spread_columns(name: str, values: Sequence[float] | None) -> dict[str, Value]:
    """What a row of a results file says of values over rounds: median, both quartiles; None where not measured."""
    columns = (name, f"{name}_low", f"{name}_high")
    if values is None:
        return dict.fromkeys(columns)
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return dict(zip(columns, (middle, low, high), strict=True))


def times_as_fast(rates: Rates | None, rival: Rates | None) -> Rates | None:
    """Within each round; None where either was not measured."""
    if rates is None or rival is None:
        return None
    return tuple(own / other for own, other in zip(rates, rival, strict=True))


def protocol_settings(protocol: Protocol, rates: Mapping[str, Rates], quick: bool) -> dict[str, Value]:
    """What a results file says of how it was measured."""
    rounds = len(next(iter(rates.values())))
    return {"protocol": f"{protocol}, {rounds} rounds", "batch": protocol.batch, "quick": quick}


def measured_device() -> str:
    """'cuda' where there is one, else 'cpu'."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def measure_throughput(networks: Mapping[str, nn.Module], protocol: Protocol) -> dict[str, Rates]:
    """Of networks (N, 3, R, R) -> (N, classes), which are moved to the device and to evaluation."""
    generator = torch.Generator().manual_seed(protocol.seed)
    images = torch.randn(protocol.batch, 3, protocol.resolution, protocol.resolution, generator=generator)
    images = images.to(protocol.device, memory_format=torch.channels_last)
    ready = {name: to_channels_last(network.to(protocol.device)).eval() for name, network in networks.items()}
    passes = _gpu_rounds if protocol.device == "cuda" else _cpu_rounds
    with torch.inference_mode():
        seconds = passes(ready, images, protocol)
    return {name: tuple(protocol.batch / s for s in times) for name, times in seconds.items()}


def _cpu_rounds(networks: Mapping[str, nn.Module], images: Tensor, protocol: Protocol) -> dict[str, list[float]]:
    order = list(networks)
    shuffle = random.Random(protocol.seed).shuffle
    seconds: dict[str, list[float]] = {name: [] for name in order}
    begin = time.monotonic()
    for network in networks.values():
        network(images)
    while len(seconds[order[0]]) < FEWEST_ROUNDS or time.monotonic() - begin < 60 * protocol.minutes:
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            networks[name](images)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _gpu_rounds(networks: Mapping[str, nn.Module], images: Tensor, protocol: Protocol) -> dict[str, list[float]]:
    """Seconds a pass. Matrix products and convolutions of FP32 tensors use TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(GPU_ROUNDS):
        for name, network in networks.items():
            for _ in range(GPU_WARM):
                network(images)
            torch.cuda.synchronize()
            begin.record()
            for _ in range(GPU_TIMED):
                network(images)
            end.record()
            torch.cuda.synchronize()
            seconds[name].append(begin.elapsed_time(end) / 1e3 / GPU_TIMED)
    return seconds
