"""The benchmark of the fused neuron: what it says without a GPU, and its table."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

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


class _Gpu:
    """What the command asks of torch before it measures, answered as by a machine with a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from search_space.operators import fused

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
        monkeypatch.setattr(torch, "empty", lambda *shape, device: torch.zeros(shape))
        monkeypatch.setattr(fused, "usable", lambda x, kernel_size: kernel_size == 7)
        for switch in ("allow_tf32", "benchmark"):
            monkeypatch.setattr(torch.backends.cudnn, switch, getattr(torch.backends.cudnn, switch))


def test_a_map_that_was_measured_is_kept_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _Gpu(monkeypatch)
    asked: list[str] = []

    def measured(case: fused_kernel.Case, batch: int, kernel_size: int) -> list[Row]:
        assert (batch, kernel_size) == (8, 7)
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(case.name)
        return [row(name, 2.5, channels=case.channels, side=case.side) for name in fused_kernel.MARKS]

    monkeypatch.setattr(fused_kernel, "measure_case", measured)
    monkeypatch.setattr(fused_kernel, "measure_ceilings", lambda: [CEILINGS])
    call = ["--quick", f"out={tmp_path / 'fused.json'}"]
    assert fused_kernel.main(call) == 130
    kept = load_results(tmp_path / "fused.json", "fused_kernel")
    assert [r["kind"] for r in kept.rows] == ["ceilings", *["case"] * 4]
    assert kept.provenance.hardware.startswith("a GPU (") and "cudnn" in kept.provenance.versions
    monkeypatch.setattr(fused_kernel, "measure_case", lambda case, *_: asked.append(case.name) or [row("forward", 1.0)])
    assert fused_kernel.main(call) == 0
    assert len(asked) == len(set(asked)) == 8 and asked[0] == "64 x 56, float32, channels_last"
    assert fused_kernel.main([*call, "kernel_size=9"]) == 2
    assert "the fused kernel does not run here" in capsys.readouterr().err


def test_the_work_of_a_pass_is_what_its_arithmetic_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own passes in place of the kernel and of the clock: what is not the GPU's runs here too."""
    monkeypatch.setattr(fused_kernel, "DEVICE", "cpu")
    monkeypatch.setattr(fused_kernel, "fused_passes", fused_kernel.plain_passes)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=2**10))
    times = ({"torch": 3.0, "fused": 1.5}, {"torch": 4.0, "fused": 2.0})
    monkeypatch.setattr(fused_kernel, "time_calls", lambda arms, sets: times)
    case = fused_kernel.Case(8, 6, "float32", True)
    forward, both = fused_kernel.measure(2, 3, case)
    elements = 2 * 8 * 6 * 6
    assert forward["bytes"] == 2 * elements * 4 and forward["multiply_adds"] == 3 * 9 * elements
    assert both["bytes"] == 5 * elements * 4 and both["multiply_adds"] == 11 * 9 * elements
    assert forward["times_faster"] == 2.0 and float(str(forward["error"])) < 1e-5
    found = Results("fused_kernel", Provenance("", "", None, "", 1, None, {}),
                    {"batch": 2, "kernel_size": 3, "rounds": 31}, (CEILINGS, forward, both))  # fmt: skip
    assert "| 8 x 6² | float32, channels_last | forward | 3000.0 | 1500.0 | 2.00 | 2.0 met |" in fused_kernel.render(
        found
    )


CEILINGS: Row = {"kind": "ceilings", "bytes_per_second": 4.3e12, "multiply_adds_per_second": 3e13}


def row(name: str, times_faster: float, **columns: int) -> Row:
    """A measured pass; its floors are 25 and 60 us."""
    return {
        "kind": "case",
        "channels": 64,
        "side": 56,
        "dtype": "bfloat16",
        "layout": "NCHW",
        "pass": name,
        "torch_ms": 0.1 * times_faster,
        "fused_ms": 0.1,
        "times_faster": times_faster,
        "mark": fused_kernel.MARKS[name],
        "bytes": 25e-6 * 4.3e12,
        "multiply_adds": 60e-6 * 3e13,
        "launched_torch_ms": 0.4,
        "launched_fused_ms": 0.11,
        "input_sets": 4,
        "error": 2e-3,
        **columns,
    }


def test_the_table_is_drawn_from_the_file(tmp_path: Path) -> None:
    provenance = Provenance("command", "date", None, "hardware", 1, None, {"triton": "3.6.0"})
    settings = {
        "batch": 64,
        "kernel_size": 7,
        "rounds": 31,
    }
    save_results(
        tmp_path / "fused.json",
        Results("fused_kernel", provenance, settings, (CEILINGS, row("forward", 2.5), row("forward+backward", 1.25))),
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
