"""Workers that share the trials of one study in a real PostgreSQL, one of them killed in the middle of a trial."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from nas.discrete.optuna import CHOICES
from nas.run.result import load_result
from tests import ROOT
from tests.cluster.postgres import database, missing
from tests.cluster.slurm import wait_for
from tests.nas.discrete.small_region import additive_accuracy
from tests.nas.run.test_resume import BUDGETS_MS, SPACES

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.skipif(bool(missing()), reason=missing())]

STALE_S = 5  # trials of the three that are left take longer in all, so that one of them sees it
COMPLETE, FAIL, RUNNING = (
    optuna.trial.TrialState.COMPLETE,
    optuna.trial.TrialState.FAIL,
    optuna.trial.TrialState.RUNNING,
)
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
WORKER = f"""
import sys, time
from nas.discrete import OptunaSearch, explore
from tests.nas.discrete.small_region import additive_accuracy, region

def slow(choices):
    print("begins", *choices, flush=True)
    time.sleep(1)
    print("ends", *choices, flush=True)
    return additive_accuracy(choices)

explore(OptunaSearch(region(), int(sys.argv[2]), storage=sys.argv[1], stale_s={STALE_S}), slow, 45)
"""


@pytest.fixture
def address() -> Iterator[str]:
    with database() as found:
        yield found


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are not left behind."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for worker in started:
        worker.kill()
        worker.wait()


def trials_of(address: str) -> list[optuna.trial.FrozenTrial]:
    """Of the only study; none before there is one."""
    storage = optuna.storages.RDBStorage(address)
    try:
        return [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]
    finally:
        storage.engine.dispose()


@pytest.mark.parametrize("seeds", [(0, 1, 2, 3), (0, 0, 0, 0)], ids=["seeds", "one seed"])
def test_no_trial_is_lost_or_run_twice(
    seeds: tuple[int, ...], address: str, workers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    logs = [tmp_path / f"{number}.txt" for number in range(len(seeds))]
    for seed, log in zip(seeds, logs, strict=True):
        with log.open("w") as said:
            command = [sys.executable, "-c", WORKER, address, str(seed)]
            workers.append(
                subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=said, stderr=said, text=True)
            )
    wait_for(lambda: logs[0].read_text().count("ends") >= 2, "the first worker is at its third trial", 300)
    wait_for(lambda: logs[0].read_text().splitlines()[-1].startswith("begins"), "it is in the middle of one", 300)
    workers[0].kill()
    assert [worker.wait(400) for worker in workers] == [-signal.SIGKILL, 0, 0, 0], [log.read_text() for log in logs]
    lines = [line for log in logs for line in log.read_text().splitlines()]
    begun, ended = (Counter(line.split(" ", 1)[1] for line in lines if line.startswith(w)) for w in ("begins", "ends"))
    left = Counter(logs[0].read_text().splitlines()[-1:])
    (killed,) = (line.split(" ", 1)[1] for line in left)
    assert set(ended.values()) == {1} and begun == ended + Counter([killed])  # the killed one's network by another too
    trials = trials_of(address)
    done = [tuple(trial.user_attrs[CHOICES]) for trial in trials if trial.state == COMPLETE]
    assert len(set(done)) == len(done) == len(ended) and 45 <= len(done) <= 47  # at most one under way a worker
    assert all(trial.value == additive_accuracy(tuple(trial.user_attrs[CHOICES])) for trial in trials if trial.value)
    assert not [trial for trial in trials if trial.state == RUNNING]
    retried = {trial.system_attrs["failed_trial"] for trial in trials if "failed_trial" in trial.system_attrs}
    of_killed = [t for t in trials if t.user_attrs.get(CHOICES) == [int(word) for word in killed.split()]]
    assert {t.number for t in of_killed if t.state == FAIL} & retried  # marked failed, and tried again


def test_searches_share_a_study_and_end_with_one_network(
    address: str, workers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Every worker trains the same supernet, so that a network has one accuracy, whoever measures it."""
    (tmp_path / "space.yaml").write_text(SPACES["quadra"])
    command = [
        *(sys.executable, "-m", "nas.search", "strategy=optuna", f"optuna.storage={address}", "trials=16"),
        *(f"optuna.stale_s={STALE_S}", "device=cpu", f"budget_ms={BUDGETS_MS['quadra']}", "space=space.yaml"),
        "use_at_least=0.5",  # which leaves more networks than trials
        *("threads=1", "data.resolution=16", "data.limit=120", "warmup.epochs=0", "epochs=1", "finetune.epochs=0"),
    ]
    logs = {name: tmp_path / f"{name}.txt" for name in "abcd"}
    for name, log in logs.items():
        with log.open("w") as said:
            workers.append(
                subprocess.Popen(
                    [*command, f"out={name}"], cwd=tmp_path, env=ENVIRONMENT, stdout=said, stderr=said, text=True
                )
            )
    wait_for(lambda: any(trial.state == COMPLETE for trial in trials_of(address)), "a trial is complete", 300)
    time.sleep(0.5)
    workers[0].kill()
    ended = [worker.wait(400) for worker in workers]
    assert ended == [-signal.SIGKILL, 0, 0, 0], [log.read_text() for log in logs.values()]
    assert not (tmp_path / "a" / "architecture.json").exists()
    trials = [trial for trial in trials_of(address) if trial.state == COMPLETE]
    done = [tuple(trial.user_attrs[CHOICES]) for trial in trials]
    assert len(set(done)) == len(done) and 16 <= len(done) <= 18
    shares = {name: list(csv.DictReader((tmp_path / name / "trials.csv").read_text().splitlines())) for name in "bcd"}
    last = max(shares, key=lambda name: len(shares[name]))
    assert len(shares[last]) == len(done)  # who ends last knows all
    alone = subprocess.run(
        [*command, "out=e"], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert "test accuracy" in alone.stdout and "trials" not in (tmp_path / "e" / "search.csv").read_text()
    first, second = (load_result(tmp_path / name / "architecture.json") for name in (last, "e"))
    assert first.architecture == second.architecture
