"""The jobs of `experiments.ground_truth`: training networks and supernets, and searching. Not for tables.

A supernet's job draws its paths uniformly and takes as many weight steps as a search does.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.results import Row
from search_space import Architecture, GatePath, SearchSpace, load_space, lower

if TYPE_CHECKING:
    from nas.data import DataSet, Split
    from nas.discrete import Choices
    from nas.run.plan import Plan
    from nas.run.result import SearchResult
    from nas.strategies.weights import WeightTraining
    from nas.supernet.network import Supernet

SPACES = Path(__file__).parent / "spaces"
BUDGETS = (0.2, 0.4, 0.6, 0.8)  # shares of the way from the fastest network's latency to the slowest's


@dataclass(frozen=True)
class Scale:
    """How large the experiment is.

    space_name: of a file in `spaces`; limit less validation_share: images that train weights; choosing: further train
    images, on which searches measure (None: the validation share); epochs: of a network's own training; warmup and
    search: epochs of a supernet.
    """

    space_name: str = "ground_truth"
    data: str = "cifar10"
    limit: int = 12_500
    validation_share: float = 0.2
    choosing: int | None = 10_000
    resolution: int = 32
    epochs: int = 3
    warmup: int = 4
    search: int = 6
    short: int = 2
    batch_size: int = 64
    lr: float = 5e-3
    budgets: tuple[float, ...] = BUDGETS

    @property
    def space_file(self) -> str:
        """The path of the space's file, as `space=` takes it."""
        return str(SPACES / f"{self.space_name}.yaml")

    @cached_property
    def space(self) -> SearchSpace:
        """Read once. Raises `BadFile`."""
        return load_space(self.space_file)


@dataclass(frozen=True)
class Job:
    """A part of the experiment that is done in one go and then kept.

    kind: 'space' (what each network costs), 'network' (trained on its own), 'supernet' (trained on uniformly drawn
    paths, if `short` for few epochs; then every network with inherited weights, and after all epochs discrete searches
    among those), 'front' (a gradient search under all budgets) or 'search' (under one budget).
    """

    kind: str
    seed: int = 0
    network: str = ""
    share_weights: bool = True
    short: bool = False
    budget: float = 0.0

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        weights = "shared" if self.share_weights else "separate"
        parts = {
            "space": (),
            "network": (self.network, self.seed),
            "supernet": (weights, self.seed, *(["short"] if self.short else [])),
            "front": (weights, self.seed),
            "search": (weights, self.budget, self.seed),
        }[self.kind]
        return " ".join(map(str, (self.kind, *parts)))


def all_paths(space: SearchSpace) -> list[GatePath]:
    """One gate path for every distinct network."""
    paths = (GatePath(choices) for choices in product(*(range(len(slot.candidates)) for slot in space.slots)))
    return list({space.architecture(path): path for path in paths}.values())


@dataclass(frozen=True)
class Worker:
    """Does jobs; a value, so that it can travel to another process. root: the folder of CIFAR-10."""

    scale: Scale
    root: str
    device: str

    def __call__(self, job: Job) -> list[Row]:
        """A job's rows, each with the whole job's CPU seconds."""
        clock = time.process_time()
        rows = getattr(self, f"_{job.kind}")(job)
        return [{**row, "cpu_s": round(time.process_time() - clock, 2)} for row in rows]

    def _network(self, job: Job) -> list[Row]:
        """Train one network on its own."""
        import torch

        from nas.training.loop import accuracy, recalibrate, train_network
        from nas.training.recipes import Recipe
        from search_space.build import Network, to_channels_last

        scale, data = self.scale, load_images(self.scale, self.root)
        torch.set_num_threads(1)
        torch.manual_seed(job.seed)
        network = Network(lower(self._architecture(job.network), scale.resolution, data.num_classes), lean=False)
        to_channels_last(network)
        recipe = Recipe(epochs=scale.epochs, warmup_epochs=0.5, batch_size=scale.batch_size, lr=scale.lr)
        train_network(network, data, data.train, scale.resolution, recipe, job.seed)
        recalibrate(network, data.batches(data.train, scale.resolution, 256))
        reached = accuracy(network, data.batches(data.test, scale.resolution, 256))
        return [{"kind": "network", "network": job.network, "seed": job.seed, "test": reached}]

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
        from nas.training.loop import accuracy

        data = load_images(self.scale, self.root)
        clock = time.process_time()
        supernet = self.train_supernet(job, data)
        trained = time.process_time()
        inherited = {
            path.choices: accuracy(
                partial(supernet, path=path), data.batches(data.validation, self.scale.resolution, 256)
            )
            for path in all_paths(self.scale.space)
        }
        evaluating = (time.process_time() - trained) / len(inherited)
        both = {"training_cpu_s": round(trained - clock, 2), "evaluation_cpu_s": round(evaluating, 3)}
        common: Row = {"seed": job.seed, "share_weights": job.share_weights, "epochs": self._epochs(job)}
        rows: list[Row] = [
            {"kind": "inherited", **common, "network": str(self.scale.space.architecture(GatePath(choices))),
             "validation": reached}
            for choices, reached in inherited.items()
        ]  # fmt: skip
        searches = [] if job.short else self._look_up(job, inherited)
        return [{"kind": "supernet", **common, **both}, *rows, *searches]

    def _epochs(self, job: Job) -> int:
        """Of a supernet on uniform paths."""
        return self.scale.short if job.short else self.scale.warmup + self.scale.search

    def _look_up(self, job: Job, inherited: Mapping[Choices, float]) -> list[Row]:
        """Discrete searches among these accuracies, under every budget."""
        from experiments.lookup import look_up
        from nas.discrete.budgeted import within_budget

        space = self.scale.space
        rows: list[Row] = []
        for budget in self.scale.budgets:
            plan = self.plan(job.seed, job.share_weights, budget)
            budget_ms = plan.settings.budget_ms
            region = within_budget(space, plan.table, plan.limits, budget_ms, plan.settings.use_at_least)
            for found in look_up(region, inherited):
                path = GatePath(found.best)
                rows.append({"kind": "search", "strategy": found.strategy, "share_weights": job.share_weights,
                             "seed": job.seed, "draw": found.draw, "evaluations": found.evaluations,
                             "budget_ms": budget_ms, "network": str(space.architecture(path)),
                             "latency_ms": plan.table.path_ms(path), "validation": inherited[found.best]})  # fmt: skip
        return rows

    def train_supernet(self, job: Job, data: DataSet) -> Supernet:
        """As many weight steps as in a search, or few, on paths drawn uniformly."""
        training = self.supernet_training(job, data)
        rng = random.Random(job.seed)
        for epoch in range(self._epochs(job)):
            for images, labels in training.batches(epoch):
                training.train_path(images, labels, self.scale.space.random_path(rng), epoch)
        training.finish()
        return training.supernet

    def supernet_training(self, job: Job, data: DataSet, ema: float = 0.0) -> WeightTraining:
        """Before the first step. ema: decay of the average that the weights become at the end; 0 for none."""
        from nas.strategies.untrained import new_supernet
        from nas.strategies.weights import WeightTraining

        plan = self.plan(job.seed, job.share_weights, budget_share=1.0)
        asked = replace(plan.settings, train=replace(plan.settings.train, ema=ema))
        if job.short:
            asked = replace(asked, warmup=replace(asked.warmup, epochs=0), epochs=self.scale.short)
        plan = replace(plan, settings=asked)
        return WeightTraining(plan, data, new_supernet(plan, data))

    def _search(self, job: Job) -> list[Row]:
        """One search through the front door; the network is the exported one, before its weights are trained on."""
        from nas.run.search import carry_out

        plan = self.plan(job.seed, job.share_weights, job.budget)
        with tempfile.TemporaryDirectory() as folder:
            finished = carry_out([_into(plan, folder)], self._search_images(), progress=False)
        assert finished is not None  # this is the only process
        return [self._found(job, "proxyless", finished.result)]

    def _front(self, job: Job) -> list[Row]:
        """All budgets in one run."""
        from nas.run.search import carry_out

        plans = [self.plan(job.seed, job.share_weights, budget) for budget in self.scale.budgets]
        with tempfile.TemporaryDirectory() as folder:
            front = carry_out([_into(plan, folder) for plan in plans], self._search_images(), progress=False)
        assert front is not None  # this is the only process
        return [self._found(job, "proxyless, all budgets in one run", target.result) for target in front.targets]

    def _search_images(self) -> DataSet:
        import numpy as np

        data = load_images(self.scale, self.root)
        return replace(data, test=data.test.take(np.arange(16)))  # a search's report of them is of no use here

    def _found(self, job: Job, strategy: str, result: SearchResult) -> Row:
        assert result.budget is not None and result.accuracy is not None
        return {"kind": "search", "strategy": strategy, "share_weights": job.share_weights, "seed": job.seed,
                "budget_ms": result.budget.budget_ms, "network": str(result.architecture),
                "latency_ms": result.budget.predicted_ms, "validation": result.accuracy.validation}  # fmt: skip

    def _architecture(self, network: str) -> Architecture:
        stages = [stage.split() for stage in network.split("|")]
        return Architecture.from_dict({"space": self.scale.space.to_dict(), "stages": stages})

    def plan(self, seed: int, share_weights: bool, budget_share: float) -> Plan:
        """The search of a seed under a share of the range between the fastest and the slowest network."""
        from device_profiles import load_profile
        from latency_models import fit_latency_model, latency_table
        from nas.run.plan import plan_search
        from nas.run.settings import SearchSettings, settings_from_dict

        scale = self.scale
        table = latency_table(fit_latency_model(load_profile(self.device)), scale.space, 224, 10)
        budget_ms = table.minimum_ms + budget_share * (table.maximum_ms - table.minimum_ms)
        options: dict[str, Any] = {
            "device": self.device,
            "accelerator": "cpu",  # as the networks trained on their own
            "budget_ms": round(budget_ms, 3),
            "space": scale.space_file,
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


def _into(plan: Plan, folder: str) -> Plan:
    """The plan with its files in a new folder within this one."""
    return replace(plan, settings=replace(plan.settings, out=str(Path(folder) / "run")))


@cache
def load_images(scale: Scale, root: str) -> DataSet:
    """Raises `UserError` where there is no CIFAR-10."""
    from nas.data import DataSettings, load

    asked = DataSettings(scale.data, root, validation_share=scale.validation_share, limit=scale.limit)
    data = load(asked)
    if scale.choosing is not None:
        everything = load(replace(asked, validation_share=0.2, limit=None))
        data = replace(data, validation=_beside(data.train, everything, scale.choosing))
    return replace(data, crop="whole")  # so few epochs need no more than mirrored images


def _beside(trained: Split, everything: DataSet, count: int) -> Split:
    """So many of all train images that are not among those trained on, every class alike."""
    import numpy as np

    from nas.data import Split, split_by_class

    splits = (everything.train, everything.validation)
    indices, labels = (np.concatenate([getattr(split, name) for split in splits]) for name in ("indices", "labels"))
    free = np.flatnonzero(~np.isin(indices, trained.indices))
    _, chosen = split_by_class(labels[free], count / len(free), seed=4)
    return Split(trained.source, indices[free][chosen], labels[free][chosen])
