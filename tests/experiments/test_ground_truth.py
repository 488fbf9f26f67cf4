"""The experiment in miniature, from its jobs to its tables, and the arithmetic of regret on made-up truths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

from experiments import ground_truth, truth_tables
from experiments.ground_truth import jobs_of, main
from experiments.lookup import COUNTS, DRAWS, STRATEGIES, look_up
from experiments.results import Results, Row, load_results, save_results, take_provenance
from experiments.truth import Supernet, Truth, equal_draws, expected_best, kendall
from experiments.truth_work import Job, Scale, Worker, all_paths
from nas.discrete.budgeted import within_budget
from search_space import SearchSpace

NAMES = ("a", "b", "c", "d")
LATENCY_MS = dict(zip(NAMES, (1.0, 2.0, 3.0, 4.0), strict=True))


def truth_of(*seeds: Sequence[float]) -> Truth:
    """Of four networks, each slower than the one before; their accuracies by seed."""
    return Truth({i: dict(zip(NAMES, values, strict=True)) for i, values in enumerate(seeds)}, LATENCY_MS)


def test_the_space_is_what_was_asked_for() -> None:
    space = Scale().space
    assert space.architecture_count == len(all_paths(space)) == 80
    assert len(space.kernel_sizes) == len(space.expand_ratios) == 2 and space.stages[0].max_blocks == 2


def test_every_distinct_network_once() -> None:
    """Where two slots may be empty, several gate paths mean one network."""
    space = SearchSpace.from_dict({**Scale().space.to_dict(), "stages": [{"width": 8, "max_blocks": 3}]})
    paths = all_paths(space)
    assert len({space.architecture(path) for path in paths}) == len(paths) == space.architecture_count == 84


def test_expected_best_is_the_mean_over_all_draws() -> None:
    value = {"a": 0.3, "b": 0.9, "c": 0.5, "d": 0.1, "e": 0.7}
    order = list(value)
    for draws in range(1, 6):
        drawn = itertools.combinations(order, draws)
        assert expected_best(order, value, draws) == pytest.approx(fmean(value[min(d, key=order.index)] for d in drawn))
    assert expected_best(order, value, 99) == 0.3


def test_regret_is_against_the_best_mean_within_the_budget() -> None:
    truth = truth_of((0.5, 0.4, 0.6, 0.8), (0.5, 0.6, 0.8, 0.9))
    assert truth.feasible(3.0) == ["a", "b", "c"]
    assert truth.regret("c", 3.0) == pytest.approx(0) and truth.regret("a", 3.0) == pytest.approx(20)
    assert truth.regret("c", 4.0) == pytest.approx(15)
    assert truth.random_regret(truth.accuracy, 3.0, 1) == pytest.approx(100 * (0.7 - (0.5 + 0.5 + 0.7) / 3))
    assert truth.random_regret(truth.accuracy, 3.0, 3) == pytest.approx(0)
    worst_first = {name: -accuracy for name, accuracy in truth.accuracy.items()}
    assert truth.random_regret(worst_first, 3.0, 3) == pytest.approx(20)


def test_spreads_and_agreement_between_seeds() -> None:
    truth = truth_of((0.1, 0.2, 0.3, 0.4), (0.3, 0.4, 0.5, 0.6))
    assert truth.half_taus == pytest.approx([1, 1])
    assert truth.seed_deviation == pytest.approx(100 * 0.1 * 2**0.5)
    assert kendall({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 3, "c": 2, "z": 0}) == pytest.approx(1 / 3)


def test_a_seed_without_all_networks_does_not_count() -> None:
    whole, part = dict.fromkeys(NAMES, 0.5), {"a": 0.9}
    assert Truth({0: whole, 1: part}, LATENCY_MS).accuracy == whole
    assert Truth({0: whole}, {}).accuracy == {}


def test_equal_cost_is_counted_in_evaluations() -> None:
    net = Supernet({str(i): 0.5 for i in range(20)}, training_cpu_s=10.0, evaluation_cpu_s=0.5)
    runs = [{"strategy": "slow", "cpu_s": 19.0}, *({"strategy": "fast", "cpu_s": cpu_s} for cpu_s in (16.0, 14.0))]
    assert equal_draws([net], [*runs, {"strategy": "evolution", "cpu_s": 11.0, "evaluations": 6}]) == 10
    assert equal_draws([net], [{"strategy": "fast", "cpu_s": 60.0}]) == 20
    assert equal_draws([net], []) is None


def test_lookups_ask_for_what_keeps_the_budget() -> None:
    """The best of the networks that keep it is known once all are."""
    scale = ground_truth.QUICK
    plan = Worker(scale, "", "cpu").plan(seed=0, share_weights=True, budget_share=0.5)
    feasible = [path.choices for path in all_paths(scale.space) if plan.table.path_ms(path) <= plan.settings.budget_ms]
    accuracies = {choices: 0.1 * i for i, choices in enumerate(feasible)}
    assert 1 < len(accuracies) <= max(COUNTS) < 40
    region = within_budget(scale.space, plan.table, plan.limits, plan.settings.budget_ms, 0.0)
    findings = list(look_up(region, accuracies))
    assert len(findings) == len(STRATEGIES) * DRAWS * len(COUNTS)
    assert {found.best for found in findings if found.evaluations >= len(feasible)} == {feasible[-1]}
    for found in findings:
        later = [f for f in findings if (f.strategy, f.draw) == (found.strategy, found.draw)]
        reached = [accuracies[f.best] for f in sorted(later, key=lambda f: f.evaluations)]
        assert reached == sorted(reached)


def results_of(shared_pick: str, separate_pick: str) -> Results:
    truth = truth_of((0.5, 0.6, 0.7, 0.8), (0.5, 0.6, 0.7, 0.8))
    rows: list[Row] = [{"kind": "space", "network": name, "latency_ms": ms} for name, ms in LATENCY_MS.items()]
    for seed, found in truth.by_seed.items():
        rows += [{"kind": "network", "network": name, "seed": seed, "test": value} for name, value in found.items()]
    for shared, pick in ((True, shared_pick), (False, separate_pick)):
        common = {"seed": 0, "share_weights": shared, "epochs": 10}
        rows.append({"kind": "supernet", **common, "training_cpu_s": 1.0, "evaluation_cpu_s": 0.5})
        for i, name in enumerate(NAMES):
            rows.append({"kind": "inherited", **common, "network": name, "validation": i if shared else -i})
        rows.append({"kind": "search", "strategy": "proxyless", **common, "budget_ms": 3.5, "network": pick})
    marked = [{"job": str(i), "commit": "f" * 40, "cpu_s": 2.0, **row} for i, row in enumerate(rows)]
    return Results("ground_truth", take_provenance("a test", "cpu"), {}, tuple(marked))


def test_tables_say_regret_rank_and_mark() -> None:
    text = truth_tables.render(results_of(shared_pick="c", separate_pick="a"))
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    cells = {name: rest for name, *rest in lines}
    assert cells["shared"][:3] == ["10", "1.00", "1.00"] and cells["separate"][:3] == ["10", "-1.00", "-1.00"]
    assert cells["all, 4 evaluated, shared weights"] == ["0.00", "0.00"]
    assert cells["all, 4 evaluated, separate weights"] == ["20.00", "20.00"]
    assert cells["a random feasible network"] == ["10.00", "10.00"]
    assert cells["proxyless, shared weights"] == ["0.00", "0.00", "3.33", "10.00", "CPU time, feasible", "no"]
    assert cells["proxyless, separate weights"] == ["20.00", "20.00", "16.67", "10.00", "none", "no"]
    assert cells["slowest"] == ["0.00", "0.00"]
    assert "costs nothing: slowest, 0.00 points. 2 of the 2 strategies are not better." in text


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a quick trial."""
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    assert main(["--quick", "seeds=1", f"out={path}"]) == 0
    return path


def test_a_trial_from_training_to_tables(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = load_results(measured, "ground_truth")
    assert {row["job"] for row in results.rows} == {job.name for job in jobs_of(ground_truth.QUICK, seeds=1)}
    truth = Truth.of(results.rows)
    assert len(truth.accuracy) == 12 and len(truth.complete) == 1
    for row in results.rows:
        if row["kind"] == "search":
            assert truth.latency_ms[str(row["network"])] == pytest.approx(row["latency_ms"])
            assert truth.latency_ms[str(row["network"])] <= float(str(row["budget_ms"]))
    assert main(["show", f"out={measured}"]) == 0
    assert "proxyless, shared weights" in capsys.readouterr().out


def test_a_later_call_resumes(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what is missing is done, and the same is found."""
    results = load_results(measured, "ground_truth")
    missing = {"network k3e2 k3e1 | k3e2 0", "network k3e1 | k3e1 0"}
    kept = [row for row in results.rows if row["job"] not in missing]
    path = tmp_path / "part.json"
    save_results(path, Results(results.experiment, results.provenance, results.settings, tuple(kept)))
    assert main(["--quick", "seeds=1", f"out={path}", "minutes=1e-12"]) == 0
    assert "2 jobs are left" in capsys.readouterr().out
    assert main(["--quick", "seeds=1", f"out={path}"]) == 0
    all_jobs = len({row["job"] for row in results.rows})
    said = capsys.readouterr().out.splitlines()
    done = [line.split(" ", 1)[1] for line in said if line.startswith((f"{all_jobs - 1}/", f"{all_jobs}/"))]
    assert set(done) == missing
    was = {(row["job"], row.get("network")): row.get("test") for row in results.rows}
    rows = load_results(path, "ground_truth").rows
    assert {(row["job"], row.get("network")): row.get("test") for row in rows} == was


def test_a_stopped_call_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(worker: Worker, job: Job) -> list[Row]:
        if job.kind != "space":
            raise KeyboardInterrupt
        return [{"kind": "space", "network": "a", "latency_ms": 1.0, "cpu_s": 0.0}]

    monkeypatch.setattr(Worker, "__call__", stop)
    path = tmp_path / "stopped.json"
    assert main(["--quick", f"out={path}"]) == 130
    assert [row["job"] for row in load_results(path, "ground_truth").rows] == ["space"]


def test_what_is_refused(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--quick", "device=vpu", f"out={measured}"], "was measured with device=cpu, not vpu"),
        (["kinds=networks"], "Did you mean 'network'?"),
        (["data=nowhere", f"out={tmp_path / 'a.json'}", "kinds=network"], "no CIFAR-10 in 'nowhere'"),
        (["show", f"out={tmp_path / 'a.json'}"], "python -m experiments.ground_truth measures them"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_find_what_one_does(measured: Path, tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    assert main(["--quick", "seeds=1", "jobs=2", f"out={path}"]) == 0

    def found(file: Path) -> set[tuple[object, ...]]:
        rows = load_results(file, "ground_truth").rows
        return {(row["job"], row["network"], row.get("test")) for row in rows if row["kind"] == "network"}

    assert found(path) == found(measured)
