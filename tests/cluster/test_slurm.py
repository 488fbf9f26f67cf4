"""Searches on a real Slurm of two nodes: jobs that lose their node, are preempted, started again or killed.

Skipped where Slurm is not installed. Not for torchrun without Slurm: tests/nas/run/test_distributed.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nas.api import search
from nas.compare import compare
from nas.run.result import load_result
from tests import ROOT
from tests.cluster.slurm import Slurm, missing, two_nodes, wait_for
from tests.nas.run.test_resume import BUDGETS_MS, SPACES, files_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.skipif(bool(missing()), reason=missing())]

LIMIT_S = 900.0  # for what takes seconds on a machine that does nothing else
OPTIONS = {
    "space": "space.yaml",
    "device": "cpu",
    "budget_ms": BUDGETS_MS["mbconv"],
    "threads": 1,
    "data": {"name": "digits", "resolution": 16, "limit": 120},
    "warmup": {"epochs": 0},
    "epochs": 30,
    "finetune": {"epochs": 1},
    "train": {"batch_size": 16},
    "checkpoint": {"steps": 10, "minutes": 1000.0},
}
SWEEP = [
    *("--multirun", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=both"),
    *("hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=60"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with two_nodes(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words() -> list[str]:
    """`OPTIONS` as in a command line."""
    flat = {}
    for name, value in OPTIONS.items():
        flat |= {f"{name}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {name: value}
    return [f"{name}={value}" for name, value in flat.items() if name != "data.name"]


@contextmanager
def sweeping(slurm: Slurm, folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**slurm.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "nas.search", *SWEEP, *words(), *more]
    with (folder / "errors.txt").open("w") as errors:
        sweep = subprocess.Popen(command, cwd=folder, env=environment, stdout=errors, stderr=errors, text=True)
    try:
        yield sweep
    finally:
        sweep.kill()
        sweep.wait()
        if jobs := slurm.jobs():
            slurm.run("scancel", "--signal=KILL", "--full", *jobs)


def wait_for_checkpoint(folder: Path, job: str) -> None:
    wait_for(lambda: any(folder.glob(f"runs/slurm-{job}/checkpoints/*.safetensors")), f"{job} has saved", LIMIT_S)


def running_jobs(slurm: Slurm, count: int) -> list[str]:
    """In the order of the sweep."""
    wait_for(lambda: [state for state, _ in slurm.jobs().values()] == ["RUNNING"] * count, f"{count} jobs run", LIMIT_S)
    return sorted(slurm.jobs())


def test_jobs_that_slurm_starts_again_end_as_if_nothing_had_happened(slurm: Slurm, folder: Path) -> None:
    with sweeping(slurm, folder, "seed=0,1,2,3") as sweep:
        jobs = running_jobs(slurm, 4)
        alone = next(job for job in jobs if slurm.jobs()[job][1] == "node2")
        preempted, requeued, untouched = (job for job in jobs if job != alone)
        harmed: dict[str, datetime] = {}

        def preempt() -> None:
            for name in ("TERM", "USR2"):  # what Slurm sends when a job is to make room
                slurm.run("scancel", f"--signal={name}", preempted)

        def crash() -> None:
            slurm.crash("node2")
            slurm.boot("node2")

        harms = {preempted: preempt, requeued: lambda: slurm.run("scontrol", "requeue", requeued), alone: crash}
        for job, harm in harms.items():
            wait_for_checkpoint(folder, job)
            harmed[job] = datetime.now(UTC)
            harm()
        for job in harms:
            slurm.start_again_now(job)
        assert sweep.wait(LIMIT_S) == 0, (folder / "errors.txt").read_text()
        assert {job: slurm.restarts(job) for job in jobs} == {preempted: 1, requeued: 1, alone: 1, untouched: 0}
    runs = {job: folder / "runs" / f"slurm-{job}" for job in jobs}
    assert sorted(folder.glob("runs/*/")) == [folder / "runs/.submitit", *runs.values()]
    for seed, (job, run) in enumerate(runs.items()):
        whole = search(**OPTIONS, seed=seed, out=str(folder / f"whole-{seed}"), progress=False)
        assert files_of(run) == files_of(whole.folder), job
        said = "".join(path.read_text() for path in folder.glob(f"runs/.submitit/{job}/*log*"))
        assert "from the beginning" not in said and "Traceback" not in said
        if job in harmed:  # it is the run that was begun first
            started = json.loads((run / "architecture.json").read_text())["provenance"]["started"]
            assert datetime.fromisoformat(started) < harmed[job]
    table = compare(list(runs.values()))
    assert list(table["folder"]) == [str(run) for run in runs.values()]


def test_a_job_that_is_killed_is_one_line_and_continues_by_hand(slurm: Slurm, folder: Path) -> None:
    """Slurm does not start a job again whose own process failed: it would fail again."""
    with sweeping(slurm, folder, "seed=1,2") as sweep:
        killed, other = running_jobs(slurm, 2)
        wait_for_checkpoint(folder, killed)
        for process in slurm.processes(killed):
            os.kill(process, signal.SIGKILL)
        assert sweep.wait(LIMIT_S) == 2
        (line,) = (folder / "errors.txt").read_text().splitlines()
        assert re.match(
            rf"error: job {killed} ended without a result \(FAILED\); .* is in 'runs/.submitit/{killed}'", line
        )
        wait_for(lambda: not slurm.jobs(), "the other job has ended", LIMIT_S)
    resumed = search(resume=folder / f"runs/slurm-{killed}", progress=False)
    whole = search(**OPTIONS, seed=1, out=str(folder / "whole"), progress=False)
    assert files_of(resumed.folder) == files_of(whole.folder)
    assert list(compare([resumed.folder, folder / f"runs/slurm-{other}"])["budget_ms"]) == [OPTIONS["budget_ms"]] * 2


JOB = f"""#!/bin/sh
#SBATCH --nodes=2 --ntasks-per-node=1 --requeue --open-mode=append --output=said.txt
srun sh -c 'exec {sys.executable} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 --node-rank=$SLURM_NODEID \\
  --master-addr=$SLURM_LAUNCH_NODE_IPADDR --master-port=$PORT -m nas.search out=two resume=auto accelerator=cpu \\
  {{words}}'
"""


def test_one_search_over_two_nodes_continues_after_one_is_lost(slurm: Slurm, folder: Path) -> None:
    (folder / "job.sh").write_text(JOB.replace("{words}", " ".join(words())))
    environment = {**slurm.environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PORT": str(slurm.free_port)}
    done = subprocess.run(
        ["sbatch", "--parsable", "job.sh"], env=environment, capture_output=True, text=True, check=True
    )
    job = done.stdout.strip()
    wait_for(lambda: any(folder.glob("two/checkpoints/*")), "the job has a checkpoint", LIMIT_S)
    slurm.crash("node2")
    slurm.boot("node2")
    slurm.start_again_now(job)
    wait_for(lambda: not slurm.jobs(), "the job has ended", LIMIT_S)
    result = load_result(folder / "two/architecture.json")
    assert result.provenance["processes"] == 2 and slurm.restarts(job) == 1
    whole = search(**OPTIONS, accelerator="cpu", out=str(folder / "whole"), progress=False).result
    assert result.architecture == whole.architecture  # weights differ by rounding, which 150 steps enlarge
    said = (folder / "said.txt").read_text()
    assert "Node failure on node2" in said and len(re.findall(r"search epoch 1,", said)) == 1  # not from the beginning
