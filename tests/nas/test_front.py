"""Several targets in one run: each keeps its own budget as a plain search does, the training is shared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from nas import front as fronts
from nas.api import search
from nas.front import FinishedFront, run_front, search_front
from nas.rederive import rederive
from nas.report.front import front_table, load_front
from nas.run.defaults import with_defaults
from nas.run.plan import Plan, plan_front
from nas.run.settings import SearchSettings, settings_from_dict
from nas.run.targets import each_target
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
TARGETS = {"device": ["cpu", "gpu"], "budget_ms": [[20, 40], [0.6]]}
PLAIN = {"architecture.json", "gates.csv", "latency_224.onnx", "model.onnx", "report.html", "search.csv"}


def plans(**options: Any) -> tuple[Plan, ...]:
    complete = with_defaults({**SMALL, **TARGETS, **options})
    return plan_front([settings_from_dict(SearchSettings, each) for each in each_target(complete)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedFront:
    return run_front(plans(out=str(tmp_path_factory.mktemp("runs") / "front")), progress=False)


def test_every_target_keeps_and_uses_its_own_budget(finished: FinishedFront) -> None:
    wanted = [("cpu", 20), ("cpu", 40), ("gpu", 0.6)]
    for target, (device, budget_ms) in zip(finished.targets, wanted, strict=True):
        budget = target.result.budget
        assert budget is not None and (budget.device, budget.budget_ms) == (device, budget_ms)
        assert 0.97 * budget_ms <= budget.predicted_ms <= budget_ms
        assert target.folder == finished.folder / f"{device}-{budget_ms:g}ms"
        assert {p.name for p in target.folder.iterdir()} == PLAIN | {"weights.safetensors"}


def test_the_training_is_shared(finished: FinishedFront) -> None:
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


def test_the_front_is_what_its_targets_are(finished: FinishedFront) -> None:
    rows = load_front(finished.folder)
    for row, target in zip(rows, finished.targets, strict=True):
        assert row.test == target.result.accuracy.test and row.macs == target.result.cost.macs
        assert row.architecture == str(target.result.architecture)
    with (finished.folder / "front.csv").open() as file:
        assert [row["folder"] for row in csv.DictReader(file)] == ["cpu-20ms", "cpu-40ms", "gpu-0.6ms"]
    page = (finished.folder / "report.html").read_text()
    assert all(f'href="{row.folder}/report.html"' in page for row in rows)
    assert page.count("<circle") == 3 and page.count("<figure>") == 2 and "http" not in page.split("</style>")[1]
    assert front_table(finished.folder).count("\n") == 3
    assert set(json.loads((finished.folder / "front.json").read_text())["provenance"]["seconds"]) == {
        "shared",
        "all targets",
    }


def test_a_target_is_derived_anew_from_the_shared_supernet(finished: FinishedFront, tmp_path: Path) -> None:
    first = finished.targets[1]
    again, _ = rederive(first.folder, {"out": str(tmp_path / "again")})
    assert again.architecture == first.result.architecture
    other, _ = rederive(first.folder, {"budget_ms": 30.0, "out": str(tmp_path / "other")})
    assert other.budget is not None and 0.97 * 30 <= other.budget.predicted_ms <= 30


@pytest.mark.parametrize("stop_at", ["shared", "second target"])
def test_a_stopped_front_goes_on_to_the_same_result(
    stop_at: str, finished: FinishedFront, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "front"
    with monkeypatch.context() as patch:
        if stop_at == "shared":
            step, calls = fronts.proxyless.Target.step, []

            def interrupted(self: Any, *arguments: Any) -> None:
                calls.append(1)
                if len(calls) == 8:
                    raise KeyboardInterrupt
                step(self, *arguments)

            patch.setattr(fronts.proxyless.Target, "step", interrupted)
        else:
            original = fronts.carry_out

            def stopped(plan: Plan, *arguments: Any) -> Any:
                if plan.settings.budget_ms == 40:
                    raise KeyboardInterrupt
                return original(plan, *arguments)

            patch.setattr(fronts, "carry_out", stopped)
        with pytest.raises(Stopped, match=f"go on with resume={folder}"):
            run_front(plans(out=str(folder)), progress=False)
    again = search_front(resume=folder, progress=False)
    assert [t.result.architecture for t in again.targets] == [t.result.architecture for t in finished.targets]
    for a, b in zip(again.targets, finished.targets, strict=True):
        assert (a.folder / "weights.safetensors").read_bytes() == (b.folder / "weights.safetensors").read_bytes()
        assert (a.folder / "gates.csv").read_bytes() == (b.folder / "gates.csv").read_bytes()
    assert search_front(resume=folder) == again, "a finished one is read back"


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
    assert [(one["device"], one["budget_ms"]) for one in each] in (expected, [("vpu", b) for _, b in expected])
    assert all(one["seed"] == 3 for one in each)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": ["cpu", "vpu"], "budget_ms": 30}, "does not say a budget for each"),
        ({"device": ["cpu", "vpu"], "budget_ms": [30]}, "does not say a budget for each"),
        ({"device": ["cpu"], "budget_ms": [[]]}, "names no target"),
        ({"device": ["cpu"], "budget_ms": [[30, 30.0]]}, "cpu-30ms is asked for twice"),
        ({"device": ["cpu"], "budget_ms": [[30, 1]]}, "budget_ms=1 cannot be met"),
        ({"device": ["cpu"], "budget_ms": [["fast"]]}, "not of type float"),
        ({"device": ["cpu", "vpx"], "budget_ms": [30, 30]}, "unknown device 'vpx'"),
    ],
)
def test_targets_that_cannot_be_are_refused_first(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plans(**options)


def test_one_targets_functions_point_to_those_of_several(finished: FinishedFront) -> None:
    with pytest.raises(UserError, match=r"nas\.front\.search_front"):
        search(device=["cpu"], budget_ms=[20])
    with pytest.raises(UserError, match="give no others"):
        search_front(resume=finished.folder, seed=1)


def test_a_damaged_front_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text('{"schema": 1}')
    with pytest.raises(BadFile, match="is not the front of a search"):
        load_front(tmp_path)
