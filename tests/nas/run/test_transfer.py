"""Searches that start from weights trained on other classes, and trainings with a teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nas.api import search
from nas.data import DataSettings, load
from nas.run.defaults import with_defaults
from nas.run.finished import Finished
from nas.run.plan import plan_search
from nas.run.settings import SearchSettings, TrainCommand, settings_from_dict
from nas.strategies.untrained import decided
from nas.train import full_training
from nas.training.recipes import Recipe
from search_space import UserError
from search_space.errors import Stopped
from tests.nas.pretrained import needs_lite0
from tests.nas.run.test_resume import Interrupting

SPACE = """
name: small_mbconv
family: mbconv
stem_width: 8
first_width: 8
head_width: 32
stages: [{width: 8, max_blocks: 2, stride: 2}, {width: 16, max_blocks: 2, stride: 2}]
kernel_sizes: [3, 5]
expand_ratios: [2, 3]
"""
SHORT: dict[str, Any] = {
    "device": "cpu",
    "budget_ms": 2.6,
    "warmup": {"epochs": 1},
    "epochs": 1,
    "finetune": {"epochs": 1},
    "rerank": 2,
    "progress": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space, and pictures of three classes that a colour tells apart."""
    folder = tmp_path_factory.mktemp("transfer")
    (folder / "space.yaml").write_text(SPACE)
    rng = np.random.default_rng(0)
    for number, name in enumerate(("blue", "green", "red")):
        of_class = folder / "pictures" / name
        of_class.mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 120, (32, 32, 3), dtype=np.uint8)
            pixels[..., 2 - number] += 100
            Image.fromarray(pixels).save(of_class / f"{i}.png")
    return folder


def pictures(folder: Path, **options: Any) -> dict[str, Any]:
    return {"name": "imagefolder", "root": str(folder / "pictures"), "resolution": 32, **options}


@pytest.fixture(scope="module")
def earlier(folder: Path) -> Path:
    """A search on digits."""
    out = folder / "earlier"
    data = {"name": "digits", "resolution": 32, "limit": 120}
    search(**SHORT, space=str(folder / "space.yaml"), data=data, train={"batch_size": 16}, out=str(out))
    return out


def transferred(folder: Path, earlier: Path, out: str, **options: Any) -> Finished:
    train = {"batch_size": 16}
    return search(
        **{**SHORT, "data": pictures(folder), "train": train, "init": str(earlier), "out": str(folder / out), **options}
    )


def test_an_own_earlier_run_starts_a_search_for_other_classes(folder: Path, earlier: Path) -> None:
    found = transferred(folder, earlier, "other")
    result = found.result
    assert result.input.class_names == ("blue", "green", "red") and result.num_classes == 3
    assert result.budget is not None and result.budget.predicted_ms <= 2.6
    assert result.provenance["weights"]["name"] == str(earlier)
    taught = result.provenance["teacher"]
    assert 1 / 3 < taught["validation"] <= 1
    before = result.provenance["validation before training"]
    assert set(before) == {"largest", "smallest", "random 1", "random 2", "random 3"}
    log = found.log
    assert log[log["phase"] == "inherited"]["val_accuracy"].tolist() == pytest.approx(list(before.values()), abs=1e-6)
    page = (found.folder / "report.html").read_text()
    assert "validation before training" in page and str(earlier) in page
    again = search(init=str(found.folder), out=str(folder / "again"), device="cpu", budget_ms=2.5, progress=False)
    assert again.result.input.class_names == ("blue", "green", "red")


def test_what_such_a_search_is_trained_for_by_default(folder: Path, earlier: Path) -> None:
    options = {"init": str(earlier), "data": pictures(folder)}
    settings = settings_from_dict(SearchSettings, with_defaults(options))
    assert settings.space == str(folder / "space.yaml") and settings.data.crop == "shift"
    assert settings.epochs > 0 and settings.finetune.epochs > 0
    same = settings_from_dict(SearchSettings, with_defaults({"init": str(earlier)}))
    assert same.epochs == same.finetune.epochs == 0


def test_a_run_with_a_teacher_resumes_to_the_same_weights(
    folder: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"checkpoint": {"steps": 2, "minutes": 1000}}
    whole = transferred(folder, earlier, "whole", **options)
    stopped = folder / "stopped"
    for call in (4, 7, 9):  # in warm-up, search and fine-tuning
        interrupting = Interrupting(call)
        for module in ("nas.strategies.proxyless", "nas.training.loop"):
            monkeypatch.setattr(f"{module}.checked", interrupting)
        with pytest.raises(Stopped):
            if stopped.is_dir():
                search(resume=stopped, progress=False)
            else:
                transferred(folder, earlier, "stopped", **options)
    monkeypatch.undo()
    search(resume=stopped, progress=False)
    for name in ("weights.safetensors", "checkpoint.safetensors", "gates.csv"):
        assert (stopped / name).read_bytes() == (whole.folder / name).read_bytes(), name
    first, second = (json.loads((f / "architecture.json").read_text())["provenance"] for f in (whole.folder, stopped))
    for fact in ("weights", "teacher", "validation before training"):
        assert first[fact] == second[fact]


def test_a_run_s_folder_teaches_a_space_without_trained_weights_and_a_full_training(
    folder: Path, earlier: Path
) -> None:
    quadra = (
        SPACE.replace("mbconv", "quadra").replace("first_width: 8\nhead_width: 32\n", "").replace(", stride: 2", "")
    )
    (folder / "quadra.yaml").write_text(quadra)
    taught = search(
        **{**SHORT, "budget_ms": 4.0},
        space=str(folder / "quadra.yaml"),
        data=pictures(folder),
        train={"batch_size": 16},
        teacher=str(earlier),
        out=str(folder / "taught"),
    )
    facts = taught.result.provenance
    assert facts["teacher"]["name"] == str(earlier) and facts["teacher"]["validation"] > 1 / 3
    assert "weights" not in facts and "validation before training" not in facts
    command = TrainCommand(
        architecture=str(taught.folder / "architecture.json"),
        teacher=str(earlier),
        resolution=32,
        out=str(folder / "t"),
    )
    data = settings_from_dict(DataSettings, pictures(folder), "data.")
    trained = full_training(command, data, Recipe(epochs=1, batch_size=16), progress=False)
    assert trained is not None and trained[0].provenance["teacher"]["name"] == str(earlier)


def test_a_teacher_changes_what_is_learned(folder: Path, earlier: Path) -> None:
    weights = []
    for share in (0.0, 0.9):
        train = {"batch_size": 16, "teacher_share": share}
        found = transferred(folder, earlier, f"share{share}", train=train)
        weights.append(load_file(found.folder / "checkpoint.safetensors")["supernet.head.classifier.weight"])
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init": "efficientnet_lite9"}, "no file 'efficientnet_lite9'; give pretrained, efficientnet_lite0"),
        ({"init": "timm:resnet50"}, "unknown trained network 'timm:resnet50'"),
        ({"init": "weights.pth"}, "'weights.pth'"),
        ({"init": "timm:mobilenetv2_100", "space": "quadranet"}, "teacher=timm:mobilenetv2_100"),
        ({"teacher": "nobody"}, "unknown trained network 'nobody'"),
        ({"teacher": "{folder}"}, "architecture.json"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(folder: Path, options: dict[str, str], said: str) -> None:
    options = {name: value.format(folder=folder) for name, value in options.items()}
    out = folder / "refused"
    with pytest.raises(UserError) as error:
        search(**{**SHORT, "budget_ms": 30}, data=pictures(folder), **options, out=str(out))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert not out.exists()


def test_own_pictures_and_random_weights_meet_a_hint(folder: Path) -> None:
    shots = sorted((folder / "pictures").glob("*/*.png"))
    lines = "\n".join(f"{path.relative_to(folder)},{path.parent.name}" for path in shots)
    (folder / "labels.csv").write_text(f"path,label\n{lines}\n")
    table = {"name": "table", "file": str(folder / "labels.csv"), "resolution": 32}
    for data in (pictures(folder), table):
        settings = settings_from_dict(SearchSettings, with_defaults({"data": data}))
        assert any("init=efficientnet_lite0" in note for note in plan_search(settings).notes)
    digits = settings_from_dict(SearchSettings, with_defaults({}))
    assert not any("init=" in note for note in plan_search(digits).notes)


@pytest.mark.slow
@needs_lite0
def test_a_published_network_starts_a_search(folder: Path) -> None:
    found = search(
        device="cpu",
        budget_ms=20,
        finetune={"epochs": 1},
        rerank=2,
        data=pictures(folder, limit=48),
        init="efficientnet_lite0",
        out=str(folder / "published"),
        progress=False,
    )
    result = found.result
    assert result.provenance["settings"]["strategy"] == "cut"
    assert result.architecture.space.name == "efficientnet_lite0" and result.num_classes == 3
    assert result.input.mean == result.input.std == (0.5, 0.5, 0.5)
    assert result.provenance["weights"]["licence"] == "Apache-2.0"
    assert result.provenance["teacher"]["name"] == "efficientnet_lite0"
    assert any("licence of the weights: Apache-2.0" in note for note in result.notes)
    page = (found.folder / "report.html").read_text()
    assert "Apache-2.0" in page and "efficientnet_lite0" in page


@needs_lite0
def test_weights_stay_shared_however_long_the_training(folder: Path) -> None:
    for options, shared in (({"init": "efficientnet_lite0"}, True), ({"space": "efficientnet_lite0"}, False)):
        given = {"device": "cpu", "data": pictures(folder), "warmup": {"epochs": 5000}, **options}
        plan = plan_search(settings_from_dict(SearchSettings, with_defaults(given)))
        assert decided(plan, load(plan.settings.data)).settings.train.share_weights is shared


@needs_lite0
def test_separate_weights_cannot_start_from_one_network(folder: Path) -> None:
    with pytest.raises(UserError, match=r"train\.share_weights=false .* init=efficientnet_lite0"):
        search(
            **{**SHORT, "budget_ms": 20},
            data=pictures(folder),
            init="efficientnet_lite0",
            train={"share_weights": False},
            out=str(folder / "separate"),
        )
