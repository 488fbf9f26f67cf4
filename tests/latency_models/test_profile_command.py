"""A device profiled for real: on this machine, through an exported folder run as a stranger would, and bad files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_profiles import load_profile
from latency_models import fit_latency_model
from latency_models.fit.kernels import FEWEST_NETWORKS
from latency_models.measure.timing import ROUNDS
from latency_models.profile import main
from latency_models.verify import main as verify
from search_space import load_space, lower
from tests import ROOT
from tests.latency_models.tiny import tiny_space

TINY = """name: tiny
family: quadra
stem_width: 8
stages:
  - {width: 8, max_blocks: 2}
  - {width: 16, max_blocks: 2}
kernel_sizes: [3, 5]
expand_ratios: [2]
"""
SMALL = ["space=tiny.yaml", "resolution=32", "networks=6"]
QUICK = [*SMALL, "minutes=0.1", "busy=accept"]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile of this machine under ./device_profiles/host."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    command = [sys.executable, "-m", "latency_models.profile", "device=host", *QUICK]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "python -m nas.search" in done.stdout and "device=host budget_ms=" in done.stdout
    return folder


def environment(project: bool = True) -> dict[str, str]:
    path = {"PYTHONPATH": str(ROOT)} if project else {}
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **path}


def test_a_profiled_machine_is_a_device_at_once(profiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(profiled)
    profile = load_profile("host")
    assert {row.origin for row in profile.rows} == {"measured"}
    assert profile.header.runtime == "onnxruntime" and profile.header.runtime_options["optimization"] == "all"
    assert profile.header.threads == 1 and profile.header.interval.networks == FEWEST_NETWORKS
    predicted = fit_latency_model(profile).predict(lower(load_space("tiny.yaml").largest(), 32, 1000))
    assert 0 < predicted.low_ms <= predicted.latency_ms <= predicted.high_ms < 1000
    assert [p.name for p in (profiled / "device_profiles").iterdir()] == ["host"]


def test_its_predictions_can_be_verified(
    profiled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(profiled)
    assert verify(["device=host", "n=3", "space=tiny.yaml", "busy=accept"]) == 0
    assert "Spearman" in capsys.readouterr().out
    rows = (profiled / "verify-host" / "verify.csv").read_text().splitlines()
    assert rows[0] == "network,predicted_ms,low_ms,high_ms,measured_ms,spread_ms" and len(rows) == 4


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_device_elsewhere_cannot_be_verified_here(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify([f"device={device}", "n=3"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and device in message


@pytest.mark.slow
def test_kill_9_loses_only_the_timing_under_way(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latency_models.profile", "device=mine", *SMALL, "minutes=2", "busy=accept"]
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    partial = tmp_path / "device_profiles" / ".mine.partial.csv"
    done_before = 0
    for _ in range(2):
        running = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and rows_in(partial) < done_before + 8:
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert rows_in(partial) >= done_before + 8, "earlier timings are kept"
        done_before = rows_in(partial)
    assert not (tmp_path / "device_profiles" / "mine").exists()
    end = subprocess.run([*command[:-2], "minutes=0.01", "busy=accept"], cwd=tmp_path, env=environment(), timeout=120)
    assert end.returncode == 0 and not partial.exists()
    assert (tmp_path / "device_profiles" / "mine" / "device.yaml").is_file()


def rows_in(path: Path) -> int:
    return len(path.read_text().splitlines()) - 2 if path.is_file() else 0


@pytest.fixture(scope="module")
def returned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results.csv of an exported folder, timed by its script alone, without the project."""
    folder = tmp_path_factory.mktemp("export") / "kit"
    (folder.parent / "tiny.yaml").write_text(TINY, encoding="utf-8")
    assert main([f"export={folder}", f"space={folder.parent / 'tiny.yaml'}", "resolution=32", "networks=5"]) == 0
    assert {p.name for p in folder.iterdir()} == {"manifest.json", "kernels", "networks", "measure.py", "README.txt"}
    assert sum(p.stat().st_size for p in folder.rglob("*")) < 3e6
    command = [sys.executable, "-I", str(folder / "measure.py"), "--busy", "accept"]
    done = subprocess.run(
        command, cwd=folder.parent, env=environment(project=False), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder / "results.csv"


@pytest.mark.slow
def test_what_an_exported_folder_brings_back_is_a_device(
    returned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([f"import={returned}", "device=board"]) == 0
    smallest = load_space(str(returned.parents[1] / "tiny.yaml")).smallest()
    predicted = fit_latency_model(load_profile("board")).predict(lower(smallest, 32, 1000))
    assert 0 < predicted.low_ms <= predicted.latency_ms <= predicted.high_ms


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda rows: rows[:-3], "the file ends after"),
        (lambda rows: [*rows[:5], rows[5].rsplit(",", 1)[0], *rows[6:]], "row 6"),
        (lambda rows: [*rows[:5], "unheard_of,0,1.0,10,1.0", *rows[6:]], "row 6"),
        (lambda rows: [*rows[:5], rows[4], *rows[6:]], "row 6"),
        (lambda rows: [*rows[:5], rows[5].replace(rows[5].split(",")[2], "nan", 1), *rows[6:]], "row 6"),
        (lambda rows: [*rows[:5], rows[5].replace(rows[5].split(",")[2], "-3", 1), *rows[6:]], "row 6"),
        (lambda rows: [rows[0].replace('"unit": "ms"', '"unit": "s"'), *rows[1:]], "must be in 'ms'"),
        (lambda rows: rows[1:], "no facts"),
    ],
)
def test_a_damaged_file_is_refused_naming_the_row(
    returned: Path,
    tmp_path: Path,
    damage,
    said: str,
    capsys: pytest.CaptureFixture[str],  # type: ignore[no-untyped-def]
) -> None:
    assert ROUNDS > 1
    bad = tmp_path / "results.csv"
    bad.write_text("\n".join(damage(returned.read_text().splitlines())) + "\n", encoding="utf-8")
    assert main([f"import={bad}", "device=board", f"out={tmp_path / 'profiles'}"]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not (tmp_path / "profiles" / "board").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export=a", "import=b"], "does not go with"),
        (["import=nothing.csv", "device=x"], "cannot read 'nothing.csv'"),
        (["import=nothing.csv"], "missing device="),
        (["few=nothing.csv", "device=x"], "nothing.csv"),
        (["device=../x"], "no folder name"),
        (["device=cpu"], "device=cpu is a device that comes with this project"),
        (["runtime=tensorrt"], "unknown runtime 'tensorrt'"),
        (["threads=0"], "not an integer >= 1"),
        (["space=nothing"], "unknown space 'nothing'"),
        (["minutes=nan"], "finite number"),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export=file"], "cannot make the folder 'file': File exists"),
        (["export=file/x"], "cannot make the folder 'file/x/kernels': Not a directory"),
        (["out=file"], "cannot make the folder 'file': File exists"),
        (["out=file/x"], "cannot make the folder 'file/x': Not a directory"),
    ],
)
def test_a_file_in_the_way_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = tiny_space(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    assert main([*arguments, f"space={space}", "resolution=32"]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
