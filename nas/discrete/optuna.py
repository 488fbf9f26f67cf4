"""Optuna's samplers over choices, with the limits as its constraints and its storage as the memory of the search.

A proposal outside the limits is never evaluated: it is reported as pruned with how far outside it is, which is what
TPE and NSGA-II learn from. Several processes may share a storage; each sees what the others reported.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
    ) -> None:
        """Open the study, or begin it.

        sampler: 'tpe' or 'nsga2'. storage: None for memory, a journal's file, or a database's URL. study: what is
        searched; trials of a study of this name in the storage count. outside: proposals outside the limits after
        which a uniform draw is proposed. Raises `UserError` for a storage that cannot be used.
        """
        import optuna

        self.region, self.seed, self.outside, self.storage = region, seed, outside, storage
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _using(storage):
            self.study = optuna.create_study(
                storage=_storage(storage), study_name=study, direction="maximize", load_if_exists=True
            )
        # two processes that share a storage must not propose the same
        key = [seed, len(self.study.trials), *([] if storage is None else [os.getpid()])]
        samplers = {"tpe": optuna.samplers.TPESampler, "nsga2": optuna.samplers.NSGAIISampler}
        self.study.sampler = samplers[sampler](seed=int(np.random.default_rng(key).integers(2**31)))
        self.asked: dict[Choices, optuna.trial.Trial] = {}

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
                self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            elif choices in known:
                repeated += 1
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)  # samplers pass over these
            else:
                self.asked[choices] = trial
                return choices
        return draw_new(self.region, known, np.random.default_rng([self.seed, len(known), 1]))

    def _propose(self) -> optuna.trial.Trial:
        trial = self.study.ask()
        for slot, width in enumerate(self.region.widths):
            trial.suggest_categorical(_name(slot), range(width))
        return trial

    def tell(self, choices: Choices, accuracy: float) -> None:
        """Close the trial of a proposal, or add one for a network that was not proposed here.

        TPE learns from both, NSGA-II breeds from its own proposals alone. Raises `UserError` for a storage that was
        damaged meanwhile.
        """
        with _using(self.storage):
            self._tell(choices, accuracy)

    def _tell(self, choices: Choices, accuracy: float) -> None:
        import optuna

        if choices in self.asked:
            self.study.tell(self.asked.pop(choices), accuracy)
            return
        widths = enumerate(self.region.widths)
        self.study.add_trial(
            optuna.trial.create_trial(
                value=accuracy,
                params={_name(slot): choice for slot, choice in enumerate(choices)},
                distributions={
                    _name(slot): optuna.distributions.CategoricalDistribution(range(width)) for slot, width in widths
                },
                user_attrs={CHOICES: choices},
            )
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


def _storage(where: str | None) -> optuna.storages.BaseStorage | str | None:
    """A database's URL as it is, anything else the file of a journal."""
    if where is None:
        return None
    if "://" in where:
        try:
            return revealed(where)
        except KeyError as error:
            raise UserError(f"what is hidden in optuna.storage={where} is kept nowhere; give it again") from error
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = Path(where).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    _without_cut_line(path)
    return JournalStorage(JournalFileBackend(str(path)))


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
