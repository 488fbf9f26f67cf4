"""Several targets in one run: each keeps its own budget as a search for it alone does, the training is shared."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from nas.api import load_finished, search
from nas.command.summary import summary
from nas.compare import compare
from nas.compare import main as compared
from nas.run import search as run_search
from nas.run.defaults import with_defaults
from nas.run.finished import Finished
from nas.run.front_table import load_front
from nas.run.plan import plan_targets
from nas.run.targets import each_target, options_of, settings_of
from nas.strategies.target import Target
from search_space import UserError
from search_space.errors import BadFile, Stopped

SMALL: dict[str, Any] = {
    "data": {"name": "digits", "resolution": 32, "limit": 120},
    "warmup": {"epochs": 1},
    "epochs": 2,
    "finetune": {"epochs": 1},
    "rerank": 2,
    "checkpoint": {"steps": 1},
}
TARGETS: dict[str, Any] = {"device": ["cpu", "gpu"], "budget_ms": [[35, 70], [0.6]]}
PLAIN = {
    "SHA256SUMS",
    "architecture.json",
    "confusion.json",
    "gates.csv",
    "latency_224.onnx",
    "model.onnx",
    "report.html",
    "search.csv",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return search(**SMALL, **TARGETS, out=str(tmp_path_factory.mktemp("runs") / "front"), progress=False)


def test_every_target_keeps_and_uses_its_own_budget(finished: Finished) -> None:
    wanted = [("cpu", 35), ("cpu", 70), ("gpu", 0.6)]
    for target, (device, budget_ms) in zip(finished.targets, wanted, strict=True):
        budget = target.result.budget
        assert budget is not None and (budget.device, budget.budget_ms) == (device, budget_ms)
        assert 0.97 * budget_ms <= budget.predicted_ms <= budget_ms
        assert target.folder == finished.folder / f"{device}-{budget_ms:g}ms"
        assert {p.name for p in target.folder.iterdir()} == PLAIN | {"weights.safetensors"}


def test_the_training_is_shared(finished: Finished) -> None:
    """As many weight and architecture steps as one plain search; the supernet stands on disk once."""
    courses = []
    for target in finished.targets:
        with (target.folder / "search.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["phase"] != "finetune"]
        assert int(rows[-1]["step"]) == 3 * -(-90 // 32) or int(rows[-1]["step"]) == 3 * (90 // 32)
        courses.append([(row["step"], row["train_loss"], row["gate_loss"]) for row in rows])
        latest = [row for row in rows if row["phase"] == "search"]
        assert float(latest[0]["expected_ms"]) == pytest.approx(float(latest[0]["budget_ms"]), rel=0.1)
    assert courses[0] == courses[1] == courses[2]
    assert len(list(finished.folder.rglob("checkpoint*"))) == 1


def test_the_front_is_what_its_targets_are(finished: Finished) -> None:
    rows = load_front(finished.folder)
    for row, target in zip(rows, finished.targets, strict=True):
        assert target.result.accuracy is not None
        assert row.test == target.result.accuracy.test and row.macs == target.result.cost.macs
        assert row.architecture == str(target.result.architecture)
    assert list(finished.front["folder"]) == ["cpu-35ms", "cpu-70ms", "gpu-0.6ms"]
    page = (finished.folder / "report.html").read_text()
    assert all(f'href="{row.folder}/report.html"' in page for row in rows)
    assert page.count("<circle") == 2 * 3 and "http" not in page.split("</style>")[1]
    lines = summary(finished).splitlines()
    assert [line.split(":")[0] for line in lines if ": predicted " in line] == ["cpu", "cpu", "gpu"]
    assert f"3 targets -> {finished.folder / 'report.html'}" in lines


def test_what_only_one_target_has_is_asked_of_the_targets(finished: Finished) -> None:
    with pytest.raises(UserError, match=r"3 targets \(cpu-35ms, cpu-70ms, gpu-0.6ms\)"):
        _ = finished.result
    log = finished.targets[0].log
    assert log["phase"].iloc[-1] == "finetune" and log["step"].is_monotonic_increasing
    assert load_finished(finished.folder) == finished


def test_runs_are_compared_in_one_table_and_page(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = compare([finished.folder, finished.targets[0].folder])
    assert list(table["budget_ms"]) == [35, 70, 0.6, 35] and list(table["test"])[:3] == list(finished.front["test"])
    run, out = str(finished.folder), tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["compare", run, str(finished.targets[0].folder), f"out={out}"])
    compared()
    assert capsys.readouterr().out.count("predicted") == 1
    links = re.findall(r'href="([^"]+)"', (out / "report.html").read_text())
    assert len(links) == 4 and all((out / link).is_file() for link in links)
    monkeypatch.setattr(sys, "argv", ["compare", run, str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as error:
        compared()
    said = capsys.readouterr().err
    assert error.value.code == 2 and "nowhere" in said and said.count("\n") == 1


def test_another_budget_from_the_shared_supernet_and_from_one_targets_gates(finished: Finished, tmp_path: Path) -> None:
    first = finished.targets[1]
    common: dict[str, Any] = {"init": str(first.folder), "device": "cpu", "rerank": SMALL["rerank"], "progress": False}
    again = search(**common, budget_ms=70, out=str(tmp_path / "again"))
    assert again.result.architecture == first.result.architecture
    other = search(**common, budget_ms=50, out=str(tmp_path / "other"))
    budget = other.result.budget
    assert budget is not None and 0.97 * 50 <= budget.predicted_ms <= 50


@pytest.mark.parametrize("stop_at", ["shared", "second target"])
def test_a_stopped_run_resumes_to_the_same_result(
    stop_at: str, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "front"
    with monkeypatch.context() as patch:
        if stop_at == "shared":
            step, calls = Target.step, []

            def interrupted(self: Any, *arguments: Any) -> None:
                calls.append(1)
                if len(calls) == 8:
                    raise KeyboardInterrupt
                step(self, *arguments)

            patch.setattr(Target, "step", interrupted)
        else:
            original = run_search._finetune

            def stopped(task: Any, number: int, *arguments: Any) -> None:
                if number == 1:
                    raise KeyboardInterrupt
                original(task, number, *arguments)

            patch.setattr(run_search, "_finetune", stopped)
        with pytest.raises(Stopped, match=f"resume={folder}"):
            search(**SMALL, **TARGETS, out=str(folder), progress=False)
    assert not (folder / "front.csv").exists()
    again = search(resume=folder, progress=False)
    assert [t.result.architecture for t in again.targets] == [t.result.architecture for t in finished.targets]
    for a, b in zip(again.targets, finished.targets, strict=True):
        assert (a.folder / "weights.safetensors").read_bytes() == (b.folder / "weights.safetensors").read_bytes()
        assert (a.folder / "gates.csv").read_bytes() == (b.folder / "gates.csv").read_bytes()
    assert search(resume=folder) == again, "a finished one is read back"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"budget_ms": [20, 30.5]}, [("vpu", 20), ("vpu", 30.5)]),
        ({"device": ["cpu", "vpu"], "budget_ms": [25, 30]}, [("cpu", 25), ("vpu", 30)]),
        ({"device": ["cpu", "gpu"], "budget_ms": [[20, 25], [0.5]]}, [("cpu", 20), ("cpu", 25), ("gpu", 0.5)]),
        ({"device": ["cpu"], "budget_ms": [[20, 25]]}, [("cpu", 20), ("cpu", 25)]),
        ({"device": "cpu", "budget_ms": 20}, [("cpu", 20)]),
    ],
)
def test_targets_as_lists(options: dict[str, Any], expected: list[tuple[str, float]]) -> None:
    each = each_target({"seed": 3, **options})
    assert [(one["device"], one["budget_ms"]) for one in each] == expected
    assert all(one["seed"] == 3 for one in each)
    settings = settings_of({"seed": 3, **options})
    assert settings_of(options_of(settings)) == settings, "what a run keeps for resume= names the same targets"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": ["cpu", "vpu"], "budget_ms": 30}, r"budget_ms=30 .*\['cpu', 'vpu'\]"),
        ({"device": ["cpu", "vpu"], "budget_ms": [30]}, r"budget_ms=\[30\] .*\['cpu', 'vpu'\]"),
        ({"device": ["cpu"], "budget_ms": [[]]}, "names no target"),
        ({"device": ["cpu"], "budget_ms": [[30, 30.0]]}, "cpu-30ms is asked for twice"),
        ({"device": ["cpu"], "budget_ms": [[30, 1]]}, "budget_ms=1 cannot be met"),
        ({"device": ["cpu"], "budget_ms": [["fast"]]}, "budget_ms='fast'"),
        ({"device": ["cpu", "vpx"], "budget_ms": [30, 30]}, "unknown device 'vpx'"),
    ],
)
def test_targets_that_cannot_be_are_refused_first(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan_targets(settings_of(with_defaults({**SMALL, **options})))


def test_a_strategy_for_one_target_refuses_several(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"strategy=evolution .*strategy=proxyless, or --multirun"):
        search(**SMALL, **TARGETS, strategy="evolution", out=str(tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


def test_options_beside_resume_are_refused(finished: Finished) -> None:
    with pytest.raises(UserError, match="give no others"):
        search(resume=finished.folder, seed=1)


def test_a_damaged_front_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "front.csv").write_text("folder,device\ncpu-20ms,cpu\n")
    with pytest.raises(BadFile, match=r"front\.csv row 1: no column budget_ms"):
        load_finished(tmp_path)
