"""strategy=random, evolution and optuna on a small space: the budget kept, the files of any search, trials shared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.api import search
from nas.discrete.additive import Additive
from nas.strategies.subnetworks import TRIALS
from search_space import Architecture, UserError, load_space
from search_space.errors import Stopped
from search_space.tables import read_table

SPACES = {
    "quadra": """
name: small
family: quadra
stem_width: 8
stages: [{width: 8, max_blocks: 3}, {width: 16, max_blocks: 3}]
kernel_sizes: [3, 5]
expand_ratios: [1, 2]
""",
    "mbconv": """
name: small
family: mbconv
stem_width: 8
first_width: 8
head_width: 32
stages: [{width: 8, max_blocks: 3, stride: 2}, {width: 16, max_blocks: 3, stride: 2}]
kernel_sizes: [3, 5]
expand_ratios: [2, 3]
""",
}
BUDGETS_MS = {"quadra": 4.0, "mbconv": 2.8}
SMALL: dict[str, Any] = {
    "device": "cpu",
    "data": {"name": "digits", "resolution": 16, "limit": 120},
    "warmup": {"epochs": 0},
    "epochs": 1,
    "finetune": {"epochs": 0},
    "trials": 10,
    "progress": False,
}


def options(space: str, folder: Path) -> dict[str, Any]:
    file = folder / f"{space}.yaml"
    file.write_text(SPACES[space])
    return {**SMALL, "space": str(file), "budget_ms": BUDGETS_MS[space]}


def trials_of(folder: Path) -> list[dict[Hashable, Any]]:
    return read_table(folder / "trials.csv", TRIALS).to_dict("records")


class Stopping:
    """A function with a Ctrl-C in its call of that number."""

    def __init__(self, function: Callable[..., Any], call: int) -> None:
        self.function, self.left = function, call

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.function(*arguments, **named)


@pytest.mark.parametrize(
    ("strategy", "space", "more"),
    [
        ("random", "quadra", {}),
        ("evolution", "mbconv", {}),
        ("optuna", "quadra", {"optuna": {"sampler": "tpe"}}),
        ("optuna", "mbconv", {"optuna": {"sampler": "nsga2"}, "trial_images": 8, "rerank": 3}),
    ],
)
def test_the_budget_is_kept_and_every_file_is_there(
    strategy: str, space: str, more: dict[str, Any], tmp_path: Path
) -> None:
    asked = {**options(space, tmp_path), **more}
    finished = search(strategy=strategy, out=str(tmp_path / "run"), **asked)
    budget = finished.result.budget
    assert budget is not None and budget.binds and 0.97 <= budget.used <= 1
    trials = trials_of(finished.folder)
    assert len({trial["network"] for trial in trials}) == len(trials) == 10
    assert all(0.97 * budget.budget_ms <= float(trial["ms"]) <= budget.budget_ms for trial in trials)
    assert str(finished.result.architecture) in {trial["network"] for trial in trials}
    if "trial_images" not in more:
        space = load_space(asked["space"])
        stages = [[stage.split() for stage in trial["network"].split("|")] for trial in trials]
        networks = [Architecture.from_dict({"space": space.to_dict(), "stages": each}) for each in stages]
        widths = [len(slot.candidates) for slot in space.slots]
        choices = np.array([space.path(network).choices for network in networks])
        measured = np.array([float(trial["val_accuracy"]) for trial in trials])
        liked = np.argsort(-Additive(widths, choices, measured).predict(choices), kind="stable")[:6]
        assert finished.result.architecture == networks[max(liked.tolist(), key=measured.__getitem__)]
    report = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "Gate probabilities" not in report and "Gate entropy" not in report
    names = {path.name for path in finished.folder.iterdir()}
    assert {"architecture.json", "model.onnx", "search.csv", "checkpoint.safetensors", "weights.safetensors"} <= names


def test_a_storage_that_cannot_be_used_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.log").write_bytes(b"no journal\n")
    monkeypatch.delattr("nas.strategies.weights.WeightTraining.train_path")
    with pytest.raises(UserError, match=r"study\.log': line 1"):
        storage = {"storage": str(tmp_path / "study.log")}
        search(strategy="optuna", optuna=storage, out=str(tmp_path / "run"), **options("quadra", tmp_path))


def test_hard_limits_hold_for_every_trial(tmp_path: Path) -> None:
    free = search(strategy="random", out=str(tmp_path / "free"), **options("quadra", tmp_path)).result
    most = 0.95 * free.cost.params
    asked = {**options("quadra", tmp_path), "use_at_least": 0.5, "limits": {"params": most}}
    kept = search(strategy="random", out=str(tmp_path / "kept"), **asked).result
    assert kept.cost.params <= most


def test_a_seed_gives_the_same_files(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        search(strategy="evolution", out=str(tmp_path / name), **options("quadra", tmp_path))
        files.append([(tmp_path / name / f).read_bytes() for f in ("trials.csv", "weights.safetensors")])
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("strategy", "stops"), [("evolution", (("checked", 2), ("recalibrate", 4))), ("optuna", (("recalibrate", 6),))]
)
def test_a_stopped_search_resumes_to_the_same_files(
    strategy: str, stops: tuple[tuple[str, int], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in training and between trials; `checked` is called once a step, `recalibrate` once a trial."""
    asked = {**options("mbconv", tmp_path), "strategy": strategy, "checkpoint": {"steps": 1}}
    folder, begun = tmp_path / "run", False
    search(out=str(tmp_path / "whole"), **asked)
    for name, call in stops:
        module = {"checked": "nas.training.loop", "recalibrate": "nas.strategies.subnetworks"}[name]
        stopping = Stopping(getattr(sys.modules[module], name), call)
        monkeypatch.setattr(f"{module}.{name}", stopping)
        with pytest.raises(Stopped):
            search(resume=folder, progress=False) if begun else search(out=str(folder), **asked)
        monkeypatch.undo()
        begun = True
    search(resume=folder, progress=False)
    for name in ("trials.csv", "weights.safetensors", "checkpoint.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_two_searches_share_a_study(tmp_path: Path) -> None:
    """Each trains the same supernet; together they look at no more than were asked for but for those under way."""
    (tmp_path / "quadra.yaml").write_text(SPACES["quadra"])
    command = [
        *(sys.executable, "-m", "nas.search", "strategy=optuna", "optuna.storage=study.log", "trials=14"),
        *("device=cpu", f"budget_ms={BUDGETS_MS['quadra']}", "space=quadra.yaml", "threads=1"),
        *("data.resolution=16", "data.limit=120", "warmup.epochs=0", "epochs=1", "finetune.epochs=0"),
    ]
    workers = [
        subprocess.Popen([*command, f"out={name}"], cwd=tmp_path, stdout=-3, stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
    shares = [trials_of(tmp_path / name) for name in ("a", "b")]
    assert all(14 <= len(share) <= 15 for share in shares)
    first, last = sorted(({(t["network"], t["val_accuracy"]) for t in share} for share in shares), key=len)
    assert first <= last  # one study: who ends last knows all that the other knew
    done = subprocess.run([*command, "out=c"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.returncode == 0 and len(trials_of(tmp_path / "c")) >= 14  # nothing left to look at
    search_rows = (tmp_path / "c" / "search.csv").read_text()
    assert "trials" not in search_rows


def test_what_is_refused(tmp_path: Path) -> None:
    asked = options("quadra", tmp_path)
    for more, wanted in (
        ({"optuna": {"sampler": "cma"}}, "unknown optuna.sampler"),
        ({"trials": 0}, "trials=0 is not between 1 and 1000000"),
        ({"trial_images": 0}, "trial_images=0 is not between 1 and 1000000"),
    ):
        with pytest.raises(UserError, match=wanted):
            search(strategy="optuna", **{**asked, **more})
    finished = search(strategy="random", out=str(tmp_path / "run"), **{**asked, "trials": 2})
    with pytest.raises(UserError, match="has no gates to choose by; add strategy=evolution"):
        search(init=str(finished.folder), device="cpu", budget_ms=2.8, progress=False)
