"""The commands as a user meets them: bad input is one line and a non-zero exit, before anything heavy."""

import importlib
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import ROOT
from tests.commands import run_module


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_module(arguments, cwd or ROOT)


BAD = [
    (["device=VPU"], ["unknown device 'VPU'", "Did you mean 'vpu'?"]),
    (["device=vpx"], ["unknown device 'vpx'", "Did you mean 'vpu'?", "cpu"]),
    (["space=quadrant"], ["unknown space", "Did you mean 'quadranet'?"]),
    (["budget_ms=1"], ["cannot be met", "the fastest network of 'quadranet' takes 2"]),
    (["budget_ms=nan"], ["budget_ms=nan"]),
    (["budget_ms=-3"], ["above 0"]),
    (["budget_ms=fast"], ["budget_ms='fast' is not a number"]),
    (["budget_mss=3"], ["Did you mean 'budget_ms'?"]),
    (["gate.mode=two"], ["Did you mean 'gates.mode'?"]),
    (["gates.mode=three"], ["unknown gates.mode"]),
    (["data=cifar11"], ["Did you mean 'cifar10'?"]),
    (["data=null"], ["unknown data 'null'", "Known: cifar10, digits"]),
    (["data=1"], ["unknown data '1'"]),
    (["data=true"], ["unknown data 'true'"]),
    (["data=[cifar10]"], ["unknown data '[cifar10]'", "Did you mean 'cifar10'?"]),
    (["--multirun", "data=digits,null"], ["unknown data 'digits,null'"]),
    (["--multirun", "data=digits,cifar11"], ["unknown data 'cifar11'"]),
    (["data=cifar10,digits"], ["--multirun"]),
    (["data=imagefolder", "data.root=~/no/such"], [f"no folder '{Path.home()}/no/such'"]),
    (["resume=it's/lr=0.1,b"], ["no run was begun there ('it's/lr=0.1,b/run.json' is missing)"]),
    (["resume=~/no/such"], [f"('{Path.home()}/no/such/run.json' is missing)"]),
    (["init=~/no such,=x"], [f"no file '{Path.home()}/no such,=x'"]),
    (["strategy=darts"], ["unknown strategy", "proxyless"]),
    (["epochs=0"], ["epochs=0 is not 1 or more"]),
    (["epochs=2.5"], ["epochs=2.5 is not an integer"]),
    (["budget_ms=[1,"], ["cannot read"]),
    (["vpu"], ["key=value"]),
    (["budget_ms=10,20"], ["--multirun"]),
    (["data.epochs=3"], ["unknown option 'data.epochs'"]),
    (["train.label_smoothing=2"], ["train.label_smoothing=2"]),
    (["penalty.strength=nan"], ["penalty.strength=nan"]),
    (["finetune.lr=-1"], ["finetune.lr=-1"]),
    (["data=imagefolder"], ["data.root=FOLDER"]),
    (["data=imagefolder", "data.root=/no/such"], ["no folder"]),
    (["limits.params=1000"], ["limits.params=1000 cannot be met", "networks of 'quadranet' have 750,594 to"]),
    (["limits.peak_activations=3"], ["Did you mean 'limits.peak_activation'?"]),
    (["limits.macs=-1"], ["limits.macs=-1"]),
    (["space=missing.yaml"], ["no space file"]),
]


@pytest.mark.parametrize(("arguments", "wanted"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(arguments: list[str], wanted: list[str], tmp_path: Path) -> None:
    done = run("nas.search", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert all(text in done.stderr for text in wanted), done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["budget_ms=1"], "cannot be met"),
        (["limits.params=1000"], "cannot be met"),
        (["limits.peak_activation=1e6"], "cannot be met"),
        (["budget_ms=30", "out=tests"], "the run folder 'tests' exists; name another with out=, or remove it"),
        (["budget_ms=[25,30]", "out=tests"], "the run folder 'tests' exists"),
    ],
)
def test_an_impossible_request_is_refused_within_a_second(arguments: list[str], said: str) -> None:
    """Of processor time, from an interpreter's start, with torch out of reach."""
    script = (
        "import sys, time, runpy; sys.modules['torch'] = None\n"
        f"sys.argv = ['search', 'device=vpu', *{arguments!r}]\n"
        "try:\n    runpy.run_module('nas.search', run_name='__main__')\n"
        "finally:\n    print(time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert float(done.stdout) < 1


@pytest.mark.parametrize("budget", ["1", "30"])
def test_torch_is_not_imported_before_the_request_is_known_to_be_possible(budget: str) -> None:
    script = (
        f"import sys, runpy; sys.argv = ['search', 'device=vpu', 'budget_ms={budget}']\n"
        "import nas.run.plan as p; plan = p.plan_targets\n"
        "def checked(s):\n"
        "    try:\n"
        "        return plan(s)\n"
        "    finally:\n"
        "        print([m for m in ('torch', 'sklearn', 'pandas', 'scipy', 'onnxruntime') if m in sys.modules])\n"
        f"        if {budget} == 30: raise SystemExit(0)\n"
        "p.plan_targets = checked\n"
        "runpy.run_module('nas.search', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("device", "budget", "wanted"),
    [("cpu", "300", "it would bind in space=quadranet_t"), ("gpu", "3", "it binds in no shipped space")],
)
def test_a_budget_that_does_not_bind_is_said_before_torch(device: str, budget: str, wanted: str) -> None:
    script = (
        "import sys, runpy; sys.modules['torch'] = sys.modules['sklearn'] = None\n"
        f"sys.argv = ['search', 'device={device}', 'budget_ms={budget}']\n"
        "runpy.run_module('nas.search', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "does not bind" in done.stdout and wanted in done.stdout, done.stderr
    assert done.returncode != 0  # importing torch was then refused


def test_help_reads_well() -> None:
    done = run("nas.search", "--help")
    assert done.returncode == 0
    assert "python -m nas.search device=vpu budget_ms=30" in done.stdout
    assert "budget_ms: 30" in done.stdout


def test_a_search_from_the_shell_prints_its_folder_and_what_to_do_next(tmp_path: Path) -> None:
    tiny = ["data.resolution=32", "data.limit=60", "warmup.epochs=0", "epochs=1", "finetune.epochs=0"]
    done = run("nas.search", "device=vpu", "budget_ms=30", "out=mine", *tiny, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    *_, found, following = done.stdout.splitlines()
    assert found.startswith("vpu: predicted") and found.endswith("-> mine")
    assert following.startswith("next: ") and "python -m nas.train mine/architecture.json" in following
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    again = run("nas.search", "device=vpu", "budget_ms=30", "out=mine", cwd=tmp_path)
    assert again.returncode == 2 and "exists" in again.stderr and again.stderr.count("\n") == 1
    built = run("nas.build", "mine/architecture.json", "--latency", "--onnx", "x.onnx", cwd=tmp_path)
    assert built.returncode == 0 and (tmp_path / "x.onnx").is_file(), built.stderr
    assert "vpu: " in built.stdout


def test_a_users_device_folder_does_not_hide_the_package(tmp_path: Path) -> None:
    """./device_profiles is where users keep devices; the package of that name must still be found."""
    source = ROOT / "device_profiles" / "data" / "vpu"
    mine = tmp_path / "device_profiles" / "mine"
    mine.mkdir(parents=True)
    header = (source / "device.yaml").read_text().replace("device: vpu", "device: mine")
    (mine / "device.yaml").write_text(header)
    (mine / "kernels.csv").write_bytes((source / "kernels.csv").read_bytes())
    done = run("nas.search", "device=mine", "budget_ms=1", cwd=tmp_path)
    assert done.returncode == 2 and "cannot be met" in done.stderr and "on mine" in done.stderr, done.stderr


@pytest.mark.parametrize("option", ["resolution=abc", "seed=abc", "resolution=24.5", "threads=0", "recipe.lr=-1"])
def test_bad_training_options_are_one_line(option: str, tmp_path: Path) -> None:
    done = run("nas.train", "a.json", option, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert option.split("=")[0].split(".")[-1] in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "arguments", "wanted"),
    [
        ("nas.train", ["a.json", "recipe=null"], "unknown recipe 'null'. Known: imagenet, small."),
        ("nas.train", ["a.json", "recipe=[small]"], "unknown recipe '[small]'"),
        ("nas.train", ["a.json", "b.json"], "one network is trained at a time, not 'a.json' and 'b.json'"),
        ("nas.train", ["a.json", "architecture=b.json"], "not 'a.json' and 'b.json'"),
        ("nas.train", ["architecture=~/no,such.json"], f"'{Path.home()}/no,such.json'"),
        ("nas.train", ["resume=~/no/such"], f"('{Path.home()}/no/such/run.json' is missing)"),
        ("nas.pack", ["~data=digits", "out=x"], "data cannot be left out"),
        ("nas.pack", ["data=null", "out=x"], "unknown data 'null'"),
    ],
)
def test_what_no_command_can_do_is_one_line(command: str, arguments: list[str], wanted: str, tmp_path: Path) -> None:
    done = run(command, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert wanted in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_network_in_a_folder_with_an_equals_sign_is_found(tmp_path: Path) -> None:
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "a.json").write_text("{")
    done = run("nas.train", "lr=0.1/a.json", cwd=tmp_path)
    assert done.returncode == 2 and "'lr=0.1/a.json' is not JSON" in done.stderr, done.stderr


@pytest.mark.parametrize("command", ["nas.build", "nas.train"])
def test_truncated_architecture_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"schema": 1, ')
    done = run(command, "a.json", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "not JSON" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("command", ["nas.build", "nas.train"])
def test_a_network_s_weights_in_place_of_its_architecture_are_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    done = run(command, "model.onnx", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "'model.onnx' holds weights" in done.stderr and "name the architecture.json of its run" in done.stderr


def test_console_scripts_are_the_modules_of_the_same_names() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"nas-search", "nas-train", "nas-predict", "nas-deploy", "nas-compare", "nas-pack"} <= set(scripts)
    for script, place in scripts.items():
        module, _, function = place.partition(":")
        assert module.removesuffix(".__main__") == script.replace("-", ".")
        inspect.signature(getattr(importlib.import_module(module), function)).bind()  # called without arguments
