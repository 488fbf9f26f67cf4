"""Is the network that a search finds under a budget the best one? Every network of a small space is trained to know.

Question   In a space of 80 networks (kernel 3 or 7, expansion 1 or 6, one or two blocks in the first of two stages)
           where each is trained on its own, three times: by how much does the network that a strategy exports under a
           latency budget fall short of the truly best one under it (regret)? How well do accuracies with the
           weights inherited from a supernet rank the networks (Kendall's tau), with weights shared between a slot's
           candidates and without?
Data       CIFAR-10 at 32 pixels: 12,500 of its train images, of which 10,000 train weights (the networks' and the
           supernets') and 2,500 choose; true accuracy is on the 10,000 test images, which no search sees.
Command    python -m experiments.ground_truth data=../shared/datasets [minutes=60] [jobs=2]
           python -m experiments.ground_truth show
Cost       About 80 CPU-minutes for all, in jobs of 10 to 100 seconds; seed by seed, so that a part is of use.
Expected   Mean regret at most 0.5 points and less than half of random search's at equal cost.

Latency is the device profile's prediction at 224 pixels. Budgets have no lower bound (use_at_least=0): between 97 and
100 % of a budget lie one to five of the 80 networks, and the bound would choose instead of the search.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.jobs import Work, run_jobs
from experiments.results import Row, Value
from experiments.truth_tables import render
from search_space import Architecture, GatePath, SearchSpace, load_space, lower
from search_space.errors import UnknownName

if TYPE_CHECKING:
    from latency_models.options import Options
    from nas.data import DataSet
    from nas.preflight import Plan
    from nas.supernet import Supernet

KINDS = ("space", "network", "supernet", "search")
OPTIONS = {
    "data": "folder of CIFAR-10 (default: ../shared/datasets)",
    "device": "the device whose latency the budgets limit (default: cpu)",
    "kinds": f"which jobs, with commas between (default: {','.join(KINDS)})",
    "seeds": "trainings of each network, supernets and searches of each kind (default: 3)",
}
SPACES = Path(__file__).parent / "spaces"
BUDGETS = (0.2, 0.4, 0.6, 0.8)  # shares of the way from the fastest network's latency to the slowest's


@dataclass(frozen=True)
class Scale:
    """How large the experiment is. space_name: of a file in `spaces`; epochs: of a network's own training; warmup
    and search: epochs of a supernet."""

    space_name: str = "ground_truth"
    data: str = "cifar10"
    limit: int = 12_500
    validation_share: float = 0.2
    resolution: int = 32
    epochs: int = 3
    warmup: int = 4
    search: int = 6
    batch_size: int = 64
    lr: float = 5e-3
    budgets: tuple[float, ...] = BUDGETS

    @property
    def space_file(self) -> str:
        return str(SPACES / f"{self.space_name}.yaml")

    @cached_property
    def space(self) -> SearchSpace:
        return load_space(self.space_file)


QUICK = Scale("miniature", "digits", limit=400, epochs=1, warmup=1, search=1, budgets=(0.5,))


@dataclass(frozen=True)
class Job:
    """kind: 'space' (what each network costs), 'network' (trained on its own), 'supernet' (trained on uniformly
    drawn paths, then every network with inherited weights) or 'search' (one strategy under one budget)."""

    kind: str
    seed: int = 0
    network: str = ""
    share_weights: bool = True
    strategy: str = ""
    budget: float = 0.0

    @property
    def name(self) -> str:
        weights = "shared" if self.share_weights else "separate"
        parts = {
            "space": (),
            "network": (self.network, self.seed),
            "supernet": (weights, self.seed),
            "search": (self.strategy, weights, self.budget, self.seed),
        }[self.kind]
        return " ".join(map(str, (self.kind, *parts)))


def all_paths(space: SearchSpace) -> list[GatePath]:
    """One gate path for every distinct network."""
    paths = (GatePath(choices) for choices in product(*(range(len(slot.candidates)) for slot in space.slots)))
    return list({space.architecture(path): path for path in paths}.values())


def jobs_of(scale: Scale, seeds: int) -> list[Job]:
    """Seed by seed, so that a part of them is of use."""
    networks = [str(scale.space.architecture(path)) for path in all_paths(scale.space)]
    jobs = [Job("space")]
    for seed in range(seeds):
        jobs += [Job("network", seed, network=network) for network in networks]
        jobs += [Job("supernet", seed, share_weights=shared) for shared in (True, False)]
        jobs += [
            Job("search", seed, share_weights=shared, strategy="proxyless", budget=budget)
            for shared in (True, False)
            for budget in scale.budgets
        ]
    return jobs


@dataclass(frozen=True)
class Worker:
    """Does jobs; a value, so that it can travel to another process. root: the folder of CIFAR-10."""

    scale: Scale
    root: str
    device: str

    def __call__(self, job: Job) -> list[Row]:
        clock = time.process_time()
        rows = {"space": self._space, "network": self._network, "supernet": self._supernet, "search": self._search}[
            job.kind
        ](job)
        return [{**row, "cpu_s": round(time.process_time() - clock, 2)} for row in rows]

    def _network(self, job: Job) -> list[Row]:
        """Train one network on its own."""
        import torch

        from nas.training import Recipe, accuracy, recalibrate, train_network
        from search_space.build import Network, to_channels_last

        scale, data = self.scale, load_images(self.scale, self.root)
        torch.set_num_threads(1)
        torch.manual_seed(job.seed)
        network = Network(lower(self._architecture(job.network), scale.resolution, data.num_classes), lean=False)
        to_channels_last(network)
        recipe = Recipe(epochs=scale.epochs, warmup_epochs=0.5, batch_size=scale.batch_size, lr=scale.lr)
        train_network(network, data, data.train, scale.resolution, recipe, job.seed)
        recalibrate(network, data.batches(data.train, scale.resolution, 256))
        reached = {
            name: accuracy(network, data.batches(split, scale.resolution, 256))
            for name, split in (("validation", data.validation), ("test", data.test))
        }
        return [{"kind": "network", "network": job.network, "seed": job.seed, **reached}]

    def _space(self, job: Job) -> list[Row]:
        """What every network costs."""
        from search_space import cost_of

        plan = self.plan(job.seed, True, budget_share=1.0)
        rows: list[Row] = []
        for path in all_paths(self.scale.space):
            architecture = self.scale.space.architecture(path)
            cost = cost_of(lower(architecture, self.scale.resolution, plan.num_classes))
            rows.append({"kind": "space", "network": str(architecture), "latency_ms": plan.table.path_ms(path),
                         "macs": cost.macs, "params": cost.params})  # fmt: skip
        return rows

    def _supernet(self, job: Job) -> list[Row]:
        """Train a supernet on uniformly drawn paths, then measure every network with inherited weights."""
        from nas.training import accuracy

        data = load_images(self.scale, self.root)
        clock = time.process_time()
        supernet = self.train_supernet(job, data)
        trained = time.process_time()
        rows: list[Row] = []
        for path in all_paths(self.scale.space):
            batches = data.batches(data.validation, self.scale.resolution, 256)
            reached = accuracy(partial(supernet, path=path), batches)
            rows.append({"kind": "inherited", "network": str(self.scale.space.architecture(path)), "seed": job.seed,
                         "share_weights": job.share_weights, "validation": reached})  # fmt: skip
        evaluating = (time.process_time() - trained) / len(rows)
        both = {"training_cpu_s": round(trained - clock, 2), "evaluation_cpu_s": round(evaluating, 3)}
        return [{"kind": "supernet", "seed": job.seed, "share_weights": job.share_weights, **both}, *rows]

    def train_supernet(self, job: Job, data: DataSet) -> Supernet:
        """As many weight steps as in a search, on paths drawn uniformly."""
        from nas.strategies.weights import WeightTraining, new_supernet

        plan = self.plan(job.seed, job.share_weights, budget_share=1.0)
        supernet = new_supernet(plan, data)
        training = WeightTraining(plan, data, supernet)
        rng = random.Random(job.seed)
        for epoch in range(self.scale.warmup + self.scale.search):
            for images, labels in training.batches(epoch):
                training.train_path(images, labels, self.scale.space.random_path(rng), epoch)
        return supernet

    def _search(self, job: Job) -> list[Row]:
        """Search through the front door; the network is the exported one, before its weights are trained on."""
        from nas.api import run_search

        data = load_images(self.scale, self.root)
        few = data.test.take(data.test.indices[:16])  # a search's report of test accuracy is not of use here
        plan = self.plan(job.seed, job.share_weights, job.budget, job.strategy)
        with tempfile.TemporaryDirectory() as folder:
            plan = replace(plan, settings=replace(plan.settings, out=str(Path(folder) / "run")))
            result = run_search(plan, replace(data, test=few), progress=False).result
        assert result.budget is not None
        return [{"kind": "search", "strategy": job.strategy, "share_weights": job.share_weights, "seed": job.seed,
                 "budget_ms": plan.settings.budget_ms, "network": str(result.architecture),
                 "latency_ms": result.budget.predicted_ms, "validation": result.accuracy.validation}]  # fmt: skip

    def _architecture(self, network: str) -> Architecture:
        stages = [stage.split() for stage in network.split("|")]
        return Architecture.from_dict({"space": self.scale.space.to_dict(), "stages": stages})

    def plan(self, seed: int, share_weights: bool, budget_share: float, strategy: str = "proxyless") -> Plan:
        """The search of a seed under a share of the range between the fastest and the slowest network."""
        from device_profiles import load_profile
        from latency_models import fit_latency_model, latency_table
        from nas.preflight import plan_search
        from nas.settings import SearchSettings, settings_from_dict

        scale = self.scale
        table = latency_table(fit_latency_model(load_profile(self.device)), scale.space, 224, 10)
        budget_ms = table.minimum_ms + budget_share * (table.maximum_ms - table.minimum_ms)
        options: dict[str, Any] = {
            "device": self.device,
            "budget_ms": round(budget_ms, 3),
            "space": scale.space_file,
            "strategy": strategy,
            "data": {"name": "digits", "resolution": scale.resolution},
            "seed": seed,
            "warmup": {"epochs": scale.warmup},
            "epochs": scale.search,
            "finetune": {"epochs": 0},
            "train": {"batch_size": scale.batch_size, "lr": scale.lr, "share_weights": share_weights},
            "use_at_least": 0.0,
            "threads": 1,
        }
        return plan_search(settings_from_dict(SearchSettings, options), num_classes=10)


@cache
def load_images(scale: Scale, root: str) -> DataSet:
    """Raises `UserError` where there is no CIFAR-10."""
    from nas.data import load_cifar10, load_digits

    if scale.data == "digits":
        data = load_digits(scale.validation_share, scale.limit)
    else:
        data = load_cifar10(root, scale.validation_share, scale.limit)
    return replace(data, crop="none")  # so few epochs need no more than mirrored images


def prepare(options: Options, quick: bool) -> Work[Job]:
    scale = QUICK if quick else Scale()
    device, seeds = options.text("device", "cpu"), options.integer("seeds", 2 if quick else 3)
    settings: dict[str, Value] = {**{key: str(value) for key, value in asdict(scale).items()}, "device": device}
    kinds = options.names("kinds", KINDS)
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownName("kind of job", kind, KINDS)
    jobs = [job for job in jobs_of(scale, seeds) if job.kind in kinds]
    return Work(settings, jobs, Worker(scale, options.text("data", "../shared/datasets"), device))


def main(arguments: Sequence[str]) -> int:
    return run_jobs("ground_truth", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
