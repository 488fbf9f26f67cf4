"""What OpenVINO 2022.3, the last with Myriad's plug-in, makes of this project's files and kits, on its CPU plug-in.

It comes for Python 3.7 to 3.10 alone, so all of this runs in a Python of its own: that which NAS_PYTHON_OPENVINO_2022
names, or the oldest on the path, which gets a virtual environment if it lacks OpenVINO. Skipped where there is none.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from device_profiles import load_profile
from latency_models.measure import timing
from latency_models.profile import main
from nas.deploy.network import Deployable
from nas.run.chosen import Chosen, chosen_before
from nas.run.export import TOLERANCE, export_network
from nas.run.result import InputFormat, Resolution, result_of
from nas.training.loop import recalibrate
from search_space import load_space
from search_space.build import Network
from tests.latency_models.tiny import shorten_script, tiny_space

pytestmark = pytest.mark.slow

NAMED = "NAS_PYTHON_OPENVINO_2022"
VERSION = "2022.3.2"
PYTHONS = (timing.PYTHON, "3.9", "3.10")
HAS_IT = "from openvino.runtime import get_version; assert get_version().startswith('2022.3')"
PIXELS, DEPLOYED, IMAGES = 32, 224, 3
INPUTS = InputFormat((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), tuple("abcdefghij"))
ASK = """
import sys
import numpy as np
from openvino.runtime import Core

core = Core()
for path in sys.argv[1:]:
    pictures = np.load(path + ".asked.npy")
    model = core.read_model(path)
    model.reshape([1, *pictures.shape[1:]])
    request = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    said = [next(iter(request.infer([picture[None]]).values())).copy() for picture in pictures]
    np.save(path + ".said.npy", np.concatenate(said))
"""


def run(*words: str | Path, python: str = "") -> subprocess.CompletedProcess[str]:
    """Without this project. python: the version that pyenv, if it is what the path leads to, is asked for."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        cwd="/",
        env={**environment, "PYENV_VERSION": python} if python else environment,
        timeout=300,
        check=False,
    )


def on_the_path() -> list[str]:
    """The Pythons that it comes for, the oldest first."""
    names = {version: shutil.which(f"python{version}") for version in PYTHONS}
    tried = [run(name, "-c", "import sys; print(sys.executable)", python=v) for v, name in names.items() if name]
    return [done.stdout.strip() for done in tried if done.returncode == 0]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Python with OpenVINO 2022.3."""
    if named := os.environ.get(NAMED):
        done = run(named, "-c", HAS_IT)
        assert done.returncode == 0, f"{NAMED}={named} has no OpenVINO 2022.3: {done.stderr}"
        yield named
        return
    found = on_the_path()
    if not found:
        pytest.skip(f"no Python {PYTHONS[0]} to {PYTHONS[-1]} on the path, and none named by {NAMED}")
    if ready := [one for one in found if run(one, "-c", HAS_IT).returncode == 0]:
        yield ready[0]
        return
    folder = tmp_path_factory.mktemp("openvino_2022")
    made = folder / "bin" / "python"
    for words in (
        (found[0], "-m", "venv", folder),
        (made, "-m", "pip", "install", "--quiet", "--retries", "1", f"openvino=={VERSION}"),
    ):
        if (done := run(*words)).returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            pytest.skip(f"no environment of OpenVINO {VERSION} can be made by {found[0]}: {''.join(said)}")
    yield str(made)
    shutil.rmtree(folder)


def said_to_be_trained(chosen: Chosen) -> Network:
    """With branches that count, as untrained ones hardly do, and norms that fit noise of either size."""
    torch.manual_seed(0)
    network = Network(chosen.training_segments)
    with torch.no_grad():
        for values in network.parameters():
            if values.ndim == 1:
                values.uniform_(0.2, 1)
    noise = (torch.randn(2, 3, pixels, pixels) for pixels in (PIXELS, DEPLOYED))
    recalibrate(network, ((images, torch.zeros(2)) for images in noise))
    return network.eval()


@pytest.mark.parametrize("name", ["quadranet", "quadranet_lite", "proxyless"])
def test_it_computes_what_onnxruntime_does(python: str, name: str, tmp_path: Path) -> None:
    """Both files of a run, and that which `nas.deploy` makes for onnxruntime."""
    architecture = load_space(name).random_architecture(random.Random(0))
    result = result_of(architecture, len(INPUTS.class_names))
    chosen = chosen_before(replace(result, resolution=Resolution(DEPLOYED, PIXELS)), len(INPUTS.class_names), PIXELS)
    network = said_to_be_trained(chosen)
    export_network(tmp_path, network, chosen, INPUTS, torch.randn(IMAGES, 3, PIXELS, PIXELS))
    deployed = Deployable(network, chosen.training_segments, INPUTS, PIXELS, "a test")
    (tmp_path / "deployed.onnx").write_bytes(deployed.onnx())
    draws = np.random.default_rng(0)
    asked = {
        "model.onnx": draws.standard_normal((IMAGES, 3, PIXELS, PIXELS), np.float32),
        f"latency_{DEPLOYED}.onnx": draws.standard_normal((IMAGES, 3, DEPLOYED, DEPLOYED), np.float32),
        "deployed.onnx": draws.integers(0, 256, (IMAGES, PIXELS, PIXELS, 3), np.uint8),
    }
    for file, pictures in asked.items():
        np.save(tmp_path / f"{file}.asked.npy", pictures)
    done = run(python, "-I", "-c", ASK, *(tmp_path / file for file in asked))
    assert done.returncode == 0, done.stderr
    for file, pictures in asked.items():
        session = onnxruntime.InferenceSession(tmp_path / file, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        expected = np.concatenate([session.run(None, {entry.name: picture[None]})[0] for picture in pictures])
        said = np.load(tmp_path / f"{file}.said.npy")
        assert np.ptp(expected, axis=0).max() > 10 * TOLERANCE, f"{file} tells these pictures apart"
        assert np.abs(said - expected).max() < TOLERANCE * max(1, np.abs(expected).max()), file  # as when exported


def exported(folder: Path, precision: str) -> Path:
    """A kit of a dozen kernels, its timings shortened and its reference one of them."""
    asked = [f"space={tiny_space(folder)}", "resolution=32", "networks=5", "runtime=openvino"]
    assert main([f"export={folder / 'kit'}", *asked, f"precision={precision}"]) == 0
    shorten_script(folder / "kit" / "measure.py")
    path = folder / "kit" / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**manifest, "reference": manifest["items"][0]}), encoding="utf-8")
    return folder / "kit"


def test_a_kit_is_timed_there_and_its_results_become_a_profile(
    python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = exported(tmp_path, "fp32")
    assert f"Python {timing.PYTHON} or newer" in (kit / "README.txt").read_text(encoding="utf-8")
    done = run(python, "-I", kit / "measure.py", "--busy", "accept")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    monkeypatch.chdir(tmp_path)
    assert main([f"import={kit / 'results.csv'}", "device=board"]) == 0
    header = load_profile("board").header
    assert header.runtime == "openvino" and header.runtime_version.startswith("2022.3")


@pytest.mark.parametrize(
    ("precision", "asked", "said"),
    [
        ("fp32", "MYRIAD", "MYRIAD is timed in fp16 alone; ask for precision=fp16"),
        ("fp32", "TPU", "openvino knows CPU, GPU, NPU, MYRIAD"),
        ("fp16", "CPU", "CPU is timed in fp32 alone; ask for precision=fp32"),
        ("fp16", "MYRIAD", "processor=MYRIAD: OpenVINO 2022.3"),  # unless one is plugged in
        ("fp16", "NPU", "processor=NPU: OpenVINO 2022.3"),
    ],
)
def test_a_processor_that_is_not_there_is_refused_in_one_line(
    python: str, precision: str, asked: str, said: str, tmp_path: Path
) -> None:
    kit = exported(tmp_path, precision)
    done = run(python, "-I", kit / "measure.py", "--busy", "accept", "--device", asked)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not (kit / "results.csv").exists()


def test_a_model_that_it_cannot_read_is_refused_in_one_line(python: str, tmp_path: Path) -> None:
    """As a graph of an operator set that came after it is."""
    kit = exported(tmp_path, "fp32")
    entry = json.loads((kit / "manifest.json").read_text(encoding="utf-8"))["items"][1]
    (kit / entry["file"]).write_bytes(b"of a later version")
    done = run(python, "-I", kit / "measure.py", "--busy", "accept")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"'{entry['name']}' is refused by version 2022.3" in done.stderr
