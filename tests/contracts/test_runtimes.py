"""The laws that every runtime keeps, and a runtime of one's own that is added without a change to the project.

A new shipped runtime needs no line here: the laws run over `RUNTIMES`. What needs a package or a device that is absent
is skipped by name.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_profiles import load_profile
from latency_models.measure import timing
from latency_models.measure.kernel_onnx import kernel_item
from latency_models.measure.timing import RUNTIMES, Refused, Runtime, Settings, add_runtime, make_settings
from latency_models.measure.workload import Workload, fusion_rules
from latency_models.profile import main
from search_space import Kind, load_space
from search_space.errors import UserError
from tests.latency_models.tiny import shorten_script, tiny_space

ALL_SETTINGS = [
    make_settings(name, optimization, precision)
    for name, runtime in RUNTIMES.items()
    for optimization in runtime.optimizations
    for precision in runtime.precisions
]
OWN = '''
"""A board whose every run takes 1 ms and 1 ms more for every MiB of its model."""

class Toy:
    optimizations = {"none": {}, "some": {"conv": ("batch_norm", "relu6")}}
    folded = ("scale",)
    precisions = ("int8",)
    packages = ("json",)
    reads = "onnx"
    waits_here = False

    def __init__(self, settings):
        import json
        self.version = "toy 1"

    def load(self, item):
        ms = 1.0 + len(item.onnx()) / 2**20
        return lambda: ms
'''


def opened(settings: Settings) -> Runtime:
    try:
        return timing.open_runtime(settings)
    except Refused as error:
        pytest.skip(str(error))


def tiny_workload(settings: Settings, folder: Path) -> Workload:
    return Workload((load_space(str(tiny_space(folder))),), 32, 5, settings)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_says_what_it_is(name: str) -> None:
    runtime = RUNTIMES[name]
    assert runtime.optimizations and runtime.precisions and runtime.packages
    assert runtime.reads in ("onnx", "tflite", "layers")
    settings = make_settings(name)
    assert settings.optimization == next(iter(runtime.optimizations)) and settings.precision == runtime.precisions[0]


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_what_merges_is_named_by_kinds_of_layers(settings: Settings) -> None:
    """A leader never merges what costs nothing anyway."""
    rules = fusion_rules(settings)
    for leader, kinds in rules.into.items():
        assert isinstance(leader, Kind) and not kinds & rules.folded


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_every_kernel_of_a_space_can_be_timed(settings: Settings, tmp_path: Path) -> None:
    runtime = opened(settings)
    assert runtime.version
    for kernel in tiny_workload(settings, tmp_path).kernels.values():
        run = runtime.load(kernel_item(kernel))
        assert all(math.isfinite(ms) and ms > 0 for ms in (run(), run())), kernel


@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_a_loaded_item_stays_usable_beside_another(settings: Settings, tmp_path: Path) -> None:
    runtime, work = opened(settings), tiny_workload(settings, tmp_path)
    runs = [runtime.load(work.items[name]) for name in work.networks]
    assert all(run() > 0 for run in [*runs, *reversed(runs)])


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = RUNTIMES[name].packages[0]
    module = re.split("[<>=]", package)[0].replace("-", "_")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Refused, match=f"pip install '{package}'"):
        timing.open_runtime(make_settings(name))


# --- a runtime of one's own


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a module of one's own; the project forgets its runtime afterwards."""
    (tmp_path / "my_boards.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(RUNTIMES)
    yield tmp_path
    RUNTIMES.clear()
    RUNTIMES.update(before)
    sys.modules.pop("my_boards", None)


def test_a_runtime_of_ones_own_travels_with_the_kit_and_gives_a_profile(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime, space = "runtime=my_boards.Toy", f"space={tiny_space(own)}"
    assert main(["export=kit", space, "resolution=32", "networks=5", runtime, "optimization=some"]) == 0
    assert (own / "kit" / "runtime.py").read_text(encoding="utf-8") == OWN
    shorten_script(own / "kit" / "measure.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", str(own / "kit" / "measure.py")]
    run = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    RUNTIMES.pop("my_boards.Toy")
    back = "import=kit/results.csv"
    assert main([back, "device=board"]) == 2, "no file alone has code imported"
    assert "unknown runtime 'my_boards.Toy'" in capsys.readouterr().err
    assert main([back, "device=board", runtime]) == 0
    header = load_profile("board").header
    assert (header.runtime, header.precision, header.runtime_version) == ("my_boards.Toy", "int8", "toy 1")
    assert header.fusion.into == {Kind.CONV: frozenset({Kind.BATCH_NORM, Kind.RELU6})}
    assert main([back, "device=board", "runtime=openvino"]) == 2
    assert "was timed in runtime=my_boards.Toy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no_such_module.Toy", "cannot import"),
        ("my_boards.Other", "cannot import"),
        ("json.JSONDecoder", "no optimizations"),
    ],
)
def test_a_path_that_is_no_runtime_is_refused(
    own: Path, path: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export=kit", f"runtime={path}"]) == 2
    message = capsys.readouterr().err
    assert path in message and said in message and message.count("\n") == 1
    assert path not in RUNTIMES and not (own / "kit").exists()


def test_an_unknown_kind_of_layer_is_named(own: Path) -> None:
    text = OWN.replace('"relu6"', '"swash"')
    (own / "my_boards.py").write_text(text, encoding="utf-8")
    add_runtime("my_boards.Toy")
    with pytest.raises(UserError, match="swash"):
        fusion_rules(make_settings("my_boards.Toy", "some"))
