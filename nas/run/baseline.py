"""What a network must beat to be worth anything: a logistic regression on the images' pixels, trained in seconds.

Not for the network itself. It draws no random numbers, so a run gives the same weights with it and without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from nas.run.result import BASELINE_PIXELS

MOST_IMAGES = 5000  # that it is trained on
STRENGTH = 0.01  # scikit-learn's C on standardised pixels: hundreds of pixels for few images want a firm penalty
ITERATIONS = 100  # of L-BFGS, at most
LEAST_ITERATIONS = 20  # fewer leave it untrained
WORK = 2.5e10  # images x pixels x classes x iterations that take about 10 s on two cores; not a clock, which differs


class Pixels:
    """Images reduced for the baseline, collected while something else reads them."""

    def __init__(self, images: int) -> None:
        """images: how many will pass, of which `MOST_IMAGES` are kept, drawn evenly: shards may come class by class."""
        drawn = np.random.default_rng(5).permutation(images)[:MOST_IMAGES]
        self.kept = np.zeros(images, dtype=bool)
        self.kept[drawn] = True
        self.passed = 0
        self.reduced: list[NDArray[np.float32]] = []
        self.labels: list[NDArray[np.int64]] = []

    def passing(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches as they are: images (N, 3, R, R), labels (N,)."""
        for images, labels in batches:
            mine = torch.from_numpy(self.kept[self.passed : self.passed + len(labels)]).to(labels.device)
            self.passed += len(labels)
            self.reduced.append(reduced(images[mine]))
            self.labels.append(labels[mine].cpu().numpy())
            yield images, labels


def reduced(images: Tensor) -> NDArray[np.float32]:
    """(N, 3, R, R) -> (N, 3 * 16 * 16), every value the mean of its part of the image."""
    small: NDArray[np.float32] = (
        F.adaptive_avg_pool2d(images.detach().float(), BASELINE_PIXELS).flatten(1).cpu().numpy()
    )
    return small


def fit_baseline(pixels: Pixels, classes: int) -> tuple[Callable[[Tensor], Tensor] | None, str]:
    """A predictor (N, 3, R, R) -> (N,) of class numbers, and ''; or None, and why there is none.

    Trained on standardised pixels with as many iterations as its size allows, so that it takes seconds.
    """
    x, y = np.concatenate(pixels.reduced), np.concatenate(pixels.labels)
    if len(np.unique(y)) < 2:
        return None, "its training images are all of one class"
    iterations = min(ITERATIONS, int(WORK / (x.size * classes)))
    if iterations < LEAST_ITERATIONS:
        return None, f"{classes} classes would take it longer than seconds"
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, std = x.mean(0), x.std(0)
    std[std == 0] = 1
    regression = LogisticRegression(C=STRENGTH, max_iter=iterations, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # bounded on purpose
        try:
            regression.fit((x - mean) / std, y)
        except ValueError as error:
            return None, " ".join(str(error).split())[:160]
    return lambda images: torch.from_numpy(regression.predict((reduced(images) - mean) / std)), ""
