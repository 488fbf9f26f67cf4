"""The fused neuron is the plain one, in every layout, type and tile. Without a GPU triton's interpreter runs it.

The interpreter is a setting of the whole process, so the tests of values run in processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from search_space.operators import fused

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is missing")
runs_kernels = pytest.mark.skipif(
    not fused.usable(torch.empty(1, 1, 7, 7, device=DEVICE), 3),
    reason="no GPU; test_under_the_interpreter runs these in another process",
)
NAMES = ("y", "x", "A", "a", "B", "b", "C", "c")
LARGEST_ERROR = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


class Case(NamedTuple):
    """value, gradient: which configuration of those kernels."""

    size: int
    last: bool
    shape: tuple[int, int, int, int]
    value: int = 0
    gradient: int = 0
    dtype: torch.dtype = torch.float32
    biases: tuple[bool, bool, bool] = (True, True, True)

    def __str__(self) -> str:
        layout = "last" if self.last else "nchw"
        return f"window{self.size}-{layout}-{'x'.join(map(str, self.shape))}-{str(self.dtype)[6:]}-{self.value}"


CASES = [
    Case(3, False, (2, 5, 7, 9)),
    Case(3, False, (2, 3, 16, 11), dtype=torch.bfloat16, biases=(False, True, False)),
    Case(3, False, (3, 2, 17, 35), dtype=torch.float16),
    Case(3, True, (2, 5, 7, 9), biases=(False, False, False)),
    Case(3, True, (2, 5, 9, 7), value=1, gradient=1),
    Case(3, True, (1, 70, 5, 4), value=2, gradient=2, dtype=torch.bfloat16),
    Case(3, True, (2, 4, 17, 3), value=3, gradient=3),
    Case(3, True, (1, 64, 3, 5), value=2, gradient=3, dtype=torch.float16, biases=(True, False, True)),
    Case(5, False, (2, 5, 7, 9)),
    Case(5, True, (2, 5, 7, 9), value=1, gradient=1, dtype=torch.bfloat16),
    Case(7, False, (2, 5, 7, 9)),
    Case(7, False, (1, 2, 1, 1)),
    Case(7, True, (2, 5, 7, 9), value=1, gradient=1),
    Case(7, True, (1, 6, 15, 8), value=2, gradient=2, dtype=torch.bfloat16, biases=(True, True, False)),
    Case(7, True, (1, 64, 7, 3), value=3, gradient=3, dtype=torch.bfloat16),
]


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """torch.empty gives NaN, so that what no kernel writes is seen."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def draw(case: Case) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    generator = torch.Generator().manual_seed(sum(case.shape))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(case.dtype).to(DEVICE)

    grad, x = normal(*case.shape), normal(*case.shape)
    if case.last:
        x = x.contiguous(memory_format=torch.channels_last)
    factors: list[Tensor | None] = []
    for has_bias in case.biases:
        bias = normal(case.shape[1])
        factors += [normal(case.shape[1], 1, case.size, case.size), bias if has_bias else None]
    return grad, x, factors


def exact(grad: Tensor, x: Tensor, factors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """y and all gradients by torch, in float64 on the CPU."""
    x, *factors = (None if t is None else t.detach().cpu().double().requires_grad_() for t in (x, *factors))  # type: ignore[assignment]
    a, b, c = (
        functional.conv2d(x, factors[i], factors[i + 1], padding=factors[i].shape[-1] // 2, groups=x.shape[1])  # type: ignore[arg-type, union-attr]
        for i in (0, 2, 4)
    )
    y = a * b + c
    present = [t for t in (x, *factors) if t is not None]
    found = iter(torch.autograd.grad(y, present, grad.cpu().double()))
    return [y, *(None if t is None else next(found) for t in (x, *factors))]


@runs_kernels
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("unwritten_is_nan")
def test_values_and_gradients_are_the_plain_ones(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from search_space.operators import fused_kernels as kernels

    monkeypatch.setattr(kernels.value_kernel, "configs", [kernels.VALUE_CONFIGS[case.value]])
    monkeypatch.setattr(kernels.input_gradient_kernel, "configs", [kernels.INPUT_GRADIENT_CONFIGS[case.gradient]])
    monkeypatch.setattr(fused, "PROGRAMS", 3)  # several steps to each sum, and several sums
    grad, x, factors = draw(case)
    assert fused.usable(x, case.size)
    y = fused.forward(x, *factors)  # type: ignore[arg-type]
    found = [y, *fused.backward(grad, x, *factors)]  # type: ignore[arg-type]
    assert y.dtype == x.dtype
    assert y.stride() == x.stride()
    for name, value, true in zip(NAMES, found, exact(grad, x, factors), strict=True):
        if true is None or value is None:
            assert true is None
            assert value is None
            continue
        assert value.shape == true.shape
        assert value.dtype == case.dtype
        error = float((value.detach().cpu().double() - true).detach().norm() / true.detach().norm())
        assert error <= LARGEST_ERROR[case.dtype], name


@runs_kernels
def test_other_layouts_and_types_of_what_comes_in() -> None:
    """A cut-out of a larger map, a gradient in the other layout, weights and gradient of a wider type."""
    grad, x, factors = draw(Case(3, True, (2, 4, 5, 6), dtype=torch.bfloat16))
    wide = [None if t is None else t.float() for t in factors]
    part = torch.nn.functional.pad(x, (1, 2, 3, 1))[:, :, 3:-1, 1:-2]
    assert not part.is_contiguous()
    assert torch.equal(fused.forward(part, *factors), fused.forward(x.contiguous(), *factors))  # type: ignore[arg-type]
    same = fused.backward(grad, x, *factors)  # type: ignore[arg-type]
    found = fused.backward(grad.float().contiguous(memory_format=torch.channels_last), x, *wide)  # type: ignore[arg-type]
    assert torch.equal(found[0], same[0])
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1].bfloat16(), same[1], rtol=0.01, atol=0)  # the interpreter cuts bits off


@runs_kernels
def test_gradients_are_the_same_each_time() -> None:
    grad, x, factors = draw(Case(3, True, (2, 32, 9, 3)))
    first, second = (fused.backward(grad, x, *factors) for _ in range(2))  # type: ignore[arg-type]
    for one, other in zip(first, second, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@runs_kernels
def test_what_does_not_fit_is_refused() -> None:
    grad, x, factors = draw(Case(3, False, (1, 2, 4, 4)))
    with pytest.raises(ValueError, match=r"weight b is \(2, 1, 5, 5\).*expected \(2, 1, 3, 3\)"):
        fused.forward(x, *factors[:2], torch.zeros(2, 1, 5, 5, device=DEVICE), *factors[3:])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"bias c is \(3,\).*expected \(2,\)"):
        fused.forward(x, *factors[:5], torch.zeros(3, device=DEVICE))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is not like x"):
        fused.backward(grad[:, :1], x, *factors)  # type: ignore[arg-type]
    assert not fused.usable(x, 9)
    assert not fused.usable(x.double(), 3)
    assert not fused.usable(x[0], 3)
    assert not fused.usable(x[:0], 3)


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="this is that process")
@pytest.mark.parametrize("what", ["window3-last-2x5x9x7", pytest.param("not without_triton", marks=pytest.mark.slow)])
def test_under_the_interpreter(what: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", what, __file__]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize(("capability", "last"), [(80, False), (90, True)])
def test_gpus_get_machine_code_that_keeps_all_sums_in_registers(capability: int, last: bool, tmp_path: Path) -> None:
    """Compiled without a GPU: what the interpreter accepts need not compile, and spilled sums would be slow."""
    from triton import compile, knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from search_space.operators import fused_kernels as kernels

    sizes = {"C": 64, "H": 14, "W": 14, "K": 7, "PADDED": 64, "LAST": last}
    value, gradient = kernels.value_kernel, kernels.input_gradient_kernel
    jobs = [(value.fn, {**sizes, "PRODUCTS": p}, value.configs) for p in (False, True)]
    jobs += [(gradient.fn, sizes, gradient.configs)]
    jobs = [(fn, {**named, **c.kwargs}, c.num_warps) for fn, named, cs in jobs for c in kernels._prune(cs, {}, **named)]
    lanes = 64 if last else 32
    jobs += [(kernels.weight_gradient_kernel, {**sizes, "STRIP": 14, "TAPS": 8, "LANES": lanes}, 8)]
    jobs += [(kernels.pack_kernel, {"C": 64, "K": 7, "PADDED": 64, "BLOCK": 64, "bias_a": None}, 2)]
    named = {"C": 64, "K": 7, "PADDED": 64, "TAPS": 8, "SPLITS": 32, "BLOCK": 32}
    jobs += [(kernels.finish_kernel, named, 4)]
    integers = {"batch", "columns", "steps", "steps_each", "splits"}
    for function, constants, warps in jobs:
        signature = {
            name: "constexpr"
            if name in constants
            else "i32"
            if name in integers
            else "*fp32"
            if name in ("packed", "partial")
            else "*bf16"
            for name in function.arg_names
        }
        code = compile(
            ASTSource(function, signature, {(function.arg_names.index(n),): v for n, v in constants.items()}),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": warps, "enable_fp_fusion": True},
        )
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(code.asm["cubin"])
        usage = subprocess.run(
            [knobs.nvidia.cuobjdump.path, "-res-usage", binary], capture_output=True, text=True, check=True
        ).stdout
        assert "STACK:0" in usage, (function.__name__, constants, usage)
        assert "LOCAL:0" in usage, (function.__name__, constants, usage)


def test_no_cpu_uses_the_kernels() -> None:
    if not INTERPRETED:
        assert not fused.usable(torch.zeros(1, 2, 7, 7), 3)


def test_without_triton_the_module_says_so() -> None:
    script = """
import sys
sys.modules["triton"] = None
import torch
from search_space.operators import fused
x, weight = torch.zeros(1, 2, 7, 7), torch.zeros(2, 1, 3, 3)
assert not fused.usable(x, 3)
try:
    fused.forward(x, weight, None, weight, None, weight, None)
except ValueError as error:
    assert "triton" in str(error), error
else:
    raise AssertionError("computed without triton")
"""
    for interpret in ("0", "1"):
        environment = {**os.environ, "TRITON_INTERPRET": interpret}
        subprocess.run([sys.executable, "-c", script], env=environment, cwd=Path(__file__).parents[2], check=True)
