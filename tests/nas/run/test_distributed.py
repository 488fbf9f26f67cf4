"""Two processes with half a batch each take the steps of one process with the whole batch."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nas.data import DataSettings, load
from nas.run.distributed import Place, place
from nas.run.result import load_result
from nas.supernet.origin import DIGEST
from search_space import UserError
from tests import ROOT
from tests.commands import ENVIRONMENT
from tests.nas.run.test_resume import BUDGETS_MS, SPACES
from tests.nas.two_processes import gradients

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


FOLDERS = ("search_space", "device_profiles", "latency_models", "nas")  # the interpreter may lie below ROOT as well
SMALL = ["data.resolution=16", "data.limit=160", "warmup.epochs=1", "epochs=1", "finetune.epochs=1"]


def run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=500)


def test_gradients_and_batch_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    done = run([*TORCHRUN, "-m", "tests.nas.two_processes", "found.safetensors"], tmp_path)
    assert done.returncode == 0, done.stderr
    two, one = load_file(tmp_path / "found.safetensors"), gradients()
    assert two.pop("total") == 2 and one.pop("total") == 1
    assert two.keys() == one.keys() and len(one) > 100
    for name, value in one.items():
        assert torch.allclose(two[name], value, rtol=1e-9, atol=1e-11), name


MIXED = ["train.mixup=0.2", "train.cutmix=1.0", "train.ema=0.9"]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "training"), [("quadra", []), ("mbconv", MIXED)])
def test_a_search_by_two_processes_is_that_of_one(family: str, training: list[str], tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES[family])
    options = [
        "device=cpu",
        f"budget_ms={BUDGETS_MS[family]}",
        "space=space.yaml",
        "accelerator=cpu",
        *SMALL,
        *training,
    ]
    one = run([sys.executable, "-m", "nas.search", *options, "out=one"], tmp_path)
    two = run([*TORCHRUN, "-m", "nas.search", *options, "out=two"], tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    ours, theirs = (steady(done.stdout.replace("two/", "one/")) for done in (one, two))
    assert ours == theirs  # said once
    assert {p.name for p in (tmp_path / "one").iterdir()} == {p.name for p in (tmp_path / "two").iterdir()}
    assert {p.name for p in tmp_path.iterdir()} == {"space.yaml", "one", "two"}
    first, second = (load_result(tmp_path / name / "architecture.json") for name in ("one", "two"))
    assert first.architecture == second.architecture and first.accuracy and second.accuracy
    assert first.accuracy.test == pytest.approx(second.accuracy.test, abs=0.02)  # of 359 images at nearly even logits
    assert_same_weights(tmp_path / "one" / "checkpoint.safetensors", tmp_path / "two" / "checkpoint.safetensors")
    assert (first.provenance["processes"], second.provenance["processes"]) == (1, 2)
    assert_same_course(tmp_path / "one", tmp_path / "two", mixed=bool(training))


def steady(said: str) -> list[str]:
    """The lines without those that tell the accuracy, which an image at nearly even logits changes."""
    return [line for line in said.splitlines() if not line.startswith(("cpu: ", "next: "))]


def assert_same_course(one: Path, two: Path, mixed: bool = False) -> None:
    """Adam follows the sign even of tiny gradients at first. mixed: images are, so that 40 of them, at nearly even
    logits, may tip; nor are gates then as near to each other."""
    # the multiplier is a large gain on E[lat]'s small differences
    columns = {"train_loss": 0, "gate_loss": 0, "expected_ms": 0, "val_accuracy": 0.1 * mixed, "multiplier": 0.02}
    for column, atol in columns.items():
        ours, theirs = (column_of(folder / "search.csv", column) for folder in (one, two))
        assert np.allclose(ours, theirs, rtol=1e-3, atol=atol), column
    ours, theirs = (column_of(folder / "gates.csv", "probability") for folder in (one, two))  # 0.5 % apart on some CPUs
    assert len(ours) > 10 and np.allclose(ours, theirs, rtol=0.05 if mixed else 0.02)


def assert_same_weights(one: Path, two: Path) -> None:
    """But for a few: Adam's first steps are the signs of gradients, which rounding decides where they are tiny."""
    ours, theirs = load_file(one), load_file(two)
    assert ours.keys() == theirs.keys()
    differences = torch.cat([(ours[n] - theirs[n]).abs().double().flatten() for n in ours if n != DIGEST])
    assert differences.quantile(0.98) < 1e-3


def column_of(path: Path, name: str) -> list[float]:
    with path.open() as file:
        return [float(row[name] or 0) for row in csv.DictReader(file)]


FRONT = ["device=cpu", "budget_ms=[2.6,2.8]", "space=space.yaml", "accelerator=cpu", *SMALL]
TARGETS = ("cpu-2.6ms", "cpu-2.8ms")


@pytest.mark.slow
def test_several_budgets_by_two_processes_are_those_of_one(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    one = run([sys.executable, "-m", "nas.search", *FRONT, "out=one"], tmp_path)
    two = run([*TORCHRUN, "-m", "nas.search", *FRONT, "out=two"], tmp_path)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert one.stdout == two.stdout.replace("two/", "one/")  # said once
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")
    assert {p.name for p in tmp_path.iterdir()} == {"space.yaml", "one", "two"}
    for target in TARGETS:
        first, second = (load_result(tmp_path / name / target / "architecture.json") for name in ("one", "two"))
        assert first.architecture == second.architecture and first.accuracy == second.accuracy
        assert_same_course(tmp_path / "one" / target, tmp_path / "two" / target)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_by_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    search = [*TORCHRUN, "-m", "nas.search", *FRONT, "epochs=4", "checkpoint.steps=1"]
    assert run([*search, "out=whole"], tmp_path).returncode == 0
    command = [*search, "out=killed"]
    running = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=-3, stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not (tmp_path / "killed/checkpoints/000004.safetensors").is_file():
        time.sleep(0.01)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    os.kill(int(children[0]), signal.SIGTERM)  # as torchrun does, here before the process notices
    _, said = running.communicate(timeout=100)
    (line,) = error_lines(said)
    assert line.startswith("error: another process stopped; ") and line.endswith("resume=killed")

    done = run([*TORCHRUN, "-m", "nas.search", "resume=killed"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert files_below(tmp_path / "killed") == files_below(tmp_path / "whole")
    for name in ("weights.safetensors", "gates.csv", "model.onnx"):
        for target in TARGETS:
            whole, killed = (tmp_path / run / target / name for run in ("whole", "killed"))
            assert whole.read_bytes() == killed.read_bytes()


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def error_lines(stderr: str) -> list[str]:
    """What is said of an error besides torchrun's own summary and traceback, in which no frame is the project's."""
    frames = [Path(name) for name in re.findall(r'^ *File "(.+?)", line', stderr, re.MULTILINE)]
    own = [frame for frame in frames for folder in FOLDERS if frame.is_relative_to(ROOT / folder)]
    assert frames and not own, stderr
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["out=new", "train.lr=1000", "train.weight_decay=1000", "train.gradient_clip=0"],
            "the loss became nan in architecture step 6",
        ),
        (["out=here"], "the run folder 'here' exists"),
    ],
)
def test_an_error_of_several_processes_is_one_line(options: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "notes.txt").touch()  # an empty folder is free
    done = run([*TORCHRUN, "-m", "nas.search", *FRONT, *options], tmp_path)
    (line,) = error_lines(done.stderr)
    assert said in line and "exitcode  : 2 " in done.stderr


def test_full_training_by_two_processes_writes_once(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    options = ["data.resolution=16", "data.limit=80"]
    found = ["device=cpu", f"budget_ms={BUDGETS_MS['mbconv']}", "space=space.yaml", "out=found", "warmup.epochs=0"]
    done = run([sys.executable, "-m", "nas.search", *options, *found, "epochs=1", "finetune.epochs=0"], tmp_path)
    assert done.returncode == 0, done.stderr
    training = ["found/architecture.json", *options, "recipe.epochs=1", "recipe.batch_size=16", "recipe.ema=0.9"]
    done = run([*TORCHRUN, "-m", "nas.train", *training, "out=full"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    assert load_result(tmp_path / "full" / "architecture.json").provenance["processes"] == 2


def test_shares_of_a_batch_are_disjoint_and_complete() -> None:
    from dataclasses import replace

    data = load(DataSettings(limit=120))
    whole = list(data.batches(data.train, 16, 12, training=True, start=2))
    parts = [
        list(replace(data, place=Place(rank=rank, ranks=3)).batches(data.train, 16, 12, training=True, start=2))
        for rank in range(3)
    ]
    for number, (images, labels) in enumerate(whole):
        assert torch.equal(images, torch.cat([part[number][0] for part in parts]))
        assert torch.equal(labels, torch.cat([part[number][1] for part in parts]))
    with pytest.raises(UserError, match="cannot be divided among 3 processes"):
        next(replace(data, place=Place(ranks=3)).batches(data.train, 16, 10, training=True))


def test_an_accelerator_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no CUDA device"):
        place("cuda")
    assert place("auto") == Place()
