"""Own photographs: what is cut where, what the table says of made-up rows, and the whole in miniature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.own_photos import Wanted, first_of_a_seed, lines_of, main, render
from experiments.own_photos_work import (
    BOTH,
    DEPTH,
    EXPANSION,
    IN_PLACE,
    OFFERED,
    Images,
    load_images,
    nearest_cuts,
    uniform_cut,
)
from experiments.results import FOLDER, NOT_MEASURED, Provenance, Results, Row, load_results
from search_space import load_space, lower
from tests.nas.pretrained import needs_lite0

PROVENANCE = Provenance("python -m experiments.own_photos", "today", None, "a machine", 1, None, {})
SETTINGS: dict[str, Any] = {"images_name": "imagenette", "spaces": "quadranet,proxyless"}
LITE0 = load_space("efficientnet_lite0").largest()


def test_a_cut_is_uniform_and_its_space_holds_the_whole_network() -> None:
    cut = uniform_cut(LITE0, 1, 3)
    assert str(cut) == "k3e3 | k5e3 | k3e3 k3e3 | k5e3 k5e3 | k5e3 k5e3 k5e3 | k3e3"
    largest = cut.space.largest()
    assert str(largest) == str(LITE0)
    weights = [sum(segment.params for segment in _costs(a)) for a in (largest, LITE0)]
    assert weights[0] == weights[1]


def _costs(architecture: Any) -> list[Any]:
    return [node.spec for segment in lower(architecture, 224, 10) for node in segment.nodes]


def test_cuts_keep_the_budget_and_the_next_larger_one_would_not() -> None:
    cuts = nearest_cuts(LITE0, "cpu", 20.0, 10)
    assert cuts.keys() == {EXPANSION, DEPTH, BOTH}
    for dropped, ratio, ms in cuts.values():
        assert ms <= 20.0
        larger = (dropped, ratio + 1) if ratio < 6 else (dropped - 1, ratio)
        assert all(ms != other[2] for other in nearest_cuts(LITE0, "cpu", ms - 0.01, 10).values())
        assert nearest_cuts(LITE0, "cpu", 100.0, 10)[EXPANSION][1] == 5 and larger > (0, 0)
    assert DEPTH not in nearest_cuts(LITE0, "cpu", 12.0, 10)
    assert nearest_cuts(LITE0, "cpu", 1.0, 10) == {}


def price(what: str, budget_ms: float, ms: float, network: str) -> Row:
    return {"kind": "price", "what": what, "device": "cpu", "budget_ms": budget_ms, "ms": ms, "network": network}


def fastest(space: str, minimum_ms: float) -> Row:
    return {"kind": "price", "what": space, "device": "cpu", "minimum_ms": minimum_ms}


def measured(kind: str, test: float, seed: int = 0, **columns: Any) -> Row:
    return {"kind": kind, "seed": seed, "test": test, "images_seen": 16000, "cpu_s": 600.0, **columns}


def searched(test: float, seed: int) -> Row:
    return measured("searched", test, seed, device="cpu", budget_ms=25.0, ms=24.9, targets=5)


ROWS: tuple[Row, ...] = (
    fastest("quadranet", 27.0),
    fastest("proxyless", 16.0),
    price(DEPTH, 25.0, 24.0, "1 less a stage, ratio 6"),
    price(BOTH, 25.0, 20.7, "1 less a stage, ratio 5"),
    measured("cut", 0.90, what="1 less a stage, ratio 6"),
    measured("cut", 0.88, what="1 less a stage, ratio 6", seed=1),
    searched(0.92, 0),
    searched(0.91, 1),
)


def cells_at(rows: tuple[Row, ...], label: str) -> list[str]:
    text = render(Results("own_photos", PROVENANCE, SETTINGS, rows))
    table = text.split("On `vpu`")[0]
    (line,) = [line for line in table.splitlines() if line.startswith("| 25 ms |") and label in line]
    return [cell.strip() for cell in line.strip("|").split("|")][2:]


def test_the_table_says_what_was_measured_what_was_not_and_what_cannot_be() -> None:
    assert cells_at(ROWS, "weights searched |") == ["24.9", "91.5 (91.0..92.0)", "16000", "10.0 for 5", "0, 1"]
    assert cells_at(ROWS, "depth (") == ["24.0", "89.0 (88.0..90.0)", "16000", "10.0", "0, 1"]
    assert cells_at(ROWS, "both (") == ["20.7", *[NOT_MEASURED] * 4]
    assert cells_at(ROWS, "expansion")[0] == "none is so fast"
    assert cells_at(ROWS, "`proxyless` from random weights |") == [NOT_MEASURED] * 5
    assert cells_at(ROWS, "`quadranet` from random weights, taught")[0] == "none: the fastest takes 27.0 ms"


def test_the_gain_over_the_best_cut_says_that_cuts_are_missing() -> None:
    text = render(Results("own_photos", PROVENANCE, SETTINGS, ROWS))
    assert "+2.5 at 25 ms on cpu (some cuts not measured); on average +2.5" in text
    whole = (*ROWS, measured("cut", 0.93, what="1 less a stage, ratio 5"))
    text = render(Results("own_photos", PROVENANCE, SETTINGS, whole))
    assert "-1.5 at 25 ms on cpu; on average -1.5" in text
    assert f"best uniform cut: {NOT_MEASURED}" in render(Results("own_photos", PROVENANCE, SETTINGS, ROWS[:4]))


def test_cuts_that_start_as_searched_networks_do_are_compared_apart() -> None:
    fitted = measured("fitted", 0.905, what="1 less a stage, ratio 6")
    text = render(Results("own_photos", PROVENANCE, SETTINGS, (*ROWS, fitted)))
    assert "| weights cut by hand: depth, fitted (1 less a stage, ratio 6) | 24.0 | 90.5 |" in text
    assert "uniform cut, points: +2.5 at 25 ms" in text and "uniform cut, fitted, points: +1.0 at 25 ms" in text


def test_searches_with_quadratic_forms_are_held_against_those_without_seed_by_seed() -> None:
    def quadratic(test: float, seed: int, what: str, taken: int) -> Row:
        return {**searched(test, seed), "kind": "quadratic", "what": what, "quadratic_blocks": taken, "blocks": 14}

    text = render(Results("own_photos", PROVENANCE, SETTINGS, ROWS))
    assert f"Quadratic forms offered against searches without them: {NOT_MEASURED}." in text
    more = (quadratic(0.915, 0, OFFERED, 3), quadratic(0.90, 2, OFFERED, 1), quadratic(0.925, 1, IN_PLACE, 5))
    text = render(Results("own_photos", PROVENANCE, SETTINGS, (*ROWS, *more)))
    assert "Quadratic forms offered against searches without them, points: -0.5 at 25 ms on cpu (1 seed); on" in text
    assert "on average +1.5. Blocks that are quadratic: 5 of 14." in text
    assert cells_at((*ROWS, *more), "quadratic forms offered")[:2] == ["24.9", "90.8 (90.0..91.5)"]
    names = [job.name for job in Wanted(("searched", "quadratic"), {"cpu": (25.0,)}, (), 1).jobs(())]
    assert names == ["price", "searched cpu 25 seed 0", "whole", *(
        f"quadratic {what} cpu 25 seed 0" for what in (OFFERED, IN_PLACE))]  # fmt: skip


def test_a_budget_that_was_searched_for_alone_too_has_one_row_a_seed() -> None:
    rows: list[Row] = [{"seed": 0, "test": 0.9}, {"seed": 0, "test": 0.8}, {"seed": 1, "test": 0.7}]
    assert first_of_a_seed(rows) == [rows[0], rows[2]]


def test_the_kept_table_is_drawn_from_the_kept_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show"]) == 0
    assert (FOLDER / "own_photos.md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_seeds_follow_each_other_and_a_network_is_cut_once_for_all_budgets() -> None:
    rows = (*ROWS[:4], price(DEPTH, 30.0, 24.0, "1 less a stage, ratio 6"))
    wanted = Wanted(("searched", "cut", "scratch"), {"cpu": (25.0, 30.0)}, ("quadranet",), 2)
    names = [job.name for job in wanted.jobs(rows)]
    assert names == [
        "price",
        "searched cpu 25,30 seed 0",
        "whole",
        *(
            name.format(seed=seed)
            for seed in (0, 1)
            for name in (
                *(("searched cpu 25,30 seed {seed}",) if seed else ()),
                "cut 1 less a stage, ratio 6 seed {seed}",
                "cut 1 less a stage, ratio 5 seed {seed}",
                "scratch quadranet cpu 25,30 seed {seed}",
                "scratch quadranet taught cpu 25,30 seed {seed}",
            )
        ),
    ]


def test_no_line_of_the_table_is_lost() -> None:
    lines = lines_of(Results("own_photos", PROVENANCE, SETTINGS, ()))
    assert len(lines) == (5 + 3) * (2 * 2 + 3 + 1 + 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three classes that a colour tells apart."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("blue", "green", "red")):
        (folder / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., 2 - number] += 100
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_s_test_images_can_be_fewer_with_classes_in_their_proportions(folder: Path) -> None:
    data = load_images(Images(str(folder), "", None, None, 6))
    assert sorted(data.test.labels.tolist()) == [0, 0, 1, 1, 2, 2]


@needs_lite0
def test_the_whole_in_miniature_on_own_pictures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own_photos.json"
    options = ["--quick", f"data={folder}", f"out={out}", f"runs={tmp_path / 'runs'}"]
    assert main([*options, "kinds=searched"]) == 0
    assert main([*options, "kinds=searched,cut,fitted,scratch"]) == 0
    rows = load_results(out, "own_photos").rows
    assert {str(row["job"]) for row in rows} >= {
        "price",
        "whole",
        "searched cpu 20 seed 0",
        "scratch quadranet_lite cpu 20 seed 0",
        "scratch quadranet_lite taught cpu 20 seed 0",
    }
    trained = [row for row in rows if row["kind"] in ("searched", "scratch", "cut", "fitted")]
    assert all(0 <= float(str(row["test"])) <= 1 for row in trained)
    cuts, fitted = ([row for row in trained if row["kind"] == kind] for kind in ("cut", "fitted"))
    assert [row["what"] for row in cuts] == [row["what"] for row in fitted]
    assert all(0 <= float(str(row["before_training"])) <= 1 for row in (*cuts, *fitted))
    (from_weights,) = [row for row in trained if row["kind"] == "searched"]
    assert {row["images_seen"] for row in cuts} == {from_weights["images_seen"]}
    assert len(cuts) == 3 and all(float(str(row["cpu_ms"])) <= 20 for row in cuts)
    assert float(str(from_weights["ms"])) <= 20
    shown = capsys.readouterr().out
    assert "| 20 ms | weights searched |" in shown and "A folder of photographs. 42 training" in shown
    assert main(["show", f"out={out}"]) == 0


@needs_lite0
@pytest.mark.slow
def test_quadratic_forms_in_miniature(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "own_photos.json"
    assert main(["--quick", f"data={folder}", f"out={out}", "kinds=quadratic"]) == 0
    offered, in_place = (row for row in load_results(out, "own_photos").rows if row["kind"] == "quadratic")
    assert (offered["what"], in_place["what"]) == (OFFERED, IN_PLACE)
    for row in (offered, in_place):
        assert float(str(row["ms"])) <= 20 and row["quadratic_blocks"] == str(row["architecture"]).count("q")
    assert float(str(in_place["quadratic_blocks"])) > 0


def test_what_cannot_be_done_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, said in (
        (["budgets.cpu=13"], "budgets.cpu=13 is none of 12, 15, 20, 25, 30"),
        (["budgets.cpu=fast"], "budgets.cpu=fast is not numbers"),
        (["kinds=cubic"], "unknown kind of row 'cubic'"),
        (["kinds=quadratic", "weights=timm:mobilenetv2_100"], "kinds=quadratic has spaces of efficientnet_lite0 alone"),
        (["images=100"], "a folder is used whole"),
    ):
        assert main([f"data={folder}", f"out={tmp_path / 'none.json'}", *options]) == 2
        assert said in capsys.readouterr().err
    assert main([f"data.root={tmp_path}", f"out={tmp_path / 'none.json'}"]) == 2
    assert "no imagenette*_train.npz" in capsys.readouterr().err
