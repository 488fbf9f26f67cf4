"""What a search starts from: weights of a trained network or an earlier supernet, and the teacher that comes of them.

Worked out once a run, before any weight moves, and again where a run resumes: it depends on files, images and the seed
alone. Not for what `init=` and `teacher=` may name: that is `nas.supernet.origin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from nas.data import DataSet
from nas.pretrained.sources import load_trained
from nas.pretrained.trained import Trained
from nas.run.distributed import Place
from nas.run.plan import Plan
from nas.strategies.untrained import new_supernet
from nas.supernet.damage import damage
from nas.supernet.inherit import inherit, measure_statistics, some_paths
from nas.supernet.network import Supernet
from nas.supernet.origin import Origin, is_published, origin_of
from nas.supernet.refit import Cuts
from nas.supernet.saved import load_supernet
from nas.training.lessons import Lessons
from nas.training.loop import accuracy, recalibrate
from nas.training.teacher import Teacher, fit_classifier, lessons_of
from search_space import Architecture, GatePath, lower
from search_space.build import Network
from search_space.errors import BadFile

MEASURED_ON = 64  # images that statistics and damage of smaller candidates are measured on
FITTED_TO = 320  # that a chosen network is fitted to
SKETCHED_ON = 192  # the same of networks that are only compared, a third of them to compare on
CLASSIFIER = "head.classifier."


@dataclass(frozen=True)
class Start:
    """lessons: what the training images teach. supernet: filled, where it does not start at random.

    damage: (slots, candidates), what each candidate costs the largest path (`nas.supernet.damage`), where gates start
    by it. images: (N, 3, R, R), where networks are fitted to what a published one makes of them.
    facts: for architecture.json, where the weights and the soft labels come from.
    """

    lessons: Lessons
    supernet: Supernet | None = None
    damage: Tensor | None = None
    images: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def sketch(self) -> Cuts:
        """Networks cut out of the published one, fitted to few images: to compare them."""
        assert self.supernet is not None and self.images is not None
        images = self.images[:SKETCHED_ON]
        return Cuts(self.supernet, images, max(1, len(images) // 3))

    def extract(self, path: GatePath) -> Network:
        """The network of a path as it starts to train: cut out of the supernet and, of a published one's, fitted."""
        assert self.supernet is not None
        if self.images is None:
            return self.supernet.extract(path)
        return Cuts(self.supernet, self.images).network(path)


def start_of(plan: Plan, data: DataSet) -> Start:
    """The start of a search by its settings; `data` is at its place. Raises `UserError`, `BadFile`."""
    settings, supernet, teacher, harm, images = plan.settings, None, None, None, None
    facts: dict[str, Any] = {}
    pixels = settings.data.resolution
    if settings.init is not None and is_published(settings.init):
        trained = load_trained(settings.init)
        teacher = teacher_of(trained.name, trained, data, pixels)
        images = some_images(data, pixels)
        supernet = inheriting(plan, data, trained, teacher, images[:MEASURED_ON])
        if settings.warmup.epochs + settings.epochs:
            harm = damage(supernet, images[:MEASURED_ON])
        facts["weights"] = about(trained)
    elif settings.init is not None:
        origin = origin_of(settings.init)
        supernet = new_supernet(plan, data)
        if origin.has_classes(data.class_names):
            load_supernet(origin.path, supernet)
        else:
            load_supernet(origin.path, supernet, but=CLASSIFIER)
            teacher = _of_earlier(plan, data, supernet, origin)
            _take_classifier(supernet, teacher)
        facts["weights"] = {"name": settings.init, "source": "an earlier search"}
    if settings.teacher is not None:
        teacher = named_teacher(settings.teacher, data, pixels)
    if teacher is not None:
        facts["teacher"] = {"name": teacher.name, "validation": teacher.validation}
    train, finetune = settings.train, settings.finetune
    mixing = (train.mixup, train.cutmix, finetune.mixup, finetune.cutmix)
    return Start(lessons_of(data, pixels, teacher, any(mixing)), supernet, harm, images, facts)


def about(trained: Trained) -> dict[str, Any]:
    """What a result must say of weights that others trained."""
    return {"name": trained.name, "source": trained.source, "licence": trained.licence}


def named_teacher(name: str, data: DataSet, resolution: int) -> Teacher:
    """The teacher that `teacher=` names, for the classes of a data set. Raises `UserError`, `BadFile`."""
    if not Path(name).expanduser().is_dir():
        trained = load_trained(name)
        return teacher_of(trained.name, trained, data, resolution)
    from nas.run.export import load_network
    from nas.run.finished import RESULT
    from nas.run.result import load_result

    folder = Path(name).expanduser()
    result, weights = load_result(folder / RESULT), folder / "weights.safetensors"
    if not weights.is_file():
        raise BadFile(f"teacher={name}: no file '{weights}'; give a run's folder with one network in it")
    network, shown = load_network(result, weights), result.input
    if shown.class_names == data.class_names:
        teacher = Teacher(name, network, shown.mean, shown.std, data)
        teacher.validation = accuracy(teacher, data.batches(data.validation, resolution, 64))
        return teacher
    return teacher_of(
        name, _Earlier(result.architecture, network.state_dict(), shown.mean, shown.std), data, resolution
    )


@dataclass(frozen=True)
class _Earlier:
    """A network of an own run, as far as a teacher is made of it."""

    architecture: Architecture
    state: Mapping[str, Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def teacher_of(name: str, trained: Trained | _Earlier, data: DataSet, resolution: int) -> Teacher:
    """A trained network with a classifier for the data set's classes."""
    network = Network(lower(trained.architecture, resolution, data.num_classes))
    network.load_state_dict(
        {key: value for key, value in trained.state.items() if not key.startswith(CLASSIFIER)}, strict=False
    )
    teacher = Teacher(name, network, trained.mean, trained.std, data)
    fit_classifier(teacher, data, resolution)
    return teacher


def some_images(data: DataSet, resolution: int) -> Tensor:
    """The same training images in every process, of all classes, as they are evaluated."""
    alone = replace(data, place=Place(data.place.device))
    images, _ = next(alone.batches(data.train, resolution, FITTED_TO))
    return images


def inheriting(plan: Plan, data: DataSet, trained: Trained, teacher: Teacher, images: Tensor) -> Supernet:
    """The supernet of a plan, cut out of a trained network of its space, with the teacher's classifier.

    images: (N, 3, R, R) that the norms of smaller candidates are set by, as `some_images` gives them. Raises `BadFile`.
    """
    supernet = new_supernet(plan, data)
    inherit(supernet, trained.architecture, trained.state)
    _take_classifier(supernet, teacher)
    measure_statistics(supernet, images)
    return supernet


def _of_earlier(plan: Plan, data: DataSet, supernet: Supernet, origin: Origin) -> Teacher:
    """The largest network of an earlier supernet."""
    pixels = plan.settings.data.resolution
    network = supernet.extract(plan.space.path(plan.space.largest())).to(data.place.device)
    teacher = Teacher(str(origin.path.parent), network, data.mean, data.std, data)
    if not supernet.kept_statistics:
        recalibrate(teacher.network, replace(data, place=Place(data.place.device)).batches(data.train, pixels, 128))
    fit_classifier(teacher, data, pixels)
    return teacher


def _take_classifier(supernet: Supernet, teacher: Teacher) -> None:
    own = supernet.get_submodule("head.classifier")
    own.load_state_dict(teacher.classifier.state_dict())


def accuracy_before_training(plan: Plan, data: DataSet, start: Start) -> dict[str, float]:
    """Share of right answers on validation images with inherited weights: of the largest, the smallest, and some.

    Where they are cut out of a published network they are fitted, to few images.
    """
    assert start.supernet is not None
    found, cuts = {}, None if start.images is None else start.sketch()
    for name, path in some_paths(plan.space, plan.settings.seed).items():
        network = cuts.network(path) if cuts else partial(start.supernet, path=path)
        batches = data.batches(data.validation, plan.settings.data.resolution, 128)
        found[name] = accuracy(network, batches)
    return found
