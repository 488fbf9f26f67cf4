"""Images: splits that share nothing, batches that repeat, formats that read back, damaged files that are refused."""

from __future__ import annotations

import gc
import io
import json
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from nas.data import (
    ArraySource,
    DataSet,
    DataSettings,
    EncodedSource,
    Split,
    dataset,
    find,
    load,
    split_by_class,
)
from nas.data.registry import settings_from_file
from nas.run.distributed import Place
from search_space.errors import BadFile, UserError
from search_space.reading import read_options
from tests import SHARED


def images(name: str, root: Path | str | None = None, **options: object) -> DataSet:
    """A data set with its own defaults but for the options."""
    return load(replace(find(name).defaults, root=root if root is None else str(root), **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return images("digits")


def splits(data: DataSet) -> dict[str, Split]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def assert_disjoint(data: DataSet) -> None:
    """No image of one split stands in another that shares its source."""
    parts = list(splits(data).values())
    for i, one in enumerate(parts):
        assert len(set(one.indices.tolist())) == len(one) == len(one.labels)
        for other in parts[i + 1 :]:
            if one.source is other.source:
                assert not set(one.indices.tolist()) & set(other.indices.tolist())


def numbered(count: int, classes: int = 2, size: int = 6) -> DataSet:
    """Images whose every pixel is their own number, so that batches show which images they hold."""
    images = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, size, size, 3), np.uint8)
    whole = Split(ArraySource(images), np.arange(count), np.arange(count) % classes)
    names = tuple(map(str, range(classes)))
    return DataSet("numbered", names, whole, whole, whole, (0.0,) * 3, (1 / 255,) * 3, flip=False, crop="none")


# ------------------------------------------------------------------ splits


def test_digits_are_all_there_and_split_without_overlap(digits: DataSet) -> None:
    assert_disjoint(digits)
    assert len(digits.train) + len(digits.validation) + len(digits.test) == 1797
    assert digits.num_classes == 10 and digits.class_names[3] == "3"
    assert not digits.flip, "a mirrored digit is another sign"


def test_digits_splits_hold_every_class_alike(digits: DataSet) -> None:
    for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        split = splits(digits)[name]
        everything = np.bincount(np.concatenate([s.labels for s in splits(digits).values()]))
        np.testing.assert_allclose(np.bincount(split.labels, minlength=10) / everything, share, atol=0.01)


def test_digits_are_the_same_at_every_call(digits: DataSet) -> None:
    again = images("digits")
    for name, split in splits(digits).items():
        np.testing.assert_array_equal(split.indices, splits(again)[name].indices)
        np.testing.assert_array_equal(split.labels, splits(again)[name].labels)


def test_the_test_split_depends_on_no_option(digits: DataSet) -> None:
    for other in (images("digits", validation_share=0.5), images("digits", limit=100)):
        np.testing.assert_array_equal(other.test.indices, digits.test.indices)
        assert_disjoint(other)


def test_a_limit_is_kept() -> None:
    data = images("digits", validation_share=0.25, limit=200)
    assert len(data.train) + len(data.validation) == 200


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_bad_validation_share(share: float) -> None:
    with pytest.raises(UserError, match=r"data\.validation_share=.* is not (between|a finite number)"):
        images("digits", validation_share=share)


def test_too_small_a_limit() -> None:
    with pytest.raises(UserError, match=r"data\.limit=39 is too few for 10 classes; use 40 or more"):
        images("digits", limit=39)


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=200),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=50, deadline=None)
def test_split_by_class_is_a_partition_in_proportion(labels: list[int], share: float, seed: int) -> None:
    array = np.array(labels, dtype=np.int64)
    rest, held = split_by_class(array, share, seed)
    assert sorted([*rest, *held]) == list(range(len(labels)))
    for label in set(labels):
        count = labels.count(label)
        assert abs(int((array[held] == label).sum()) - share * count) <= 1
    again = split_by_class(array, share, seed)
    assert all(np.array_equal(a, b) for a, b in zip((rest, held), again, strict=True))


# ------------------------------------------------------------------ batches


def batch_list(data: DataSet, **options: object) -> list[tuple[torch.Tensor, torch.Tensor]]:
    arguments: dict[str, object] = {"resolution": 6, "batch_size": 8, **options}
    return list(data.batches(data.train, **arguments))  # type: ignore[arg-type]


@given(seed=st.integers(0, 1000), epoch=st.integers(0, 100), training=st.booleans())
@settings(max_examples=10, deadline=None)
def test_batches_are_a_function_of_seed_and_epoch(digits: DataSet, seed: int, epoch: int, training: bool) -> None:
    options = {"resolution": 16, "batch_size": 100, "seed": seed, "epoch": epoch, "training": training}
    one, other = batch_list(digits, **options), batch_list(digits, **options)
    assert len(one) == len(other) > 0
    for (x, y), (x2, y2) in zip(one, other, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_another_epoch_or_seed_is_another_order() -> None:
    data = numbered(64)
    order = {
        key: torch.cat([x[:, 0, 0, 0] for x, _ in batch_list(data, training=True, seed=key[0], epoch=key[1])]).round()
        for key in [(0, 0), (0, 1), (1, 0)]
    }
    assert not torch.equal(order[0, 0], order[0, 1])
    assert not torch.equal(order[0, 0], order[1, 0])
    assert torch.equal(order[0, 0].sort().values, torch.arange(64.0))


def test_every_beginning_of_an_evaluation_holds_all_classes() -> None:
    """Folders and packs come class by class; BatchNorms and trials see the first batches."""
    labels = np.repeat(np.arange(4), 50)
    whole = Split(ArraySource(np.zeros((200, 4, 4, 3), np.uint8)), np.arange(200), labels)
    data = DataSet("folders", ("a", "b", "c", "d"), whole, whole, whole)
    for _, batch in data.batches(whole, 4, 20):
        assert batch.bincount(minlength=4).tolist() == [5, 5, 5, 5]


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_evaluation_covers_every_image_once(count: int, batch_size: int) -> None:
    data = numbered(count)
    batches = batch_list(data, batch_size=batch_size)
    images = [int(i) for i in torch.cat([x[:, 0, 0, 0] for x, _ in batches]).round()]
    assert sorted(images) == list(range(count))
    assert torch.cat([y for _, y in batches]).tolist() == [i % 2 for i in images]
    sizes = [len(x) for x, _ in batches]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1  # no last batch of one image


@given(count=st.integers(1, 60), batch_size=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_training_drops_the_last_partial_batch(count: int, batch_size: int) -> None:
    data = numbered(count)
    batches = batch_list(data, batch_size=batch_size, training=True)
    assert len(batches) == data.steps(data.train, batch_size)
    assert [len(x) for x, _ in batches] == ([batch_size] * (count // batch_size) or [count])
    seen = torch.cat([x[:, 0, 0, 0] for x, _ in batches]).round().tolist()
    assert len(set(seen)) == len(seen)


def test_labels_stay_with_their_images() -> None:
    data = numbered(50, classes=7)
    for x, y in batch_list(data, training=True):
        assert torch.equal(x[:, 0, 0, 0].round().long() % 7, y)


def test_shape_and_layout(digits: DataSet) -> None:
    for training in (False, True):
        x, y = next(iter(digits.batches(digits.train, 64, 5, training=training)))
        assert x.shape == (5, 3, 64, 64) and x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert y.shape == (5,) and y.dtype == torch.int64


def test_normalisation_is_that_of_the_data_set() -> None:
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 255, 102, 0
    whole = Split(ArraySource(image), np.array([0]), np.array([0]))
    data = DataSet("one", ("a", "b"), whole, whole, whole, (0.5, 0.4, 0.3), (0.25, 0.5, 0.1), crop="none")
    ((x, _),) = data.batches(whole, 4, 1)
    for channel, value in enumerate(((1 - 0.5) / 0.25, 0.0, -3.0)):
        torch.testing.assert_close(x[0, channel], torch.full((4, 4), value), atol=1e-5, rtol=0)


def test_normalisation_may_be_that_of_trained_weights(digits: DataSet) -> None:
    """Options reach the batches and what is recorded of the input, and come back equal from a file's lists."""
    asked = read_options(DataSettings, {"limit": 64, "mean": [0.5, 0.25, 0], "std": [0.5, 1, 2]}, "data.")
    data = load(asked)
    assert (data.inputs.mean, data.inputs.std) == ((0.5, 0.25, 0.0), (0.5, 1.0, 2.0))
    ((theirs, _),) = data.batches(data.test.take(np.arange(3)), 8, 3)
    ((ours, _),) = digits.batches(data.test.take(np.arange(3)), 8, 3)
    pixels = ours * 0.25 + 0.5
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        torch.testing.assert_close(theirs[:, channel], (pixels[:, channel] - mean) / std, atol=1e-5, rtol=0)
    assert settings_from_file(json.loads(json.dumps(asdict(asked)))) == asked


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"mean": [0.5, 0.5]}, "data.mean=.* is not a list of 3"),
        ({"mean": [127.5, 127.5, 127.5]}, "data.mean=.* is not three numbers between 0 and 1"),
        ({"mean": 0.5}, "data.mean=0.5 is not a list"),
        ({"std": [0.5, 0, 0.5]}, "data.std=.* is not three numbers between 0.001 and 1000"),
    ],
)
def test_a_normalisation_that_is_none_is_one_line(option: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read_options(DataSettings, option, "data.")
    assert "\n" not in str(error.value)


def test_evaluation_sees_images_unchanged_and_training_moves_them(digits: DataSet) -> None:
    some = digits.train.take(np.arange(20))
    ((x, _),) = digits.batches(some, 8, 20)
    raw = torch.from_numpy(np.stack([some.source.read(int(i)) for i in some.indices]))
    wanted = ((raw.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25).contiguous()
    assert sorted(image.numpy().tobytes() for image in x.contiguous()) == sorted(i.numpy().tobytes() for i in wanted)
    copies = Split(ArraySource(np.repeat(raw[:1].numpy(), 20, axis=0)), np.arange(20), np.zeros(20, np.int64))
    one = DataSet("one", ("a", "b"), copies, digits.test, digits.test, flip=False)
    (moved, _), *_ = one.batches(one.train, 8, 20, training=True)
    assert len({image.numpy().tobytes() for image in moved}) > 3


def test_mirroring_keeps_rows_and_happens_about_half_the_time() -> None:
    image = np.zeros((200, 4, 4, 3), np.uint8)
    image[:, :, 0] = 255
    whole = Split(ArraySource(image), np.arange(200), np.zeros(200, np.int64))
    data = DataSet("edge", ("a", "b"), whole, whole, whole, flip=True, crop="none")
    ((x, _),) = data.batches(whole, 4, 200, training=True)
    left = int((x[:, 0, 0, 0] > 0).sum())
    assert int((x[:, 0, 0, 3] > 0).sum()) == 200 - left
    assert 60 < left < 140


@given(height=st.integers(1, 40), width=st.integers(1, 40), crop=st.sampled_from(["shift", "resized", "none"]))
@settings(max_examples=30, deadline=None)
def test_any_image_size_gives_the_resolution_asked_for(height: int, width: int, crop: str) -> None:
    rng = np.random.default_rng(0)
    sources = [rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 256, (5, 9, 3), np.uint8)]

    class Listed:
        def __len__(self) -> int:
            return 2

        def read(self, index: int) -> NDArray[np.uint8]:
            return sources[index]

    whole = Split(Listed(), np.arange(2), np.array([0, 1]))
    data = DataSet("sizes", ("a", "b"), whole, whole, whole, crop=crop)
    for training in (False, True):
        ((x, _),) = data.batches(whole, 16, 2, training=training)
        assert x.shape == (2, 3, 16, 16) and bool(torch.isfinite(x).all())
        assert float(x.min()) >= -2 - 1e-4 and float(x.max()) <= 2 + 1e-4, "resizing makes no new values"


def test_half_an_epoch_can_be_left(digits: DataSet) -> None:
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = digits.batches(digits.train, 8, 16)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert len(next(iter(digits.batches(digits.train, 8, 16)))[0]) == 16


def test_an_unreadable_image_surfaces_from_its_batch() -> None:
    whole = Split(EncodedSource([b"junk", b"junk"]), np.arange(2), np.array([0, 1]))
    data = DataSet("junk", ("a", "b"), whole, whole, whole)
    with pytest.raises(BadFile, match="cannot read image 0"):
        list(data.batches(whole, 8, 2))


# ------------------------------------------------------------------ CIFAR-10


def cifar_rows(count: int, seed: int) -> NDArray[np.uint8]:
    rows = np.random.default_rng(seed).integers(0, 256, (count, 3073)).astype(np.uint8)
    rows[:, 0] = np.arange(count) % 10
    return rows


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    for i in range(1, 6):
        cifar_rows(40, i).tofile(tmp_path / f"data_batch_{i}.bin")
    cifar_rows(20, 6).tofile(tmp_path / "test_batch.bin")
    return tmp_path


def test_cifar_binary_reads_back(cifar: Path) -> None:
    data = images("cifar10", cifar)
    assert_disjoint(data)
    assert (len(data.train) + len(data.validation), len(data.test)) == (200, 20)
    assert data.class_names[0] == "airplane" and data.num_classes == 10
    rows = cifar_rows(20, 6)
    for position in (0, 7, 19):
        planes = rows[position, 1:].reshape(3, 32, 32)
        image = data.test.source.read(int(data.test.indices[position]))
        np.testing.assert_array_equal(image, planes.transpose(1, 2, 0))
        assert data.test.labels[position] == rows[position, 0]
    first = cifar_rows(40, 1)[0, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
    np.testing.assert_array_equal(data.train.source.read(0), first)


def test_cifar_in_the_folder_of_its_archive(cifar: Path, tmp_path: Path) -> None:
    inner = tmp_path / "unpacked" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for file in cifar.glob("*.bin"):
        file.rename(inner / file.name)
    assert len(images("cifar10", inner.parent).test) == 20


def test_cifar_truncated(cifar: Path) -> None:
    file = cifar / "data_batch_3.bin"
    for content in (file.read_bytes()[:-1], b""):
        file.write_bytes(content)
        with pytest.raises(BadFile, match=r"data_batch_3\.bin' is truncated"):
            images("cifar10", cifar)
    file.unlink()
    with pytest.raises(BadFile, match=r"data_batch_3\.bin' is missing"):
        images("cifar10", cifar)


def test_cifar_with_a_label_above_9(cifar: Path) -> None:
    rows = cifar_rows(40, 2)
    rows[5, 0] = 10
    rows.tofile(cifar / "data_batch_2.bin")
    with pytest.raises(BadFile, match=r"data_batch_2\.bin' holds a label above 9"):
        images("cifar10", cifar)


def test_cifar_pickled_is_named_and_not_read(tmp_path: Path) -> None:
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "executed").encode() + b"'\ntR."
    for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (tmp_path / name).write_bytes(bomb)
    with pytest.raises(BadFile, match=r"pickled and is not read.*cifar-10-binary\.tar\.gz"):
        images("cifar10", tmp_path)
    assert not (tmp_path / "executed").exists()


def test_cifar_nowhere(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no CIFAR-10 in") as caught:
        images("cifar10", tmp_path / "nowhere")
    assert "pickled" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"data=cifar10 needs data\.root"):
        images("cifar10", None)


# ------------------------------------------------------------------ folders of images


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 10), mode: str = "RGB") -> NDArray[np.uint8]:
    """(H, W, 3) as a file; returns what reads back."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return np.asarray(image.convert("RGB"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, name in enumerate(("cat", "dog")):
        for i in range(20):
            write_image(tmp_path / "pets" / name / f"{i:02}.png", 100 * label + i, (12, 10 + label))
    return tmp_path / "pets"


def test_imagefolder_reads_back(folder: Path) -> None:
    data = images("imagefolder", folder)
    assert_disjoint(data)
    assert data.name == "pets" and data.class_names == ("cat", "dog")
    assert len(data.train) + len(data.validation) + len(data.test) == 40
    for split in splits(data).values():
        assert set(split.labels.tolist()) == {0, 1}
    for index, label in zip(data.train.indices, data.train.labels, strict=True):
        image = data.train.source.read(int(index))
        with Image.open(folder / ("cat", "dog")[label] / f"{index % 20:02}.png") as expected:
            np.testing.assert_array_equal(image, np.asarray(expected))


def test_imagefolder_with_a_split_of_its_own(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "split"
    root.mkdir()
    folder.rename(root / "train")
    for name in ("cat", "dog"):
        for i in range(3):
            write_image(root / "val" / name / f"{i}.png", 100 + i)
    data = images("imagefolder", root)
    assert len(data.test) == 6 and len(data.train) + len(data.validation) == 40
    assert set(data.test.indices) == set(range(40, 46)), "those of val"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    pixels = write_image(tmp_path / "image.png", mode=mode)
    read = EncodedSource([tmp_path / "image.png"]).read(0)
    assert read.dtype == np.uint8 and read.shape == (12, 10, 3)
    np.testing.assert_array_equal(read, pixels)


GREYS = np.array([[0, 1, 128, 129], [257, 300, 32896, 40000], [65278, 65406, 65407, 65535]], np.uint16)


@pytest.mark.parametrize("ending", ["png", "ppm", "tif"])  # Pillow's modes I;16, I and I;16
def test_grey_of_16_bits_keeps_its_range(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"depth.{ending}"
    Image.fromarray(GREYS).save(path)
    read = EncodedSource([path]).read(0)
    assert read.dtype == np.uint8 and read.shape == (3, 4, 3)
    np.testing.assert_array_equal(read, np.rint(GREYS / 257).astype(np.uint8)[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize(
    ("grey", "wanted"),
    [
        (GREYS.astype(np.float32), "its grey is in floating point, of no known range"),
        (GREYS.astype(np.int32) * 2, "its grey, 0 to 131070, is outside 16 bits"),
        (-GREYS.astype(np.int32), "its grey, -65535 to 0, is outside 16 bits"),
    ],
)
def test_grey_of_no_known_range_is_refused(tmp_path: Path, grey: NDArray[np.generic], wanted: str) -> None:
    path = tmp_path / "depth.tif"
    Image.fromarray(grey).save(path)
    for item, name in ((path, r".*depth\.tif"), (path.read_bytes(), "image 0")):
        with pytest.raises(BadFile, match=f"cannot read {name}: {wanted}; repair or remove it") as caught:
            EncodedSource([item]).read(0)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(("ending", "mode"), [("png", "RGB"), ("png", "P"), ("png", "I;16"), ("jpg", "RGB")])
def test_images_are_turned_as_their_exif_says(tmp_path: Path, orientation: int, ending: str, mode: str) -> None:
    path, exif = tmp_path / f"image.{ending}", Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    write_image(tmp_path / "as_it_is.png", mode="RGB" if mode == "I;16" else mode)
    image = Image.fromarray(GREYS) if mode == "I;16" else Image.open(tmp_path / "as_it_is.png")
    with image:
        image.save(path, exif=exif)
    with Image.open(path) as saved:
        turned = ImageOps.exif_transpose(saved)
    read = EncodedSource([path.read_bytes()]).read(0)
    if mode == "I;16":
        np.testing.assert_array_equal(read[:, :, 0], np.rint(np.asarray(turned) / 257))
    else:
        np.testing.assert_array_equal(read, np.asarray(turned.convert("RGB")))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
def test_damaged_exif_spoils_no_image(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "image.png")
    for exif in (b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\xff\xff\xff\xff"):
        Image.fromarray(pixels).save(tmp_path / "image.png", exif=exif)
        np.testing.assert_array_equal(EncodedSource([tmp_path / "image.png"]).read(0), pixels)


def test_files_that_are_no_images_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = images("imagefolder", folder).found
    assert found.startswith("data pets: 40 images of 2 classes ('cat', 'dog'), 20 each; train 28, validation 4 (held")
    assert found.endswith("test 8 (held out); nothing was passed over")
    for name in (".DS_Store", "._00.png", ".git/a.png", "__MACOSX/._00.png", "../__MACOSX/cat/._00.png"):
        (folder / "cat" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cat" / name).write_bytes(b"junk")
    data = images("imagefolder", folder)
    assert data.class_names == ("cat", "dog") and len(data.train.source) == 40
    assert data.found[0].endswith("; passed over: 5 hidden or of the system")
    for name in ("cat/a.SVG", "dog/b.svg", "dog/deeper/c.pdf", "dog/README"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"<svg/>")
    data = images("imagefolder", folder)
    assert len(data.train.source) == 40 and len(data.found) == 1
    assert "; passed over: 2 .svg, 1 .pdf, 1 without an ending (images are ." in data.found[0]
    for number in range(9):
        (folder / "cat" / f"a.{number}").touch()
    assert ": 2 .svg, 1 .0, 1 .1, 1 .2, 1 .3, 1 .4, ... (images " in images("imagefolder", folder).found[0]
    assert capsys.readouterr() == ("", "")


def test_a_corrupt_image_is_named_before_anything_starts(folder: Path) -> None:
    broken = folder / "cat" / "07.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(BadFile, match=r"cannot read .*cat/07\.png: .*; repair or remove it") as caught:
        images("imagefolder", folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp", "ppm"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*", "ignore::PIL.Image.DecompressionBombWarning")
def test_any_damage_is_an_image_or_reported(tmp_path: Path, ending: str) -> None:
    write_image(tmp_path / f"whole.{ending}")
    whole, rng = (tmp_path / f"whole.{ending}").read_bytes(), random.Random(0)
    for _ in range(120):
        damaged = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.randrange(4)):
            if damaged:
                damaged[rng.randrange(min(len(damaged), 64))] = rng.randrange(256)
        try:
            image = EncodedSource([bytes(damaged)]).read(0)
        except BadFile as error:
            assert str(error).startswith("cannot read image 0: ") and "\n" not in str(error)
        else:
            assert image.ndim == 3 and image.shape[2] == 3


def test_a_file_that_vanished(folder: Path) -> None:
    data = images("imagefolder", folder)
    (folder / "dog" / "00.png").unlink()
    with pytest.raises(BadFile, match=r"dog/00\.png"):
        data.train.source.read(20)


def test_an_empty_class(folder: Path) -> None:
    (folder / "emu").mkdir()
    (folder / "emu" / "notes.txt").write_text("none yet")
    with pytest.raises(BadFile, match=r"emu' holds no image \(.*\.png"):
        images("imagefolder", folder)


def test_one_class(folder: Path) -> None:
    for file in (folder / "dog").iterdir():
        file.unlink()
    (folder / "dog").rmdir()
    with pytest.raises(BadFile, match="has 1 class folders; it needs one folder of images for every class"):
        images("imagefolder", folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="no folder"):
        images("imagefolder", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"data=imagefolder needs data\.root"):
        images("imagefolder", "")


def test_too_few_images_for_three_splits(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_image(tmp_path / name / "only.png")
    with pytest.raises(UserError, match="needs more images"):
        images("imagefolder", tmp_path)


# ------------------------------------------------------------------ CIFAR-10 in sprites


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, "png")
        return file.getvalue()


def write_sprites(path: Path, count: int, seed: int = 0) -> NDArray[np.uint8]:
    """`count` images of 4x5 pixels in sprites of 2 rows and 3 columns, labelled 0 to 9 in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3)).astype(np.uint8)
    padded = np.concatenate([images, np.zeros((-count % 6, 4, 5, 3), np.uint8)]).reshape(-1, 2, 3, 4, 5, 3)
    sprites = [encoded(np.ascontiguousarray(s.swapaxes(1, 2).reshape(8, 15, 3))) for s in padded]
    np.savez(
        path,
        data=np.frombuffer(b"".join(sprites), np.uint8),
        offsets=np.cumsum([0, *map(len, sprites)]),
        labels=np.arange(count) % 10,
        grid=np.array([2, 3]),
        shape=np.array([count, 4, 5, 3]),
    )
    return images


@pytest.fixture
def sprites(tmp_path: Path) -> Path:
    """The file of training images in a folder with CIFAR-10 in sprites."""
    write_sprites(tmp_path / "cifar10_test.npz", 23, seed=1)
    write_sprites(tmp_path / "cifar10_train.npz", 100)
    return tmp_path / "cifar10_train.npz"


def test_sprites_read_back(sprites: Path) -> None:
    data = images("cifar10", sprites.parent)
    assert_disjoint(data)
    assert (len(data.train) + len(data.validation), len(data.test)) == (100, 23)
    for split, wanted in ((data.train, write_sprites(sprites, 100)), (data.test, write_sprites(sprites, 23, seed=1))):
        for i, label in zip(split.indices, split.labels, strict=True):
            np.testing.assert_array_equal(split.source.read(int(i)), wanted[i])
            assert label == i % 10


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _pickled(content: bytes) -> bytes:
    with io.BytesIO() as file:
        names = ("offsets", "grid", "shape", "labels")
        np.savez(file, data=np.array([{}], dtype=object), **{name: np.zeros(1) for name in names})
        return file.getvalue()


def _array(content: bytes) -> bytes:
    with io.BytesIO() as file:
        np.save(file, np.arange(3))
        return file.getvalue()


@pytest.mark.parametrize(
    "damage", [_cut, _pickled, _array, lambda _: b"", lambda _: b"PK\x03\x04 no", lambda c: c[:-9]]
)
def test_a_corrupt_pack_of_sprites(sprites: Path, damage: Callable[[bytes], bytes]) -> None:
    sprites.write_bytes(damage(sprites.read_bytes()))
    with pytest.raises(BadFile, match=r"cifar10_train\.npz' does not hold CIFAR-10 in sprites") as caught:
        images("cifar10", sprites.parent)
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # a file left open would warn here, and warnings are errors


def test_a_damaged_sprite(sprites: Path) -> None:
    with np.load(sprites) as pack:
        arrays = dict(pack)
    arrays["data"] = arrays["data"].copy()
    arrays["data"][5:40] = 0
    np.savez(sprites, **arrays)
    with pytest.raises(BadFile, match=r"sprite of .*cifar10_train\.npz 0"):
        images("cifar10", sprites.parent)


def test_labels_of_sprites_outside_the_classes_are_refused(sprites: Path) -> None:
    """They would otherwise crash the loss, or train a class that does not exist."""
    with np.load(sprites) as pack:
        arrays = dict(pack)
    for labels in (np.full(100, 10), np.full(100, -1), np.zeros(5, np.int64)):
        np.savez(sprites, **{**arrays, "labels": labels})
        with pytest.raises(BadFile, match=r"labels for 100 images, or one outside 0\.\.9"):
            images("cifar10", sprites.parent)


# ------------------------------------------------------------------ public data, where present


def public_data() -> Path:
    return SHARED / "datasets"


@pytest.mark.slow
@pytest.mark.skipif(not (public_data() / "cifar10_test_lossless.npz").is_file(), reason="no public data sets here")
def test_the_whole_cifar10_in_sprites_is_found_by_its_folder() -> None:
    data = images("cifar10", public_data(), limit=1000)
    assert (len(data.train) + len(data.validation), len(data.test)) == (1000, 10_000)
    assert set(np.bincount(data.test.labels).tolist()) == {1000}
    assert data.test.source.read(0).shape == (32, 32, 3)


def test_many_threads_make_the_same_batches(digits: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> list[torch.Tensor]:
        return [images for images, _ in digits.batches(digits.train, 32, 16, seed=3, epoch=1, training=True)]

    alone = made()
    monkeypatch.setattr(dataset, "preparing_threads", lambda place: 4)
    together = made()
    assert len(alone) == len(together) > 4 and all(map(torch.equal, alone, together))


def test_a_gpu_has_its_share_of_the_cores_prepare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset.os, "cpu_count", lambda: 16)
    assert dataset.preparing_threads(Place()) == 1
    assert dataset.preparing_threads(Place(torch.device("cuda", 0))) == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert dataset.preparing_threads(Place(torch.device("cuda", 1), rank=1, ranks=8)) == 4


def test_batches_that_are_left_early_are_not_waited_for() -> None:
    """Else one that is collected in the thread by which images come, as of a streaming library, waits for ever."""
    free, let = threading.Event(), set(range(64))

    class Stuck(ArraySource):
        def read(self, index: int) -> NDArray[np.uint8]:
            assert index in let or free.wait(60)
            return super().read(index)

    pixels = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None, None], (64, 4, 4, 3))
    split = Split(Stuck(pixels), np.arange(64), np.arange(64) % 2)
    data = DataSet("stuck", ("a", "b"), split, split, split, mean=(0, 0, 0), std=(1, 1, 1))
    images, _ = next(iter(list(data.batches(split, 4, 8))))
    let.intersection_update((255 * images[:, 0, 0, 0]).round().int().tolist())
    assert len(let) == 8
    batches = data.batches(split, 4, 8)
    next(batches)
    left = threading.Thread(target=batches.close)  # type: ignore[attr-defined]
    left.start()
    left.join(30)
    try:
        assert not left.is_alive()
    finally:
        free.set()
        left.join()
