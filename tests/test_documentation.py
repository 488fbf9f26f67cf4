"""What README and docs show is run: every command, with small numbers put in, every Python block and every example.

A command that cannot run here must be on the list `NOT_HERE` with the reason. Not for what commands compute.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from device_profiles import Header
from nas.run.result import SearchResult, load_result, save_result
from search_space import GatePath
from tests import ROOT
from tests.commands import ENVIRONMENT, run_module

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
LANGUAGES = {"sh", "console", "python", "yaml", "text"}
LONGEST_CELL, LONGEST_README = 200, 200  # characters, lines

NOT_HERE = {  # what a command of the docs matches -> why no test runs it
    r"make (search|test|lint|docs)\b": ".ci/run does, in a fresh clone",
    r"make cluster-test|apt-get ": "needs Debian's packages of Slurm and PostgreSQL",
    r"optuna.storage=postgresql": "needs PostgreSQL; tests/cluster/test_postgres.py does it where it is installed",
    r"(python3 -m venv|pip install) ": "set-up: .ci/run does it by make",
    r"torchrun --nnodes=2": "tests/nas/run/test_machines.py runs it on two machines",
    r"hydra/launcher=submitit_slurm|runs/slurm-": "needs Slurm; tests/cluster/test_slurm.py does it where that is",
    r"s3://|s3fs|moto_server|AWS_": "needs an S3 server; tests/nas/data/test_streams.py asks one where there is one",
    r"hf://|olah|HF_|mirrors/datasets": "needs a hub; tests/nas/data/test_streams.py asks one with its client",
    r"data=huggingface": "needs the extra [huggingface]; tests/reports/test_tables.py tests it where it is installed",
    r"device=litert|runtime=openvino space": "needs an extra; tests/contracts/test_runtimes.py has it",
    r"runtime=litert_adb": "needs a phone; tests/contracts/test_runtimes.py simulates one",
    r"target=(litert|openvino)": "needs an extra; tests/contracts/test_targets.py tests it where it is installed",
    r"recipe=imagenet": "needs the extra [train]; tests/nas/training/test_recipes.py tests it where it is installed",
    r"init=pretrained .*data=cifar10": "needs CIFAR-10 itself: other images than the supernet's are refused",
}
SLOW = (
    r"torchrun|resume=|kit|few=|--multirun|latency_models\.(profile|verify)|device=host|mydevice|=\[|strategy="
    r"|experiments\.profiles"
)

SMALL = {  # module -> options that make it short; in place of what the command gives
    "nas.search": (
        "data.resolution=32 data.limit=60 warmup.epochs=0 epochs=1 finetune.epochs=0 threads=1 rerank=2 trial_images=40"
    ),
    "nas.train": "data.limit=60 recipe.epochs=1 resolution=32 threads=1",
    "latency_models.profile": "space=tiny.yaml resolution=32 networks=6 minutes=0.1 busy=accept",
    "latency_models.verify": "space=tiny.yaml resolution=32 n=3 busy=accept",
}
TAKEN = {"few": (), "import": (), "export": ("space", "resolution", "networks")}  # of SMALL, by what is profiled
BY_WORKSHOP = {  # commands that the workshop runs for the others to use -> what it then has
    "python -m nas.search device=vpu budget_ms=30": "run",
    "python -m nas.pack data=imagefolder data.root=PATH out=shards shard_mb=100": "shards",
    "python -m latency_models.profile device=host space=quadranet": "devices",
    "python kit/measure.py": "kit",
    "python -m nas.deploy runs/RUN target=onnxruntime precision=int8": "deployed",
}
LESS = {"trials": "4"}  # smaller where it is given
TINY = """name: tiny
family: quadra
stem_width: 8
stages:
  - {width: 8, max_blocks: 2}
  - {width: 16, max_blocks: 2}
kernel_sizes: [3, 5]
expand_ratios: [2]
"""

# What the pages show.


@dataclass(frozen=True)
class Shown:
    """A block of a page, or a command in one; `line` counts from 1."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.text.splitlines()[0]}"


def blocks_of(page: Path, language: str | None = None) -> Iterator[tuple[str, Shown]]:
    """The fenced blocks with their languages."""
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language in (None, found[1]):
            line = text.count("\n", 0, found.start(2)) + 1
            yield found[1], Shown(str(page.relative_to(ROOT)), line, found[2])


def all_commands() -> list[Shown]:
    """Every shell command, once each."""
    commands: dict[str, Shown] = {}
    for page in PAGES:
        for language, block in blocks_of(page):
            for number, line in enumerate(block.text.splitlines()):
                if language == "sh" or (language == "console" and line.startswith("$ ")):
                    words = shlex.split(line.removeprefix("$ "), comments=True)
                    if words:
                        text = shlex.join(words)
                        commands.setdefault(text, Shown(block.page, block.line + number, text))
    return list(commands.values())


def reason(command: str) -> str | None:
    """Why no test runs it; None if one does."""
    return next((why for pattern, why in NOT_HERE.items() if re.search(pattern, command)), None)


def marked(shown: Sequence[Shown], slow: str) -> list[Any]:
    """Parameters of a test, slow ones so marked."""
    return [
        pytest.param(one, id=str(one), marks=[pytest.mark.slow] if re.search(slow, one.text) else []) for one in shown
    ]


COMMANDS = all_commands()
PYTHON = [block for page in PAGES for _, block in blocks_of(page, "python")]


def test_the_pages_are_found() -> None:
    assert {"README.md", "docs/index.md", "docs/decisions/knapsack.md"} <= {str(p.relative_to(ROOT)) for p in PAGES}
    assert len(COMMANDS) > 40 and len(PYTHON) > 4


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert {language for language, _ in blocks_of(page)} <= LANGUAGES
    assert text.count("```") == 2 * len(list(blocks_of(page)))


def test_nothing_is_excused_that_the_pages_do_not_show() -> None:
    assert set(BY_WORKSHOP) <= {command.text for command in COMMANDS}
    unused = [pattern for pattern in NOT_HERE if not any(re.search(pattern, c.text) for c in COMMANDS)]
    assert unused == []


# What they need.


class Workshop:
    """Images, runs and profiles that the commands of the pages are run on, each made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
        self.server: ThreadingHTTPServer | None = None

    @cached_property
    def photos(self) -> Path:
        """A folder a class, 24 images each."""
        draws = np.random.default_rng(0)
        for name in ("cat", "dog", "owl"):
            (self.folder / "photos" / name).mkdir(parents=True)
            for number in range(24):
                pixels = draws.integers(0, 256, (40, 36, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.folder / "photos" / name / f"{number}.jpg")
        return self.folder / "photos"

    @property
    def photo(self) -> Path:
        """One of them."""
        return self.photos / "cat" / "0.jpg"

    @cached_property
    def cifar10(self) -> Path:
        """Noise in the form of CIFAR-10's binary version."""
        folder, draws = self.folder / "cifar", np.random.default_rng(0)
        folder.mkdir()
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
            rows = draws.integers(0, 256, (40, 3073), dtype=np.uint8)
            rows[:, 0] = np.arange(40) % 10
            rows.tofile(folder / f"{name}.bin")
        return folder

    @cached_property
    def run(self) -> Path:
        """The folder of a finished search."""
        target = ["device=vpu", "budget_ms=30", "out=finished"]
        succeed(self.folder, ["-m", "nas.search", *target, *SMALL["nas.search"].split()])
        return self.folder / "finished"

    @cached_property
    def deployed(self) -> Path:
        """What a runtime gets of the finished search."""
        words = [str(self.run), "target=onnxruntime", "precision=int8", "calibration=8"]
        succeed(self.folder, ["-m", "nas.deploy", *words])
        return self.run / "deploy"

    @cached_property
    def stopped(self) -> Path:
        """The folder of a search that was killed."""
        folder = self.folder / "stopped"
        small = [o for o in SMALL["nas.search"].split() if not o.startswith("epochs=")]
        command = [sys.executable, "-m", "nas.search", f"out={folder}", "epochs=8", "checkpoint.steps=1", *small]
        running = subprocess.Popen(command, cwd=self.folder, env=ENVIRONMENT, stdout=-3, stderr=-3)
        while running.poll() is None and not list(folder.glob("checkpoints/*.safetensors")):
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        assert not (folder / "architecture.json").exists()
        return folder

    @cached_property
    def shards(self) -> Path:
        """The photos as `nas.pack` writes them."""
        folder = self.folder / "web" / "shards"
        images = ["data=imagefolder", f"data.root={self.photos}"]
        succeed(self.folder, ["-m", "nas.pack", *images, f"out={folder}", "shard_mb=100"])
        return folder

    @cached_property
    def address(self) -> str:
        """Where the shards are served."""

        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(self.shards.parent)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/shards"

    @cached_property
    def devices(self) -> tuple[Path, float]:
        """A folder of devices with this machine as `host`, and a budget in ms that binds there."""
        words = ["-m", "latency_models.profile", "device=host", *SMALL["latency_models.profile"].split()]
        said = succeed(self.folder, words).stdout
        found = re.search(r"device=host budget_ms=([\d.]+)", said)
        assert found, said
        return self.folder / "device_profiles", float(found[1])

    @cached_property
    def kit(self) -> Path:
        """An exported folder with the times that its script measured here."""
        words = SMALL["latency_models.profile"].split()
        succeed(self.folder, ["-m", "latency_models.profile", "export=kit", *words[:3]])
        succeed(self.folder, ["kit/measure.py", "--busy", "accept"])
        return self.folder / "kit"

    @cached_property
    def timed(self) -> Path:
        """A CSV of four networks and their times."""
        result = load_result(self.run / "architecture.json")
        lines = ["architecture,latency_ms"]
        space = result.architecture.space
        for number in range(4):
            path = GatePath(tuple(number % len(slot.candidates) for slot in space.slots))
            found = dataclasses.replace(result, architecture=space.architecture(path), gate_path=None)
            save_result(found, self.folder / f"network{number}.json")
            lines.append(f"network{number}.json,{10 + number}")
        (self.folder / "timed.csv").write_text("\n".join(lines) + "\n")
        return self.folder / "timed.csv"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    yield workshop
    if workshop.server is not None:
        workshop.server.shutdown()
        workshop.server.server_close()


def succeed(cwd: Path, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with these words; it must end well."""
    if words[0] == "-m" and not words[1].startswith("torch.") and "--multirun" not in words:
        done = run_module(words[1:], cwd)
    else:
        done = subprocess.run(
            [sys.executable, *words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0 and "Traceback" not in done.stderr, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


# Commands.


def test_a_command_that_cannot_run_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    for command in ("ls", "python -m nas.search data.root=OTHER", "python script.py", "torchrun -m nas.sarch"):
        with pytest.raises(AssertionError, match="no way to run"):
            words_of(command, workshop, tmp_path)


@pytest.mark.parametrize("command", marked([c for c in COMMANDS if reason(c.text) is None], SLOW))
def test_a_command_runs(command: Shown, workshop: Workshop, tmp_path: Path) -> None:
    if command.text in BY_WORKSHOP:
        assert getattr(workshop, BY_WORKSHOP[command.text])
        return
    words = words_of(command.text, workshop, tmp_path)
    before = set(tmp_path.rglob("architecture.json"))
    succeed(tmp_path, words)
    if "nas.search" in words or "nas.train" in words:
        assert set(tmp_path.rglob("architecture.json")) > before


def words_of(command: str, workshop: Workshop, cwd: Path) -> list[str]:
    """What to run Python with in `cwd`, where all that the command names is put; small numbers stand in for its own."""
    for yaml in (block.text for page in PAGES for _, block in blocks_of(page, "yaml")):
        if name := re.match(r"name: (\w+)\n", yaml):
            (cwd / f"{name[1]}.yaml").write_text(yaml, encoding="utf-8")
    (cwd / "tiny.yaml").write_text(TINY, encoding="utf-8")
    launcher, *words = shlex.split(command)
    if launcher == "torchrun":
        options, words = words[: words.index("-m")], words[words.index("-m") :]
        before = ["-m", "torch.distributed.run", "--standalone", *options]
    else:
        assert launcher == "python", f"no way to run '{command}' here"
        before = []
    assert words[0] == "-m" and find_spec(words[1]) is not None, f"no way to run '{command}' here"
    module, arguments = words[1], words[2:]
    images = next((a.partition("=")[2] for a in arguments if a.startswith("data=")), "digits")
    arguments = [filled(argument, images, workshop, cwd) for argument in arguments]
    arguments = small(module, arguments)
    if "device=host" in arguments and module != "latency_models.profile":
        devices, budget_ms = workshop.devices
        shutil.copytree(devices, cwd / "device_profiles")
        if module == "nas.search":
            arguments = with_options(
                arguments, [f"budget_ms={budget_ms}", "space=tiny.yaml", "deployment_resolution=32"]
            )
    left = [a for a in arguments if re.search(r"(?<![\w.])[A-Z]{4,}\b", a.removeprefix(str(cwd)))]
    assert not left, f"no way to run '{command}' here: what is {left}?"
    return [*before, "-m", module, *arguments]


def filled(argument: str, images: str, workshop: Workshop, cwd: Path) -> str:
    """The argument with its placeholder replaced by something that is there."""
    key, _, value = argument.rpartition("=")
    if value.startswith("runs/RUN"):
        source = workshop.stopped if key == "resume" else workshop.run
        assert not value.startswith("runs/RUN/deploy") or workshop.deployed
        shutil.copytree(source, cwd / "given", dirs_exist_ok=True)
        return f"{key}={'given'}{value.removeprefix('runs/RUN')}".removeprefix("=")
    if argument == "photo.jpg":
        return str(workshop.photo)
    if argument == "data.root=PATH":
        return f"data.root={workshop.cifar10 if images == 'cifar10' else workshop.photos}"
    if value == "SHARDS":
        return f"{key}={workshop.shards}"
    if "https://HOST/SHARDS" in value:
        return argument.replace("https://HOST/SHARDS", workshop.address)
    if value == "CACHE":
        return f"{key}={cwd / 'cache'}"
    if value == "MODEL.onnx":
        return f"{key}={workshop.run / 'model.onnx'}"
    if key == "data.file":
        rows = [f"{path},{path.parent.name}\n" for path in sorted(workshop.photos.rglob("*.jpg"))]
        (cwd / value).write_text("path,label\n" + "".join(rows))
    if value == "timed.csv":
        return f"{key}={workshop.timed}"
    if value == "kit/results.csv":
        return f"{key}={workshop.kit / 'results.csv'}"
    return argument


def small(module: str, arguments: list[str]) -> list[str]:
    """The arguments with options that make the command short."""
    given = {argument.partition("=")[0] for argument in arguments}
    arguments = [f"{k}={LESS[k]}" if (k := a.partition("=")[0]) in LESS else a for a in arguments]
    options = SMALL.get(module, "").split()
    if "resume" in given and "resume=auto" not in arguments:
        options = []
    elif "init" in given and any(a.startswith("init=efficientnet") for a in arguments):
        options = [option for option in options if "epochs=" not in option] + ["finetune.epochs=1"]  # no supernet
    elif "init" in given:
        options = ["threads=1", "trial_images=40"]  # nothing is trained
    for key, names in TAKEN.items():
        if module == "latency_models.profile" and key in given:
            options = [option for option in options if option.partition("=")[0] in names]
    return with_options(arguments, options)


def with_options(arguments: list[str], options: list[str]) -> list[str]:
    """The arguments, and the options in place of those of the same name."""
    names = {option.partition("=")[0] for option in options}
    return [*(a for a in arguments if a.partition("=")[0] not in names), *options]


def test_commands_in_sentences_name_modules_that_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    modules = {name for name in re.findall(r"python -m ([a-z_][\w.]*\w)", text) if "NAME" not in name}
    assert len(modules) > 15
    assert [name for name in modules if find_spec(name) is None] == []


# Python.

PREAMBLE = """
import runpy, sys
import nas.api

_search = nas.api.search

def _small(**options):
    if "init" not in options:
        data = options.get("data", "digits")
        if isinstance(data, str):
            options["data"] = {"name": data, "limit": 60}
        options.setdefault("resolution", 32)
        options |= dict(epochs=1, warmup={"epochs": 0}, finetune={"epochs": 0}, threads=1)
    return _search(**options)

nas.api.search = _small
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def run_small(script: Path, cwd: Path) -> str:
    """What a script prints when every search in it is short."""
    return succeed(cwd, ["-c", PREAMBLE, str(script)]).stdout


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_python_block_runs(block: Shown, workshop: Workshop, tmp_path: Path) -> None:
    if "runs/RUN" in block.text:
        assert "runs/RUN/deploy" not in block.text or workshop.deployed
        shutil.copytree(workshop.run, tmp_path / "runs/RUN")
    if "photo.jpg" in block.text:
        shutil.copy(workshop.photo, tmp_path / "photo.jpg")
    (tmp_path / "block.py").write_text(block.text, encoding="utf-8")
    said = run_small(tmp_path / "block.py", tmp_path)
    assert said or "print(" not in block.text


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_runs(script: Path, tmp_path: Path) -> None:
    assert run_small(script, tmp_path).strip()
    assert script.name in "".join(page.read_text(encoding="utf-8") for page in (*PAGES, ROOT / "examples/README.md"))


# The pages themselves.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_table_hides_a_page_in_a_cell(page: Path) -> None:
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell for cell in cells if len(cell) > LONGEST_CELL] == []


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_README
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert len(links) > 20 and [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize(
    ("heading", "kind"),
    [("### device.yaml", Header), ("## architecture.json", SearchResult)],
)
def test_the_fields_of_files_are_all_explained(heading: str, kind: type) -> None:
    text = (ROOT / "docs/files.md").read_text(encoding="utf-8")
    section = text[text.index(f"{heading}\n") :]
    section = section[: section.index("\n#", 1)]
    explained = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(explained) == sorted(f.name for f in dataclasses.fields(kind))


def test_commands_of_results_hold_no_path_of_the_machine_that_ran_them() -> None:
    results = ROOT / "experiments" / "results"
    said = {
        path.name: path.read_text(encoding="utf-8") for path in results.iterdir() if path.suffix in (".json", ".md")
    }
    commands = {name: re.findall(r"python -m [^`\"\n]+", text) for name, text in said.items()}
    assert sum(map(len, commands.values())) > 20
    assert [(name, line) for name, lines in commands.items() for line in lines if re.search(r"[= ]/\w", line)] == []


def test_every_table_of_results_has_a_title_and_a_place_on_the_site() -> None:
    tables = {path.stem for path in (ROOT / "experiments" / "results").glob("*.md")}
    named = re.findall(r'^    "(\w+)": "', (ROOT / "docs/generate.py").read_text(encoding="utf-8"), re.MULTILINE)
    placed = re.findall(r": results/(\w+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(tables) == sorted(named) == sorted(placed)


@pytest.mark.slow
def test_the_site_builds_and_loads_nothing_from_the_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env={**ENVIRONMENT, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pages = {p.relative_to(tmp_path / "site"): p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.html")}
    assert "<code>limits.params</code>" in pages[Path("options.html")]
    assert "class Strategy(Protocol)" in pages[Path("extending.html")]
    assert len([path for path in pages if path.parts[0] == "results"]) > 10
    loaded = r"""<(?:script|img|iframe)[^>]+src=["']?(?:https?:)?//|<link[^>]+stylesheet[^>]+href=["']?(?:https?:)?//"""
    for path, text in pages.items():
        assert not re.search(loaded, text), path
        assert "<!-- place:" not in text and "<!-- fields:" not in text, path
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", textwrap.dedent(style.read_text(encoding="utf-8"))), style
