"""The laws that every data set keeps which `data=` can name, and how one from outside the package is named.

A new data set needs a line in `SAMPLES`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from nas.api import search
from nas.data import (
    DATA_SETS,
    ArraySource,
    DataSet,
    DataSettings,
    Epochs,
    NamedDataSet,
    Peeked,
    Split,
    find,
    load,
    peek,
)
from nas.data import registry as data_sets
from nas.data.splits import assemble, whole
from nas.pack import pack
from nas.run.defaults import with_defaults
from nas.run.result import InputFormat
from nas.run.settings import SearchSettings, settings_from_dict
from nas.supernet.origin import TRAINED_FOR, origin_of, trained_for
from search_space.errors import UnknownName, UserError
from tests import ROOT
from tests.test_layers_of_the_project import HEAVY

# ------------------------------------------------------------------ a data set that is not of the package


@dataclass(frozen=True)
class ToySettings(DataSettings):
    """count: how many images there are."""

    count: int = 60


def _peek(settings: ToySettings) -> Peeked:
    return Peeked(("dark", "light"))


def _load(settings: ToySettings) -> DataSet:
    labels = np.arange(settings.count) % 2
    images = (labels[:, None, None, None] * 200 + np.zeros((settings.count, 8, 8, 3))).astype(np.uint8)
    everything = whole(ArraySource(images), labels)
    data = DataSet("toy", ("dark", "light"), everything, everything, everything)
    return assemble(data, everything, None, settings.validation_share, settings.limit)


DATA_SET = NamedDataSet(ToySettings("toy", resolution=32), Epochs(1, 1, 0), _peek, _load, rooted=False)
TOY = replace(DATA_SET, defaults=ToySettings("toy", resolution=32, count=40))
NOT_ONE = "a text"
MODULE = "tests.contracts.test_data_sets"

# ------------------------------------------------------------------ an example of every data set


def _cifar10(folder: Path) -> str:
    for number, name in enumerate((*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")):
        rows = np.random.default_rng(number).integers(0, 256, (20, 3073)).astype(np.uint8)
        rows[:, 0] = np.arange(20) % 10
        rows.tofile(folder / name)
    return str(folder)


def _imagefolder(folder: Path) -> str:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir()
        for i in range(20):
            pixels = np.random.default_rng(20 * label + i).integers(0, 256, (12, 10, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return str(folder)


def _table(folder: Path) -> str:
    _imagefolder(folder)
    lines = [f"{path.relative_to(folder)},{path.parent.name}\n" for path in sorted(folder.rglob("*.png"))]
    (folder / "labels.csv").write_text("path,label\n" + "".join(lines))
    return str(folder)


def _huggingface(folder: Path) -> str:
    datasets = pytest.importorskip("datasets")
    (folder / "images").mkdir()
    _imagefolder(folder / "images")
    files = sorted((folder / "images").rglob("*.png"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    columns = {
        "image": [{"bytes": f.read_bytes(), "path": None} for f in files],
        "label": [f.parent.name for f in files],
    }
    datasets.Dataset.from_dict(columns, features).save_to_disk(folder / "saved")
    return str(folder / "saved")


def _webdataset(folder: Path) -> str:
    pack(load(ToySettings(MODULE)), folder, shard_mb=0.01)
    return str(folder)


SAMPLES: dict[str, Callable[[Path], str | None]] = {  # name -> what makes its root in an empty folder
    "cifar10": _cifar10,
    "digits": lambda folder: None,
    "huggingface": _huggingface,
    "imagefolder": _imagefolder,
    "table": _table,
    "webdataset": _webdataset,
    MODULE: lambda folder: None,
    f"{MODULE}:TOY": lambda folder: None,
}


@pytest.fixture(scope="module", params=SAMPLES)
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataSettings]:
    """Of a data set with its own defaults, and a few real images."""
    name: str = request.param
    root = SAMPLES[name](tmp_path_factory.mktemp("images"))
    yield replace(find(name).defaults, name=name, root=root)


def splits(data: DataSet) -> tuple[Split, Split, Split]:
    return data.train, data.validation, data.test


def test_every_data_set_has_an_example_here() -> None:
    assert {name for name in SAMPLES if "." not in name} == set(DATA_SETS)


# ------------------------------------------------------------------ the laws


def test_peeking_agrees_with_loading(settings: DataSettings) -> None:
    found, data = peek(settings), load(settings)
    assert found.class_names == data.class_names and found.num_classes == data.num_classes >= 2


def test_no_image_is_in_two_splits_and_each_has_every_class(settings: DataSettings) -> None:
    data = load(settings)
    for number, one in enumerate(splits(data)):
        assert set(one.labels.tolist()) == set(range(data.num_classes))
        assert len(one.indices) == len(one.labels) == len(set(one.indices.tolist()))
        for other in splits(data)[:number]:
            assert one.source is not other.source or not set(one.indices.tolist()) & set(other.indices.tolist())


def test_splits_and_batches_are_the_same_at_every_call(settings: DataSettings) -> None:
    one, other = load(settings), load(settings)
    assert one.digest == other.digest
    for seed, epoch in ((0, 0), (3, 1)):
        batches = [list(data.batches(data.train, 16, 8, seed, epoch, training=True)) for data in (one, other)]
        assert len(batches[0]) == len(batches[1]) > 0
        for (x, y), (x2, y2) in zip(*batches, strict=True):
            assert x.numpy().tobytes() == x2.numpy().tobytes() and y.tolist() == y2.tolist()


def test_another_seed_or_epoch_is_another_order(settings: DataSettings) -> None:
    data = load(settings)
    orders = [
        [y.tolist() for _, y in data.batches(data.train, 16, 8, seed, epoch, training=True)]
        for seed, epoch in ((0, 0), (1, 0), (0, 1))
    ]
    assert orders[0] != orders[1] and orders[0] != orders[2]


@pytest.mark.parametrize("training", [False, True])
def test_batches_have_the_shape_asked_for(settings: DataSettings, training: bool) -> None:
    data = load(settings)
    for split in splits(data):
        x, y = next(iter(data.batches(split, 24, 4, training=training)))
        assert tuple(x.shape) == (len(y), 3, 24, 24) and 1 <= len(y) <= 4
        assert str(x.dtype) == "torch.float32" and str(y.dtype) == "torch.int64"
        assert bool(x.isfinite().all()) and 0 <= int(y.min()) <= int(y.max()) < data.num_classes


def test_a_limit_is_kept_and_leaves_the_test_images(settings: DataSettings) -> None:
    limit = 4 * peek(settings).num_classes
    whole, few = load(settings), load(replace(settings, limit=max(8, limit), validation_share=0.5))
    held_out = few.validation if "validation" in few.drawn else ()
    assert len(few.train) + len(held_out) == max(8, limit)
    assert few.test.labels.tolist() == whole.test.labels.tolist()


@pytest.mark.parametrize("name", SAMPLES)
def test_images_that_are_nowhere_are_one_line(name: str, tmp_path: Path) -> None:
    if not find(name).rooted:
        assert "root" not in data_sets.option_defaults(name)
        return
    for root, said in ((None, r"data\.root="), (str(tmp_path / "nowhere"), "nowhere")):
        with pytest.raises(UserError, match=said) as caught:
            load(replace(find(name).defaults, root=root))
        assert "\n" not in str(caught.value)


def test_options_are_those_that_the_settings_have(settings: DataSettings) -> None:
    """As the command composes them, as a run keeps them for `resume=`, and as Python gives them."""
    options = data_sets.option_defaults(settings.name)
    assert set(options.pop("epochs")) == {"warmup", "search", "finetune"}
    expected = replace(find(settings.name).defaults, name=settings.name)
    assert settings_from_dict(DataSettings, options, "data.") == expected
    assert settings_from_dict(SearchSettings, with_defaults({"data": {"name": settings.name}})).data == expected
    assert settings_from_dict(DataSettings, asdict(settings), "data.") == settings
    with pytest.raises(UnknownName, match=r"data\.colour"):
        settings_from_dict(DataSettings, {**options, "colour": "red"}, "data.")


@pytest.mark.parametrize("name", DATA_SETS)
def test_registered_names_are_those_in_their_modules(name: str) -> None:
    assert find(name).defaults.name == name


def test_peeking_needs_no_heavy_library(tmp_path: Path) -> None:
    asked = []
    for name in DATA_SETS:
        (tmp_path / name).mkdir()
        asked.append((name, SAMPLES[name](tmp_path / name)))
    script = f"""
import sys
from nas.data import DataSettings, peek
for name, root in {asked!r}:
    assert peek(DataSettings(name, root)).num_classes >= 2
loaded = {HEAVY!r} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=ROOT)


# ------------------------------------------------------------------ data sets from elsewhere


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("name", [MODULE, f"{MODULE}:TOY"])
def test_a_command_takes_the_path_of_a_module(name: str, tmp_path: Path) -> None:
    ended = command("nas.pack", f"data={name}", "data.count=100", f"out={tmp_path / 'shards'}")
    assert ended.returncode == 0 and "toy: 60 training, 20 validation and 20 test images" in ended.stdout, ended.stderr


def test_a_typo_in_an_option_of_its_own_names_the_nearest(tmp_path: Path) -> None:
    ended = command("nas.pack", f"data={MODULE}", "data.cuont=100", f"out={tmp_path / 'shards'}")
    assert ended.returncode == 2 and "Did you mean 'data.count'?" in ended.stderr


def test_a_search_is_planned_for_its_classes() -> None:
    ended = command("nas.search", f"data={MODULE}:TOY", "budget_ms=0.01")
    assert ended.returncode == 2 and ended.stderr.startswith("error: budget_ms=0.01 cannot be met"), ended.stderr


def test_a_search_from_python_takes_the_path_of_a_module(tmp_path: Path) -> None:
    found = search(
        data={"name": f"{MODULE}:TOY", "count": 64},
        device="vpu",
        budget_ms=30,
        train={"batch_size": 16},
        rerank=1,
        progress=False,
        out=str(tmp_path / "run"),
    )
    assert found.result.num_classes == 2 and found.result.accuracy is not None
    assert (found.result.accuracy.data, found.result.accuracy.test_images) == ("toy", 12)


def test_an_installed_package_offers_one_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "toy-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[quadranas.data]\ntoy = {MODULE}:TOY\n")
    with pytest.raises(UnknownName, match="unknown data 'toy'"):
        find("toy")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find("toy") is TOY and data_sets.known() == sorted([*DATA_SETS, "toy"])
    assert len(load(settings_from_dict(DataSettings, {"name": "toy", "count": 50})).test) == 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package.data", r"importing 'no_such_package\.data' failed, ModuleNotFoundError"),
        ("broken:DATA_SET", r"importing 'broken' failed, ZeroDivisionError: division by zero"),
        (f"{MODULE}:LACKING", rf"'{MODULE}' has no nas\.data\.NamedDataSet called LACKING"),
        (f"{MODULE}:NOT_ONE", rf"'{MODULE}' has no nas\.data\.NamedDataSet called NOT_ONE"),
        (".", r"importing '\.' failed"),
        (":", r"importing '' failed"),
    ],
)
def test_a_path_without_a_data_set_is_one_line(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=said) as caught:
        find(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"data={name}: ")


def supernet_file(path: Path, data: dict[str, Any]) -> str:
    """A file that says it is a supernet trained on the data; it has no weights."""
    whole = SearchSettings(data=DataSettings(data["name"], resolution=data["resolution"]))
    said = trained_for(whole, InputFormat((0.5,) * 3, (0.25,) * 3, ("dark", "light")), "")
    save_file({TRAINED_FOR: np.frombuffer(said, np.uint8)}, path)
    return str(path)


def test_a_supernets_file_has_no_module_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come from anywhere, and may name a module that lies beside it."""
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    init = supernet_file(tmp_path / "a.safetensors", {"name": "trap:DATA_SET", "resolution": 48})
    assert origin_of(init).settings.data == DataSettings("trap:DATA_SET", resolution=48)
    with pytest.raises(UserError, match=r"trained on data=trap:DATA_SET.*; add data=trap:DATA_SET"):
        with_defaults({"init": init})
    assert not (tmp_path / "sprung").exists()
    named = f"{MODULE}:TOY"
    init = supernet_file(tmp_path / "b.safetensors", {"name": named, "resolution": 48})
    data = settings_from_dict(SearchSettings, with_defaults({"init": init, "data": {"name": named}})).data
    assert data == ToySettings(named, resolution=48)


def test_a_supernets_options_are_of_its_own_data_set(tmp_path: Path) -> None:
    """With `init` and another data set, what only the first one has is left out; so it is of older files."""
    older = {**asdict(DataSettings("cifar10", resolution=48)), "train": None, "cache_gb": 10.0}
    assert data_sets.settings_from_file(older) == DataSettings("cifar10", resolution=48)
    shards = find("webdataset").defaults
    said = trained_for(SearchSettings(data=shards), InputFormat((0.5,) * 3, (0.25,) * 3, ("a", "b")), "")
    save_file({TRAINED_FOR: np.frombuffer(said, np.uint8)}, tmp_path / "c.safetensors")
    init = str(tmp_path / "c.safetensors")
    assert settings_from_dict(SearchSettings, with_defaults({"init": init})).data == shards
    other = settings_from_dict(SearchSettings, with_defaults({"init": init, "data": {"name": "imagefolder"}})).data
    assert other == find("imagefolder").defaults
