"""A miniature of the experiment on a made-up benchmark, its table and figure from the file alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import nasbench201
from experiments.results import FOLDER, load_results
from search_space.errors import BadFile
from tests import SHARED

TABULAR = SHARED / "tabular"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A benchmark of two operations on four edges, in a shuffled order, whose accuracy counts the second one."""
    rng = np.random.default_rng(0)
    cells = np.array(list(np.ndindex(2, 2, 2, 2)), np.uint8)[rng.permutation(16)]
    good = cells.sum(1).astype(np.float32)
    np.savez(
        tmp_path / "nasbench201.npz",
        ops=cells,
        op_names=np.array(["skip", "conv"]),
        test_acc=np.stack([good * 10, good * 5, good], axis=1),
        acc_names=np.array(["cifar10", "cifar100", "ImageNet16-120"]),
        latency_ms=np.stack([good + 1] * len(nasbench201.DEVICES), axis=1),
        devices=np.array(nasbench201.DEVICES),
        macs=(good + 1).astype(np.int64),
        params=(good + 1).astype(np.int64),
    )
    return tmp_path


def test_the_miniature_ends_in_no_regret_and_resumes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nasbench201, "LOOKS", (2, 4))
    out = folder / "out.json"
    arguments = ["--quick", f"source={folder}", f"out={out}", "seeds=2"]
    assert nasbench201.main([*arguments, "minutes=1e-12"]) == 0
    assert "12 jobs are left" in capsys.readouterr().out
    assert nasbench201.main(arguments) == 0
    printed = capsys.readouterr().out
    results = load_results(out, "nasbench201")
    found, free = results.rows[:8], results.rows[8:]
    assert {row["strategy"] for row in found} == set(nasbench201.STRATEGIES)
    assert all(row["regret_2"] >= row["regret_4"] >= 0 for row in found)  # type: ignore[operator]
    assert [row["strategy"] for row in free] == list(nasbench201.FREE)
    assert all(row["regret"] == 0 and row["tau"] == 1 for row in free), "accuracy counts what costs"
    assert "after 2 looks: random, optuna TPE, optuna NSGA-II, evolution." in printed
    # the quarter of the 16 cells that is fastest has at most one conv, and evolution begins with most MACs
    assert {row["regret_2"] for row in results.rows if row["strategy"] == "evolution"} == {0.0}
    assert nasbench201.render(results) in printed and "± " in printed
    assert nasbench201.main(["show", f"out={out}", f"figure={folder / 'a.svg'}"]) == 0
    assert nasbench201.main(["show", f"out={out}", f"figure={folder / 'b.svg'}"]) == 0
    assert (folder / "a.svg").read_bytes() == (folder / "b.svg").read_bytes()


def test_a_folder_without_the_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no file .*source= names its folder"):
        nasbench201.load_benchmark(tmp_path)
    (tmp_path / "nasbench201.npz").write_text("no archive")
    with pytest.raises(BadFile, match="does not hold the table"):
        nasbench201.load_benchmark(tmp_path)


@pytest.mark.skipif(not TABULAR.is_dir(), reason="the tables are not here")
def test_the_benchmark_is_whole_and_its_order_the_regions() -> None:
    benchmark = nasbench201.load_benchmark(TABULAR)
    region = benchmark.region("pixel2", 0.25)
    assert 0.25 * 5**6 <= len(region.within) < 0.35 * 5**6
    with np.load(TABULAR / "nasbench201.npz", allow_pickle=False) as data:
        some = data["ops"][:100].astype(np.int64)
        assert np.allclose(benchmark.accuracy["cifar10"][region.index(some)], data["test_acc"][:100, 0])
        assert np.allclose(benchmark.macs[region.index(some)], data["macs"][:100])


@pytest.mark.skipif(not (FOLDER / "nasbench201.json").is_file(), reason="not measured")
def test_the_shipped_results_are_drawn_and_evolution_leads() -> None:
    results = load_results(FOLDER / "nasbench201.json", "nasbench201")
    assert "evolution" in nasbench201.render(results)
    found = {curve.strategy: curve for curve in nasbench201.curves(results, "regret")}
    for strategy in set(found) - {"evolution"}:
        assert all(ours < theirs for ours, theirs in zip(found["evolution"].mean, found[strategy].mean, strict=True))
