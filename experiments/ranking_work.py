"""The jobs of `experiments.ranking`: supernets whose every network is measured; untrained scores. Not for tables."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from experiments.results import Row
from experiments.truth_work import Job as TruthJob
from experiments.truth_work import Scale, Worker, all_paths, load_images
from search_space import GatePath, SearchSpace, cost_of, lower

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import DataSet
    from nas.strategies.weights import WeightTraining
    from nas.supernet.network import Supernet

IMAGES = 128  # that naswot compares
UNIFORM, FAIR, AVERAGED, SANDWICH = "uniform", "fair", "averaged", "sandwich"
"""Ways of training a supernet: on paths drawn uniformly; on paths that have every candidate of a slot equally often;
on uniform paths, the weights averaged over the last steps; by the sandwich rule with in-place distillation."""
EMA = 0.98  # looks back over 50 steps, a sixth of a short training


@dataclass(frozen=True)
class Job:
    """kind: 'supernet' (weights: 'shared' or 'separate'; short: for few epochs), 'way' or 'zero cost'.

    A job of kind 'way' trains a supernet in one of the ways above. One on uniform paths looks at as many images as
    those of ground truth do, so that it can be set beside them; the others at as many as those of kind 'supernet'.
    """

    kind: str
    seed: int
    weights: str = ""
    short: bool = False
    way: str = UNIFORM

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        way = self.way if self.kind == "way" else ""
        parts = (self.kind, way, self.weights, "short" if self.short else "", str(self.seed))
        return " ".join(filter(None, parts))


@dataclass(frozen=True)
class Ranker:
    """Does jobs. root: the folder of CIFAR-10; networks: how many of the space's (None: all)."""

    scale: Scale
    root: str
    networks: int | None = None

    def __call__(self, job: Job) -> list[Row]:
        """A row a network."""
        import torch

        torch.set_num_threads(1)
        rows = self._zero_cost(job) if job.kind == "zero cost" else self._supernet(job)
        return [{"kind": job.kind, "seed": job.seed, **row} for row in rows]

    @property
    def _paths(self) -> list[GatePath]:
        return all_paths(self.scale.space)[: self.networks]

    def _supernet(self, job: Job) -> Iterator[Row]:
        """Accuracy and cross-entropy of every network with inherited weights, on the images that choose.

        training_cpu_s: of the supernet; cpu_s: of looking at one network.
        """
        from nas.training.loop import score

        scale = self.scale
        if job.kind == "way" and job.way == UNIFORM and scale.choosing is not None:
            scale = replace(scale, choosing=Scale.choosing)
        data = load_images(scale, self.root)
        clock = time.process_time()
        supernet = self._trained(job, data)
        training = round(time.process_time() - clock, 2)
        epochs = scale.short if job.short else scale.warmup + scale.search
        way = {"way": job.way} if job.kind == "way" else {}
        for path in self._paths:
            clock = time.process_time()
            found = score(partial(supernet, path=path), data.batches(data.validation, scale.resolution, 256))
            yield {**way, "weights": job.weights, "epochs": epochs, "network": str(scale.space.architecture(path)),
                   "accuracy": found.accuracy, "loss": found.loss, "training_cpu_s": training,
                   "cpu_s": round(time.process_time() - clock, 3)}  # fmt: skip

    def _trained(self, job: Job, data: DataSet) -> Supernet:
        """A supernet after as many epochs as the job says."""
        worker = Worker(self.scale, self.root, "cpu")
        asked = TruthJob("supernet", job.seed, share_weights=job.weights == "shared", short=job.short)
        if job.way == UNIFORM:
            return worker.train_supernet(asked, data)
        training = worker.supernet_training(asked, data, EMA if job.way == AVERAGED else 0.0)
        space, rng = self.scale.space, random.Random(job.seed)
        fair = fair_paths(space, rng)
        largest, smallest = extremes(self.scale, data.num_classes)
        for epoch in range(training.total // training.epoch_steps):
            for images, labels in training.batches(epoch):
                if job.way == SANDWICH:
                    train_sandwich(training, images, labels, [largest, smallest, space.random_path(rng)], epoch)
                else:
                    path = next(fair) if job.way == FAIR else space.random_path(rng)
                    training.train_path(images, labels, path, epoch)
        training.finish()
        return training.supernet

    def _zero_cost(self, job: Job) -> Iterator[Row]:
        """Both scores of every network, with torch's first weights of the seed."""
        from experiments.zero_cost import naswot, started, synflow
        from search_space.build import Network

        scale, data = self.scale, load_images(self.scale, self.root)
        images, _ = next(data.batches(data.train, scale.resolution, IMAGES, job.seed, 0, training=True))
        for path in self._paths:
            architecture = scale.space.architecture(path)
            network = Network(lower(architecture, scale.resolution, data.num_classes), lean=False)
            started(network, job.seed)
            row: dict[str, str | float] = {"network": str(architecture)}
            clock = time.process_time()
            row["naswot"] = naswot(network, images)
            row["naswot_cpu_s"] = round(time.process_time() - clock, 3)
            clock = time.process_time()
            row["synflow"] = synflow(network, scale.resolution)
            row["synflow_cpu_s"] = round(time.process_time() - clock, 3)
            yield row


def fair_paths(space: SearchSpace, rng: random.Random) -> Iterator[GatePath]:
    """Without end; every slot goes through all its candidates, in a new random order each time.

    Of FairNAS (arXiv 1907.01845) this is the equal count; there the paths of a round also share one weight step.
    """

    def rounds(count: int) -> Iterator[int]:
        while True:
            yield from rng.sample(range(count), count)

    for choices in zip(*(rounds(len(slot.candidates)) for slot in space.slots), strict=True):
        yield GatePath(choices)


def extremes(scale: Scale, classes: int) -> tuple[GatePath, GatePath]:
    """The paths of the most and the fewest parameters."""

    def params(path: GatePath) -> int:
        return cost_of(lower(scale.space.architecture(path), scale.resolution, classes)).params

    paths = sorted(all_paths(scale.space), key=params)
    return paths[-1], paths[0]


def train_sandwich(
    training: WeightTraining, images: Tensor, labels: Tensor, paths: Sequence[GatePath], epoch: int
) -> None:
    """One weight step on several paths: the first learns the labels, the others what the first says of the batch.

    The sandwich rule with in-place distillation (Yu and Huang, arXiv 1903.05134). images: (N, 3, R, R); labels: (N,).
    """
    from torch.nn import functional as F

    from nas.training.loop import set_cosine_lr, take_step

    s, supernet, total = training.settings.train, training.supernet, training.total
    set_cosine_lr(training.optimizer, training.step, total, s.lr, warmup=min(50, total // 10), final=0.1 * s.lr)
    logits = supernet(images, paths[0])
    loss = F.cross_entropy(logits, labels, label_smoothing=s.label_smoothing)
    loss.backward()
    for path in paths[1:]:
        F.cross_entropy(supernet(images, path), logits.detach().softmax(1)).backward()
    active = dict.fromkeys(parameter for path in paths for parameter in supernet.path_parameters(path))
    where = f"weight step {training.step} (epoch {epoch + 1})"
    training.loss = take_step(training.optimizer, list(active), loss, s.gradient_clip, where)
    training.step += 1
