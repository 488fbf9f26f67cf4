"""The jobs of `experiments.ranking`: supernets whose every network is measured; untrained scores. Not for tables."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from experiments.results import Row
from experiments.truth_work import Job as TruthJob
from experiments.truth_work import Scale, Worker, all_paths, load_images
from search_space import GatePath, lower

IMAGES = 128  # that naswot compares


@dataclass(frozen=True)
class Job:
    """kind: 'supernet' (weights: 'shared' or 'separate'; short: for few epochs) or 'zero cost'."""

    kind: str
    seed: int
    weights: str = ""
    short: bool = False

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        return " ".join(filter(None, (self.kind, self.weights, "short" if self.short else "", str(self.seed))))


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
        rows = self._supernet(job) if job.kind == "supernet" else self._zero_cost(job)
        return [{"kind": job.kind, "seed": job.seed, **row} for row in rows]

    @property
    def _paths(self) -> list[GatePath]:
        return all_paths(self.scale.space)[: self.networks]

    def _supernet(self, job: Job) -> Iterator[Row]:
        """Accuracy and cross-entropy of every network with inherited weights, on the images that choose.

        training_cpu_s: of the supernet; cpu_s: of looking at one network.
        """
        from nas.training.loop import score

        scale, data = self.scale, load_images(self.scale, self.root)
        clock = time.process_time()
        asked = TruthJob("supernet", job.seed, share_weights=job.weights == "shared", short=job.short)
        supernet = Worker(scale, self.root, "cpu").train_supernet(asked, data)
        training = round(time.process_time() - clock, 2)
        epochs = scale.short if job.short else scale.warmup + scale.search
        for path in self._paths:
            clock = time.process_time()
            found = score(partial(supernet, path=path), data.batches(data.validation, scale.resolution, 256))
            yield {"weights": job.weights, "epochs": epochs, "network": str(scale.space.architecture(path)),
                   "accuracy": found.accuracy, "loss": found.loss, "training_cpu_s": training,
                   "cpu_s": round(time.process_time() - clock, 3)}  # fmt: skip

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
