"""The jobs of `experiments.ranking`: supernets whose every network is measured, and untrained scores. Not for tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from experiments.results import Row
from experiments.truth_work import Job as TruthJob
from experiments.truth_work import Scale, Worker, all_paths, load_images
from search_space import lower

IMAGES = 128  # that naswot compares


@dataclass(frozen=True)
class Job:
    """kind: 'supernet' (weights: 'shared' or 'separate'; short: for a fifth of a search's epochs) or 'zero cost'."""

    kind: str
    space: str
    seed: int
    weights: str = ""
    short: bool = False

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        parts = (self.kind, self.weights, "short" if self.short else "", self.space, str(self.seed))
        return " ".join(filter(None, parts))


@dataclass(frozen=True)
class Ranker:
    """Does jobs. root: the folder of CIFAR-10."""

    scale: Scale
    root: str

    def __call__(self, job: Job) -> list[Row]:
        """A row a network."""
        import torch

        torch.set_num_threads(1)
        scale = replace(self.scale, space_name=job.space)
        rows = self._supernet(job, scale) if job.kind == "supernet" else self._zero_cost(job, scale)
        common: Row = {"kind": job.kind, "space": job.space, "seed": job.seed}
        return [{**common, **row} for row in rows]

    def _supernet(self, job: Job, scale: Scale) -> Iterator[Row]:
        """Accuracy and cross-entropy of every network with inherited weights, on the images that choose.

        training_cpu_s: of the supernet; cpu_s: of looking at one network.
        """
        from nas.training.loop import score

        shared, data = job.weights == "shared", load_images(scale, self.root)
        clock = time.process_time()
        asked = TruthJob("supernet", job.seed, share_weights=shared, short=job.short)
        supernet = Worker(scale, self.root, "cpu").train_supernet(asked, data)
        training = round(time.process_time() - clock, 2)
        for path in all_paths(scale.space):
            clock = time.process_time()
            found = score(partial(supernet, path=path), data.batches(data.validation, scale.resolution, 256))
            yield {"weights": job.weights, "short": job.short, "network": str(scale.space.architecture(path)),
                   "accuracy": found.accuracy, "loss": found.loss, "training_cpu_s": training,
                   "cpu_s": round(time.process_time() - clock, 3)}  # fmt: skip

    def _zero_cost(self, job: Job, scale: Scale) -> Iterator[Row]:
        """Both scores of every network, with torch's first weights of the seed."""
        from experiments.zero_cost import naswot, started, synflow
        from search_space.build import Network

        data = load_images(scale, self.root)
        images, _ = next(data.batches(data.train, scale.resolution, IMAGES, job.seed, 0, training=True))
        for path in all_paths(scale.space):
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
