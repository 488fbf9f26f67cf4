"""Optuna's samplers over choices, with the limits as its constraints and its storage as the memory of the search.

A proposal outside the limits is never evaluated: it is reported as pruned with how far outside it is, which is what
TPE and NSGA-II learn from. Several processes may share a storage; each sees what the others reported. In a database
each trial is one process's: a network that another is at is not proposed, and the trial of a process that is silent for
too long is marked failed and its network proposed again. A journal's file knows no signs of life, and so neither.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.data.addresses import redacted, revealed
from nas.discrete.base import Choices, Region, Trial, as_choices
from nas.discrete.random import draw_new
from search_space.errors import UserError, one_line

if TYPE_CHECKING:
    import optuna

REPEATED = 5  # proposals of known networks, after which a uniform draw is proposed
WRITTEN_S = 0.2  # within which a process that writes a line of a journal has written it
CHOICES = "choices"  # a trial's attribute: the canonical network
TAKEN_BY = "taken by"  # another: what the process that added a trial knows it by
STALE_S = 120  # after which the trial of a silent process is another's
SIGNS = 4  # of life within that time
OPENED = 10  # times that a database is, a second apart, while others make its tables


class OptunaSearch:
    """Optuna's defaults but for the seed. Without a storage the same seed asks the same."""

    def __init__(
        self,
        region: Region,
        seed: int,
        sampler: str = "tpe",
        storage: str | None = None,
        study: str = "search",
        outside: int = 20,
        stale_s: int = STALE_S,
    ) -> None:
        """Open the study, or begin it.

        sampler: 'tpe' or 'nsga2'. storage: None for memory, a journal's file, or a database's URL. study: what is
        searched; trials of a study of this name in the storage count. outside: proposals outside the limits after
        which a uniform draw is proposed. stale_s: how long a process may be silent. Raises `UserError` for a storage
        that cannot be used.
        """
        import optuna

        self.region, self.seed, self.outside, self.storage = region, seed, outside, storage
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _using(storage):
            opened = _storage(storage, stale_s)
            self.study = optuna.create_study(
                storage=opened, study_name=study, direction="maximize", load_if_exists=True
            )
        # two processes that share a storage must not propose the same
        key = [seed, len(self.study.trials), *([] if storage is None else [os.getpid()])]
        samplers = {"tpe": optuna.samplers.TPESampler, "nsga2": optuna.samplers.NSGAIISampler}
        self.study.sampler = samplers[sampler](seed=int(np.random.default_rng(key).integers(2**31)))
        self.asked: dict[Choices, int] = {}  # under way here: numbers of trials
        self.alive: set[int] = set()  # ids of trials under way here
        self.database = opened if isinstance(opened, optuna.storages.RDBStorage) else None
        if self.database is not None:
            every_s = stale_s / SIGNS
            threading.Thread(target=_give_signs, args=(self.database, self.alive, every_s), daemon=True).start()

    @property
    def trials(self) -> list[Trial]:
        """Of every process that shares the storage."""
        return [Trial(choices, accuracy) for choices, accuracy in self._known().items()]

    def _known(self) -> dict[Choices, float]:
        import optuna

        with _using(self.storage):
            reported = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
        return {tuple(trial.user_attrs[CHOICES]): float(trial.value) for trial in reported if trial.value is not None}

    def ask(self) -> Choices | None:
        """The sampler's first proposal within the limits that is new; after too many others a uniform draw.

        Raises `UserError` for a storage that was damaged meanwhile.
        """
        with _using(self.storage):
            return self._ask()

    def _ask(self) -> Choices | None:
        import optuna

        if self.database is not None:
            with _experimental():
                optuna.storages.fail_stale_trials(self.study)
        known = self._known()
        outside = repeated = 0
        while outside < self.outside and repeated < REPEATED:
            trial = self._propose()
            proposed = np.array([[trial.params[_name(slot)] for slot in range(len(self.region.widths))]])
            (choices,) = as_choices(self.region.canonical(proposed))
            excess = float(self.region.excess(np.array([choices]))[0])
            trial.set_constraint("excess", excess)
            trial.set_user_attr(CHOICES, choices)
            if excess > 0:
                outside += 1
                self._close(trial, optuna.trial.TrialState.PRUNED)
            elif choices in known or (self.database is not None and self._others(choices, trial.number)):
                repeated += 1
                self._close(trial, optuna.trial.TrialState.FAIL)  # samplers pass over these
            else:
                self.asked[choices] = trial.number
                return choices
        return self._draw(known)

    def _propose(self) -> optuna.trial.Trial:
        with _experimental():
            trial = self.study.ask()
        self._show_life(trial._trial_id)
        for slot, width in enumerate(self.region.widths):
            trial.suggest_categorical(_name(slot), range(width))
        return trial

    def _close(self, trial: optuna.trial.Trial, state: optuna.trial.TrialState) -> None:
        self.study.tell(trial, state=state, skip_if_finished=True)
        self.alive.discard(trial._trial_id)

    def _draw(self, known: dict[Choices, float]) -> Choices | None:
        """A uniform draw of what is not known, nor under way elsewhere."""
        rng, passed = np.random.default_rng([self.seed, len(known), 1]), dict(known)
        while (choices := draw_new(self.region, passed, rng)) is not None and not self._take(choices):
            passed[choices] = np.nan
        return choices

    def take(self, choices: Choices) -> bool:
        """Whether this process is the one that evaluates a network it wants; no other is at it then, or was.

        Raises `UserError` for a storage that was damaged meanwhile.
        """
        with _using(self.storage):
            return self._take(choices)

    def _take(self, choices: Choices) -> bool:
        """Of processes that add the same network at once, a database numbers one first."""
        import optuna

        if self.database is None:
            return True
        own = secrets.token_hex(8)
        running = optuna.trial.TrialState.RUNNING
        self.study.add_trial(_trial_of(choices, self.region, state=running, marks={TAKEN_BY: own}))
        ((number, trial),) = [
            (t.number, t._trial_id) for t in self.study.get_trials(deepcopy=False) if t.user_attrs.get(TAKEN_BY) == own
        ]
        if any(other < number for other in self._others(choices, number)):
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
            return False
        self._show_life(trial)
        self.asked[choices] = number
        return True

    def tell(self, choices: Choices, accuracy: float) -> None:
        """Close the trial of a proposal, or add one for a network that was not proposed here.

        TPE learns from both, NSGA-II breeds from its own proposals alone. Raises `UserError` for a storage that was
        damaged meanwhile.
        """
        with _using(self.storage):
            self._tell(choices, accuracy)

    def _tell(self, choices: Choices, accuracy: float) -> None:
        if choices in self.asked:  # unless it was taken from here meanwhile
            self.study.tell(self.asked.pop(choices), accuracy, skip_if_finished=True)
            self.alive.clear()
            return
        self.study.add_trial(_trial_of(choices, self.region, value=accuracy))

    def _others(self, choices: Choices, number: int) -> list[int]:
        """Numbers of other trials of a network, done or under way."""
        import optuna

        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING)
        return [
            trial.number
            for trial in self.study.get_trials(deepcopy=False, states=states)
            if trial.number != number and trial.user_attrs.get(CHOICES) == list(choices)
        ]

    def _show_life(self, trial: int) -> None:
        if self.database is not None:
            self.alive.add(trial)
            self.database.record_heartbeat(trial)


def _give_signs(database: optuna.storages.RDBStorage, alive: set[int], every_s: float) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    while True:
        time.sleep(every_s)
        for trial in list(alive):
            with suppress(SQLAlchemyError):  # out of reach for a moment; if for longer, the trial's end says so
                database.record_heartbeat(trial)


def _trial_of(choices: Choices, region: Region, **more: Any) -> optuna.trial.FrozenTrial:
    import optuna

    widths = enumerate(region.widths)
    return optuna.trial.create_trial(
        params={_name(slot): choice for slot, choice in enumerate(choices)},
        distributions={
            _name(slot): optuna.distributions.CategoricalDistribution(range(width)) for slot, width in widths
        },
        user_attrs={CHOICES: choices, **more.pop("marks", {})},
        **more,
    )


@contextmanager
def _using(storage: str | None) -> Iterator[None]:
    """Within, what Optuna raises for a storage that is damaged or out of reach becomes one line."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except UserError:
        raise
    except (
        *(
            OSError,
            ValueError,
            ImportError,
            AssertionError,
            LookupError,
            TypeError,
            AttributeError,
        ),  # of a journal with lines that are not its own
        *(optuna.exceptions.OptunaError, SQLAlchemyError),
    ) as error:
        if storage is None:
            raise
        raise UserError(
            f"Optuna cannot use the storage '{redacted(storage)}': {redacted(one_line(error))}; if it is damaged, "
            "move it away and start a new one, or restore a copy"
        ) from error


def _name(slot: int) -> str:
    return f"slot {slot}"


def _storage(where: str | None, stale_s: int = STALE_S) -> optuna.storages.BaseStorage | None:
    """A database by its URL; anything else is the file of a journal."""
    if where is None:
        return None
    if "://" in where:
        return _database(_address(where), stale_s)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(where).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    _without_cut_line(path)
    return JournalStorage(JournalFileBackend(str(path)))


def _database(address: str, stale_s: int) -> optuna.storages.RDBStorage:
    """Of processes that make the tables of an empty one at the same moment, the database refuses all but one."""
    import optuna
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    for left in reversed(range(OPENED)):
        try:
            with _experimental():
                return optuna.storages.RDBStorage(
                    address,
                    heartbeat_interval=max(1, stale_s // SIGNS),
                    grace_period=stale_s,
                    heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
                )
        except (IntegrityError, ProgrammingError):
            if not left:
                raise
            time.sleep(1)
    raise AssertionError("the last attempt returns or raises")


def _address(url: str) -> str:
    """With its secrets. Raises `UserError` where they are not known here."""
    try:
        return revealed(url)
    except KeyError as error:
        raise UserError(f"what is hidden in optuna.storage={url} is kept nowhere; give it again") from error


@contextmanager
def _experimental() -> Iterator[None]:
    """Without Optuna's warnings that its signs of life are experimental, and not given by itself but in `optimize`."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        yield


def _without_cut_line(journal: Path) -> None:
    """Drop the half of a line with which a power failure ended a journal; the lines before it stand.

    Raises `UserError` for a file with other lines than a journal's.
    """
    if not journal.is_file():
        return
    *lines, last = journal.read_bytes().split(b"\n")  # of a whole journal the last is empty
    for number, line in enumerate(lines, start=1):
        if not _is_entry(line):
            raise UserError(
                f"Optuna cannot use the storage '{journal}': line {number} is no entry of a journal; move the file "
                "away and start a new one, or restore a copy"
            )
    if not last:
        return
    if not (lines or last.startswith(b'{"')):
        raise UserError(f"Optuna cannot use the storage '{journal}': it is not an Optuna journal; name another file")
    time.sleep(WRITTEN_S)  # another process may be writing it
    size = sum(len(line) + 1 for line in lines)
    if journal.stat().st_size == size + len(last):
        if _is_entry(last):
            with journal.open("ab") as file:
                file.write(b"\n")
        else:
            os.truncate(journal, size)


def _is_entry(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
