"""Sweeps of several jobs, one after the other or side by side: each has its folder, its command and its own error."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from nas.command.jobs import RESTARTS, SLURM, in_own_folder, of_launcher, require_launcher
from nas.command.options import _quoted
from nas.run.folder import make_folder
from nas.run.resume import Begun
from search_space import UserError
from tests import ROOT
from tests.nas.run.test_resume import BUDGETS_MS, SPACES

SMALL = ["device=cpu", "data.resolution=16", "data.limit=80", "warmup.epochs=0", "epochs=1", "finetune.epochs=0"]


def sweep(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (cwd / "space.yaml").write_text(SPACES["mbconv"])
    command = [sys.executable, "-m", "nas.search", "--multirun", "space=space.yaml", "threads=1", *SMALL, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=500)


def test_every_job_of_a_sweep_says_its_own_mistake(tmp_path: Path) -> None:
    done = sweep(tmp_path, "budget_ms=0.1,0.2")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3 and "Traceback" not in done.stderr, done.stderr
    assert "budget_ms=0.1 cannot be met" in errors[0] and "budget_ms=0.2 cannot be met" in errors[1]
    assert errors[2].startswith("error: the sweep is not complete; first of all: ")


def test_an_unknown_launcher_is_one_line(tmp_path: Path) -> None:
    done = sweep(tmp_path, "hydra/launcher=joblob")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: the options cannot be composed: ") and "joblob" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])  # basic: the test above
def test_jobs_of_a_launcher(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    budget = BUDGETS_MS["mbconv"]
    done = sweep(tmp_path, f"hydra/launcher={launcher}", f"budget_ms=0.1,{budget}", "seed=1")
    assert done.returncode == 2, done.stderr
    assert "the sweep is not complete" in done.stderr and "Traceback" not in done.stderr
    (path,) = tmp_path.glob("runs/*/architecture.json")  # the job that can be done is done
    result = json.loads(path.read_text())["provenance"]
    words = result["command"].split()
    assert words[:3] == ["python", "-m", "nas.search"]
    assert result["seed"] == 1 and f"budget_ms={budget}" in words and "seed=1" in words
    if launcher != "submitit_local":  # which keeps what jobs say in runs/.submitit
        assert done.stderr.count("budget_ms=0.1 cannot be met") == 2
        assert done.stdout.count("digits test accuracy") == 1


BEGUN = Begun("search", {}, None, datetime.now(UTC))


def test_runs_that_begin_at_the_same_moment_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: make_folder(None, "now", BEGUN), range(40)))
    assert len(set(folders)) == 40
    with pytest.raises(UserError, match="exists; name another with out="):
        make_folder(str(folders[0]), "now", BEGUN)


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("data.train=https://x/a-{000..010}.tar", 'data.train="https://x/a-{000..010}.tar"'),
        ("+data.train=a{0..1}b{2..3}", '+data.train="a{0..1}b{2..3}"'),
        ('data.train="a-{0..1}.tar"', 'data.train="a-{0..1}.tar"'),
        ("data={name:digits}", "data={name:digits}"),
        ("--multirun", "--multirun"),
        ("data.root=~/images", 'data.root="~/images"'),
        ("out=a/lr=0.1", 'out="a/lr=0.1"'),
        ("out=it's", 'out="it\'s"'),
        ("out=a,b", 'out="a,b"'),
        ("out=two words", "out=two words"),
        ("out=2026_11_24", 'out="2026_11_24"'),
        ("out='a,b'", "out='a,b'"),
        ("out=null", "out=null"),
        ("data.train=[a,b]", "data.train=[a,b]"),
        ("data.test=https://x/a.tar?b=1&c=2", 'data.test="https://x/a.tar?b=1&c=2"'),
        ("init=choice(a,b)", "init=choice(a,b)"),
        ("budget_ms=20,30", "budget_ms=20,30"),
        ("device=[cpu,vpu]", "device=[cpu,vpu]"),
    ],
)
def test_paths_and_patterns_of_shards_need_no_quotes_of_hydra(argument: str, quoted: str) -> None:
    assert _quoted(argument) == quoted


@pytest.mark.parametrize(
    "text", ["it's", 'a"b', 'it\'s a "b"', "a\\", "a\\'=", "~/a(b", "x%20&y", "a{0..3}.tar", "#1;é"]
)
def test_a_quoted_path_is_read_as_it_was_written(text: str) -> None:
    assert OverridesParser.create().parse_override(_quoted(f"out={text}")).value() == text


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("data.root=a,b", ["a", "b"]),
        ("data.root=~/a,~/b", ["~/a", "~/b"]),
        ("out='a,b',c", ["a,b", "c"]),
        ("data.train=a{0..1},b{2..3}", ["a{0..1}", "b{2..3}"]),
    ],
)
def test_values_of_a_sweep_are_quoted_one_by_one(argument: str, values: list[str]) -> None:
    override = OverridesParser.create().parse_override(_quoted(argument, multirun=True))
    assert [str(getattr(value, "text", value)) for value in override.sweep_iterator()] == values


@pytest.mark.slow
def test_a_lost_job_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    (tmp_path / "own.py").write_text(
        "import os, signal\nfrom nas.strategies import load_strategy\nclass Lost:\n"
        "    def __getattr__(self, name):\n        os.kill(os.getpid(), signal.SIGKILL)\nlost = Lost()\n"
    )
    done = sweep(tmp_path, "hydra/launcher=submitit_local", f"budget_ms={BUDGETS_MS['mbconv']}", "strategy=own:lost")
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    found = re.match(r"error: job (\d+) ended without a result \(FINISHED\); what it printed is in '(.*)'", line)
    assert found and found[2] == f"runs/.submitit/{found[1]}" and (tmp_path / found[2]).is_dir()


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        (
            "sbatch: error: invalid partition specified: no\nsbatch: error: more",
            "cannot start the jobs: sbatch: error: inv",
        ),
        ("Job not requeued because: timed-out too many times.", "its time is up"),
    ],
)
def test_what_submitit_raises_is_one_line(message: str, wanted: str) -> None:
    errors = pytest.importorskip("submitit.core.utils")
    said = str(of_launcher(errors.FailedJobError(message)))
    assert wanted in said and "\n" not in said
    with pytest.raises(RuntimeError, match="a bug"):
        of_launcher(RuntimeError("a bug"))


def test_a_sweep_that_needs_slurm_is_refused_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="there is no srun here"):
        require_launcher([SLURM, "seed=1,2"])


@pytest.mark.parametrize(
    ("launcher", "asked", "restarts", "wanted"),
    [
        ("SlurmLauncher", {}, None, {"out": "runs/slurm-7_1", "resume": None}),
        ("SlurmLauncher", {}, "0", {"out": "runs/slurm-7_1", "resume": None}),
        ("SlurmLauncher", {}, "2", {"out": "runs/slurm-7_1", "resume": "auto"}),
        ("SlurmLauncher", {"out": "mine"}, "1", {"out": "mine", "resume": "auto"}),
        ("SlurmLauncher", {"resume": "runs/a"}, "1", {"out": "runs/slurm-7_1", "resume": "runs/a"}),
        ("LocalLauncher", {}, "1", {"out": None, "resume": None}),
    ],
)
def test_a_job_that_slurm_starts_again_resumes_in_its_own_folder(
    launcher: str,
    asked: dict[str, str],
    restarts: str | None,
    wanted: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = {"launcher": {"_target_": f"a.{launcher}"}, "sweep": {"dir": "runs"}, "job": {"id": "7_1"}}
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: OmegaConf.create(job))
    if restarts is None:
        monkeypatch.delenv(RESTARTS, raising=False)
    else:
        monkeypatch.setenv(RESTARTS, restarts)
    assert in_own_folder({"out": None, "resume": None, "seed": 3, **asked}) == {**wanted, "seed": 3}
