"""Discrete search over sub-networks that inherit weights: `random`, `evolution` and `optuna`.

The supernet trains on paths drawn uniformly from the networks within the budget, so on those that can be chosen. Then
`trials` of them are measured on validation images with the weights they inherit: most are proposed by a `nas.discrete`
searcher, the last few are the best by a model of those, found exactly (`nas.discrete.additive`). Of the trials that a
model of all likes best the most accurate is chosen: the largest of many noisy accuracies alone is often luck.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.choose.derive import derive
from nas.data import DataSet
from nas.discrete import Choices, Evolution, RandomSearch, Region, Searcher, Trial, explore
from nas.discrete.additive import Additive
from nas.discrete.base import SharedSearcher, as_choices
from nas.discrete.budgeted import Budgeted, within_budget
from nas.discrete.optuna import OptunaSearch
from nas.run.checkpoint import Checkpoint, part, under
from nas.run.distributed import with_global_norms
from nas.run.log import LOG_EVERY, Row
from nas.run.plan import Plan
from nas.strategies.base import Found, Task
from nas.strategies.untrained import weight_steps
from nas.strategies.weights import WeightTraining, first_supernet
from nas.supernet.network import Supernet
from nas.supernet.origin import CHECKPOINT, trained_for
from nas.supernet.saved import save_supernet
from nas.training.loop import accuracy, recalibrate
from search_space import GatePath, UserError
from search_space.build import to_channels_last
from search_space.tables import Column, Schema, make_table, write_table

if TYPE_CHECKING:
    from pandas import DataFrame

PHASE = "subnetworks"  # of checkpoints; training and trials
TRIALS = Schema(
    "trials.csv",
    (
        Column("trial", "int", "from 1, in the order of the study", least=1),
        Column("network", "str", "the blocks of every stage, stages with | between"),
        Column("ms", "float", "predicted latency, ms", above=0),
        Column("val_accuracy", "float", "with inherited weights, a share of 1", least=0, most=1),
    ),
)
OUTSIDE = 3  # proposals; just below a tight budget lies a millionth of a space, which samplers seldom meet
TRIALS_A_LINE = 10  # where no terminal shows a bar
SPARE = 4  # times as many networks are taken from the exact choice, since some of its paths are one network
RECALIBRATION_BATCHES = 4  # of train images, that a trial's BatchNorms are measured on


@dataclass(frozen=True)
class Subnetworks:
    """searcher: from the plan, the networks that may be chosen, and what the study is called."""

    searcher: Callable[[Plan, Region, str], Searcher]

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        """Weight steps, and one step a trial."""
        return weight_steps(plan, data) + plan.settings.trials

    def check(self, plans: Sequence[Plan]) -> None:
        """Raise `UserError` for several targets: the supernet trains on the networks within one budget."""
        if len(plans) > 1:
            raise UserError(
                f"strategy={plans[0].settings.strategy} searches for one budget on one device at a time; "
                "several need strategy=proxyless, or --multirun"
            )

    def search(self, task: Task) -> tuple[Supernet, list[Found]]:
        """Resumes from the run's checkpoints, if they are of this phase. Raises `NotFinite`."""
        plan, data, checkpoints = task.plan, task.data, task.checkpoints
        if plan.settings.optuna.storage and data.place.ranks > 1:
            raise UserError("optuna.storage= is for searches of one process each; leave it out under torchrun")
        region = within_budget(plan.space, plan.table, plan.limits, plan.settings.budget_ms, plan.settings.use_at_least)
        searcher = self.searcher(plan, region, study_name(plan, data))  # a storage that cannot be used is refused now
        run = _Run(task, region)
        if saved := checkpoints.saved_in(PHASE):
            run.restore(saved)
        task.progress.skip(run.weights.step)
        with checkpoints.stopping_between_steps():
            run.train()
            if checkpoints.writes and run.weights.total:
                purpose = trained_for(plan.settings, data.inputs, data.digest)
                save_supernet(checkpoints.run_folder / CHECKPOINT, run.supernet, {}, purpose)
            trials = run.look(searcher)
        return run.supernet, [run.best(trials)]


def _optuna(plan: Plan, region: Region, study: str) -> Searcher:
    asked = plan.settings.optuna
    return OptunaSearch(region, plan.settings.seed, asked.sampler, asked.storage, study, OUTSIDE, asked.stale_s)


random = Subnetworks(lambda plan, region, study: RandomSearch(region, plan.settings.seed))
evolution = Subnetworks(lambda plan, region, study: Evolution(region, plan.settings.seed))
optuna = Subnetworks(_optuna)


def study_name(plan: Plan, data: DataSet) -> str:
    """The same for runs whose trials one can take from the other: equal supernets, one region, one data set."""
    settings = plan.settings
    kept = replace(settings, out=None, trials=1, rerank=1, accelerator="auto")
    kept = replace(kept, optuna=type(settings.optuna)(), distributed=type(settings.distributed)())
    facts = [asdict(kept), plan.space.to_dict(), plan.profile.digest, data.digest]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return f"{plan.space.name}-{settings.device}-{settings.budget_ms:g}ms-{digest}"


class _Run:
    """The supernet's training, then the trials."""

    def __init__(self, task: Task, region: Budgeted) -> None:
        self.plan, self.data, self.region = task.plan, task.data, region
        self.log, self.progress, self.checkpoints = task.logs[0], task.progress, task.checkpoints
        self.settings = self.plan.settings
        self.supernet: Supernet = first_supernet(self.plan, self.data, task.start)
        lessons = task.start.lessons if task.start else None
        self.weights = WeightTraining(self.plan, self.data, self.supernet, lessons)
        self.looked: dict[Choices, float] = {}  # in this run; reported again to a searcher that starts again

    def state(self) -> Checkpoint:
        """Between two steps or trials, everything that the next ones depend on."""
        weights = self.weights.state()
        looked = [[list(choices), value] for choices, value in self.looked.items()]
        return Checkpoint(under("weights", weights.tensors), {"weights": weights.facts, "looked": looked})

    def restore(self, saved: Checkpoint) -> None:
        self.weights.restore(Checkpoint(part(saved.tensors, "weights"), saved.facts["weights"]))
        self.looked = {tuple(choices): value for choices, value in saved.facts["looked"]}

    def train(self) -> None:
        """From where the run is to the last epoch; every epoch's paths are drawn by the seed and its number."""
        per_epoch = self.weights.epoch_steps
        for epoch in range(self.weights.step // per_epoch, self.settings.warmup.epochs + self.settings.epochs):
            draws = np.random.default_rng([self.settings.seed, epoch])
            paths = self.region.sample(draws, per_epoch).tolist()
            for images, labels in self.weights.batches(epoch):
                path = GatePath(tuple(paths[self.weights.step % per_epoch]))
                self.weights.train_path(images, labels, path, epoch)
                self._report("weights", epoch + 1, path, train_loss=self.weights.loss)
                self.checkpoints.keep(PHASE, self.weights.step, self.state)
        self.weights.finish()

    def look(self, searcher: Searcher) -> Sequence[Trial]:
        """Every trial known in the end, those of other processes included; also in trials.csv."""

        def evaluate(choices: Choices) -> float:
            if choices not in self.looked:
                self.looked[choices] = self._measure(choices, self.settings.trial_images)
                number = len(self.looked)
                self._report("trials", number, GatePath(choices), number, val_accuracy=self.looked[choices])
                self.checkpoints.keep(PHASE, self.weights.step + number, self.state)
            return self.looked[choices]

        self.progress.skip(self.weights.step + len(self.looked))
        of_model = min(self.settings.rerank, self.settings.trials // 2)
        known = {t.choices for t in explore(searcher, evaluate, self.settings.trials - of_model)}
        fresh = [choices for choices in self._promising(searcher.trials, of_model) if choices not in known]
        for choices in fresh:
            if len(searcher.trials) >= self.settings.trials:
                break
            if not isinstance(searcher, SharedSearcher) or searcher.take(choices):
                searcher.tell(choices, evaluate(choices))
        trials = explore(searcher, evaluate, self.settings.trials)
        if self.checkpoints.writes:
            write_table(self.log.folder / TRIALS.name, self._table(trials), TRIALS)
        return trials

    def _promising(self, trials: Sequence[Trial], count: int) -> list[Choices]:
        """The best networks by a model of the trials, of all that may be chosen."""
        plan, region = self.plan, self.region
        model = Additive(region.widths, *_looked_at(trials))
        floor = self.settings.use_at_least if region.floor_ms else 0.0
        found = derive(plan.space, plan.table, model.gains, region.budget_ms, floor, SPARE * count, plan.limits)
        networks = np.unique(region.canonical(np.array([derived.path.choices for derived in found])), axis=0)
        return as_choices(networks[np.argsort(-model.predict(networks), kind="stable")][:count])

    def best(self, trials: Sequence[Trial]) -> Found:
        """Of the few trials that a model of all likes best the most accurate, on all validation images."""
        networks, accuracies = _looked_at(trials)
        liked = np.argsort(-Additive(self.region.widths, networks, accuracies).predict(networks), kind="stable")
        few = [trials[place] for place in liked[: self.settings.rerank]]
        if self.settings.trial_images is not None:
            few = [replace(trial, accuracy=self._measure(trial.choices, None)) for trial in few]
        chosen = max(few, key=lambda trial: trial.accuracy)
        return Found(GatePath(chosen.choices), chosen.accuracy)

    def _measure(self, choices: Choices, images: int | None) -> float:
        """Accuracy on so many validation images (None: all) with inherited weights and BatchNorms of its own path."""
        resolution = self.settings.data.resolution
        network = with_global_norms(to_channels_last(self.supernet.extract(GatePath(choices))))
        network.to(self.data.place.device)
        train = self.data.batches(self.data.train, resolution, 128)
        recalibrate(network, itertools.islice(train, RECALIBRATION_BATCHES))
        network.eval()
        batches = self.data.batches(self.data.validation, resolution, 128)
        return accuracy(network, batches if images is None else itertools.islice(batches, -(-images // 128)))

    def _report(self, phase: str, epoch: int, path: GatePath, trial: int = 0, **measured: float | None) -> None:
        latency_ms, budget_ms = self.plan.table.path_ms(path), self.settings.budget_ms
        self.progress.advance(
            phase,
            loss=self.weights.loss,
            accuracy=measured.get("val_accuracy"),
            expected_ms=latency_ms,
            budget_ms=budget_ms,
            part=f"up to {-(-trial // TRIALS_A_LINE) * TRIALS_A_LINE}" if trial else f"epoch {epoch}",
        )
        step = self.weights.step + trial
        if trial or step % LOG_EVERY == 0 or step == self.weights.total:
            self.log.add(Row(step, phase, epoch, expected_ms=latency_ms, budget_ms=budget_ms, **measured))

    def _table(self, trials: Sequence[Trial]) -> DataFrame:
        rows = []
        for number, trial in enumerate(trials, start=1):
            path = GatePath(trial.choices)
            network, ms = self.plan.space.architecture(path), self.plan.table.path_ms(path)
            rows.append((number, str(network), ms, trial.accuracy))
        return make_table(rows, TRIALS)


def _looked_at(trials: Sequence[Trial]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N, S) networks and (N,) accuracies."""
    return np.array([trial.choices for trial in trials]), np.array([trial.accuracy for trial in trials])
