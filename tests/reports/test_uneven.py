"""Classes of unlike sizes, and images that belong together: what is said of them, and what may be asked.

Every test makes its input. How much weighing gains is measured by `tests.bench.class_balance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from nas.command.summary import next_step
from nas.data import DataSet, find, load
from nas.run.result import Preprocessing
from nas.run.settings import FinetuneSettings, SearchSettings, TrainSettings
from nas.training.lessons import class_weights, taught_loss
from nas.training.recipes import finetune_recipe
from search_space.errors import UserError
from tests.bench.class_balance import CASES, measure
from tests.nas.run.test_result import sample_result
from tests.reports.test_changes import fill, names, pets


def images(root: Path, **options: object) -> DataSet:
    settings = replace(find("imagefolder").defaults, root=str(root), resolution=16, validation_share=0.2)
    return load(replace(settings, **options))  # type: ignore[arg-type]


# ------------------------------------------------------------------ classes of unlike sizes


def test_sizes_of_classes_are_said(tmp_path: Path) -> None:
    """190 good, 10 defect: nobody is told before the accuracy is read. zennit 170."""
    fill(tmp_path / "good", range(100))
    fill(tmp_path / "defect", range(1000, 1012))
    data = images(tmp_path)
    assert "2 classes ('defect', 'good'), 12 to 100 each; train" in data.found[0]
    (note,) = [sentence for sentence in data.found if "uneven" in sentence]
    few, many = np.bincount(data.train.labels)
    assert f"'defect' has {few} training images, 'good' has {many}" in note and "train.balance=1" in note
    assert not any("uneven" in sentence for sentence in images(pets(tmp_path / "even")).found)


def test_weights_count_classes_alike() -> None:
    labels = np.repeat([0, 1, 2], [100, 10, 1])
    assert class_weights(labels, 3, 0.0) is None
    for balance in (0.5, 1.0):
        weights = class_weights(labels, 3, balance)
        assert weights is not None and weights[labels].mean() == pytest.approx(1)
        assert weights[1] / weights[0] == pytest.approx(10**balance)
    alike = class_weights(np.repeat([0, 1, 2], 5), 4, 1.0)  # there is no image of the last one
    assert alike is not None and alike[:3].tolist() == pytest.approx([1, 1, 1])


def test_the_loss_counts_an_image_by_its_class() -> None:
    logits, soft = torch.randn(4, 3), torch.randn(4, 3).softmax(1)
    labels, weights = torch.tensor([0, 1, 2, 1]), torch.tensor([0.5, 2.0, 4.0])
    each = F.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    expected = (0.75 * each + 0.25 * F.cross_entropy(logits, soft, reduction="none")) * weights[labels]
    found = taught_loss(logits, labels, soft, 0.25, 0.1, weights)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    of_mixed = taught_loss(logits, F.one_hot(labels, 3).float(), soft, 0.25, 0.1, weights)
    assert of_mixed.item() == pytest.approx(found.item(), rel=1e-5)
    ones = taught_loss(logits, labels, soft, 0.25, 0.1, torch.ones(3))
    assert ones.item() == pytest.approx(taught_loss(logits, labels, soft, 0.25, 0.1).item(), rel=1e-5)


def test_fine_tuning_weighs_as_the_search_unless_it_says_otherwise() -> None:
    train = TrainSettings(balance=1.0)
    assert finetune_recipe(SearchSettings(train=train)).balance == 1.0
    assert finetune_recipe(SearchSettings(train=train, finetune=FinetuneSettings(balance=0.5))).balance == 0.5
    with pytest.raises(UserError, match=r"train\.balance=2"):
        TrainSettings(balance=2)


@pytest.mark.slow
def test_a_rare_class_is_found_where_it_is_weighed() -> None:
    plain, weighed = (measure(CASES["one_in_twenty"], balance, 0) for balance in (0.0, 1.0))
    assert weighed["rarest"] > plain["rarest"] + 0.2 and weighed["by_class"] > plain["by_class"] + 0.1


@pytest.mark.parametrize(("test", "largest", "weighed"), [(0.95, 0.95, True), (0.1, 0.12, False)])
def test_the_next_step_weighs_uneven_classes(test: float, largest: float, weighed: bool) -> None:
    result = sample_result()
    assert result.accuracy is not None
    accuracy = replace(result.accuracy, test=test, largest_class=largest, test_images=100)
    shown = replace(result.input, preprocessing=Preprocessing("whole", 1.0, "shift", weighed))
    said = next_step(replace(result, accuracy=accuracy, input=shown), Path("run"))
    assert said is not None and ("recipe.balance=1" in said) == weighed == ("data.flip=false" in said)


# ------------------------------------------------------------------ images that belong together


def patients(root: Path, name: Callable[[int, int], str], each: int = 4) -> Path:
    """Twelve patients with pictures of both classes."""
    for label, kind in enumerate(("ill", "well")):
        for patient in range(12):
            for shot in range(each):
                number = 1000 * label + 10 * patient + shot
                path = root / kind / name(patient, shot)
                fill(path.parent, range(number, number + 1))
                (path.parent / f"{number:03}.png").rename(path)
    return root


@pytest.mark.parametrize(
    ("groups", "name", "patient_of"),
    [
        ("folder", lambda p, s: f"p{p}/right/{s}.png", lambda name: name.split("/")[1]),
        ("name", lambda p, s: f"p{p}_clip-{s}.png", lambda name: name.split("/")[1].split("_")[0]),
        ("name", lambda p, s: f"P {p} ({s}).png", lambda name: name.split(" ")[1]),
    ],
)
def test_images_of_a_patient_are_in_one_split(
    groups: str, name: Callable[[int, int], str], patient_of: Callable[[str], str], tmp_path: Path
) -> None:
    """Several pictures of one leaf, patient or burst in training and test: the accuracy is too good. PlantSeg 11."""
    root = patients(tmp_path, name)

    def torn(data: DataSet) -> bool:
        found = [
            {patient_of(path) for path in names(data, split)} for split in (data.train, data.validation, data.test)
        ]
        return sum(map(len, found)) > 12

    together = images(root, groups=groups)
    assert not torn(together) and any(sentence.endswith("groups: 12") for sentence in together.found)
    assert torn(images(root))


def test_groups_across_given_splits_are_left_out(tmp_path: Path) -> None:
    """A scene that train and test have both. RIAWELC 2."""
    for label, kind in enumerate(("cat", "dog")):
        for split, first in (("train", 0), ("test", 40)):
            for scene in range(4):
                number = 1000 * label + first + 10 * scene
                shared = "shared" if split == "test" and scene == 0 else f"{split}{scene}"
                fill(tmp_path / split / kind / shared, range(number, number + 5))
    fill(tmp_path / "train" / "cat" / "shared", range(3000, 3003))
    data = images(tmp_path, groups="folder")
    assert len(data.test) == 30 and not any("/shared/" in path for path in names(data, data.test))
    assert any("10 of 40 test images are of the same groups as train images" in sentence for sentence in data.found)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("folder", ["data.groups=folder", "no image is in a folder inside a class folder", "data=table"]),
        ("name", ["data.groups=name", "no file's name", "data=table"]),
        ("patient", ["'patient'", "folder, name"]),
    ],
)
def test_groups_that_are_not_there_are_refused(groups: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        images(pets(tmp_path), groups=groups)
    assert all(word in str(caught.value) for word in words)


def test_one_group_of_all_is_refused(tmp_path: Path) -> None:
    """A camera's names, IMG_0001: all are alike up to their number."""
    for path in [*pets(tmp_path).rglob("*.png")]:
        path.rename(path.with_name(f"IMG_{path.name}"))
    with pytest.raises(UserError, match="its 60 images are 1 without copies and groups"):
        images(tmp_path, groups="name")
