"""The types of `search`'s options are those of the settings, and a checker refuses what they do not hold."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from PIL import Image

from nas import options
from nas.api import load_finished, search
from nas.command import typed
from nas.predict import Predictor
from nas.run.settings import SearchSettings
from search_space.errors import BadFile, UserError
from tests import ROOT


def test_the_source_is_as_it_is_written_from_the_settings() -> None:
    assert typed.FILE.read_text(encoding="utf-8") == typed.source(), "run python -m nas.command.typed"


def test_every_option_has_a_type() -> None:
    """By another way than the writer's: what Python itself makes of both."""

    def compare(settings: type, typed_dict: type) -> int:
        declared, typed_too = get_type_hints(settings), get_type_hints(typed_dict)
        assert set(declared) - {"data"} == set(typed_too) - {"data"}
        count = 0
        for field in fields(settings):
            groups = [one for one in (declared[field.name], *get_args(declared[field.name])) if is_dataclass(one)]
            if groups and field.name != "data":
                count += compare(groups[0], typed_too[field.name])  # type: ignore[arg-type]
        return count + len(typed_too)

    assert compare(SearchSettings, options.SearchOptions) > 50


GOOD = """
from nas.api import search
search(device=["cpu", "vpu"], budget_ms=[[20, 30], [25]], warmup={"epochs": 2}, log="tensorboard", out="x", seed=1)
search(data={"name": "imagefolder", "root": "photos", "ground": "black"}, limits={"params": 2e6}, confidence=None)
"""
BAD = """
from nas.api import search
search(budget="30")
search(warmup={"epoch": 2})
search(seed="one")
"""


@pytest.mark.slow
def test_a_checker_knows_the_options(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--config-file=", "--ignore-missing-imports"]
    said = {
        name: subprocess.run([*command, str(tmp_path / name)], cwd=ROOT, capture_output=True, text=True, check=False)
        for name in ("good.py", "bad.py")
    }
    assert said["good.py"].returncode == 0, said["good.py"].stdout
    assert [f":{line}: error" in said["bad.py"].stdout for line in (3, 4, 5)] == [True] * 3, said["bad.py"].stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("run") / "run"
    return search(
        data={"name": "digits", "limit": 60, "resolution": 32}, budget_ms=30, warmup={"epochs": 0}, epochs=1,
        finetune={"epochs": 0}, threads=1, out=str(folder), progress=False,
    )  # fmt: skip


def test_a_finished_run_predicts_as_the_command_does(finished: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    found = load_finished(str(finished.folder)).predict(path)
    expected = Predictor.load(finished.folder).probabilities(pixels)
    assert list(found.values()) == sorted(found.values(), reverse=True) and sum(found.values()) == pytest.approx(1)
    assert [found[str(digit)] for digit in range(10)] == pytest.approx(expected.tolist())
    assert finished.predict(str(path)) == finished.predict(pixels) == finished.predict(Image.open(path)) == found
    done = subprocess.run(
        [sys.executable, "-m", "nas.predict", f"model={finished.folder}", str(path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first = next(iter(found))
    assert done.stdout.startswith(f"{path}: {first} {found[first]:.1%}, ")


def test_what_is_no_picture_is_refused(finished: Any, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    for given in (tmp_path / "missing.jpg", tmp_path / "text.jpg"):
        with pytest.raises(BadFile, match=given.name):
            finished.predict(given)
    for shape, dtype in (((8, 8), np.uint8), ((8, 8, 3), np.float32), ((0, 8, 3), np.uint8)):
        with pytest.raises(UserError, match="a picture is"):
            finished.predict(np.zeros(shape, dtype))


def test_the_confusion_table_holds_the_accuracy(finished: Any) -> None:
    table, accuracy = finished.confusion, finished.result.accuracy
    assert table.to_numpy().sum() == accuracy.test_images
    assert np.trace(table.to_numpy()) / accuracy.test_images == pytest.approx(accuracy.test)
    assert set(finished.module().state_dict()) == set(finished.network().state_dict())
    (finished.folder / "confusion.json").rename(finished.folder / "aside.json")
    with pytest.raises(UserError, match=r"no confusion\.json"):
        _ = finished.confusion
    (finished.folder / "aside.json").rename(finished.folder / "confusion.json")
