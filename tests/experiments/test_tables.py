"""The commands of Tables I, II and V: a quick trial of each, its file, its table, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import pytest
import torch
from torch import nn

from experiments import fig5, table1, table2, table5, throughput
from experiments.baselines.zoo import TIMM
from experiments.results import FOLDER, load_results, ratio, shown, spread_shown
from experiments.throughput import (
    FEWEST_ROUNDS,
    Protocol,
    measure_throughput,
    read_protocol,
    spread_columns,
    times_as_fast,
)
from latency_models.options import Options
from search_space.errors import BadFile

Main = Callable[[Sequence[str]], int]
MAINS: dict[str, Main] = {"table1": table1.main, "table2": table2.main, "table5": table5.main, "fig5": fig5.main}
cpu_only = pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU leaves unmeasured")


def table_of(text: str, first: str) -> dict[str, list[str]]:
    """The lines of the table whose header begins with `first`: cells by name."""
    lines = text.split(f"| {first} |")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {line[0]: line[1:] for line in cells}


def first_number(cell: str) -> float:
    return float(cell.split()[0])


@cpu_only
def test_table1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'table1.json'}"
    assert table1.main(["--quick", "models=swin-t,quadranet25-t", "batch=2", out]) == 0
    measured = capsys.readouterr().out
    rows = table_of(measured, "network")
    assert len(rows) == 18
    assert rows["quadranet36-s"][:6] == ["36", "51.62", "50.2", "9.03", "8.9", "83.8"]
    assert rows["pvt-s"] == ["16", "not measured", "24.5", "not measured", "3.8", "79.8", "1433", "not measured"]
    assert first_number(rows["swin-t"][7]) > 0
    ratios = table_of(measured, "times as fast as")
    assert ratios["quadranet36-t"] == ["1.49", "not measured", "1.01", "not measured", "1.57", "not measured"]
    assert first_number(ratios["quadranet25-t"][1]) > 0
    assert "- quadranet36-s: inconsistent: 50.2M" in measured and "- quadranet25-b: inconsistent: 61.2M" in measured
    assert "- pvt-s, t2t-vit-14: in no library used here" in measured
    assert table1.main(["show", out]) == 0
    assert measured.startswith(capsys.readouterr().out.rstrip("\n"))
    results = load_results(tmp_path / "table1.json", "table1")
    assert (
        results.provenance.command == f"python -m experiments.table1 --quick models=swin-t,quadranet25-t batch=2 {out}"
    )
    assert results.settings["batch"] == 2


@cpu_only
def test_table5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'table5.json'}"
    assert table5.main(["--quick", "models=quadranet36-t", out]) == 0
    measured = capsys.readouterr().out
    rows = table_of(measured, "network")
    assert rows["quadranet36-t-conv1-conv2"][:7] == ["65.57", "65.6", "2.78", "11.53", "11.5", "2.79", "82.7"]
    assert rows["quadranet36-t"][-1] == "1.00 (1.00..1.00)"
    assert rows["quadranet36-b-conv1"][7:] == ["not measured", "not measured"]
    assert table5.main(["show", out]) == 0
    assert measured.startswith(capsys.readouterr().out.rstrip("\n"))


@pytest.mark.slow
@cpu_only
def test_table2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f"out={tmp_path / 'table2.json'}"
    assert table2.main(["--quick", out]) == 0
    measured = capsys.readouterr().out
    rows = table_of(measured, "block")
    assert list(rows) == list(table2.MEANING)
    assert {row[4] for row in rows.values()} == {"not measured"}
    assert rows["conv"][7] == "1.000"
    saved = {name: float(row[2]) for name, row in rows.items()}
    assert saved["quad, lean path"] < saved["skip"] < saved["conv"] < saved["quad"] < saved["hor"]
    assert saved["quad, X only"] == saved["conv"], "two tensors fewer"
    assert saved["quad, plain path"] < saved["quad"], "a fused norm keeps less"
    assert table2.main(["show", out]) == 0
    assert measured.startswith(capsys.readouterr().out.rstrip("\n"))


def test_table2s_figures_are_those_derived_by_hand() -> None:
    """Saved and whole memory of the released QuadraBlock at C = 64, batch 64 (7619 MiB)."""
    params, per_image, fixed = table2.saved_memory(table2.builders(64, 224)["quad"](), 224)
    assert fixed == 0
    assert per_image / 2**20 == pytest.approx(115.20, abs=0.01)
    assert (64 * per_image + 16 * params) / 2**20 == pytest.approx(7619, abs=1)


@pytest.mark.parametrize("name", MAINS)
def test_the_kept_table_is_drawn_from_the_kept_file(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By `python -m experiments.NAME show > experiments/results/NAME.md`; no trial, and on a commit as it stands."""
    assert MAINS[name](["show"]) == 0
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == capsys.readouterr().out
    kept = load_results(FOLDER / f"{name}.json", name)
    assert not kept.settings.get("quick") and not str(kept.provenance.commit).endswith("-dirty")


def test_the_timm_models_are_named_once() -> None:
    assert set(table1.NEED_TIMM) == set(TIMM)
    assert set(table1.LINES) == set(table1.builders(64)) | set(table1.IN_NO_LIBRARY)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("table1", ["models=swin"], "unknown model 'swin'. Did you mean 'swin-"),
        ("table1", ["models=pvt-s"], "unknown model 'pvt-s'"),
        ("table1", ["model=swin-t"], "unknown option 'model'. Did you mean 'models'?"),
        ("table1", ["batch=0"], "batch=0 is not an integer >= 1"),
        ("table1", ["minutes=-1"], "minutes=-1 is not a finite number above 0"),
        ("table1", ["show", "batch=4"], "'show' measures nothing and takes no batch="),
        ("table2", ["widths=48"], "widths=48: a base width is a multiple of 32"),
        ("table2", ["widths=x"], "widths=x: a base width is a multiple of 32"),
        ("table5", ["models=quadranet36-t-conv2"], "Did you mean 'quadranet36-t-conv1'"),
        (
            "table5",
            ["show", "out=nowhere.json"],
            "no results 'nowhere.json'; python -m experiments.table5 measures them",
        ),
    ],
)
def test_refusals(name: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert MAINS[name](arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.parametrize(
    "content", ["no json", "[]", "{}", json.dumps({"schema": 1, "experiment": "table5"}), json.dumps({"schema": 2})]
)
def test_files_that_are_no_results(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(BadFile, match=r"results\.json"):
        load_results(path, "table1")


@pytest.mark.parametrize(("device", "batch"), [("cuda", 64), ("cpu", 8)])
def test_the_batch_of_a_device(monkeypatch: pytest.MonkeyPatch, device: str, batch: int) -> None:
    monkeypatch.setattr(throughput, "measured_device", lambda: device)
    assert read_protocol(Options({}), False, cpu_batch=8) == Protocol(device, batch, 224, 5)
    assert read_protocol(Options({"batch": "3"}), True, cpu_batch=8) == Protocol(device, 3, 64, 0.01)


def test_throughput_of_two_networks() -> None:
    """The one that does more is slower; every round times both."""
    torch.manual_seed(0)
    small, large = nn.Conv2d(3, 8, 3), nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
    found = measure_throughput({"small": small, "large": large}, Protocol("cpu", batch=2, resolution=64, minutes=1e-3))
    assert median(found["small"]) > median(found["large"])
    assert len(found["small"]) == len(found["large"]) >= FEWEST_ROUNDS
    assert not large.training


def test_speed_is_compared_within_each_round() -> None:
    """A round in which the machine was slow says as much as another."""
    assert times_as_fast((10, 1, 12), (5, 0.5, 4)) == (2, 2, 3)
    assert times_as_fast(None, (1.0,)) is times_as_fast((1.0,), None) is None
    assert spread_columns("x", (4, 1, 2, 3, 5)) == {"x": 3, "x_low": 2, "x_high": 4}
    assert spread_columns("x", None) == {"x": None, "x_low": None, "x_high": None}
    assert spread_shown(spread_columns("x", (4, 1, 2, 3, 5)), "x") == "3.00 (2.00..4.00)"
    assert spread_shown(spread_columns("x", None), "x") == "not measured"


@pytest.fixture
def without_tf32() -> Iterator[None]:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    yield
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.usefixtures("without_tf32")
def test_the_gpus_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on a CPU: passes to warm up, timed ones between two events, three rounds over all networks; TF32."""
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("event")

        def elapsed_time(self, end: Event) -> float:
            assert calls[-1] == "synchronize", "before it the time is not known"
            return 6.0

    monkeypatch.setattr(throughput, "GPU_WARM", 2)
    monkeypatch.setattr(throughput, "GPU_TIMED", 3)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    network = nn.Identity()
    network.register_forward_hook(lambda *_: calls.append("pass"))
    protocol = Protocol("cuda", batch=2, resolution=8)
    seconds = throughput._gpu_rounds({"a": network, "b": network}, torch.zeros(2, 3, 8, 8), protocol)
    assert calls == [*["pass"] * 2, "synchronize", "event", *["pass"] * 3, "event", "synchronize"] * 6
    assert seconds == {"a": [2e-3] * 3, "b": [2e-3] * 3}
    assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert "batch 2" in str(protocol)


def test_cells() -> None:
    assert shown(None) == "not measured"
    assert shown(1_234_567, 2, 1e-6) == "1.23"
    assert shown("text") == "text"
    assert ratio(3, 2) == 1.5
    assert ratio(None, 2) is ratio(3, None) is None


def test_rows_of_results_are_a_table() -> None:
    shipped = load_results(FOLDER / "budget.json", "budget")
    table = shipped.table
    assert len(table) == len(shipped.rows) > 100
    assert (table["used"] <= 1 + 1e-9).all() and set(table.columns) == {name for row in shipped.rows for name in row}
