"""A frozen trained network that teaches another: its answers on the user's images are soft labels.

The teacher is a network trained on other images, of which the classifier alone is fitted anew: a logistic regression on
what the network makes of the training images. Where training changes pictures by no more than a small shift and a
mirror, the soft labels of an image are worked out once; otherwise for every batch. Not for the loss of a step
(`nas.training.lessons`), nor for where trained networks come from (`nas.pretrained`).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.data import DataSet
from nas.run.distributed import Place, total
from nas.training.lessons import Lessons
from nas.training.loop import accuracy
from nas.training.recipes import Recipe
from search_space.build import Network, to_channels_last

MOST_IMAGES = 5000  # that the classifier is fitted to
STRENGTH = (
    0.3  # scikit-learn's C. On EfficientNet-Lite0's features, 1,800 photographs: 0.003, 0.03, 0.3: 87.8, 91.0, 91.6 %
)
ITERATIONS = 200  # of L-BFGS, at most
BATCH = 64
Triple = tuple[float, float, float]


class Teacher(nn.Module):
    """A network in evaluation mode, shown images of a data set that may be normalised in another way than its own.

    name: what it is called in files. validation: its share of right answers on the validation images. seen: what the
    classifier reads of every training image and view (n, views, features), where the classifier was fitted to them all.
    """

    seen: Tensor | None = None

    def __init__(self, name: str, network: Network, mean: Triple, std: Triple, data: DataSet) -> None:
        """mean, std: the network's own: it was trained on (image / 255 - mean) / std."""
        super().__init__()
        self.name, self.network, self.validation = name, to_channels_last(network).eval().requires_grad_(False), 0.0
        factor = [theirs / own for theirs, own in zip(data.std, std, strict=True)]
        shift = [(theirs - m) / own for theirs, m, own in zip(data.mean, mean, std, strict=True)]
        self.same = (mean, std) == (data.mean, data.std)
        self.register_buffer("factor", torch.tensor(factor).view(3, 1, 1))
        self.register_buffer("shift", torch.tensor(shift).view(3, 1, 1))
        self.to(data.place.device)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, R, R) of the data set -> (N, classes)."""
        return self.classifier(self.features(images))

    @property
    def classifier(self) -> nn.Linear:
        """The network's last layer."""
        found = self.network.get_submodule("head.classifier")
        assert isinstance(found, nn.Linear)
        return found

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, 3, R, R) of the data set -> (N, features, 1, 1), what the classifier reads."""
        read: list[Tensor] = []
        handle = self.classifier.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
        try:
            self.network(images if self.same else images * self.get_buffer("factor") + self.get_buffer("shift"))
        finally:
            handle.remove()
        return read[0]


def fit_classifier(teacher: Teacher, data: DataSet, resolution: int) -> None:
    """Fit the teacher's classifier to the training images as they are evaluated, and to their mirrored selves.

    Every process sees all the images, and has the first one's result. Raises `UserError` as `DataSet.batches`.
    """
    alone = replace(data, place=Place(data.place.device))
    kept = np.sort(np.random.default_rng(6).permutation(len(data.train))[:MOST_IMAGES])
    split = data.train.take(kept)
    numbered, found, order = replace(split, labels=np.arange(len(split))), [], []
    for images, numbers in alone.batches(numbered, resolution, BATCH):
        found.append(torch.stack([teacher.features(view).flatten(1).float().cpu() for view in views(images, data)], 1))
        order.append(numbers.cpu())
    x = torch.empty_like(torch.cat(found))
    x[torch.cat(order)] = torch.cat(found)
    y = torch.from_numpy(split.labels)
    weight, bias = _regression(x.flatten(0, 1), y.repeat_interleave(x.shape[1]), data.num_classes)
    teacher.seen = x if len(split) == len(data.train) else None
    classifier = teacher.classifier
    with torch.no_grad():
        for own, fitted in ((classifier.weight, weight), (classifier.bias, bias)):
            fitted = fitted.to(own.device)
            own.copy_(total(fitted if data.place.first else torch.zeros_like(fitted)))
    teacher.validation = accuracy(teacher, data.batches(data.validation, resolution, BATCH))


def views(images: Tensor, data: DataSet) -> list[Tensor]:
    """The images as they are evaluated and, where training mirrors them, their mirrored selves."""
    return [images, images.flip(3)] if data.flip else [images]


def _regression(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Weight (classes, features) and bias (classes,) of a logistic regression of y (n,) on x (n, features)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weight, bias = torch.zeros(classes, x.shape[1]), torch.full((classes,), -math.log(classes * 100.0))
    there = torch.unique(y)  # a few images may lack a class: it stays improbable
    if len(there) < 2:
        bias[there] = 0.0
        return weight, bias
    scale = x.square().mean().sqrt().clamp(min=1e-12)  # one for all: features keep their proportions
    regression = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # bounded on purpose
        regression.fit((x / scale).numpy(), y.numpy())
    found, offset = (torch.from_numpy(v).float() for v in (regression.coef_, regression.intercept_))
    if len(there) == 2:  # scikit-learn tells two classes apart by one difference
        found, offset = torch.cat([-found, found]) / 2, torch.cat([-offset, offset]) / 2
    weight[there], bias[there] = found / scale, offset
    return weight, bias


def lessons_of(data: DataSet, resolution: int, teacher: Teacher | None = None, changing: bool = False) -> Lessons:
    """The lessons of a data set's training images; changing: whether training mixes, colours or erases them."""
    if teacher is None:
        return Lessons(data.train)
    if changing or data.crop == "random":
        return Lessons(data.train, teacher=teacher)
    numbered = replace(data.train, labels=np.arange(len(data.train)))
    device = data.place.device
    labels = torch.from_numpy(data.train.labels).to(device)
    if teacher.seen is not None:
        with torch.no_grad():
            weight, bias = teacher.classifier.weight, teacher.classifier.bias
            soft = F.linear(teacher.seen.to(device), weight, bias).softmax(2).mean(1)
        return Lessons(numbered, labels, soft)
    soft = torch.zeros(len(data.train), data.num_classes, device=device)
    with torch.no_grad():
        for images, numbers in data.batches(numbered, resolution, BATCH):
            soft[numbers] = torch.stack([teacher(view).softmax(1) for view in views(images, data)]).mean(0)
    return Lessons(numbered, labels, total(soft))


def changes_pictures(recipe: Recipe) -> bool:
    """Whether a recipe mixes, colours or erases pictures, so that a teacher must see every batch."""
    mixed = recipe.mixup or recipe.cutmix
    return bool(mixed or recipe.randaugment or recipe.colour_jitter or recipe.random_erasing)
