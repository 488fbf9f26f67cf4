"""The fused kernel of the quadratic depthwise neuron against three convolutions of torch's, on a GPU.

Question   How much faster is one kernel for (A * x + ba)(B * x + bb) + C * x + bc than three depthwise convolutions
           and one element-wise step, forward and with all seven gradients, and how far is it from the machine?
Command    python -m experiments.fused_kernel [batch=64] [kernel_size=7] [minutes=5]
           python -m experiments.fused_kernel show
Cost       An NVIDIA GPU with triton: 5 minutes, most of them compiling and trying tile sizes, once per machine.
           Kept map by map, so that a part is of use. Without a GPU it says so and ends.
Expected   At least 2 times as fast forward and 1.5 times forward and backward, at every stage of QuadraNet36-T. On an
           H200 (4.3 TB/s copied, 33 T multiply-adds/s) batch 64 of stage 1 cannot take less than 57 us forward, by
           its 1.9 G multiply-adds; moving x and y takes 24 us in float32, 12 us in bfloat16. Machine code bounds the
           share of the arithmetic at about 0.78 forward and 0.65 backward.
Setting    Stage shapes of QuadraNet36-T at 224 pixels; float32 with TF32 allowed and bfloat16; both layouts. Both ways
           are checked against float64 first. Times are of CUDA graphs of several calls that rotate among inputs larger
           than the cache, replayed in turn, between events: the device's time without the host's. The same calls
           launched one by one stand beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from experiments.jobs import Work, run_jobs
from experiments.results import Results, Row, Value, markdown, number, ratio, shown
from search_space.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from latency_models.options import Options

OPTIONS = {
    "batch": "images (default: 64)",
    "kernel_size": "3, 5 or 7 (default: 7)",
}
STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels and side of the map
MARKS = {"forward": 2.0, "forward+backward": 1.5}
LARGEST_ERROR = {"float32": 1e-5, "bfloat16": 1e-2}  # ||found - exact|| / ||exact||
LARGEST_DIFFERENCE = 2e-2  # from torch's, which rounds the factors, or uses TF32
ROUNDS, EAGER_ROUNDS, WARM = 31, 11, 3
DEVICE = "cuda"
HEADER = ("map", "type, layout", "pass", "torch us", "fused us", "times faster", "mark", "bandwidth floor us", "share",
          "arithmetic floor us", "share", "torch us, launched", "fused us, launched", "error")  # fmt: skip
Call = Callable[[int], object]
"""One pass over one of several inputs, by its number."""


@dataclass(frozen=True)
class Case:
    """A map to be measured. x: (N, channels, side, side)."""

    channels: int
    side: int
    dtype: str
    last: bool

    @property
    def name(self) -> str:
        """By which a results file says that it was measured."""
        return f"{self.channels} x {self.side}, {self.dtype}, {self.layout}"

    @property
    def layout(self) -> str:
        """In memory."""
        return "channels_last" if self.last else "NCHW"


@dataclass(frozen=True)
class Ceilings:
    """What the machine reaches: bytes read and written by a copy, float32 multiply-adds in a matrix product."""

    name: str = "ceilings"


def prepare(options: Options, quick: bool) -> Work[Case | Ceilings]:
    """`quick`: the first and last stage at batch 8."""
    import torch

    batch = options.integer("batch", 8 if quick else 64)
    kernel_size = options.integer("kernel_size", 7)
    if not torch.cuda.is_available():
        raise UserError("this needs an NVIDIA GPU and triton: it times a GPU kernel, and torch sees no GPU here")
    from search_space.operators import fused

    if not fused.usable(torch.empty(1, 8, 7, 7, device="cuda"), kernel_size):
        raise UserError(
            f"the fused kernel does not run here: it needs triton >= 3.6 (pip install -c constraints.txt -e '.[gpu]'), "
            f"a GPU of capability >= {fused.SMALLEST_CAPABILITY} and kernel_size in {fused.KERNEL_SIZES}, "
            f"not {kernel_size}"
        )
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    settings: dict[str, Value] = {"batch": batch, "kernel_size": kernel_size, "quick": quick, "rounds": ROUNDS}
    return Work(settings, jobs_of(quick), partial(measure, batch, kernel_size), DEVICE)


def jobs_of(quick: bool) -> list[Case | Ceilings]:
    """The machine itself, then every map."""
    stages = STAGES[::3] if quick else STAGES
    cases = [Case(*stage, dtype, last) for stage in stages for dtype in LARGEST_ERROR for last in (True, False)]
    return [Ceilings(), *cases]


def measure(batch: int, kernel_size: int, job: Case | Ceilings) -> list[Row]:
    """A job's rows."""
    return measure_ceilings() if isinstance(job, Ceilings) else measure_case(job, batch, kernel_size)


def measure_case(case: Case, batch: int, kernel_size: int) -> list[Row]:
    """Two rows: forward, and forward and backward."""
    import torch

    torch.cuda.empty_cache()
    fused_passes(*draw(case, batch, kernel_size, 0))  # tuned on the batch that is timed, not on the check's
    error = check(case, kernel_size)
    elements = batch * case.channels * case.side**2
    width = getattr(torch, case.dtype).itemsize
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    sets = max(2, min(16, -(-2 * cache // (elements * width))))
    inputs = [draw(case, batch, kernel_size, seed) for seed in range(sets)]
    for grad, x, factors in inputs[:1]:
        _compare(
            fused_passes(grad, x, factors), plain_passes(grad, x, factors), LARGEST_DIFFERENCE, f"{case.name}, torch"
        )
    work = {  # maps moved at least, and multiply-adds of an element
        "forward": (2, 3 * kernel_size**2),
        "forward+backward": (2 + 3, (3 + 8) * kernel_size**2),
    }
    calls: dict[str, dict[str, Call]] = {
        "forward": {"torch": lambda i: plain(*inputs[i][1:]), "fused": lambda i: _fused(*inputs[i][1:])},
        "forward+backward": {"torch": lambda i: plain_passes(*inputs[i]), "fused": lambda i: fused_passes(*inputs[i])},
    }
    rows: list[Row] = []
    for name, (maps, multiply_adds) in work.items():
        device_ms, host_ms = time_calls(calls[name], sets)
        rows.append(
            {
                "kind": "case",
                "channels": case.channels,
                "side": case.side,
                "dtype": case.dtype,
                "layout": case.layout,
                "pass": name,
                "torch_ms": device_ms["torch"],
                "fused_ms": device_ms["fused"],
                "times_faster": device_ms["torch"] / device_ms["fused"],
                "mark": MARKS[name],
                "bytes": maps * elements * width,
                "multiply_adds": multiply_adds * elements,
                "launched_torch_ms": host_ms["torch"],
                "launched_fused_ms": host_ms["fused"],
                "input_sets": sets,
                "error": error,
            }
        )
    return rows


def draw(case: Case, batch: int, kernel_size: int, seed: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The tensors of a case, drawn from a normal distribution: grad, x and the factors.

    grad and x: (N, C, side, side), N the batch; factors: weights (C, 1, k, k) and biases (C,) in turn. x and the
    factors are leaves of autograd.
    """
    import torch

    generator = torch.Generator(DEVICE).manual_seed(seed)
    dtype = getattr(torch, case.dtype)
    memory_format = torch.channels_last if case.last else torch.contiguous_format

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=DEVICE).to(dtype)

    shape = (batch, case.channels, case.side, case.side)
    grad, x = (normal(*shape).contiguous(memory_format=memory_format) for _ in range(2))
    factors = []
    for _ in range(3):
        factors += [normal(case.channels, 1, kernel_size, kernel_size) / kernel_size, normal(case.channels)]
    return grad, x.requires_grad_(), [f.requires_grad_() for f in factors]


def plain(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Three convolutions and one element-wise step."""
    import torch
    from torch.nn import functional

    size = factors[0].shape[-1]
    a, b, c = (
        functional.conv2d(x, factors[i], factors[i + 1], padding=size // 2, groups=x.shape[1]) for i in (0, 2, 4)
    )
    return torch.addcmul(c, a, b)


def plain_passes(grad: Tensor, x: Tensor, factors: Sequence[Tensor]) -> list[Tensor]:
    """The value and the gradients of x and of every factor, by autograd."""
    import torch

    y = plain(x, factors)
    return [y.detach(), *torch.autograd.grad(y, (x, *factors), grad)]


def _fused(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    from search_space.operators import fused

    return fused.forward(x.detach(), *(f.detach() for f in factors))


def fused_passes(grad: Tensor, x: Tensor, factors: Sequence[Tensor]) -> list[Tensor]:
    """What `plain_passes` gives, by the fused kernels."""
    from search_space.operators import fused

    x, factors = x.detach(), [f.detach() for f in factors]
    y = fused.forward(x, *factors)
    return [y, *(g for g in fused.backward(grad, x, *factors) if g is not None)]


def check(case: Case, kernel_size: int) -> float:
    """The largest error against float64 on two images; RuntimeError if it is too large."""
    grad, x, factors = draw(case, 2, kernel_size, seed=99)
    exact = plain_passes(grad.double(), x.detach().double().requires_grad_(), [f.double() for f in factors])
    return _compare(fused_passes(grad, x, factors), exact, LARGEST_ERROR[case.dtype], f"{case.name}, float64")


def _compare(found: Sequence[Tensor], exact: Sequence[Tensor], largest: float, what: str) -> float:
    names = ("y", "dx", "dA", "dba", "dB", "dbb", "dC", "dbc")
    errors = {
        name: float((f.double() - e.double()).norm() / e.double().norm())
        for name, f, e in zip(names, found, exact, strict=True)
    }
    if wrong := {name: error for name, error in errors.items() if not error <= largest}:
        raise RuntimeError(f"the fused kernel is wrong against {what}: {wrong}, at most {largest} is allowed")
    return max(errors.values())


def time_calls(arms: Mapping[str, Call], sets: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of one call by arm, replayed from CUDA graphs and launched one by one."""
    import torch

    count = max(8, sets)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graphs: dict[str, torch.cuda.CUDAGraph] = {}
    for name, call in arms.items():
        with torch.cuda.stream(stream):
            for i in range(WARM * sets):
                call(i % sets)
        torch.cuda.synchronize()
        graphs[name] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graphs[name]):
            for i in range(count):
                call(i % sets)

    def launched(call: Call) -> None:
        for i in range(count):
            call(i % sets)

    replayed = _interleaved({name: graph.replay for name, graph in graphs.items()}, ROUNDS)
    one_by_one = _interleaved({name: lambda c=call: launched(c) for name, call in arms.items()}, EAGER_ROUNDS)  # type: ignore[misc]
    return {n: ms / count for n, ms in replayed.items()}, {n: ms / count for n, ms in one_by_one.items()}


def _interleaved(arms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds by arm; each round runs every arm once, in turning order, after a round to warm up."""
    import torch

    times: dict[str, list[float]] = {name: [] for name in arms}
    for round_number in range(rounds + 1):
        names = list(arms) if round_number % 2 else list(arms)[::-1]
        for name in names:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            arms[name]()
            end.record()
            end.synchronize()
            if round_number:
                times[name].append(start.elapsed_time(end))
    return {name: median(found) for name, found in times.items()}


def measure_ceilings() -> list[Row]:
    """One row, from a copy of 1 GiB and a float32 product of 8192 x 8192 without TF32."""
    import torch

    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    size = 8192
    left, right = torch.randn(2, size, size, device="cuda").unbind()
    product = torch.empty_like(left)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    times = _interleaved(
        {"copy": lambda: target.copy_(source), "product": lambda: torch.mm(left, right, out=product)}, 11
    )
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return [
        {
            "kind": "ceilings",
            "bytes_per_second": 2 * source.nbytes / times["copy"] * 1e3,
            "multiply_adds_per_second": size**3 / times["product"] * 1e3,
        }
    ]


def _cells(row: Row, ceilings: Row) -> tuple[str, ...]:
    times_faster, mark = number(row, "times_faster"), number(row, "mark")
    floors = []
    for work in ("bytes", "multiply_adds"):
        seconds = ratio(row[work], ceilings[f"{work}_per_second"])
        floor_ms = None if seconds is None else 1e3 * seconds
        floors += [shown(floor_ms, 1, 1e3), shown(ratio(floor_ms, row["fused_ms"]), 2)]
    return (
        f"{row['channels']} x {row['side']}²",
        f"{row['dtype']}, {row['layout']}",
        str(row["pass"]),
        shown(row["torch_ms"], 1, 1e3),
        shown(row["fused_ms"], 1, 1e3),
        f"{times_faster:.2f}",
        f"{mark:.1f} {'met' if times_faster >= mark else 'MISSED'}",
        *floors,
        shown(row["launched_torch_ms"], 1, 1e3),
        shown(row["launched_fused_ms"], 1, 1e3),
        f"{row['error']:.1e}",
    )


def render(results: Results) -> str:
    """The table of a results file as Markdown."""
    settings = results.settings
    ceilings = next(row for row in results.rows if row["kind"] == "ceilings")
    lines = [_cells(row, ceilings) for row in results.rows if row["kind"] == "case"]
    return (
        f"Quadratic depthwise neuron {settings['kernel_size']} x {settings['kernel_size']}, batch {settings['batch']}: "
        f"one fused kernel against three convolutions of torch's and one element-wise step; medians of "
        f"{settings['rounds']} interleaved replays. Floors by what this machine reaches: copies at "
        f"{shown(ceilings['bytes_per_second'], 2, 1e-12)} TB/s (each map of the pass moved once), "
        f"{shown(ceilings['multiply_adds_per_second'], 1, 1e-12)} T float32 multiply-adds/s in a matrix product. "
        f"Shares: floor / fused.\n{results.provenance}\n\n{markdown(HEADER, lines)}"
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("fused_kernel", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
