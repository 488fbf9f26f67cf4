"""A frozen network as a teacher: its new classifier, its soft labels, and what they do to a training."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from nas.data import DataSet, load
from nas.data.dataset import Split
from nas.data.settings import DataSettings
from nas.training.lessons import Lessons, taught_loss
from nas.training.loop import recalibrate, train_network
from nas.training.recipes import Recipe
from nas.training.teacher import Teacher, changes_pictures, fit_classifier, lessons_of
from search_space import SearchSpace, Stage, lower
from search_space.build import Network

SPACE = SearchSpace("small", "mbconv", 8, (Stage(8, 1, 2), Stage(16, 1, 2)), (3,), (2,), 8, 32)
PIXELS = 32


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return load(DataSettings(limit=200, resolution=PIXELS))


def network(classes: int = 10, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(lower(SPACE.largest(), PIXELS, classes))


@cache
def trained_state() -> dict[str, Tensor]:
    """Of a network that knows digits, without its classifier."""
    data, net = load(DataSettings(limit=200, resolution=PIXELS)), network()
    train_network(net, data, data.train, PIXELS, Recipe(epochs=12, batch_size=16), 0)
    return {key: value for key, value in net.state_dict().items() if "classifier" not in key}


def teacher_for(data: DataSet) -> Teacher:
    net = network(data.num_classes)
    net.load_state_dict(trained_state(), strict=False)
    teacher = Teacher("small", net, data.mean, data.std, data)
    fit_classifier(teacher, data, PIXELS)
    return teacher


def test_a_fitted_classifier_beats_chance_and_says_its_validation_accuracy(digits: DataSet) -> None:
    teacher = teacher_for(digits)
    images, labels = next(digits.batches(digits.validation, PIXELS, len(digits.validation)))
    right = float((teacher(images).argmax(1) == labels).float().mean())
    assert teacher.validation == pytest.approx(right) and right > 0.4  # chance: 0.1
    assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.network.training


def with_classes(data: DataSet, classes: int, lacking: int | None = None) -> DataSet:
    def kept(split: Split) -> Split:
        return split.take(np.flatnonzero((split.labels < classes) & (split.labels != lacking)))

    names = data.class_names[:classes]
    return replace(
        data, class_names=names, train=kept(data.train), validation=kept(data.validation), test=kept(data.test)
    )


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_any_number_of_classes(digits: DataSet, classes: int) -> None:
    data = with_classes(digits, classes)
    teacher = teacher_for(data)
    assert teacher.classifier.weight.shape == (classes, 32)
    assert teacher.validation > 1 / classes


def test_a_class_without_training_images_stays_improbable(digits: DataSet) -> None:
    data = with_classes(digits, 4, lacking=2)
    teacher = teacher_for(data)
    images, labels = next(data.batches(data.validation, PIXELS, len(data.validation)))
    answers = teacher(images)
    assert int((answers.argmax(1) == 2).sum()) == 0
    assert float((answers.argmax(1) == labels).float().mean()) > 0.4


def test_images_are_shown_as_the_teacher_was_trained_whatever_the_data_set_s_normalisation(digits: DataSet) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    net = network()
    own = replace(digits, mean=mean, std=std)
    wanted, _ = next(own.batches(digits.validation, PIXELS, 8))
    given, _ = next(digits.batches(digits.validation, PIXELS, 8))
    teacher = Teacher("small", net, mean, std, digits)
    assert torch.allclose(teacher(given), net.eval()(wanted), atol=1e-5)
    assert not torch.allclose(net(given), net(wanted), atol=1e-3)


@pytest.mark.parametrize("flip", [False, True])
def test_soft_labels_worked_out_once_are_those_of_every_image(digits: DataSet, flip: bool) -> None:
    data = replace(digits, flip=flip)
    teacher = teacher_for(data)
    lessons = lessons_of(data, PIXELS, teacher)
    assert lessons.soft is not None and lessons.teacher is None
    for images, given in data.batches(lessons.split, PIXELS, 50):
        expected = teacher(images).softmax(1)
        if flip:
            expected = (expected + teacher(images.flip(3)).softmax(1)) / 2
        soft = lessons.soft_labels(given, images)
        assert soft is not None and torch.allclose(soft, expected, atol=1e-5)
        assert torch.equal(lessons.labels_of(given), torch.from_numpy(data.train.labels)[given])


@pytest.mark.parametrize(("crop", "changing"), [("random", False), ("shift", True)])
def test_pictures_that_training_changes_are_shown_to_the_teacher(digits: DataSet, crop: str, changing: bool) -> None:
    data = replace(digits, crop=crop)
    teacher = teacher_for(data)
    lessons = lessons_of(data, PIXELS, teacher, changing)
    images, labels = next(data.batches(lessons.split, PIXELS, 8, training=True))
    soft = lessons.soft_labels(labels, images)
    assert soft is not None and torch.allclose(soft, teacher(images).softmax(1))
    assert torch.equal(lessons.labels_of(labels), labels)


def test_what_changes_pictures() -> None:
    assert not changes_pictures(Recipe())
    for change in (
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"randaugment": 9},
        {"random_erasing": 0.1},
        {"colour_jitter": 0.4},
    ):
        assert changes_pictures(Recipe(**change))


def test_the_loss_is_shared_between_labels_and_soft_labels() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    soft = torch.rand(4, 3).softmax(1)
    hard = F.cross_entropy(logits, labels, label_smoothing=0.1)
    to_soft = -(soft * logits.log_softmax(1)).sum(1).mean()
    assert float(taught_loss(logits, labels, None, 0.7, 0.1)) == pytest.approx(float(hard))
    assert float(taught_loss(logits, labels, soft, 0.0, 0.1)) == pytest.approx(float(hard))
    expected = 0.3 * hard + 0.7 * to_soft
    assert float(taught_loss(logits, labels, soft, 0.7, 0.1)) == pytest.approx(float(expected), rel=1e-5)


def test_distillation_brings_a_network_s_answers_to_its_teacher_s(digits: DataSet) -> None:
    """More than labels alone do, in the same steps."""
    teacher = teacher_for(digits)
    taught = lessons_of(digits, PIXELS, teacher)
    distances = {}
    for name, lessons in (("labels", Lessons(digits.train)), ("teacher", taught), ("untrained", None)):
        student = network(seed=1)
        if lessons is not None:
            recipe = Recipe(epochs=12, batch_size=16, lr=5e-3, label_smoothing=0.1, teacher_share=0.9)
            train_network(student, digits, digits.train, PIXELS, recipe, 0, lessons=lessons)
        recalibrate(student, digits.batches(digits.train, PIXELS, 50))
        distances[name] = divergence(student.eval(), teacher, digits)
    assert distances["teacher"] < 0.9 * min(distances["labels"], distances["untrained"]), distances


@torch.no_grad()
def divergence(student: Network, teacher: Teacher, data: DataSet) -> float:
    images, _ = next(data.batches(data.train, PIXELS, len(data.train)))
    answers: Tensor = teacher(images).log_softmax(1)
    return float(F.kl_div(student(images).log_softmax(1), answers, log_target=True, reduction="batchmean"))


def test_kept_statistics_do_not_move_in_training(digits: DataSet) -> None:
    student = network()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    train_network(student, digits, digits.train, PIXELS, Recipe(epochs=1, keep_statistics=True), 0)
    after = student.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in after if "running" in k)
    assert not torch.equal(after["head.mix.weight"], before["head.mix.weight"])
