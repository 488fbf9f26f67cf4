"""Table III: which jobs follow which, what the tables say of made-up rows, and the whole in miniature."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from experiments import table3_work
from experiments.profiles.paper_scale import SCALES
from experiments.results import FOLDER, Provenance, Results, Row, load_results
from experiments.table3 import KINDS, Wanted, main, prepare
from experiments.table3_page import render_page
from experiments.table3_story import NOT_RUN, Story, Target
from experiments.table3_tables import marks, paper_table, render, scale_table, worth_table
from experiments.table3_work import (
    BUDGETS_MS,
    COMPARED,
    DEVICES,
    FULL,
    SPACES,
    Job,
    Scale,
    Worker,
    carried_out,
    nearest_feasible,
    priced,
    published,
    targets,
)
from latency_models.options import Options
from nas.data import DataSettings, load
from nas.run.checkpoint import Checkpoints
from search_space import load_space
from search_space.errors import Stopped

PROVENANCE = Provenance("python -m experiments.table3", "today", None, "a machine", 1, None, {})
SETTINGS: dict[str, Any] = {
    "data": "made-up", "limit": None, "resolution": 32, "warmup": 1, "search": 1, "recipe": "small", "epochs": 1,
    "factors_table3": "cpu 10, vpu 2, gpu 4", "factors_table3_nn_meter": "cpu 11, vpu 3, gpu 5",
}  # fmt: skip


def network(kind: str, space: str, calibration: str, device: str, name: str, **columns: Any) -> Row:
    architecture = json.dumps(load_space("quadranet").smallest().to_dict())
    return {
        "kind": kind, "name": name, "network": name, "space": space, "calibration": calibration, "device": device,
        "seed": 0, "macs": 300e6, "cpu_ms": 30.0, "vpu_ms": 15.0, "gpu_ms": 0.5, "budget_ms": 300.0, "kept_ms": 297.0,
        "binds": True, "architecture": architecture,
        "cpu_scaled_ms": 300.0, "vpu_scaled_ms": 30.0, "gpu_scaled_ms": 2.0, **columns,
    }  # fmt: skip


def searched(space: str, calibration: str, device: str, name: str, **columns: Any) -> Row:
    return network("searched", space, calibration, device, name, **columns)


def training(name: str, test: float, validation: float = 0.5, seed: int = 0) -> Row:
    return {"kind": "training", "network": name, "seed": seed, "test": test, "validation": validation}


def span(space: str, device: str, budget_ms: float, minimum_ms: float) -> Row:
    return {"kind": "range", "space": space, "calibration": "table3", "device": device, "budget_ms": budget_ms,
            "minimum_ms": minimum_ms, "maximum_ms": 999.0, "seed": None}  # fmt: skip


def results(*rows: Row) -> Results:
    return Results("table3", PROVENANCE, SETTINGS, rows)


def line_of(results: Results, start: str) -> list[str]:
    (line,) = [line for line in paper_table(Story(results), "table3").lines if line[0].startswith(start)]
    return list(line)


def test_every_cell_stands_beside_the_published_one() -> None:
    found = searched("quadranet", "table3", "cpu", "a", macs=293e6)
    line = line_of(results(found, training("a", 0.5)), "QuadraNet-CPU")
    assert line[1] == "293 (279, +5 %)"
    assert line[2:5] == ["300.0 (299.8, +0 %)", "30.0 (34.7, -14 %)", "2.00 (2.1, -5 %)"]
    assert line[5:] == ["0.990", "50.00", "not measured (73.1)"]
    assert line_of(results(), "QuadraNet-GPU")[1] == f"{NOT_RUN} (948)"


def test_a_budget_that_cannot_be_kept_is_said_and_the_nearest_that_can_has_a_row_of_its_own() -> None:
    ends = span("quadranet", "vpu", 30.0, 33.24)
    found = searched("quadranet", "table3", "vpu", "a", budget_ms=34.0, kept_ms=34.0)
    rows = results(ends, found, training("a", 0.6))
    refused, nearest = (
        line for line in paper_table(Story(rows), "table3").lines if line[0].startswith("QuadraNet-VPU")
    )
    assert refused[0] == "QuadraNet-VPU" and nearest[0] == "QuadraNet-VPU at 34 ms"
    assert "infeasible: the fastest network takes 33.2 ms" in refused
    assert nearest[-2:] == ["60.00", "-"] and not any("%" in cell for cell in nearest)
    assert Story(rows).gains("table3", "vpu") is None
    assert not [rows for paper, _, rows in Story(rows).six("table3") if paper.name == "QuadraNet-VPU" and rows]


def test_gains_are_between_networks_of_one_seed() -> None:
    rows = results(
        searched("proxyless", "table3", "cpu", "p"), searched("proxyless", "table3", "cpu", "q", seed=1),
        searched("quadranet", "table3", "cpu", "a"), searched("quadranet", "table3", "cpu", "b", seed=1),
        training("p", 0.50), training("a", 0.52), training("b", 0.9, seed=1),
    )  # fmt: skip
    assert Story(rows).gains("table3", "cpu") == pytest.approx([2.0])
    said = [mark for mark in marks(Story(rows)) if mark.startswith("table3: QuadraNet above")]
    assert [mark.endswith("+2.00 over 1 of 3 devices") for mark in said] == [True]


def test_the_best_random_network_is_chosen_by_validation_once_all_are_trained() -> None:
    drawn = [network("random", "quadranet", COMPARED, "cpu", name) for name in "ab"]
    found = searched("quadranet", COMPARED, "cpu", "s")
    both = (training("a", 0.4, validation=0.6), training("b", 0.5, validation=0.1), training("s", 0.45))

    def best(*rows: Row) -> tuple[str, str]:
        lines = worth_table(Story(results(*drawn, found, *rows))).lines
        (line,) = [line for line in lines if line[0].startswith("cpu") and line[1].startswith("QuadraNet, best random")]
        return line[4], line[5]

    assert best(*both) == ("40.00", "+5.00")
    assert best(both[0], both[2]) == (NOT_RUN, NOT_RUN)


def test_a_network_loses_what_those_searched_for_the_device_reach_at_its_latency() -> None:
    at_home = (searched("quadranet", "table3", "cpu", "low", cpu_ms=20.0),
               searched("quadranet", "measured", "cpu", "high", cpu_ms=40.0))  # fmt: skip
    away = searched("quadranet", "table3", "gpu", "away", cpu_ms=30.0)
    trainings = training("low", 0.5), training("high", 0.6), training("away", 0.52)
    story = Story(results(*at_home, away, *trainings))
    both = tuple(BUDGETS_MS)
    assert story.loss([away], "quadranet", "cpu", both) == pytest.approx(3.0)
    assert story.loss([{**away, "cpu_ms": 50.0}], "quadranet", "cpu", both) is None
    assert Story(results(*at_home, away)).loss([away], "quadranet", "cpu", both) is None


def test_a_network_beaten_at_home_is_named() -> None:
    slow = searched("quadranet", "table3", "cpu", "slow", cpu_ms=30.0)
    fast = searched("quadranet", "table3", "gpu", "fast", cpu_ms=20.0, gpu_ms=0.4)
    trained = training("slow", 0.5), training("fast", 0.5)
    assert Story(results(slow, fast, *trained)).beaten_at_home("table3") == ["QuadraNet-CPU by QuadraNet-GPU"]
    assert Story(results(slow, fast, training("slow", 0.6), training("fast", 0.5))).beaten_at_home("table3") == []
    assert Story(results(slow, fast, trained[0])).beaten_at_home("table3") is None


def test_a_jobs_cost_is_counted_once() -> None:
    """Its rows all carry it."""
    one = [searched("quadranet", "table3", device, device, job="search", cpu_s=120.0) for device in DEVICES]
    other = {**training("cpu", 0.5), "job": "train", "cpu_s": 30.0}
    assert Story(results(*one, other)).cost() == {"searched": (1, 2.0), "training": (1, 0.5)}


def test_published_networks_are_trained_with_every_seed_and_others_with_their_own() -> None:
    other = json.dumps(load_space("quadranet").largest().to_dict())
    third = json.dumps(load_space("proxyless").smallest().to_dict())
    rows = [
        searched("quadranet", "table3", "cpu", "a"),
        network("random", "quadranet", COMPARED, "cpu", "b", seed=1, architecture=other),
        network("published", "MobileNetV2", COMPARED, "cpu", "c", seed=None, architecture=third),
    ]
    jobs = Wanted(KINDS, SPACES, tuple(BUDGETS_MS), 2).jobs(rows)
    assert len({job.name for job in jobs}) == len(jobs)
    trained = [(job.architecture, job.seed) for job in jobs if job.kind == "train"]
    assert trained == [(rows[0]["architecture"], 0), (third, 0), (third, 1), (other, 1)]
    order = [job.name for job in jobs]
    assert order.index("search quadranet table3 seed 0") + 1 == next(i for i, j in enumerate(jobs) if j.kind == "train")
    only = Wanted(("search",), ("quadranet",), ("table3",), 2).jobs(rows)
    assert [job.name for job in only] == ["search quadranet table3 seed 0", "search quadranet table3 seed 1"]


def test_a_family_that_a_file_lacks_is_priced_with_the_next_call() -> None:
    known = [network("published", family, COMPARED, "cpu", family, seed=None) for family in list(published())[1:]]
    jobs = Wanted(("published",), SPACES, tuple(BUDGETS_MS), 2).jobs(known)
    assert [job.name for job in jobs] == ["published ProxylessNAS seed 0"]


def test_the_nearest_feasible_budget_is_just_above_the_fastest_network() -> None:
    assert [nearest_feasible(ms) for ms in (33.24, 33.0, 0.361, 187.0)] == [34, 33, 0.37, 190]
    for calibration, budgets in BUDGETS_MS.items():
        for space in SPACES:
            for device, budget_ms in targets(space, calibration).items():
                infeasible = (space, calibration, device) == ("proxyless", "table3_nn_meter", "vpu")
                assert budget_ms == budgets[device] or infeasible


def test_leaving_out_what_nn_meter_cannot_price_fits_the_published_times_better() -> None:
    worker = Worker(Scale())
    rows = [row for scale in SCALES for row in worker(Job("scale", calibration=scale))]
    table = scale_table(Story(results(*rows)))
    (means,) = [line for line in table.lines if line[0] == "mean deviation"]
    whole, lean = ([int(cell.rstrip("%")) for cell in cells] for cells in (means[1:4], means[4:]))
    assert all(without <= 0.7 * every for without, every in zip(lean, whole, strict=True))
    (vpu,) = [line for line in table.lines if line[0] == "QuadraNet-VPU"]
    assert vpu[2] == "+66%" and NOT_RUN in str(scale_table(Story(results())).lines)


def test_what_is_compared_keeps_the_budgets() -> None:
    worker = Worker(Scale())
    rows = [row for family in published() for row in worker(Job("published", space=family))]
    assert {row["space"] for row in rows} == set(published())
    for row in rows:
        other = [a for a in published()[str(row["space"])] if priced(a)[f"{row['device']}_ms"] <= row["budget_ms"]]
        assert row["macs"] == max(priced(a)["macs"] for a in other)
    for row in [*rows, *worker(Job("random", 0, "quadranet", COMPARED))]:
        used = float(str(row[f"{row['device']}_ms"])) / BUDGETS_MS[COMPARED][str(row["device"])]
        assert used <= 1 + 1e-9 and (row["kind"] == "published" or used >= 0.97)
    drawn = [worker(Job("random", seed, "quadranet", COMPARED)) for seed in (0, 0, 1)]
    first, again, other = ([row["network"] for row in found] for found in drawn)
    assert first == again != other


def test_an_unknown_recipe_or_kind_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "kinds=searches"]) == 2
    assert "searches" in capsys.readouterr().err
    assert main(["--quick", "kinds=range", "recipe=large"]) == 2
    assert "imagenet" in capsys.readouterr().err


def test_the_full_scale_compares_what_was_searched_with_random_and_with_what_costs_nothing() -> None:
    work = prepare(Options({"scale": "full", "out": "full.json"}), False)
    assert work.settings["epochs"] == 20 and work.settings["limit"] is None and work.settings["every_image"]
    assert isinstance(work.do, Worker) and work.do.trainings == Path("full.json.trainings")
    kinds = {job.kind for job in work.known([])}
    assert kinds == {"range", "random", "free", "search"} and {job.calibration for job in work.known([])} == {COMPARED}
    free = work.do(Job("free", space="quadranet", calibration=COMPARED))
    drawn = work.do(Job("random", 0, "quadranet", COMPARED))
    for ours, theirs in zip(free, drawn, strict=True):
        device = str(ours["device"])
        assert theirs["device"] == device and float(str(ours[f"{device}_ms"])) <= BUDGETS_MS[COMPARED][device]
        assert float(str(ours["params"])) >= float(str(theirs["params"]))
    trained = [job for job in work.known([*free, *drawn]) if job.kind == "train"]
    assert len(trained) == len({row["network"] for row in (*free, *drawn)}) and {job.seed for job in trained} == {0}


def test_the_small_scale_is_what_its_files_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that the shipped files can be gone on with; the full scale never writes into them."""
    small = prepare(Options({}), False).settings
    shipped = load_results(FOLDER / "table3.json", "table3").settings
    assert small.keys() == shipped.keys() and "every_image" not in small
    assert main(["scale=full"]) == 2
    assert "scale=full has a results file of its own" in capsys.readouterr().err
    assert main(["scale=medium", f"out={tmp_path / 'x.json'}"]) == 2


def test_a_choice_at_no_cost_has_a_line_and_the_pace_is_said() -> None:
    rows = [searched("quadranet", COMPARED, "cpu", "a"), network("free", "quadranet", COMPARED, "cpu", "f", seed=None)]
    trained = {**training("f", 0.8), "s_per_1000_images": 12.0, "train_images": 50_000, "epochs": 20, "on": "cpu",
               "job": "train", "cpu_s": 12_000.0}  # fmt: skip
    found = results(*({**row, "job": "j", "cpu_s": 1.0} for row in rows), trained)
    found = replace(found, settings={**SETTINGS, "every_image": True})
    said = render(found)
    assert "| QuadraNet, most parameters, at no cost | 300 | 30.0 | 80.00 |" in said
    assert "A training takes 12.00 CPU seconds per 1,000 images, 3.33 hours in all; 1 of 2 networks known" in said
    assert "| cpu 40 ms | Proxyless, most parameters, at no cost | not yet run |" in said
    assert "best random by validation" not in said and "those that choose among them" in said


def test_a_training_that_was_stopped_goes_on_from_its_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = replace(FULL, data=DataSettings("digits", resolution=32, limit=130), epochs=3)
    tiny = load_space(str(FOLDER.parent / "spaces" / "miniature.yaml")).smallest()
    job = Job("train", 0, architecture=json.dumps(tiny.to_dict()))
    (whole,) = Worker(scale)(job)
    assert whole["train_images"] == 130 and "validation" not in whole
    watch, steps = table3_work._Pace.watch, []

    def until(self: table3_work._Pace, step: int, epoch: int, loss: float) -> None:
        steps.append(step)
        watch(self, step, epoch, loss)
        if step == 5:  # in the third epoch of two steps
            raise KeyboardInterrupt

    monkeypatch.setattr(table3_work._Pace, "watch", until)
    with pytest.raises(KeyboardInterrupt):
        Worker(scale, tmp_path / "out.trainings")(job)
    (folder,) = (tmp_path / "out.trainings").iterdir()
    assert "epoch 2 of 3, " in capsys.readouterr().err and list(folder.rglob("*.safetensors"))
    steps.clear()
    monkeypatch.setattr(table3_work._Pace, "watch", lambda *args: (steps.append(args[1]), watch(*args)))
    (resumed,) = Worker(scale, tmp_path / "out.trainings")(job)
    assert steps == [5, 6] and not folder.exists()
    assert resumed["test"] == whole["test"] and "epoch 3 of 3, " in capsys.readouterr().err
    assert float(str(resumed["s_per_1000_images"])) > 0


def test_a_search_that_was_stopped_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(DataSettings("digits", resolution=32, limit=60))

    def search_in(folder: Path) -> list[str]:
        options = {
            "space": str(FOLDER.parent / "spaces" / "miniature.yaml"), "device": ["cpu"], "budget_ms": [None],
            "limits": {"params": 1e6}, "data": asdict(DataSettings("digits", resolution=32, limit=60)),
            "warmup": {"epochs": 1}, "epochs": 1, "finetune": {"epochs": 0}, "train": {"batch_size": 16},
            "threads": 1, "out": str(folder),
        }  # fmt: skip
        return [target.result.architecture.digest for target in carried_out(options, folder, data).targets]

    whole, keep, calls = search_in(tmp_path / "whole"), Checkpoints.keep, []
    assert search_in(tmp_path / "whole") == whole, "read back"

    def stopping(self: Checkpoints, phase: str, step: int, *rest: Any, **named: Any) -> None:
        calls.append((phase, step))
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does
        keep(self, phase, step, *rest, **named)

    monkeypatch.setattr(Checkpoints, "keep", stopping)
    with pytest.raises((KeyboardInterrupt, Stopped)):
        search_in(tmp_path / "stopped")
    assert (tmp_path / "stopped" / "run.json").is_file()
    before = list(calls)
    assert search_in(tmp_path / "stopped") == whole
    assert len(set(calls[4:]) & set(before[:3])) == 0, "nothing was done again"


@pytest.mark.slow
def test_the_whole_in_miniature(tmp_path: Path) -> None:
    out, page = tmp_path / "table3.json", tmp_path / "index.html"
    asked = ["--quick", "spaces=quadranet", "calibrations=table3", f"out={out}"]
    assert main(asked) == 0
    found = load_results(out, "table3")
    kinds = [str(row["kind"]) for row in found.rows]
    assert kinds == [*["range"] * 3, *["scale"] * 18, *["searched"] * 3, *["training"] * 3]
    too_slow = tuple(
        {**row, "minimum_ms": 33.21} if row["kind"] == "range" and row["device"] == "vpu" else row for row in found.rows
    )
    said = "infeasible: the fastest network takes 33.2 ms"
    assert said in render(replace(found, rows=too_slow)) and said not in render(found)
    searches = [row for row in found.rows if row["kind"] == "searched"]
    for device, row in zip(DEVICES, searches, strict=True):
        assert Story(found).training(row), device
        assert row[f"{device}_scaled_ms"] == pytest.approx(row["kept_ms"]) and row["kept_ms"] <= row["budget_ms"]
    assert main(asked) == 0
    assert load_results(out, "table3").rows == found.rows
    assert main(["show", f"out={out}", f"figure={page}"]) == 0
    written = page.read_text(encoding="utf-8")
    assert written == render_page(found)
    assert "{{" not in written and written.count('role="group"') == 3
    assert "src=" not in written and "<link" not in written


def test_the_page_of_no_rows_says_so() -> None:
    assert NOT_RUN in render_page(results()) and "<table" not in render_page(results())
    rendered = render(results(searched("quadranet", "measured", "cpu", "a", job="search", cpu_s=1.0)))
    assert "### Under budgets that bind" in rendered and "### Table III on" not in rendered
    assert "Not yet run: the budgets of calibration table3, table3_nn_meter." in rendered
    assert Story(results()).searched(Target("quadranet", "table3", "cpu")) == []


@pytest.mark.parametrize("file", sorted(FOLDER.glob("table3*.json")), ids=lambda file: file.stem)
def test_shipped_searches_keep_their_budgets_and_the_shipped_tables_are_theirs(file: Path) -> None:
    shipped = load_results(file, "table3")
    assert file.with_suffix(".md").read_text(encoding="utf-8").strip() == render(shipped).strip()
    for row in shipped.rows:
        if row["kind"] == "searched":
            used = float(str(row["kept_ms"])) / float(str(row["budget_ms"]))
            assert used <= 1 + 1e-9 and (used >= 0.97 or not row["binds"]), row["job"]
