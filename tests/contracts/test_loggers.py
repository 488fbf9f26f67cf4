"""The laws of a logger: it gets every row once and in order, its end, and after a stop what comes again; it is no risk.

A new logger is one line in `MADE`, with a function that reads back what it wrote as (step, name, value).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nas.api import search
from nas.command.options import compose_options
from nas.loggers import EXTRAS, LOGGERS, Loggers, check_loggers
from nas.run.checkpoint import Checkpoints
from nas.run.log import Row, SearchLog, load_search_log
from nas.run.settings import SearchSettings, TrainCommand, settings_from_dict
from nas.training.loop import NotFinite
from search_space import UserError
from search_space.named import load_named
from tests import ROOT

Points = set[tuple[int, str, float]]


class ToyLogger:
    """Writes all that it gets to FOLDER/toy.jsonl."""

    def __init__(self, folder: Path, options: Mapping[str, Any], after: int | None) -> None:
        self.path = folder / "toy.jsonl"
        self._write({"options": dict(options), "after": after})

    def row(self, values: Mapping[str, Any]) -> None:
        self._write({"row": dict(values)})

    def close(self, finished: bool) -> None:
        self._write({"finished": finished})

    def _write(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


class BrokenLogger(ToyLogger):
    """Fails at its second row."""

    def row(self, values: Mapping[str, Any]) -> None:
        if values["step"] > 5:
            raise ConnectionError("no server\nat all")
        super().row(values)


TOY, BROKEN = f"{__name__}:ToyLogger", f"{__name__}:BrokenLogger"


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "toy.jsonl").read_text().splitlines()]


def points_of_toy(folder: Path) -> Points:
    found: Points = set()
    for line in lines_of(folder):
        if "after" in line and line["after"] is not None:
            found = {point for point in found if point[0] <= line["after"]}
        row = line.get("row", {})
        found |= {(row["step"], k, v) for k, v in row.items() if k != "step" and not isinstance(v, str)}
    return found


def points_of_tensorboard(folder: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    assert "options/text_summary" in read.Tags()["tensors"]
    return {(at.step, name, at.value) for name in read.Tags()["scalars"] for at in read.Scalars(name)}


def points_of_mlflow(folder: Path) -> Points:
    from mlflow.tracking import MlflowClient

    client, run = MlflowClient((folder.parent / "mlruns").as_uri()), (folder / "mlflow.txt").read_text().strip()
    found = client.get_run(run)
    assert found.info.status == "FINISHED" and found.data.params["train.lr"] == "0.002"
    return {(at.step, name, at.value) for name in found.data.metrics for at in client.get_metric_history(run, name)}


MADE: dict[str, Callable[[Path], Points]] = {
    TOY: points_of_toy,
    "tensorboard": points_of_tensorboard,
    "mlflow": points_of_mlflow,
}
ROWS = [
    Row(5, "warmup", 1, 2.5, budget_ms=30.0),
    Row(10, "search", 2, None, 0.5, 0.125, 31.5, 30.0),
    Row(15, "search", 2, 1.5),
    Row(15, "finetune", 1, val_accuracy=0.75),
]


def points(rows: list[Row]) -> Points:
    return {
        (row.step, name, float(value))
        for row in rows
        for name, value in vars(row).items()
        if name not in ("step", "seconds") and isinstance(value, int | float)
    }


def without_seconds(found: Points) -> Points:
    return {(step, name, float(value)) for step, name, value in found if name != "seconds"}


def installed(name: str) -> Any:
    missing = name in EXTRAS and find_spec(name) is None
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{name} is not installed"))


def test_every_logger_is_tested() -> None:
    assert {name for name in MADE if name != TOY} == set(LOGGERS) - {"csv"}


@pytest.mark.parametrize("name", [installed(name) for name in MADE])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*file.*:FutureWarning")
def test_a_logger_gets_every_row_and_after_a_stop_what_comes_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder := tmp_path / "run").mkdir()
    options = {"train": {"lr": 0.002}, "init": None, "device": "vpu"}
    first = SearchLog(folder, Checkpoints(folder), to=[name], options=options)
    for row in ROWS[:3]:
        first.add(row)
    first.close(finished=False)
    resumed = Checkpoints(folder, resume=True)
    monkeypatch.setattr(
        resumed, "restored_journal", lambda _: json.dumps({"rows": [[*vars(ROWS[0]).values()]], "gates": []})
    )
    second = SearchLog(folder, resumed, to=[name], options=options)
    for row in [replace(ROWS[1], train_loss=9.0), *ROWS[2:]]:
        second.add(row)
    second.close(finished=True)
    found = without_seconds(MADE[name](folder))
    expected = points([ROWS[0], replace(ROWS[1], train_loss=9.0), *ROWS[2:]])
    assert found == expected


def test_the_toy_sees_options_rows_and_the_end(tmp_path: Path) -> None:
    log = SearchLog(tmp_path, Checkpoints(tmp_path), to=["csv", TOY, TOY], options={"a": {"b": [1, 2]}, "c": None})
    log.add(ROWS[1])
    log.close(finished=True)
    log.close(finished=True)
    first, row, last = lines_of(tmp_path)
    assert first == {"options": {"a.b": "1,2"}, "after": None} and last == {"finished": True}
    seconds = row["row"].pop("seconds")
    assert seconds >= 0 and row["row"] == {k: v for k, v in vars(ROWS[1]).items() if v is not None}


def test_a_logger_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    said: list[str] = []
    log = SearchLog(tmp_path, Checkpoints(tmp_path, say=said.append), to=[BROKEN])
    for row in ROWS:
        log.add(row)
    log.close(finished=True)
    log.save()
    (line,) = said
    assert line == f"note: log={BROKEN} is left out from here on: ConnectionError: no server"
    assert len(lines_of(tmp_path)) == 2 and len(load_search_log(tmp_path)) == len(ROWS)


def test_a_whole_search_logs_what_search_csv_holds(tmp_path: Path) -> None:
    names = [TOY, *(["tensorboard"] if find_spec("tensorboard") else [])]
    finished = search(
        data={"name": "digits", "limit": 60, "resolution": 32}, budget_ms=30, warmup={"epochs": 0}, epochs=1,
        finetune={"epochs": 0}, threads=1, log=names, out=str(tmp_path / "run"), progress=False,
    )  # fmt: skip
    lines = lines_of(finished.folder)
    assert lines[0]["options"]["train.lr"] == 0.002 and lines[-1] == {"finished": True}
    table = pd.DataFrame([line["row"] for line in lines if "row" in line])
    log = finished.log[table.columns]
    pd.testing.assert_frame_equal(table, log, check_dtype=False, rtol=1e-5)
    if len(names) > 1:
        assert {name for _, name, _ in points_of_tensorboard(finished.folder)} >= {"train_loss", "val_accuracy"}


def test_a_search_that_fails_says_so_to_its_loggers(tmp_path: Path) -> None:
    with pytest.raises(NotFinite):
        search(
            data={"name": "digits", "limit": 60, "resolution": 32}, budget_ms=30, warmup={"epochs": 1}, epochs=1,
            train={"lr": 1000.0, "gradient_clip": 0}, threads=1, log=TOY, out=str(tmp_path / "run"), progress=False,
        )  # fmt: skip
    assert lines_of(tmp_path / "run")[-1] == {"finished": False}


def test_options_of_both_commands() -> None:
    for kind, more in ((SearchSettings, {}), (TrainCommand, {"architecture": "x.json"})):
        assert settings_from_dict(kind, more).log == ("csv",)
        assert settings_from_dict(kind, {**more, "log": "mlflow"}).log == ("mlflow",)
        assert settings_from_dict(kind, {**more, "log": ["csv", TOY]}).log == ("csv", TOY)
        with pytest.raises(UserError, match=r"tensorbord.*tensorboard"):
            settings_from_dict(kind, {**more, "log": ["tensorbord"]})
    composed = compose_options("search", [f"log=[csv,tensorboard,{TOY}]"])
    assert list(composed.log) == ["csv", "tensorboard", TOY]


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.loggers.find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"log={name} needs the package '{name}'.*pip install .*\[{name}\]"):
        search(log=["csv", name])
    check_loggers(["csv"])


def test_what_is_no_logger_is_refused_before_the_search() -> None:
    for name, said in (("nowhere.at.all:X", "no module 'nowhere'"), ("json:dumps_", "has no 'dumps_'")):
        with pytest.raises(UserError, match=said):
            search(log=[name])
    with pytest.raises(UserError, match="no function of 3 arguments"):
        Loggers([f"{__name__}:installed"], Path(), {})


def test_the_names_lead_to_loggers() -> None:
    for name in set(LOGGERS) - {"csv"}:
        assert all(hasattr(load_named("log", name, LOGGERS, 3), method) for method in ("row", "close"))


def test_the_command_says_what_is_missing_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nas.search", "log=[csv,wandb]"], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "wandb" in done.stderr
    assert "package.module:value" in done.stderr and not list(tmp_path.iterdir())
