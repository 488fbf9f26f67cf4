"""The laws that every runtime keeps, and a runtime of one's own that is added without a change to the project.

A new shipped runtime needs no line here: the laws run over `RUNTIMES`. What needs a package or a device that is absent
is skipped by name.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from device_profiles import load_profile
from latency_models.measure import timing
from latency_models.measure.kernel_onnx import kernel_item
from latency_models.measure.timing import RUNTIMES, Item, Refused, Runtime, Settings, add_runtime, make_settings
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
    assert runtime.optimizations and runtime.precisions
    assert runtime.packages or name == "litert_adb"  # which needs a program instead
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


@pytest.mark.parametrize("name", [name for name, runtime in RUNTIMES.items() if runtime.packages])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = RUNTIMES[name].packages[0]
    module = re.split("[<>=]", package)[0].replace("-", "_")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Refused, match=f"pip install '{package}'"):
        timing.open_runtime(make_settings(name))


def test_what_a_runtime_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever it raises, on opening and on loading."""

    class Strict:
        version = "7"

        def __init__(self, settings: Settings) -> None:
            if settings.optimization == "some":
                raise RuntimeError("no plug-in\n  at line 5\n")

        def load(self, item: Item) -> timing.Run:
            raise RuntimeError(f"{item.name} has\n\n opset 20")

    monkeypatch.setitem(RUNTIMES, "strict", Strict)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"^runtime=strict cannot be opened here: no plug-in at line 5$"):
        timing.open_runtime(Settings("strict", "some"))
    item = Item("gelu", bytes, ())
    with pytest.raises(Refused, match=r"^'gelu' is refused by version 7: gelu has opset 20$"):
        timing.load_item(timing.open_runtime(Settings("strict")), item)


def test_openvino_before_2023_1_and_a_processor_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """There `openvino` holds no names and no version; simulated, with a plug-in that has few properties."""
    compiled: list[tuple[str, dict[str, str]]] = []

    class Core:
        available_devices = ("CPU", "MYRIAD")

        def get_property(self, device: str, name: str) -> list[str]:
            return ["PERFORMANCE_HINT"]

        def read_model(self, content: bytes) -> Any:
            return SimpleNamespace(is_dynamic=lambda: False, inputs=())

        def compile_model(self, model: Any, device: str, config: dict[str, str]) -> Any:
            compiled.append((device, config))
            return SimpleNamespace(create_infer_request=lambda: SimpleNamespace(infer=lambda: None))

    names = {"Core": Core, "Tensor": list, "get_version": lambda: "2022.3.2-9279-abc"}
    monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))
    monkeypatch.setitem(sys.modules, "openvino.runtime", SimpleNamespace(**names))  # type: ignore[arg-type]
    runtime = timing.open_runtime(make_settings("openvino", precision="fp16", processor="MYRIAD"))
    assert runtime.version == "2022.3.2" and runtime.waits_here is False
    assert timing.load_item(runtime, Item("one", bytes, ()))() > 0
    assert compiled == [("MYRIAD", {"PERFORMANCE_HINT": "LATENCY"})]
    for asked, said in (
        ({"processor": "MYRIAD"}, "ask for precision=fp16"),
        ({"processor": "GPU"}, "processor=GPU: OpenVINO 2022.3.2 finds CPU, MYRIAD here"),
    ):
        with pytest.raises(Refused, match=said):
            timing.open_runtime(make_settings("openvino", **asked))
    with pytest.raises(Refused, match="processor=TPU: openvino knows CPU, GPU, NPU, MYRIAD"):
        make_settings("openvino", processor="TPU")
    with pytest.raises(Refused, match="processor=GPU: onnxruntime knows no such option"):
        make_settings("onnxruntime", processor="GPU")


def test_openvino_is_imported_without_what_reports_to_its_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))
    monkeypatch.setitem(sys.modules, "openvino.runtime", ModuleType("openvino.runtime"))
    with pytest.raises(Refused, match="needs the package"):  # these modules hold nothing
        timing.open_runtime(make_settings("openvino"))
    with pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")
    monkeypatch.delitem(sys.modules, "openvino_telemetry")


# --- a phone, simulated: an adb that answers as one with benchmark_model would

ADB = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
  "shell getprop ro.product.model") echo "Some Phone";;
  "shell getprop ro.soc.model") echo "Chip 1";;
  "shell getprop ro.build.version.release") echo 16;;
  "shell md5sum"*) echo "0123456789abcdef  -";;
  "shell test -x"*) exit {program};;
  "shell mkdir"*) ;;
  push*) cp "$2" {folder}/$(basename "$3");;
  *refused*) echo "ERROR: Failed to apply delegate"; exit 1;;
  *small*) echo "count=4000 first=9 curr=8 min=7 max=30 avg=8.25 std=1 p5=8 median=8 p95=9"
    echo "Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9, Inference (avg): 8.25";;
  *benchmark_model*) echo "count=50 first=2100 curr=2000 min=1900 max=9000 avg=2300 std=1 p5=1 median=2004 p95=9"
    echo "Inference timings in us: Init: 9, First inference: 9, Warmup (avg): 9, Inference (avg): 2300.1";;
esac
"""


def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: int = 0) -> Path:
    """Puts it on the path; the file of what it is told."""
    log, script = tmp_path / "log", tmp_path / "bin" / "adb"
    script.parent.mkdir(exist_ok=True)
    script.write_text(ADB.format(log=log, folder=tmp_path, program=program), encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return log


def test_a_phone_is_timed_over_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = phone(tmp_path, monkeypatch)
    runtime = timing.open_runtime(make_settings("litert_adb", precision="int8"))
    assert runtime.version == "benchmark_model 01234567"
    facts = timing.machine_facts(make_settings("litert_adb"), runtime)
    assert facts["cpu"] == "Some Phone Chip 1" and facts["system"] == "Android 16"
    items = [Item(name, bytes, (), lambda precision: precision.encode()) for name in ("small", "large", "refused")]
    small, large = (timing.load_item(runtime, item) for item in items[:2])
    assert [small() for _ in range(5)] == [8.25e-3] * 5  # the mean: medians are in whole microseconds
    assert [large() for _ in range(60)] == [2.004] * 60
    with pytest.raises(Refused, match="'refused' is refused"):
        timing.load_item(runtime, items[2])
    lines = log.read_text(encoding="utf-8").splitlines()
    batches = [line.partition("quadranas/")[2].split(".")[0] for line in lines if "--graph" in line]
    assert batches == [
        "small",
        "large",
        "small",
        "large",
        "large",
        "refused",
    ]  # 50 runs a batch; anew after another item
    assert sum(line.startswith("push") for line in lines) == 3
    assert (tmp_path / "small.tflite").read_bytes() == b"int8"
    assert "--use_xnnpack=true" in next(line for line in lines if "--graph" in line)


def test_a_phone_that_is_not_ready_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phone(tmp_path, monkeypatch, program=1)
    with pytest.raises(Refused, match="'Some Phone' has no /data/local/tmp/benchmark_model: push"):
        timing.open_runtime(make_settings("litert_adb"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="needs adb"):
        timing.open_runtime(make_settings("litert_adb"))


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
