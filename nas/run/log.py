"""The course of a search, rows for search.csv and gates.csv, and that of a full training, rows for train.csv.

Rows are kept in memory and the files rewritten whole, so that they are never half a line; checkpoints carry them.
Other loggers (`nas.loggers`) get every row when it is added.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.loggers import Loggers
from search_space import SearchSpace
from search_space.errors import BadFile, CannotWrite
from search_space.tables import Column, Schema, make_table, read_table, row_at, write_table

if TYPE_CHECKING:
    import torch
    from pandas import DataFrame

    from nas.run.checkpoint import Checkpoints

LOG_EVERY = 5  # steps

SEARCH_LOG = Schema(
    "search.csv",
    (
        Column(
            "step", "int", "optimizer steps and trials since the run began; never less than in the row before", least=0
        ),
        Column("phase", "str", "inherited, warmup, weights, search, trials, cut or finetune"),
        Column("epoch", "int", "of the phase, from 1 (of trials and cut: the network)", least=0),
        Column("train_loss", "float", "of a weight step, its minibatch's mean", empty=True),
        Column("gate_loss", "float", "of an architecture step, the latency's part included", empty=True),
        Column("val_accuracy", "float", "on validation images, a share of 1", empty=True, least=0, most=1),
        Column(
            "expected_ms", "float", "latency over the gates, or of the network of this step, ms", empty=True, least=0
        ),
        Column("budget_ms", "float", "the latency asked for, ms", empty=True, above=0),
        Column("multiplier", "float", "of the latency constraint in the gates' loss", empty=True),
        Column("gate_entropy", "float", "mean over the slots, as a share of the largest possible", empty=True),
        Column("seconds", "float", "of work since the run began, interruptions left out", empty=True, least=0),
    ),
)
GATES_LOG = Schema(
    "gates.csv",
    (
        Column("step", "int", "as in search.csv", least=0),
        Column("slot", "int", "of the search space, from 0", least=0),
        Column("stage", "int", "of the slot, from 1", least=1),
        Column("block", "int", "of the slot within its stage, from 1", least=1),
        Column("candidate", "str", "operation of the slot, as the space names it"),
        Column(
            "probability", "float", "of the candidate; over those of a slot at one step they sum to 1", least=0, most=1
        ),
    ),
)
TRAIN_LOG = Schema(
    "train.csv",
    (
        Column("step", "int", "optimizer steps since the run began; never less than in the row before", least=0),
        Column("epoch", "int", "from 1", least=1),
        Column("train_loss", "float", "of a step, its minibatch's mean", empty=True),
        Column("val_accuracy", "float", "on validation images, a share of 1", empty=True, least=0, most=1),
        Column("seconds", "float", "of work since the run began, interruptions left out", least=0),
    ),
)
ROWS_AN_EPOCH = 10  # of train.csv, at most, and one at the epoch's end
SUM_TOLERANCE = 0.01  # of probabilities to 1: six digits each, and a hand that rounds


@dataclass(frozen=True)
class Row:
    """One logged step; None where something was not measured at that step."""

    step: int
    phase: str
    epoch: int
    train_loss: float | None = None
    gate_loss: float | None = None
    val_accuracy: float | None = None
    expected_ms: float | None = None
    budget_ms: float | None = None
    multiplier: float | None = None
    gate_entropy: float | None = None
    seconds: float | None = None


class SearchLog:
    """Collects rows; `save` writes search.csv and gates.csv. `checkpoints` carry the rows through a resume."""

    def __init__(
        self,
        folder: Path,
        checkpoints: Checkpoints,
        name: str = "run",
        to: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """name: of this log among those that the checkpoints carry; to: names of other loggers, which get options."""
        self.folder = folder
        self.checkpoints = checkpoints
        journal = json.loads(checkpoints.restored_journal(name) or '{"rows": [], "gates": []}')
        self.rows = [Row(*values) for values in journal["rows"]]
        self._gates: list[list[Any]] = journal["gates"]
        checkpoints.journals[name] = self._journal
        self._loggers = _open(folder, checkpoints, self.rows, to, options)

    def add(self, row: Row) -> None:
        """Log a step, with the seconds of work so far."""
        self.rows.append(replace(row, seconds=round(self.checkpoints.seconds, 2)))
        self._loggers.row(vars(self.rows[-1]))

    def close(self, finished: bool) -> None:
        """No more rows come; finished: whether all did."""
        self._loggers.close(finished)

    def add_gates(self, step: int, space: SearchSpace, probabilities: torch.Tensor) -> None:
        """probabilities: (slots, candidates)."""
        for index, slot in enumerate(space.slots):
            for choice, candidate in enumerate(slot.candidates):
                p = float(probabilities[index, choice])
                self._gates.append([step, index, slot.stage + 1, slot.index + 1, str(candidate), p])

    def save(self) -> None:
        """Write the rows so far; of several processes the first does."""
        if not self.checkpoints.writes:
            return
        rows = make_table(map(astuple, self.rows), SEARCH_LOG)
        write_table(self.folder / SEARCH_LOG.name, rows, SEARCH_LOG)
        write_table(self.folder / GATES_LOG.name, make_table(self._gates, GATES_LOG), GATES_LOG)

    def save_meanwhile(self) -> None:
        """`save`, and continue if the disk refuses: checkpoints carry the rows too."""
        try:
            self.save()
        except CannotWrite as error:
            self.checkpoints.say(f"note: {error}; the run continues")

    def _journal(self) -> str:
        return json.dumps({"rows": [astuple(row) for row in self.rows], "gates": self._gates})


@dataclass(frozen=True)
class TrainRow:
    """One logged step of a full training; None where something was not measured at that step."""

    step: int
    epoch: int
    train_loss: float | None = None
    val_accuracy: float | None = None
    seconds: float = 0.0


class TrainLog:
    """Collects rows; `save` writes train.csv. `checkpoints` carry the rows through a resume."""

    def __init__(
        self,
        folder: Path,
        checkpoints: Checkpoints,
        epoch_steps: int,
        to: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """to: names of other loggers, which get options."""
        self.folder, self.checkpoints, self.epoch_steps = folder, checkpoints, epoch_steps
        journal = json.loads(checkpoints.restored_journal("train") or "[]")
        self.rows = [TrainRow(*values) for values in journal]
        checkpoints.journals["train"] = lambda: json.dumps([astuple(row) for row in self.rows])
        self._loggers = _open(folder, checkpoints, self.rows, to, options)

    def step(self, step: int, epoch: int, loss: float) -> None:
        """Log a step, if it is one of the few of its epoch that are logged; epoch: from 1."""
        is_last = step % self.epoch_steps == 0
        if is_last or step % max(LOG_EVERY, -(-self.epoch_steps // ROWS_AN_EPOCH)) == 0:
            self._add(TrainRow(step, epoch, loss))
        if is_last:
            self.save_meanwhile()

    def end(self, epoch: int, val_accuracy: float | None) -> None:
        """Log what the trained network reaches, and `save`."""
        last = self.rows[-1].step if self.rows else 0
        self._add(TrainRow(last, epoch, val_accuracy=val_accuracy))
        self.save()

    def save(self) -> None:
        """Write the rows so far; of several processes the first does."""
        if self.checkpoints.writes:
            write_table(self.folder / TRAIN_LOG.name, make_table(map(astuple, self.rows), TRAIN_LOG), TRAIN_LOG)

    def save_meanwhile(self) -> None:
        """`save`, and continue if the disk refuses: checkpoints carry the rows too."""
        try:
            self.save()
        except CannotWrite as error:
            self.checkpoints.say(f"note: {error}; the run continues")

    def close(self, finished: bool) -> None:
        """No more rows come; finished: whether all did."""
        self._loggers.close(finished)

    def _add(self, row: TrainRow) -> None:
        self.rows.append(replace(row, seconds=round(self.checkpoints.seconds, 2)))
        self._loggers.row(vars(self.rows[-1]))


def _open(
    folder: Path,
    checkpoints: Checkpoints,
    rows: Sequence[Row] | Sequence[TrainRow],
    names: Sequence[str],
    options: Mapping[str, Any] | None,
) -> Loggers:
    """The other loggers of a network, in the first of several processes; rows: those that a resumed run has."""
    after = (rows[-1].step if rows else -1) if checkpoints.resumed else None
    return Loggers(names if checkpoints.writes else (), folder, options or {}, after, checkpoints.say)


def load_train_log(folder: Path) -> DataFrame:
    """A run folder's train.csv, one row per logged step, with the columns of `TRAIN_LOG`; NaN: not measured there.

    Raises `BadFile` naming file, row and column, also where a step stands after a later one.
    """
    return _in_order(folder, TRAIN_LOG)


def load_search_log(folder: Path) -> DataFrame:
    """A run folder's search.csv, one row per logged step, with the columns of `SEARCH_LOG`; NaN: not measured there.

    Raises `BadFile` naming file, row and column, also where a step stands after a later one.
    """
    return _in_order(folder, SEARCH_LOG)


def _in_order(folder: Path, schema: Schema) -> DataFrame:
    where = f"{folder.name}/{schema.name}"
    rows = read_table(folder / schema.name, schema, where)
    back = rows.index[rows["step"].diff() < 0]
    if len(back):
        step, before = rows["step"][back[0]], rows["step"][back[0] - 1]
        raise BadFile(f"{row_at(where, back[0])}: step {step} stands after step {before}")
    return rows


def load_gates_log(folder: Path, space: SearchSpace | None = None) -> DataFrame:
    """A run folder's gates.csv, one row per step, slot and candidate, with the columns of `GATES_LOG`.

    space: the one that was searched; its slots must be there with all of their candidates at every step. Raises
    `BadFile` naming file, row and column, or the step and slot whose probabilities are not all there.
    """
    where = f"{folder.name}/{GATES_LOG.name}"
    gates = read_table(folder / GATES_LOG.name, GATES_LOG, where)
    twice = gates.index[gates.duplicated(["step", "slot", "candidate"])]
    if len(twice):
        step, slot, candidate = gates.loc[twice[0], ["step", "slot", "candidate"]]
        raise BadFile(f"{row_at(where, twice[0])}: candidate '{candidate}' of slot {slot} at step {step} again")
    if space is not None:
        _check_candidates(gates, space, where)
    sums = gates.groupby(["step", "slot"])["probability"].sum()
    _refuse(sums.index[(sums - 1).abs() > SUM_TOLERANCE], where)
    return gates


def _check_candidates(gates: DataFrame, space: SearchSpace, where: str) -> None:
    known = [tuple(map(str, slot.candidates)) for slot in space.slots]
    for index, slot, candidate in zip(gates.index, gates["slot"], gates["candidate"], strict=True):
        if slot >= len(known):
            raise BadFile(f"{row_at(where, index)}: slot is {slot}, not one of 0..{len(known) - 1} of '{space.name}'")
        if candidate not in known[slot]:
            names = ", ".join(known[slot])
            raise BadFile(f"{row_at(where, index)}: candidate is '{candidate[:40]}', not one of {names} of slot {slot}")
    there = gates.groupby(["step", "slot"]).size()
    for step in gates["step"].unique():
        _refuse([(step, slot) for slot, names in enumerate(known) if there.get((step, slot), 0) != len(names)], where)


def _refuse(places: Iterable[tuple[int, int]], where: str) -> None:
    for step, slot in places:
        raise BadFile(f"{where}: step {step}, slot {slot}: probabilities are missing or do not sum to 1")
