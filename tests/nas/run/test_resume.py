"""A run that is killed, stopped or refused by the disk resumes with `resume=` to the result it would have had."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from nas.api import Finished, search
from nas.command.options import given
from nas.data import DataSettings
from nas.run.checkpoint import FORMAT, Checkpoint, Checkpoints
from nas.run.defaults import with_defaults
from nas.run.plan import plan_targets
from nas.run.result import Preprocessing, save_result
from nas.run.resume import Begun, folder_to_resume, only_process, options_to_resume
from nas.run.settings import SearchSettings, TrainCommand
from nas.run.targets import options_of, settings_of
from nas.search import _kept, _search
from nas.train import _train, full_training
from nas.training.loop import checked
from nas.training.recipes import Recipe
from search_space import UserError
from search_space.errors import BadFile, CannotWrite, Stopped
from tests import ROOT
from tests.nas.run.test_result import sample_result

SPACES = {
    "quadra": """
name: small_quadra
family: quadra
stem_width: 8
stages: [{width: 8, max_blocks: 2}, {width: 16, max_blocks: 2}]
kernel_sizes: [3, 5]
expand_ratios: [2, 3]
""",
    "mbconv": """
name: small_mbconv
family: mbconv
stem_width: 8
first_width: 8
head_width: 32
stages: [{width: 8, max_blocks: 2, stride: 2}, {width: 16, max_blocks: 2, stride: 2}]
kernel_sizes: [3, 5]
expand_ratios: [2, 3]
""",
}
BUDGETS_MS = {"quadra": 4.9, "mbconv": 2.57}
SMALL: dict[str, Any] = {
    "device": "cpu",
    "data": {"name": "digits", "resolution": 16, "limit": 120},
    "warmup": {"epochs": 1},
    "epochs": 2,
    "finetune": {"epochs": 1},
    "train": {"batch_size": 16},  # 5 steps an epoch
    "rerank": 2,
    "checkpoint": {"steps": 2, "minutes": 1000},
}


def files_of(folder: Path) -> dict[str, Any]:
    """All that a run leaves, times apart."""
    names = {p.name for p in folder.iterdir()}
    architecture = json.loads((folder / "architecture.json").read_text())
    for key in ("started", "wall_time_s", "search_s", "command"):
        architecture["provenance"].pop(key, None)
    rows = [line.rsplit(",", 1)[0] for line in (folder / "search.csv").read_text().splitlines()]  # seconds stand last
    same = ("weights.safetensors", "model.onnx", "checkpoint.safetensors", "gates.csv")
    return {"names": names, "json": architecture, "rows": rows, **{n: (folder / n).read_bytes() for n in same}}


@pytest.fixture(scope="module")
def folder_of_spaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spaces")
    for name, text in SPACES.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def begin(folder_of_spaces: Path, space: str, out: Path, **options: Any) -> Finished:
    return search(
        space=str(folder_of_spaces / f"{space}.yaml"),
        budget_ms=BUDGETS_MS[space],
        out=str(out),
        progress=False,
        **{**SMALL, **options},
    )


class Interrupting:
    """`checked`, which every step calls, with a Ctrl-C in the call of that number."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, where: str, **values: torch.Tensor) -> list[float]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return checked(where, **values)


MODES: list[tuple[str, dict[str, Any]]] = [
    ("quadra", {}),
    (
        "mbconv",
        {
            "train": {"batch_size": 16, "share_weights": False, "mixup": 0.2, "cutmix": 1.0, "ema": 0.9},
            "gates": {"mode": "full_v2"},
        },
    ),
]


@pytest.fixture(scope="module", params=MODES, ids=["quadra", "mbconv"])
def whole(
    request: pytest.FixtureRequest, folder_of_spaces: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A space, options, and the files of an uninterrupted run."""
    space, options = request.param
    out = tmp_path_factory.mktemp("whole") / "run"
    return space, options, files_of(begin(folder_of_spaces, space, out, **options).folder)


# `checked` is called once a step: in warm-up, four times on the way, in the fine-tuning
@pytest.mark.parametrize("calls", [(1,), (6, 6, 6, 6), (28,)])
def test_a_stopped_run_resumes_to_the_same_files(
    whole: tuple[str, dict[str, Any], dict[str, Any]],
    calls: tuple[int, ...],
    folder_of_spaces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space, options, wanted = whole
    folder = tmp_path / "run"
    begun = False
    for call in calls:
        interrupting = Interrupting(call)
        for module in ("nas.strategies.proxyless", "nas.training.loop"):
            monkeypatch.setattr(f"{module}.checked", interrupting)
        with pytest.raises(Stopped, match=f"resume it with resume={folder}"):
            if begun:
                search(resume=folder, progress=False)
            else:
                begin(folder_of_spaces, space, folder, **options)
        begun = True
    monkeypatch.undo()
    finished = search(resume=folder, progress=False)
    assert files_of(folder) == wanted
    assert search(resume=folder).result == finished.result  # finished: read back


@pytest.mark.slow
def test_killed_at_any_moment_the_result_is_the_same(folder_of_spaces: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, in all phases, as often as it takes to finish."""
    options = [
        "device=cpu",
        f"budget_ms={BUDGETS_MS['quadra']}",
        f"space={folder_of_spaces / 'quadra.yaml'}",
        "data.resolution=16",
        "data.limit=320",
        "warmup.epochs=2",
        "epochs=2",
        "finetune.epochs=2",
        "train.batch_size=8",
        "threads=1",
        "checkpoint.steps=2",
    ]
    command = [sys.executable, "-m", "nas.search"]
    subprocess.run([*command, *options, "out=whole"], cwd=tmp_path, check=True, env=_environment(), stdout=-3)
    rng = random.Random(0)
    kills = 0
    arguments = [*options, "out=killed"]
    states = tmp_path / "killed" / "checkpoints"
    while True:
        process = subprocess.Popen([*command, *arguments], cwd=tmp_path, env=_environment(), stdout=-3)
        arguments = ["resume=killed"]
        before = _newest(states)
        while process.poll() is None and _newest(states) < before + 20:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    assert kills >= 4
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _newest(states: Path) -> int:
    return max((int(p.stem) for p in states.glob("[0-9]*.safetensors")), default=0)


@pytest.fixture
def stopped(folder_of_spaces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was stopped in its second epoch, after the checkpoints of steps 2, 4 and 6."""
    interrupting = Interrupting(9)
    with monkeypatch.context() as patched:
        for module in ("nas.strategies.proxyless", "nas.training.loop"):
            patched.setattr(f"{module}.checked", interrupting)
        with pytest.raises(Stopped):
            begin(folder_of_spaces, "quadra", tmp_path / "run")
    return tmp_path / "run"


def test_the_last_two_checkpoints_are_kept(stopped: Path) -> None:
    assert [p.name for p in sorted((stopped / "checkpoints").iterdir())] == ["000001.safetensors", "000002.safetensors"]


def cut(content: bytes) -> bytes:
    return content[:-7]


def flip(content: bytes) -> bytes:
    return content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]


def empty(content: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, flip, empty])
@pytest.mark.parametrize("count", [1, 2])
def test_damaged_checkpoints_are_said_and_passed_over(
    stopped: Path, damage: Callable[[bytes], bytes], count: int
) -> None:
    for path in sorted((stopped / "checkpoints").iterdir())[-count:]:
        path.write_bytes(damage(path.read_bytes()))
    said: list[str] = []
    restored = Checkpoints(stopped, say=said.append, resume=True).restored
    assert [line for line in said if "is damaged" in line] == said[:count] and "\n" not in "".join(said)
    assert any("starting from the beginning" in line for line in said) == (count == 2)
    assert (restored is None) == (count == 2)
    if restored is not None:
        assert restored.facts["state"]["weights"]["step"] == 4


# names of tensors and facts, numbers and the supernet's own names left out
LAYOUT = {
    3: {
        "figures.gate_loss",
        "figures.val_accuracy",
        "gate_steps",
        "journals",
        "state.draws",
        "state.target#.gates.alpha",
        "state.target#.gates.exists",
        "state.target#.optimizer.#.exp_avg",
        "state.target#.optimizer.#.exp_avg_sq",
        "state.target#.optimizer.#.step",
        "state.weights.optimizer.#.exp_avg",
        "state.weights.optimizer.#.exp_avg_sq",
        "state.weights.optimizer.#.step",
        "state.weights.supernet.*",
        "targets",
        "weights.loss",
        "weights.step",
    }
}


def test_another_layout_has_another_format_number(stopped: Path) -> None:
    saved = Checkpoint.load(stopped / "checkpoints" / "000002.safetensors")
    names = {re.sub(r"\d+", "#", re.sub(r"(supernet)\..*", r"\1.*", name)) for name in saved.tensors}
    for key, value in saved.facts["state"].items():
        names |= {f"{key}.{inner}" for inner in value} if isinstance(value, dict) else {key}
    assert names == LAYOUT[FORMAT]


@pytest.mark.parametrize(
    ("header", "found"), [(None, "unnumbered"), ({"schema": "1", "facts": "{}"}, "unnumbered"), ({"format": "1"}, "1")]
)
def test_checkpoints_of_another_format_are_refused_and_kept(
    stopped: Path, header: dict[str, str] | None, found: str
) -> None:
    newest = stopped / "checkpoints" / "000002.safetensors"
    newest.write_bytes(save(load(newest.read_bytes()), header))
    with pytest.raises(BadFile, match=f"has checkpoint format {found}, this version reads and writes {FORMAT}; use"):
        search(resume=stopped, progress=False)
    assert newest.is_file()


def test_what_a_resume_refuses(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadFile, match="no run was begun there"):
        search(resume=tmp_path)
    with pytest.raises(UserError, match="give no others"):
        search(resume=stopped, epochs=9)
    with pytest.raises(BadFile, match=r"is a run of nas\.search"):
        Begun.load(stopped, "train")
    begun = Begun.load(stopped, "search")
    assert begun is not None
    now = {**begun.options, "epochs": 9}
    with pytest.raises(UserError, match="epochs=9 cannot change: the run was begun with epochs=2"):
        options_to_resume(begun.options, now, ["resume=x", "epochs=9"])
    with only_process(stopped), pytest.raises(UserError, match="another process is carrying on the run"):
        search(resume=stopped)
    (stopped / "run.json").write_text('{"schema": 1, ')
    with pytest.raises(BadFile, match=r"cannot be resumed: .*run\.json. is not JSON"):
        search(resume=stopped)


def test_how_a_run_resumes_may_change() -> None:
    begun = {"seed": 3, "threads": 2, "accelerator": "auto"}
    now = {"seed": 0, "threads": 1, "accelerator": "cpu", "resume": "x"}  # as composed, with defaults
    assert options_to_resume(begun, now, ["resume=x"]) == begun
    assert options_to_resume(begun, now, ["resume=x", "threads=1"]) == {**begun, "threads": 1}
    assert options_to_resume(begun, now, ["accelerator=cpu", "resume=x"]) == {**begun, "accelerator": "cpu"}
    with pytest.raises(UserError, match="seed=0 cannot change"):
        options_to_resume(begun, now, ["resume=x", "threads=1", "seed=0"])


@pytest.mark.parametrize("kind", ["search", "train"])
def test_threads_given_with_resume_are_used(
    kind: str, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command refuses them by the run's own rule, which shows that it reads them."""
    begun = Begun.load(stopped, "search")
    assert begun is not None
    if kind == "train":
        options = asdict(TrainCommand(architecture="x.json")) | {"data": {}, "recipe": {}, "checkpoint": {}}
        replace(begun, kind="train", options=options).save(stopped)
    monkeypatch.setattr(sys, "argv", ["command", f"resume={stopped}", "threads=0"])
    values = {"resume": str(stopped), "out": None, "threads": 0, "data": {"epochs": {}}, "optuna": {}}
    with pytest.raises(UserError, match="threads=0 is not between 1 and 1024"):
        {"search": _search, "train": _train}[kind](values)


def test_other_images_than_before_are_refused(stopped: Path) -> None:
    begun = Begun.load(stopped, "search")
    assert begun is not None
    replace(begun, options={**begun.options, "data": {**begun.options["data"], "limit": 100}}).save(stopped)
    with pytest.raises(UserError, match="the data changed since the run"):
        search(resume=stopped, progress=False)


def test_ctrl_c_from_the_shell_waits_for_the_step_and_loses_nothing(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    checkpoints = Checkpoints(tmp_path, minutes=60)
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), checkpoints.stopping_between_steps():
        while len(done) < 10:
            if len(done) == 3:
                os.kill(os.getpid(), signal.SIGINT)
            done.append(len(done))
            checkpoints.keep("count", len(done), lambda: Checkpoint({}, {"step": len(done)}))
    assert len(done) == 4
    saved = Checkpoints(tmp_path, resume=True).saved_in("count")
    assert saved is not None and saved.facts == {"step": 4}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_that_a_launcher_listens_to_reach_it_between_steps(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SIGTERM, of which submitit makes nothing, and SIGUSR2, upon which it has the job started again and exits."""
    heard: list[tuple[int, int]] = []

    def listen(number: int, frame: object) -> None:
        heard.append((number, len(done)))
        if number == signal.SIGUSR2:
            raise SystemExit(-1)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        before = signal.signal(number, listen)
        request.addfinalizer(lambda number=number, before=before: signal.signal(number, before))
    checkpoints = Checkpoints(tmp_path, minutes=60)
    done: list[int] = []
    sent = {2: [signal.SIGTERM], 5: [signal.SIGTERM, signal.SIGUSR2]}
    with pytest.raises(SystemExit), checkpoints.stopping_between_steps():
        while len(done) < 10:
            for number in sent.get(len(done), []):
                os.kill(os.getpid(), number)
            done.append(len(done))
            checkpoints.keep("count", len(done), lambda: Checkpoint({}, {"step": len(done)}))
    assert heard == [(signal.SIGTERM, 3), (signal.SIGTERM, 6), (signal.SIGUSR2, 6)]
    saved = Checkpoints(tmp_path, resume=True).saved_in("count")
    assert saved is not None and saved.facts == {"step": 6}
    assert {signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)} == {listen}


def test_the_same_command_begins_and_resumes(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="resume=auto begins a run in out=FOLDER"):
        folder_to_resume("auto", None)
    new = tmp_path / "new"
    assert folder_to_resume("auto", str(new)) is None  # nothing is there yet
    new.mkdir()
    assert folder_to_resume("auto", str(new)) is None
    assert folder_to_resume("auto", str(stopped)) == folder_to_resume(str(stopped), None) == stopped
    assert folder_to_resume(None, str(stopped)) is None
    (new / "letter.txt").write_text("dear")
    monkeypatch.setattr(sys, "argv", ["command", f"out={new}", "resume=auto"])
    values = {"resume": "auto", "out": str(new), "data": {"epochs": {}}, "optuna": {}}
    with pytest.raises(UserError, match="no run was begun there"):
        _search({**values})
    (new / "architecture.json").write_text("{}")
    _train({**values, "data": {"epochs": {}}})
    assert f"the run in '{new}' has finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line",
    [
        {"budget_ms": None, "avoid": "dwconv7", "deploy": "onnxruntime", "limits": {"macs": 3e8}},
        {"budget_ms": [25, 30], "kernel_sizes": [3, 5]},
        {"init": "efficientnet_lite0", "data": {"name": "imagefolder", "root": "photos"}},
    ],
)
def test_the_command_line_that_began_a_run_is_no_change(line: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is written: a name alone for a list, no budget, a data set whose defaults come from trained weights."""
    monkeypatch.setattr(sys, "argv", ["nas.search", *(f"{name}=..." for name in line)])
    composed = {**asdict(SearchSettings()), **line}
    composed["data"] = {**asdict(SearchSettings().data), **line.get("data", {})}
    options = with_defaults(given(composed, sys.argv[1:])) if "init" in line else composed
    if "init" in line:
        assert options["data"]["resolution"] != composed["data"]["resolution"]
        begun = json.loads(json.dumps(options_of(settings_of(options))))
    else:
        plans = plan_targets(settings_of(options), num_classes=10)
        begun = json.loads(json.dumps(options_of([plan.asked for plan in plans])))
    assert options_to_resume(begun, _kept(composed), sys.argv[1:]) == begun


def test_a_training_keeps_its_options_as_they_were_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes over from the search that found the network is no change when the same command resumes it."""
    found = sample_result()
    shown = Preprocessing("whole", 1.0, "shift", False)
    save_result(replace(found, input=replace(found.input, preprocessing=shown)), tmp_path / "architecture.json")
    kept: list[Begun] = []

    def stop(out: str | None, stem: str, begun: Begun, *rest: object) -> None:
        kept.append(begun)
        raise KeyboardInterrupt

    monkeypatch.setattr("nas.run.folder.run_folder", stop)
    asked = DataSettings(resolution=32, limit=60)
    with pytest.raises(KeyboardInterrupt):
        full_training(TrainCommand(str(tmp_path / "architecture.json"), resolution=32), asked, Recipe(epochs=1))
    assert kept[0].options["data"] == asdict(asked)


def full_disk(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_does_not_stop_the_training_but_the_export(
    whole: tuple[str, dict[str, Any], dict[str, Any]],
    folder_of_spaces: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space, options, wanted = whole
    folder = tmp_path / "run"
    fsync = os.fsync
    calls = 0

    def filling(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        (full_disk if 3 <= calls <= 6 or calls >= 12 else fsync)(descriptor)

    monkeypatch.setattr(os, "fsync", filling)
    with pytest.raises(CannotWrite, match=r"No space left on device; fix that and resume it with resume="):
        begin(folder_of_spaces, space, folder, **options)
    monkeypatch.undo()
    assert not list(folder.rglob(".*.partial"))
    search(resume=folder, progress=False)
    assert files_of(folder) == wanted


def test_full_training_resumes_too(folder_of_spaces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = begin(folder_of_spaces, "mbconv", tmp_path / "found").folder / "architecture.json"
    data = DataSettings(resolution=16, limit=120)
    recipe = Recipe(epochs=3, batch_size=8, accumulate=2, mixup=0.2, cutmix=1.0, ema=0.9, drop_path=0.2)
    folders = [tmp_path / "one", tmp_path / "two"]
    commands = [TrainCommand(architecture=str(source), resolution=16, out=str(folder)) for folder in folders]
    full_training(commands[0], data, recipe, progress=False)
    monkeypatch.setattr("nas.training.loop.checked", Interrupting(9))
    with pytest.raises(Stopped, match="resume it with resume="):
        full_training(commands[1], data, recipe, progress=False)
    monkeypatch.undo()
    begun = Begun.load(folders[1], "train")
    assert begun is not None
    full_training(commands[1], data, recipe, progress=False, resume=(folders[1], begun))
    weights = [(folder / "weights.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    assert {p.name for p in folders[0].iterdir()} == {p.name for p in folders[1].iterdir()}
