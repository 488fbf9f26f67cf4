"""The exported folder's script as a stranger runs it, and what of its file is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from device_profiles import load_profile
from latency_models.measure import timing
from latency_models.profile import main
from tests.latency_models.tiny import shorten_script, tiny_space

NETWORKS = 6


def elsewhere(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script isolated from this project, from another folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        command(folder, *arguments), capture_output=True, text=True, cwd="/", env=environment, timeout=120, check=False
    )


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-I", str(folder / "measure.py"), "--busy", "accept", *arguments]


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder with its results."""
    top = tmp_path_factory.mktemp("exported")
    folder = top / "kit"
    assert main([f"export={folder}", f"space={tiny_space(top)}", "resolution=32", f"networks={NETWORKS}"]) == 0
    shorten_script(folder / "measure.py")
    run = elsewhere(folder)
    assert run.returncode == 0 and run.stderr == "", run.stderr
    assert "bring back" in run.stdout
    return folder


def test_one_file_comes_back(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else of the folder, nor the space's file, is needed."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(kit / "results.csv", tmp_path / "back.csv")
    assert main(["import=back.csv", "device=board"]) == 0
    header = load_profile("board").header
    assert header.interval.networks == NETWORKS and header.runtime_options["resolution"] == "32"
    assert "a busy machine was accepted" in header.measured_by


def test_a_second_run_takes_nothing_again(kit: Path) -> None:
    before = (kit / "results.csv").read_bytes()
    assert elsewhere(kit).returncode == 0
    assert (kit / "results.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runtime", "openvino"], "export one with runtime=openvino"),
        (["--threads", "0"], "threads=0: this process may use 1 to"),
    ],
)
def test_the_script_refuses_in_one_line(kit: Path, arguments: list[str], said: str) -> None:
    run = elsewhere(kit, *arguments)
    assert run.returncode == 2 and said in run.stderr and run.stderr.count("\n") == 1


def test_a_folder_without_its_files_is_refused(kit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    shutil.copytree(kit, folder)
    (folder / "results.csv").unlink()
    next((folder / "kernels").glob("add*")).unlink()
    run = elsewhere(folder)
    assert run.returncode == 2 and "cannot read" in run.stderr and run.stderr.count("\n") == 1
    (folder / "manifest.json").write_text("{", encoding="utf-8")
    run = elsewhere(folder)
    assert run.returncode == 2 and "manifest.json" in run.stderr and run.stderr.count("\n") == 1


def test_a_killed_run_resumes_where_it_stopped(kit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kit"
    shutil.copytree(kit, folder)
    results = folder / "results.csv"
    results.unlink()
    process = subprocess.Popen(command(folder), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (results.is_file() and results.read_text().count("\n") > 8):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = results.read_text().splitlines()[1:]
    total = (kit / "results.csv").read_text().count("\n")
    assert 8 <= len(kept) < total - 1  # killed in the midst, and the file is whole
    assert elsewhere(folder).returncode == 0
    assert results.read_text().splitlines()[1 : len(kept) + 1] == kept
    assert results.read_text().count("\n") == total


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"resolution": 32', '"resolution": 64'), "row 1: taken with manifest"),
        (lambda text: text.replace('"manifest": "', '"manifest": "0'), "export again with this version"),
        (lambda text: text.replace('"threads": 1', '"threads": "one"'), "row 1: threads is 'one'"),
        (lambda text: text.replace('"runtime": "onnxruntime"', '"runtime": "tflite"'), "unknown runtime 'tflite'"),
        (lambda text: text.replace('"cpu"', '"cqu"'), "no fact 'cpu'"),
        (lambda text: text.replace('"spaces"', '"places"'), "row 1: not the facts of an export"),
        (lambda text: text.replace("round,ms", "round,us"), "row 2: columns must be"),
        (lambda text: text[:-4], "the last row is cut off"),
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], "run measure.py again in its folder"),
        (lambda text: "", "row 1: no facts"),
    ],
)
def test_a_bad_file_is_refused(
    kit: Path, tmp_path: Path, change: Callable[[str], str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (kit / "results.csv").read_text(encoding="utf-8")
    changed = change(text)
    assert changed != text
    (tmp_path / "back.csv").write_text(changed, encoding="utf-8")
    assert main([f"import={tmp_path / 'back.csv'}", "device=board", f"out={tmp_path / 'out'}"]) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_full_folder_is_not_written_over(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"export={kit}"]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_kit_of_litert_needs_no_converter_and_stays_small(tmp_path: Path, precision: str) -> None:
    """Written without the runtime; the script unpacks what is written."""
    folder, space = tmp_path / "kit", f"space={tiny_space(tmp_path)}"
    asked = [space, "resolution=32", f"networks={NETWORKS}", "runtime=litert", f"precision={precision}"]
    assert main([f"export={folder}", *asked]) == 0
    assert "ai-edge-litert>=1.0.1" in (folder / "README.txt").read_text(encoding="utf-8")
    assert "Python 3.9 or newer" in (folder / "README.txt").read_text(encoding="utf-8")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["precision"] == precision
    for entry in [manifest["reference"], *manifest["items"]]:
        content = timing._item(folder, entry).tflite(precision)
        assert content[4:8] == b"TFL3"
        assert len(content) < 1e5 or (folder / entry["file"]).stat().st_size < len(content) / 20


def test_openvino_gets_models_and_cuda_gets_layers(tmp_path: Path) -> None:
    arguments = [f"space={tiny_space(tmp_path)}", "resolution=32", f"networks={NETWORKS}"]
    for runtime in ("openvino", "cuda"):
        assert main([f"export={tmp_path / runtime}", f"runtime={runtime}", *arguments]) == 0
        assert (tmp_path / runtime / "kernels").is_dir() == (runtime == "openvino")
    manifest = json.loads((tmp_path / "cuda" / "manifest.json").read_text(encoding="utf-8"))
    for entry in [manifest["reference"], *manifest["items"]]:  # what runs there, on the CPU
        layers = entry["layers"]
        weights = [[torch.from_numpy(w) for w in timing.random_weights(layer)] for layer in layers]
        inputs = [torch.zeros(1, *shape) for shape in timing.input_shapes(layers)]
        assert torch.isfinite(timing.run_layers(layers, weights, inputs)).all()
