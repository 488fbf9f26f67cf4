"""Two processes with half a batch each take the steps of one process with the whole batch."""

import csv
import re
import subprocess
import sys
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
from tests.commands import ENVIRONMENT, run_module
from tests.nas.run import mishap
from tests.nas.run.test_resume import BUDGETS_MS, SPACES
from tests.nas.two_processes import gradients

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FOLDERS = ("search_space", "device_profiles", "latency_models", "nas")  # the interpreter may lie below ROOT as well
SMALL = ["data.resolution=16", "data.limit=160", "warmup.epochs=1", "epochs=1", "finetune.epochs=1"]


def by_torchrun(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*TORCHRUN, "-m", *words]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=500)


def test_gradients_and_batch_statistics_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    done = run_module(["tests.nas.two_processes", "found.safetensors"], tmp_path, ranks=2)
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
    one = run_module(["nas.search", *options, "out=one"], tmp_path)
    two = run_module(["nas.search", *options, "out=two"], tmp_path, ranks=2)
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
    one = run_module(["nas.search", *FRONT, "out=one"], tmp_path)
    two = run_module(["nas.search", *FRONT, "out=two"], tmp_path, ranks=2)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert one.stdout == two.stdout.replace("two/", "one/")  # said once
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")
    assert {p.name for p in tmp_path.iterdir()} == {"space.yaml", "one", "two"}
    for target in TARGETS:
        first, second = (load_result(tmp_path / name / target / "architecture.json") for name in ("one", "two"))
        assert first.architecture == second.architecture and first.accuracy == second.accuracy
        assert_same_course(tmp_path / "one" / target, tmp_path / "two" / target)


BRIEF = [
    *("device=cpu", f"budget_ms={BUDGETS_MS['mbconv']}", "space=space.yaml", "accelerator=cpu", "data.resolution=16"),
    *("data.limit=120", "train.batch_size=16", "warmup.epochs=0", "epochs=1", "finetune.epochs=1", "rerank=2"),
    *("checkpoint.steps=1", mishap.FORM),  # 6 steps, of weights and of gates
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run to which nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "space.yaml").write_text(SPACES["mbconv"])
    done = run_module(["nas.search", *BRIEF, "out=run"], folder, ranks=2)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("kill -9 $OWN", "another process stopped"),
        ("kill -TERM $OTHERS; kill -9 $OWN", "another process stopped"),  # as if torchrun were faster than the loss
        pytest.param("kill -9 $OWN; kill -TERM $OTHERS", "another process stopped", marks=pytest.mark.slow),
        pytest.param(
            "kill -STOP $OWN",
            "another process was not heard of for 15 s (distributed.timeout_s)",
            marks=pytest.mark.slow,  # not its work: it waits
        ),
        pytest.param(
            "kill -TERM $OTHERS; kill -STOP $OWN",
            "stopped, and another process does not answer",
            marks=pytest.mark.slow,
        ),
        ("kill -TERM $OTHERS $OWN", "stopped"),
    ],
    ids=["killed", "stop before kill", "stop after kill", "frozen", "frozen and stop", "stop"],
)
def test_a_lost_process_ends_the_other_by_one_line_and_nothing_is_lost(
    words: str, said: str, whole: Path, tmp_path: Path
) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    mishap.prepare(tmp_path, rank=1, step=3, words=words)
    limit = ["distributed.timeout_s=15"] if "timeout_s" in said else []
    done = run_module(["nas.search", *BRIEF, *limit, "out=harmed"], tmp_path, ranks=2, timeout_s=150)
    assert [line for line in done.stderr.splitlines() if "error" in line or "Traceback" in line] == [
        f"error: {said}; resume it with resume=harmed"
    ]

    done = run_module(["nas.search", "resume=harmed", "distributed.timeout_s=60"], tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr
    harmed = tmp_path / "harmed"
    assert files_below(harmed) == files_below(whole)
    for name in ("weights.safetensors", "gates.csv", "model.onnx"):
        assert (harmed / name).read_bytes() == (whole / name).read_bytes()


def test_one_that_is_lost_before_the_run_begins_ends_the_other_by_a_line(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    mishap.prepare(tmp_path, rank=1, step=0, words="kill -9 $OWN")
    done = run_module(["nas.search", *BRIEF, "out=early"], tmp_path, ranks=2, timeout_s=100)
    (line,) = [line for line in done.stderr.splitlines() if "error" in line or "Traceback" in line]
    assert line in ("error: stopped", "error: stopped; resume it with resume=early")  # by where the other was


@pytest.mark.slow
def test_torchrun_s_own_end_hides_no_line(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    mishap.prepare(tmp_path, rank=0, step=2, words="kill -9 $OWN")
    done = by_torchrun(["nas.search", *BRIEF, "out=killed"], tmp_path)
    assert error_lines(done.stderr) == ["error: another process stopped; resume it with resume=killed"]


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def error_lines(stderr: str) -> list[str]:
    """What is said of an error besides torchrun's own summary and traceback, in which no frame is the project's."""
    frames = [Path(name) for name in re.findall(r'^ *File "(.+?)", line', stderr, re.MULTILINE)]
    own = [frame for frame in frames for folder in FOLDERS if frame.is_relative_to(ROOT / folder)]
    assert frames and not own, stderr
    return [line for line in stderr.splitlines() if line.startswith("error: ")]


def test_an_error_of_several_processes_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    wild = ["out=new", "train.lr=1000", "train.weight_decay=1000", "train.gradient_clip=0"]
    done = run_module(["nas.search", *FRONT, *wild], tmp_path, ranks=2)
    (line,) = [line for line in done.stderr.splitlines() if "error" in line or "Traceback" in line]
    assert "the loss became nan in architecture step 6" in line and done.returncode == 2


def test_an_error_is_one_line_beside_what_torchrun_says(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "notes.txt").touch()  # an empty folder is free
    done = by_torchrun(["nas.search", *FRONT, "out=here"], tmp_path)
    (line,) = error_lines(done.stderr)
    assert "the run folder 'here' exists" in line and "exitcode  : 2 " in done.stderr


def test_full_training_by_two_processes_writes_once(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACES["mbconv"])
    options = ["data.resolution=16", "data.limit=80"]
    found = ["device=cpu", f"budget_ms={BUDGETS_MS['mbconv']}", "space=space.yaml", "out=found", "warmup.epochs=0"]
    done = run_module(["nas.search", *options, *found, "epochs=1", "finetune.epochs=0"], tmp_path)
    assert done.returncode == 0, done.stderr
    training = ["found/architecture.json", *options, "recipe.epochs=1", "recipe.batch_size=16", "recipe.ema=0.9"]
    done = run_module(["nas.train", *training, "out=full"], tmp_path, ranks=2)
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


@pytest.mark.parametrize(("rank", "said"), [("0", "error: stopped\n"), ("1", "")])
def test_a_stop_while_torch_is_imported_is_no_traceback(rank: str, said: str, tmp_path: Path) -> None:
    """Half imported, it refuses to be imported again."""
    script = (
        "import sys; from nas.command.options import fail; from search_space.errors import Stopped; "
        "sys.modules['nas.run.distributed'] = None; fail(Stopped('stopped'))"
    )
    environment = {**ENVIRONMENT, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, said)
