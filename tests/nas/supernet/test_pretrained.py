"""init=: networks chosen in an earlier supernet. Nothing is trained unless asked, nothing measured is made up."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nas.api import search
from nas.command.options import given
from nas.command.summary import one_network
from nas.data import DataSettings, load
from nas.run.export import load_network
from nas.run.plan import plan_search
from nas.run.result import SearchResult, load_result
from nas.run.settings import SearchSettings, TrainCommand, settings_from_dict
from nas.search import main
from nas.strategies import weights
from nas.supernet.origin import origin_of, with_init_defaults
from nas.train import full_training
from nas.training.loop import accuracy
from nas.training.recipes import Recipe
from search_space import UserError
from tests import SHARED
from tests.nas.strategies.test_subnetworks import SPACES

DATASETS = SHARED / "datasets"


@pytest.fixture(scope="module")
def supernets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of finished searches, one with gates and one without."""
    folder = tmp_path_factory.mktemp("supernets")
    (folder / "small.yaml").write_text(SPACES["quadra"])
    asked: dict[str, Any] = {
        "device": "cpu",
        "budget_ms": 2.8,
        "space": str(folder / "small.yaml"),
        "data": {"name": "digits", "resolution": 16, "limit": 200},
        "warmup": {"epochs": 0},
        "epochs": 1,
        "finetune": {"epochs": 0},
        "trials": 3,
        "progress": False,
    }
    for strategy in ("proxyless", "random"):
        search(**asked, strategy=strategy, out=str(folder / strategy))
    return {strategy: folder / strategy for strategy in ("proxyless", "random")}


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a weight was trained")

    monkeypatch.setattr(weights.WeightTraining, "train_path", refuse)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("strategy", ["proxyless", "evolution"])
def test_another_budget_is_kept_with_the_weights_as_they_were(
    supernets: dict[str, Path], strategy: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    found = search(
        init=str(supernets["proxyless"]), device="vpu", budget_ms=11, strategy=strategy, trials=4, out=str(out),
        progress=False,
    ).result  # fmt: skip
    assert found.budget is not None and found.budget.device == "vpu" and found.budget.predicted_ms <= 11
    assert found.accuracy is not None and found.architecture.space.name == "small"
    assert not (out / "checkpoint.safetensors").exists() and (out / "report.html").is_file()
    origin = origin_of(str(supernets["proxyless"]))
    assert found.resolution.training == origin.settings.data.resolution == 16
    data = load(origin.settings.data)
    network = load_network(found, out / "weights.safetensors")
    assert accuracy(network, data.batches(data.test, 16, 64)) == pytest.approx(found.accuracy.test)
    own = network.state_dict()
    left = {key.removeprefix("supernet."): value for key, value in load_file(origin.path).items()}
    whole = [key for key in own if key in left and left[key].shape == own[key].shape]
    assert len(whole) > 2
    assert all(torch.equal(own[key], left[key]) for key in whole)


def test_training_continues_where_epochs_ask_for_it(supernets: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    search(init=str(supernets["proxyless"]), device="cpu", budget_ms=2.8, epochs=1, out=str(out), progress=False)
    with (out / "search.csv").open() as file:
        assert "search" in {row["phase"] for row in csv.DictReader(file)}
    assert (out / "checkpoint.safetensors").is_file()
    assert origin_of(str(out)).splits == origin_of(str(supernets["proxyless"])).splits


@pytest.mark.usefixtures("untrained")
def test_several_budgets_at_once(supernets: dict[str, Path], tmp_path: Path) -> None:
    front = search(
        init=str(supernets["proxyless"]), device="cpu", budget_ms=[2.6, 2.8], out=str(tmp_path / "run"), progress=False
    )
    budgets = [target.result.budget for target in front.targets]
    assert all(b is not None and b.predicted_ms <= b.budget_ms for b in budgets)


@pytest.mark.parametrize(
    ("kind", "asked", "said"),
    [
        ("proxyless", {"data": {"limit": 100}}, "compared on images that they were trained on"),
        ("proxyless", {"data": {"validation_share": 0.4}}, "compared on images that they were trained on"),
        ("proxyless", {"train": {"share_weights": False}}, "trained with train.share_weights=true, not false; leave"),
        ("proxyless", {"data": {"resolution": 32}}, "trained at 16 pixels, not at 32; leave out data.resolution="),
        ("proxyless", {"space_width": 0.5}, "with space_width=null, not with space_width=0.5; leave out space_width="),
        ("random", {}, "has no gates to choose by; add strategy=evolution"),
        ("missing", {}, "give pretrained, .*a search's folder"),
        ("pretrained", {"budget_ms": 50, "finetune": {"epochs": 1}}, "add data=cifar10 data.root=FOLDER"),
        ("pretrained", {"budget_ms": 50, "epochs": 3}, "^epochs=3 cannot be done without images; .* or leave it out$"),
        (
            "pretrained",
            {"budget_ms": 50, "strategy": "random"},
            "^strategy=random cannot be .* add data=cifar10 data.root",
        ),
        ("pretrained", {"budget_ms": 50, "train": {"share_weights": False}}, "trained with train.share_weights=true"),
        ("pretrained", {"budget_ms": 50, "resolution": 128}, "was trained at 32 pixels, not at 128"),
        ("pretrained", {"budget_ms": 50, "space_width": 0.5}, "not with space_width=0.5"),
        ("pretrained", {"budget_ms": 1}, "cannot be met"),
    ],
)
def test_what_a_supernet_cannot_be_asked(
    supernets: dict[str, Path], kind: str, asked: dict[str, Any], said: str, tmp_path: Path
) -> None:
    init = kind if kind == "pretrained" else str(supernets.get(kind, tmp_path / "nothing"))
    options = {"device": "cpu", "budget_ms": 2.8, "out": str(tmp_path / "run"), **asked}
    with pytest.raises(UserError, match=said):
        search(init=init, progress=False, **options)


def test_weights_for_other_classes_are_refused(supernets: dict[str, Path], tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    run = supernets["proxyless"]
    asked = TrainCommand(
        str(run / "architecture.json"), str(run / "weights.safetensors"), resolution=16, out=str(tmp_path / "out")
    )
    data = DataSettings("imagefolder", str(tmp_path / "images"), resolution=16)
    with pytest.raises(UserError, match=r"the weights in '.*' have 10 classes, data=imagefolder has 2$"):
        full_training(asked, data, Recipe(), progress=False)
    with pytest.raises(UserError, match=r"have 10 classes, the architecture has 2$"):
        load_network(replace(load_result(run / "architecture.json"), num_classes=2), run / "weights.safetensors")


def test_a_file_that_is_no_supernet_is_refused(tmp_path: Path, supernets: dict[str, Path]) -> None:
    whole = (supernets["proxyless"] / "checkpoint.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:4000])
    other = supernets["proxyless"] / "weights.safetensors"
    for path, said in ((tmp_path / "cut.safetensors", "is truncated, or"), (other, "layout")):
        with pytest.raises(UserError, match=said):
            search(init=str(path), device="cpu", budget_ms=2.8, progress=False)


def test_the_shipped_one_is_light_and_says_what_it_was_trained_for() -> None:
    origin = origin_of("pretrained")
    assert origin.path.stat().st_size < 20e6 and origin.path.with_suffix(".md").is_file()
    assert origin.settings.space == "quadranet" and origin.settings.data.name == "cifar10"
    assert origin.settings.data.root is None and origin.gates is not None
    assert len(origin.inputs.class_names) == 10


@pytest.mark.usefixtures("untrained")
def test_without_images_a_network_is_found_and_no_accuracy_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["search", "init=pretrained", "device=vpu", "budget_ms=35", "out=run"])
    main()
    printed = capsys.readouterr().out
    assert "note: no images at hand (data=cifar10 data.root=FOLDER)" in printed
    assert "accuracy not measured: no images at hand" in printed
    result = load_result(Path("run/architecture.json"))
    assert result.accuracy is None and result.budget is not None and 0.97 * 35 <= result.budget.predicted_ms <= 35
    assert SearchResult.from_dict(result.to_dict()) == result
    assert one_network(result, Path("run")) in printed
    assert "not measured" in Path("run/report.html").read_text()
    with pytest.raises(UserError, match="that run trained nothing, its supernet is init=pretrained"):
        search(init="run", budget_ms=40, progress=False)


@pytest.mark.slow
@pytest.mark.skipif(not DATASETS.is_dir(), reason="no CIFAR-10 beside the repository")
def test_the_shipped_ones_accuracy_is_measured(tmp_path: Path) -> None:
    found = search(init="pretrained", device="vpu", budget_ms=35, data={"name": "cifar10", "root": str(DATASETS)},
                   out=str(tmp_path / "run"), progress=False).result  # fmt: skip
    assert found.accuracy is not None and found.accuracy.test_images == 10_000
    assert found.accuracy.test > 0.5


def test_what_was_given_is_distinguished_from_defaults() -> None:
    composed = {"device": "vpu", "epochs": 4, "data": {"name": "cifar10", "root": "x", "limit": None}, "seed": 0}
    assert given(composed, ["device=vpu", "data=cifar10", "data.root=x", "hydra.verbose=true", "--multirun"]) == {
        "device": "vpu",
        "data": {"name": "cifar10", "root": "x"},
    }


def test_another_space_is_refused() -> None:
    asked = settings_from_dict(SearchSettings, with_init_defaults({"init": "pretrained", "space": "proxyless"}))
    with pytest.raises(UserError, match="holds a supernet of space=quadranet, not of space=proxyless"):
        plan_search(asked, num_classes=10)
