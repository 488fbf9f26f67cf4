"""Packs of images as shards: bytes, labels and names are kept, and the order is the one that is said."""

from __future__ import annotations

import gc
import importlib.util
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from experiments.shards import main, read_pack, read_packs
from experiments.table3 import OPTIONS, scale_of, settings_of
from latency_models.options import Options
from nas.data import DataSet, DataSettings, Split, load
from nas.pack import pack
from search_space.errors import BadFile
from tests import SHARED

PUBLIC = SHARED / "datasets"
PACK = PUBLIC / "imagenette96_q90_val.npz"


def encoded(pixels: NDArray[np.uint8], ending: str) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, ending)
        return file.getvalue()


def write_pack(path: Path, count: int = 30, names: tuple[str, ...] = ("x", "y"), seed: int = 0) -> list[bytes]:
    """A pack of JPEGs and PNGs, class by class, whose first bytes are stored once; returns the files in it."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 6, 7, 3)).astype(np.uint8)
    files = [encoded(image, "jpeg" if i % 3 else "png") for i, image in enumerate(images)]
    heads = [files[0][:8], files[1][:2]]
    kept = [file[2 if i % 3 else 8 :] for i, file in enumerate(files)]
    np.savez(
        path,
        data=np.frombuffer(b"".join(kept), np.uint8),
        offsets=np.cumsum([0, *map(len, kept)]),
        labels=np.arange(count) * len(names) // count,
        class_names=np.array(names),
        header_data=np.frombuffer(b"".join(heads), np.uint8),
        header_offsets=np.cumsum([0, *map(len, heads)]),
        header_id=np.array([1 if i % 3 else 0 for i in range(count)]),
    )
    return files


@pytest.fixture
def packs(tmp_path: Path) -> tuple[Path, Path]:
    write_pack(tmp_path / "train.npz", 60)
    write_pack(tmp_path / "test.npz", 20, seed=1)
    return tmp_path / "train.npz", tmp_path / "test.npz"


def contents(split: Split, order: NDArray[np.int64] | None = None) -> list[tuple[bytes, int]]:
    """Encoded bytes and label of every image, in the order of the source or the one given."""
    places = np.argsort(split.indices) if order is None else order
    return [(split.source.encoded(int(split.indices[i])), int(split.labels[i])) for i in places]  # type: ignore[attr-defined]


def assert_same_images(data: DataSet, source: DataSet) -> None:
    """Shards hold the pack's images bit by bit, in the order in which `nas.pack` draws them."""
    for packed, ours in ((source.train, [data.train, data.validation]), (source.test, [data.test])):
        order = np.random.default_rng(0).permutation(len(packed))
        whole = Split(ours[0].source, *(np.concatenate([getattr(s, n) for s in ours]) for n in ("indices", "labels")))
        assert contents(whole) == contents(packed, order)
        for i in np.argsort(whole.indices)[:20]:
            pixels = whole.source.read(int(whole.indices[i]))
            np.testing.assert_array_equal(pixels, packed.source.read(int(packed.indices[order[whole.indices[i]]])))


def test_a_pack_reads_back(tmp_path: Path) -> None:
    files = write_pack(tmp_path / "pack.npz")
    split, names = read_pack(tmp_path / "pack.npz")
    assert names == ("x", "y")
    assert contents(split) == [(file, int(i >= 15)) for i, file in enumerate(files)]


def test_shards_hold_what_the_packs_hold(packs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "shards"
    assert main([f"train={packs[0]}", f"test={packs[1]}", f"out={out}", "shard_mb=0.01"]) == 0
    data = load(DataSettings("webdataset", str(out)))
    assert (data.name, data.class_names, data.flip, data.crop) == ("train", ("x", "y"), True, "shift")
    assert_same_images(data, read_packs(*packs))


@pytest.mark.skipif(not PACK.is_file(), reason="no public data sets here (NAS_SHARED)")
def test_shards_hold_what_a_public_pack_holds(tmp_path: Path) -> None:
    """300 images of every class alike; the other reader is the one that came with the packs."""
    whole = read_packs(PACK, PACK)
    spec = importlib.util.spec_from_file_location("loader", PUBLIC / "loader.py")
    assert spec is not None and spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loader)
    files, labels, names = loader.load(PACK, decode=False)
    some = np.linspace(0, len(files) - 1, 300).astype(np.int64)
    source = replace(whole, train=whole.train.take(some), test=whole.test.take(some[::3]))
    assert contents(source.train) == [(files[i], int(labels[i])) for i in some] and list(source.class_names) == names
    pack(source, tmp_path / "shards", shard_mb=0.2)
    assert_same_images(load(DataSettings("webdataset", str(tmp_path / "shards"))), source)


def test_the_experiments_take_shards(packs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "shards"
    pack(read_packs(*packs), out)
    for asked in (
        {"data.root": f"{out}"},
        {"data.train": f"{out}/train-000000.tar", "data.test": f"{out}/test-000000.tar"},
    ):
        options = Options({"data": "webdataset", "data.resolution": "64", **asked})
        assert options.values.keys() <= OPTIONS.keys()
        scale = scale_of(options, quick=True)
        assert (scale.data.resolution, scale.data.limit, settings_of(scale)["data"]) == (64, None, "shards")
        assert len(load(scale.data).test) == 20


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"PK\x03\x04 no", lambda c: c[:-9]],
    ids=["cut", "empty", "no archive", "end cut"],
)
def test_a_corrupt_pack(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "pack.npz"
    write_pack(file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(BadFile, match=r"pack\.npz' is not a readable image pack") as caught:
        read_pack(file)
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # a file left open would warn here, and warnings are errors


def test_a_pickled_pack_is_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "pack.npz", data=np.array([{}], dtype=object), offsets=[0], labels=[0], class_names=["a"])
    with pytest.raises(BadFile, match=r"pack\.npz' is not a readable image pack"):
        read_pack(tmp_path / "pack.npz")


def test_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "pack.npz"
    write_pack(file, 12)
    with np.load(file) as fields:
        arrays = dict(fields)
    for labels in (np.full(12, 2), np.full(12, -1), np.zeros(5, np.int64)):
        np.savez(file, **{**arrays, "labels": labels})
        with pytest.raises(BadFile, match="label"):
            read_pack(file)


def test_what_cannot_be_turned_into_shards(
    packs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pack(tmp_path / "other.npz", 20, ("x", "z"))
    np.savez(tmp_path / "sprites.npz", grid=np.array([2, 3]))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    train, test, out = f"train={packs[0]}", f"test={packs[1]}", f"out={tmp_path / 'new'}"
    for arguments, said in (
        ([test, out], "missing train="),
        ([train, test, f"out={tmp_path / 'full'}"], "is not empty"),
        ([train, f"test={tmp_path / 'other.npz'}", out], "do not have the same classes"),
        ([train, f"test={tmp_path / 'sprites.npz'}", out], "data=cifar10 reads it"),
        ([train, f"test={tmp_path / 'none.npz'}", out], "no file"),
    ):
        assert main(arguments) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
