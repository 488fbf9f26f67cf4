"""Cutting a trained network where it costs least: no supernet is trained, so all training is the chosen network's.

Every candidate is put into the trained network alone and what it costs is measured (`nas.supernet.refit`); a quadratic
form counts by what its fitted term makes up for, not by what it could learn in a longer training. Sums of
these costs rank whole networks, and the exact choice lists the cheapest within the budget. Those are then measured as
they are; by what was measured the costs are weighed anew, and the choice is repeated. The network whose answers are
nearest to the trained one's is found. Not for weights that start at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latency_models import LatencyTable
from nas.choose.derive import derive
from nas.data import DataSet
from nas.run.checkpoint import Checkpoint
from nas.run.log import Row
from nas.run.plan import Plan
from nas.strategies.base import Found, Task
from nas.supernet.network import Supernet
from nas.supernet.origin import is_published
from nas.supernet.refit import Cuts
from nas.training.loop import accuracy
from search_space import Architecture, GatePath, SearchSpace, UserError
from search_space.space import ZERO, plain_size_of, size_of

PHASE = "cut"  # of checkpoints
ROUNDS = 4  # of choosing `rerank` networks, measuring them and weighing the costs anew

Array = NDArray[np.float64]


class Cut:
    """`strategy=cut`, for any number of targets."""

    def check(self, plans: Sequence[Plan]) -> None:
        """Raise `UserError` for a search that starts from no published network, or that would train a supernet."""
        settings = plans[0].settings
        if settings.init is None or not is_published(settings.init):
            raise UserError(
                "strategy=cut cuts a trained network: add init=efficientnet_lite0 or a file of weights, or leave out "
                "strategy="
            )
        epochs = {"warmup.epochs": settings.warmup.epochs, "epochs": settings.epochs}
        if asked := [f"{name}={number}" for name, number in epochs.items() if number]:
            raise UserError(
                f"strategy=cut trains no supernet, so there is nothing for {' '.join(asked)}; leave "
                f"{'them' if len(asked) > 1 else 'it'} out, or add strategy=proxyless"
            )

    def total_steps(self, plan: Plan, data: DataSet) -> int:
        """Candidates, each measured alone; whole networks come with the last of them."""
        return sum(len(slot.candidates) for slot in plan.space.slots)

    def search(self, task: Task) -> tuple[Supernet, list[Found]]:
        """Resumes from the run's checkpoints, if they are of this phase."""
        start = task.start
        assert start is not None and start.supernet is not None
        run = _Run(task, start.sketch())
        if saved := task.checkpoints.saved_in(PHASE):
            run.restore(saved)
        with task.checkpoints.stopping_between_steps():
            run.measure_candidates()
            found = [run.found(number) for number in range(len(task.plans))]
        return start.supernet, found


strategy = Cut()


class _Run:
    """What was measured so far: candidates alone, and whole networks."""

    def __init__(self, task: Task, cuts: Cuts) -> None:
        self.task, self.cuts = task, cuts
        self.alone: Tensor | None = None
        self.measured: dict[tuple[int, ...], float] = {}
        self.step = 0

    def state(self) -> Checkpoint:
        """Between two networks, everything that the next ones depend on."""
        measured = [[list(choices), value] for choices, value in self.measured.items()]
        return Checkpoint({} if self.alone is None else {"alone": self.alone}, {"measured": measured})

    def restore(self, saved: Checkpoint) -> None:
        self.alone = saved.tensors["alone"]
        self.measured = {tuple(choices): value for choices, value in saved.facts["measured"]}

    def measure_candidates(self) -> None:
        """Each alone, by which networks are ranked at first."""
        task = self.task
        if self.alone is None:
            skipped = np.logical_and.reduce([pointless(plan.space, plan.table) for plan in task.plans])
            self.alone = self.cuts.damage(lambda: task.progress.advance(PHASE, part="candidates"), skipped)
            self._keep()
        task.progress.skip(strategy.total_steps(task.plan, task.data))

    def found(self, number: int) -> Found:
        """The network of a target whose answers are nearest to the trained one's, of those that were measured."""
        plan, log = self.task.plans[number], self.task.logs[number]
        assert self.alone is not None
        settings, alone, count = plan.settings, self.alone.double().numpy(), plan.settings.rerank
        never = np.where(pointless(plan.space, plan.table), -np.inf, 0.0)
        known = {path.choices: self._divergence(path) for path in self._uniform(plan)}
        offered: dict[tuple[int, ...], float] = {}
        for _ in range(ROUNDS):
            costs = weighed(plan.space, alone, {**known, **offered}) if offered else alone
            cheapest = derive(plan.space, plan.table, never - costs, settings.budget_ms, settings.use_at_least,
                              count + len(offered), plan.limits)  # fmt: skip
            for one in [one for one in cheapest if one.path.choices not in offered][:count]:
                step = len(offered) + 1
                row = Row(step, PHASE, step, expected_ms=one.latency_ms, budget_ms=settings.budget_ms)
                offered[one.path.choices] = self._divergence(one.path, partial(log.add, row))
        path = GatePath(min(offered, key=lambda choices: (offered[choices], choices)))
        network, data = self.cuts.network(path), self.task.data
        batches = data.batches(data.validation, settings.data.resolution, 128)
        if settings.trial_images is not None:
            batches = islice(batches, -(-settings.trial_images // 128))
        return Found(path, accuracy(network, batches))

    def _uniform(self, plan: Plan) -> Iterator[GatePath]:
        """The slowest within the budget for every depth: what they cost tells how costs add up."""
        for cuts in uniform(plan.space):
            paths = (plan.space.path(cut) for cut in cuts)
            yield from islice((path for path in paths if plan.table.path_ms(path) <= plan.settings.budget_ms), 1)

    def _divergence(self, path: GatePath, measured: Callable[[], None] = lambda: None) -> float:
        """measured: called where it was not known yet, also not before the run was stopped."""
        if path.choices not in self.measured:
            self.measured[path.choices] = self.cuts.divergence(path)
            measured()
            self._keep()
        return self.measured[path.choices]

    def _keep(self) -> None:
        self.step += 1
        self.task.checkpoints.keep(PHASE, self.step, self.state)


def pointless(space: SearchSpace, table: LatencyTable) -> NDArray[np.bool_]:
    """(slots, candidates): quadratic forms that are no faster than the trained network's block, which loses nothing."""
    whole, found = space.path(space.largest()), np.zeros(table.slot_ms.shape, dtype=bool)
    for number, slot in enumerate(space.slots):
        for choice, block in enumerate(slot.candidates):
            slower = table.slot_ms[number, choice] >= table.slot_ms[number, whole.choices[number]]
            found[number, choice] = block.branches > 1 and slower
    return found


def uniform(space: SearchSpace) -> list[list[Architecture]]:
    """For every number of last blocks that stages can lose, networks of smaller and smaller ratios."""
    found = []
    for dropped in range(max(stage.max_blocks for stage in space.stages)):
        cuts = []
        for ratio in sorted(space.ratios, reverse=True):
            stages = []
            for stage, choices in zip(space.stages, space.stage_choices, strict=True):
                narrow = [block for block in choices if block.expand_ratio <= ratio] or [min(choices, key=size_of)]
                stages.append((max(narrow, key=plain_size_of),) * max(stage.least_blocks, stage.max_blocks - dropped))
            cuts.append(Architecture(space, tuple(stages)))
        found.append(list(dict.fromkeys(cuts)))
    return found


def weighed(space: SearchSpace, alone: Array, measured: Mapping[tuple[int, ...], float]) -> Array:
    """Costs of candidates, so that their sums are what networks have cost.

    alone: (slots, candidates) -> the same; measured: networks' costs by their choices. A block that is left out costs
    so many times what it does alone and a constant, a smaller block has a factor and a constant of its own: the four
    are found by non-negative least squares on relative errors.
    """
    from scipy.optimize import nnls

    whole = np.array(space.path(space.largest()).choices)
    slots, candidates = np.arange(len(alone)), np.arange(alone.shape[1])
    gone = np.array([[c < len(s.candidates) and s.candidates[c] == ZERO for c in candidates] for s in space.slots])
    smaller = (candidates != whole[:, None]) & ~gone
    terms = np.stack([alone * smaller, alone * gone, smaller, gone], axis=2)  # (slots, candidates, 4)
    chosen = np.array(list(measured), dtype=np.intp).reshape(-1, len(alone))
    reached = np.maximum(np.array(list(measured.values())), 1e-9)
    factors, _ = nnls(terms[slots, chosen].sum(1) / reached[:, None], np.ones(len(reached)))
    found: Array = terms @ factors
    return found
