"""The benchmark of the fused neuron: what it says without a GPU, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments import fused_kernel
from experiments.results import Provenance, Results, Row, load_results, save_results


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would measure")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fused.json"
    assert fused_kernel.main([f"out={out}"]) == 2
    said = capsys.readouterr()
    assert "needs an NVIDIA GPU" in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert not out.exists()


def test_the_table_is_drawn_from_the_file(tmp_path: Path) -> None:
    def row(name: str, times_faster: float) -> Row:
        return {
            "channels": 64,
            "side": 56,
            "dtype": "bfloat16",
            "layout": "NCHW",
            "pass": name,
            "torch_ms": 0.1 * times_faster,
            "fused_ms": 0.1,
            "times_faster": times_faster,
            "mark": fused_kernel.MARKS[name],
            "bandwidth_floor_ms": 0.025,
            "arithmetic_floor_ms": 0.06,
            "launched_torch_ms": 0.4,
            "launched_fused_ms": 0.11,
            "input_sets": 4,
            "error": 2e-3,
        }

    provenance = Provenance("command", "date", None, "hardware", 1, None, {"triton": "3.6.0"})
    settings = {
        "batch": 64,
        "kernel_size": 7,
        "rounds": 31,
        "bytes_per_second": 4.3e12,
        "multiply_adds_per_second": 3e13,
    }
    save_results(
        tmp_path / "fused.json",
        Results("fused_kernel", provenance, settings, (row("forward", 2.5), row("forward+backward", 1.25))),
    )
    table = fused_kernel.render(load_results(tmp_path / "fused.json", "fused_kernel"))
    assert (
        "| 64 x 56² | bfloat16, NCHW | forward | 250.0 | 100.0 | 2.50 | 2.0 met | 25.0 | 0.25 | 60.0 | 0.60 |" in table
    )
    assert "| forward+backward | 125.0 | 100.0 | 1.25 | 1.5 MISSED |" in table
    assert "4.30 TB/s" in table


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.001, False), (float("nan"), False)])
def test_wrong_values_stop_it(factor: float, right: bool) -> None:
    exact = [torch.randn(3, 4) for _ in range(8)]
    found = [*exact[:7], exact[7] * factor]
    if right:
        assert fused_kernel._compare(found, exact, 1e-5, "x") == 0
    else:
        with pytest.raises(RuntimeError, match="'dbc'"):
            fused_kernel._compare(found, exact, 1e-5, "x")
