"""Damaged, very large and transparent images, each a kind that people have reported in public about other projects."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from nas.api import search
from nas.data import DataSet, EncodedSource, Split, find, load, soundness
from nas.data.copies import DIGITS
from nas.data.dataset import _augment
from nas.data.reduced import KeptImages, Purpose
from nas.data.shards.source import TarSource
from nas.data.sources import CannotDecode, Seen
from nas.data.splits import _drawn
from nas.data.webdataset import WebDatasetSettings
from nas.pack import pack
from search_space.errors import BadFile, UserError


def content(pixels: NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    """An encoded image. pixels: (H, W, channels)."""
    with io.BytesIO() as file:
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()


def noise(seed: int, height: int = 12, width: int = 10, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    """Colours that change slowly, so that the image has no detail to lose."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 100 * np.sin(4 * x / width)], 2).astype(np.uint8)


def folder_of(root: Path, each: int = 100, ending: str = "png", classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """So many small images of every class, in a folder of it."""
    kind = {"png": "PNG", "jpg": "JPEG"}[ending]
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            (root / name / f"{i:03}.{ending}").write_bytes(content(noise(1000 * label + i), kind))
    return root


def cut(path: Path, share: float = 0.6) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


def images(root: Path, **options: object) -> DataSet:
    return load(replace(find("imagefolder").defaults, root=str(root), **options))  # type: ignore[arg-type]


def shards(root: Path | str, cache: Path, **options: object) -> DataSet:
    return load(WebDatasetSettings("webdataset", str(root), cache=str(cache), **options))  # type: ignore[arg-type]


def write_shard(path: Path, encoded: list[bytes], first: int = 0) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, image in enumerate(encoded):
            for ending, value in (("jpg", image), ("cls", b"%d" % (i % 2))):
                member = tarfile.TarInfo(f"{first + i:06}.{ending}")
                member.size = len(value)
                tar.addfile(member, io.BytesIO(value))


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    return [content(noise(seed + i), "JPEG") for i in range(count)]


def used(data: DataSet) -> int:
    """All images of all splits, every one decoded."""
    for split in (data.train, data.validation, data.test):
        for index in split.indices:
            split.source.read(int(index))
    return sum(map(len, (data.train, data.validation, data.test)))


def assert_names(error: BaseException, *names: str) -> None:
    assert "\n" not in str(error)
    for name in names:
        assert name in str(error), f"{name} in: {error}"


# ------------------------------------------------------------------ damaged images in folders


def test_one_truncated_jpeg_among_many_is_left_out_and_listed(tmp_path: Path) -> None:
    """ultralytics/yolov5 3095 and keras-team/keras 19026: one cut file among thousands ends the training."""
    whole = images(folder_of(tmp_path / "photos", ending="jpg"))
    cut(tmp_path / "photos" / "dog" / "041.jpg")
    data = images(tmp_path / "photos")
    assert len(whole.train.source) == 200 and used(data) == 199
    assert [one.name for one in data.findings.damaged] == ["dog/041.jpg"]
    _, sentence = data.found
    assert "1 of 200" in sentence and "dog/041.jpg" in sentence and "damaged.txt" in sentence
    data.findings.save(tmp_path)
    (line,) = (tmp_path / "damaged.txt").read_text().splitlines()
    assert line.startswith("dog/041.jpg: ") and "truncated" in line.lower()
    assert len(whole.found) == 1 and not whole.findings.damaged


def test_the_digest_depends_on_what_was_left_out(tmp_path: Path) -> None:
    """Of keras-team/keras 19026's kind: files that are skipped without a word make another data set."""
    root = folder_of(tmp_path / "photos")
    digests = {images(root).digest}
    for name in ("cat/000.png", "cat/001.png", "dog/099.png"):
        sound = (root / name).read_bytes()
        cut(root / name)
        first = images(root).digest
        assert images(root).digest == first
        digests.add(first)
        (root / name).write_bytes(sound)
    assert len(digests) == 4 and images(root).digest in digests


def test_many_damaged_files_are_named_at_once(tmp_path: Path) -> None:
    """ultralytics/yolov5 3095: seven damaged files are seven runs, one name in each."""
    root = folder_of(tmp_path / "photos", 60)
    damaged = {
        f"cat/{i:03}.png": whole for i, whole in enumerate((b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n"))
    }
    damaged |= {f"dog/{i:03}.png": content(noise(i))[:-30] for i in range(4)}
    for name, value in damaged.items():
        (root / name).write_bytes(value)
    for share in (0.01, 0.0):
        with pytest.raises(BadFile) as caught:
            images(root, damaged=share)
        assert_names(caught.value, *damaged, "7 of 120", f"data.damaged={share:g}", "data.damaged=0.06")
    data = images(root, damaged=0.06)
    assert used(data) == 113 and {one.name for one in data.findings.damaged} == set(damaged)
    for i in range(20, 60):
        (root / "cat" / f"{i:03}.png").write_bytes(b"")
    with pytest.raises(BadFile, match="47 of 120") as caught:
        images(root)
    assert_names(caught.value, "...", "data.damaged=0.4")
    with pytest.raises(UserError, match=r"data\.damaged=0\.6"):
        images(root, damaged=0.6)


def test_no_damaged_file_is_left_out_where_none_may_be(tmp_path: Path) -> None:
    """ultralytics/yolov5 3095, where one wants to know: a share of 0 refuses a single one."""
    root = folder_of(tmp_path / "photos")
    cut(root / "cat" / "007.png")
    with pytest.raises(BadFile) as caught:
        images(root, damaged=0)
    assert_names(caught.value, "cat/007.png", "1 of 200")


def test_damaged_images_of_a_test_folder_are_found_too(tmp_path: Path) -> None:
    """ultralytics/yolov5 3095: the file is met in the test, when everything else is done."""
    folder_of(tmp_path / "photos" / "train", 100)
    for path in folder_of(tmp_path / "photos" / "val", 20).rglob("*.png"):
        path.write_bytes(content(noise(5000 + int(path.stem) + 100 * (path.parent.name == "cat"))))  # no copies
    cut(tmp_path / "photos" / "val" / "cat" / "003.png")
    data = images(tmp_path / "photos")
    assert used(data) == 239 and len(data.test) == 39
    assert [one.name for one in data.findings.damaged] == ["val/cat/003.png"]


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_of_very_many_files_the_cut_ones_are_found_by_their_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """huggingface/datasets 6470: too many files to decode before a run, and some of them are cut."""
    root = folder_of(tmp_path / "photos", ending=ending)
    monkeypatch.setattr(soundness, "FULLY_UP_TO", 10)
    assert used(images(root)) == 200 and not images(root).findings.damaged
    (root / "cat" / "005.png").write_bytes(b"") if ending == "png" else cut(root / "cat" / "005.jpg")
    cut(root / "dog" / f"006.{ending}")
    data = images(root)
    assert used(data) == 198
    assert [one.name for one in data.findings.damaged] == [f"cat/005.{ending}", f"dog/006.{ending}"]


def test_test_images_are_decoded_in_advance_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """webdataset/webdataset 291's kind: damage inside of a file whose end looks whole, held out for the test."""
    root = folder_of(tmp_path / "photos", 200)
    whole = images(root)
    monkeypatch.setattr(soundness, "FULLY_UP_TO", 10)
    tested = int(whole.test.indices[3])
    path = root / ("cat", "dog")[tested // 200] / f"{tested % 200:03}.png"
    sound, spoilt = path.read_bytes(), bytearray(path.read_bytes())
    for wrong in range(1, 256):  # until its content, too, is surely one of the test's fifth
        spoilt[60] = sound[60] ^ wrong
        if _drawn(hashlib.sha256(spoilt).hexdigest()[:DIGITS], 1) < 0.1:
            break
    path.write_bytes(bytes(spoilt))
    data = images(root)
    assert len(data.test) == len(whole.test) - 1 and used(data) == 399
    assert [root / one.name for one in data.findings.damaged] == [path]


# ------------------------------------------------------------------ damaged images in shards


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_damaged_image_of_a_shard_is_found_before_training(tmp_path: Path, where: str) -> None:
    """webdataset/webdataset 291: a cut JPEG in a sound tar, met in the middle of the training or of the test."""
    parts = {"train": jpegs(150), "test": jpegs(60, 1000)}
    parts[where][7] = parts[where][7][:-200]
    for name, encoded in parts.items():
        write_shard(tmp_path / f"{name}-0.tar", encoded)
    data = shards(tmp_path, tmp_path / "cache")
    assert used(data) == 209
    (damaged,) = data.findings.damaged
    assert "000007.jpg" in damaged.name and f"{where}-0.tar" in damaged.name
    with pytest.raises(BadFile) as caught:
        shards(tmp_path, tmp_path / "cache", damaged=0.004)
    assert_names(caught.value, "1 of 210", "000007.jpg", f"{where}-0.tar", "data.damaged=0.01")


def test_packing_leaves_damaged_images_out_and_lists_them(tmp_path: Path) -> None:
    """webdataset/webdataset 291: what is packed is sound, and what is spoilt afterwards on this disk is found."""
    root = folder_of(tmp_path / "photos")
    cut(root / "cat" / "011.png")
    pack(images(root), tmp_path / "packed")
    assert (tmp_path / "packed" / "damaged.txt").read_text().startswith("cat/011.png: ")
    data = shards(tmp_path / "packed", tmp_path / "cache")
    assert used(data) == 199 and len(data.found) == 1
    tar = next((tmp_path / "packed").glob("test*.tar"))
    spoilt = bytearray(tar.read_bytes())
    spoilt[512 + 60] ^= 255  # in the first image
    tar.write_bytes(bytes(spoilt))
    with pytest.raises(
        BadFile, match=r"test-000000\.tar' does not hold what was indexed: '00000000\.png' has other bytes"
    ):
        shards(tmp_path / "packed", tmp_path / "cache")


def test_remote_shards_are_looked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """webdataset/webdataset 291, of shards that are streamed: fetched for it once, and remembered."""
    fsspec = pytest.importorskip("fsspec")
    encoded = jpegs(160)
    encoded[9] = encoded[9][:300]
    write_shard(tmp_path / "train-0.tar", encoded)
    fsspec.filesystem("memory").pipe("/shards/train-0.tar", (tmp_path / "train-0.tar").read_bytes())

    def stream(cache: str) -> DataSet:
        asked = WebDatasetSettings(
            "webdataset", train="memory://shards/train-0.tar", cache=str(tmp_path / cache), damaged=0.1
        )
        return load(asked)

    first = stream("cache")
    assert used(first) == 159 and "000009.jpg" in first.findings.damaged[0].name
    looked: list[int] = []
    monkeypatch.setattr(TarSource, "look", lambda self, index, purpose, fully: looked.append(index) or Seen())
    again = stream("cache")
    assert not looked and (again.findings, again.digest) == (first.findings, first.digest)
    stream("another")
    assert len(looked) == 160


def test_a_run_says_what_was_left_out(tmp_path: Path) -> None:
    """ultralytics/yolov5 3095 and webdataset/webdataset 291, from a search's beginning to its result."""
    root = folder_of(tmp_path / "photos", 60)
    cut(root / "dog" / "001.png")
    finished = search(
        device="cpu",
        budget_ms=30,
        space="experiments/spaces/miniature.yaml",
        data={"name": "imagefolder", "root": str(root), "resolution": 16},
        train={"batch_size": 16},
        warmup={"epochs": 1},
        epochs=1,
        finetune={"epochs": 0},
        progress=False,
        out=str(tmp_path / "run"),
    )
    assert any("dog/001.png" in note for note in finished.result.notes)
    assert (finished.folder / "damaged.txt").read_text().startswith("dog/001.png: ")


# ------------------------------------------------------------------ images that are much larger than needed


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("progressive", [False, True])
def test_large_jpegs_are_decoded_at_the_scale_that_is_needed(orientation: int, progressive: bool) -> None:
    """open-mmlab/mmcv 214: photographs are decoded in full though a few hundred pixels of them are needed."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    source = EncodedSource([content(smooth(1500, 2000), "JPEG", quality=95, progressive=progressive, exif=exif)])
    whole = source.read(0)
    assert whole.shape == ((1500, 2000, 3) if orientation == 1 else (2000, 1500, 3))
    for purpose, scale in ((Purpose(128, "random"), 2), (Purpose(64, "random"), 4), (Purpose(128, "whole"), 8)):
        smaller = source.read_for(0, purpose)
        assert smaller.shape[:2] == tuple(-(-side // scale) for side in whole.shape[:2])
        shown = np.asarray(Image.fromarray(whole).resize(smaller.shape[1::-1], Image.Resampling.BOX), np.float32)
        assert np.abs(shown - smaller).mean() < 1.5


def test_images_not_much_larger_than_needed_keep_every_byte() -> None:
    """open-mmlab/mmcv 214's remedy must not blur small photographs: they are decoded as ever."""
    for size in ((375, 500), (300, 260), (500, 500)):
        encoded = content(noise(1, *size), "JPEG")
        with Image.open(io.BytesIO(encoded)) as image:
            plain = np.array(image.convert("RGB"))
        read = EncodedSource([encoded], kept=(kept := KeptImages())).read_for(0, Purpose(128, "random"))
        assert read.tobytes() == plain.tobytes() and kept.get(encoded, Purpose(128, "random")) is None
    large = content(noise(1, 900, 900), "PNG")
    assert EncodedSource([large]).read_for(0, Purpose(16, "whole")).shape == (900, 900, 3)


@pytest.mark.parametrize("crop", ["random", "centre", "shift", "whole"])
def test_no_crop_of_a_smaller_decode_is_below_the_resolution(tmp_path: Path, crop: str) -> None:
    """open-mmlab/mmcv 214: at least the pixels that a crop needs, whatever the image's sides."""
    data = replace(images(folder_of(tmp_path, 20)), crop=crop)
    rng = np.random.default_rng(0)
    scales = []
    for _ in range(300):
        height, width, resolution = int(rng.integers(16, 3000)), int(rng.integers(16, 3000)), int(rng.integers(16, 257))
        scale = Purpose(resolution, crop).scale(height, width)
        scales.append(scale)
        smaller = np.broadcast_to(np.zeros(3, np.uint8), (-(-height // scale), -(-width // scale), 3))
        shown = [_augment(smaller, data, draws).shape[:2] for draws in (None, rng)]
        assert scale == 1 or min(min(shape) for shape in shown) >= resolution - 1, (height, width, resolution)
    assert set(scales) == {1, 2, 4, 8}


def test_a_cut_large_jpeg_is_found_at_a_smaller_scale() -> None:
    """ultralytics/yolov5 3095: looking through photographs costs no full decode, and finds as many as one."""
    whole = content(noise(0, 800, 1000), "JPEG")
    purpose = Purpose(16, "random")
    for share in (0.01, 0.3, 0.9, 0.99, 0.9999):
        source = EncodedSource([whole[: int(share * len(whole))]])
        with pytest.raises(CannotDecode):
            source.look(0, purpose, True)
        with pytest.raises(CannotDecode):
            source.read(0)
    assert EncodedSource([whole]).look(0, purpose, True).transparent is False
    assert EncodedSource([whole]).read_for(0, purpose).shape == (100, 125, 3)


def test_batches_are_the_same_whether_large_images_are_kept_or_not(tmp_path: Path) -> None:
    """meituan/YOLOv6 924: the second epoch reads from memory what the first one decoded, the same to the byte."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(8):
            (tmp_path / name / f"{i}.jpg").write_bytes(content(noise(i, 400, 500), "JPEG"))
    data = images(tmp_path, resolution=16)
    source = data.train.source
    assert isinstance(source, EncodedSource) and source.decoder.kept is not None
    assert source.decoder.kept.get(0, Purpose(16, "random")) is not None
    other = EncodedSource(source.items, kept=KeptImages(0))
    anew = replace(data, train=Split(other, data.train.indices, data.train.labels))
    for epoch in (0, 1):
        mine, theirs = (list(d.batches(d.train, 16, 4, 3, epoch, training=True)) for d in (data, anew))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(mine, theirs, strict=True))


def test_no_more_is_kept_than_the_limit() -> None:
    """meituan/YOLOv6 924: memory is bounded, and another resolution starts anew."""
    one, other = Purpose(16, "whole"), Purpose(32, "none")
    kept = KeptImages(250)
    for key in range(3):
        kept.add(key, one, np.full((6, 6, 3), key, np.uint8))
    assert [kept.get(key, one) is not None for key in range(3)] == [True, True, False]
    assert kept.get(0, other) is None
    kept.add(2, other, np.zeros((6, 6, 3), np.uint8))
    assert kept.get(2, other) is not None and kept.get(0, one) is None


# ------------------------------------------------------------------ transparent parts


def _palette(rgba: NDArray[np.uint8]) -> bytes:
    with io.BytesIO() as file:
        grey = Image.fromarray((rgba[:, :, 3] // 255).astype(np.uint8), "P")
        grey.putpalette([0, 0, 0] * 256)
        grey.save(file, "PNG", transparency=0)
        return file.getvalue()


WRITTEN: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    "rgba": content,
    "grey": lambda rgba: content(rgba[:, :, 2:]),
    "palette": _palette,
    "webp": lambda rgba: content(rgba, "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize(("ground", "level"), [("white", 255), ("grey", 128), ("black", 0)])
def test_a_shape_in_the_alpha_channel_is_seen(kind: str, ground: str, level: int) -> None:
    """NVIDIA/DIGITS 85: black symbols that differ in their transparency alone were all one black square."""
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[2:5, 1:7, 3] = 255
    read = EncodedSource([WRITTEN[kind](rgba)], ground=ground).read(0)
    assert read.tolist() == np.where(rgba[:, :, 3:] == 255, 0, level).repeat(3, axis=2).tolist()


def test_half_transparent_parts_are_mixed_and_opaque_images_are_as_they_were() -> None:
    """NVIDIA/DIGITS 85: half transparent is half of both; an alpha channel that hides nothing changes nothing."""
    rgba = np.full((2, 2, 4), 100, np.uint8)
    rgba[:, :, 3] = [[0, 255], [51, 102]]
    assert EncodedSource([content(rgba)]).read(0)[:, :, 0].tolist() == [[255, 100], [224, 193]]
    rgba = noise(0, channels=4)
    rgba[:, :, 3] = 255
    for ground in ("white", "black"):
        assert EncodedSource([content(rgba)], ground=ground).read(0).tobytes() == rgba[:, :, :3].tobytes()


def test_transparent_images_are_said_once_and_the_ground_is_in_the_digest(tmp_path: Path) -> None:
    """NVIDIA/DIGITS 85: nothing told that the pictures' content was dropped."""
    root = folder_of(tmp_path / "photos", 20)
    opaque = {images(root, ground=ground).digest for ground in ("white", "black")}
    assert len(opaque) == 1 and len(images(root).found) == 1
    for i in range(3):
        (root / "cat" / f"{i:03}.png").write_bytes(content(noise(i, channels=4)))
    _, sentence = images(root).found
    assert "3 images" in sentence and "data.ground=white" in sentence
    assert images(root, ground="black").digest != images(root).digest
    with pytest.raises(UserError, match=r"data\.ground"):
        images(root, ground="pink")


def test_packed_transparent_images_are_laid_on_the_ground_when_read(tmp_path: Path) -> None:
    """NVIDIA/DIGITS 85, by way of shards: they keep the files' bytes."""
    root = folder_of(tmp_path / "photos", 20)
    (root / "cat" / "000.png").write_bytes(content(np.zeros((4, 4, 4), np.uint8)))
    pack(images(root), tmp_path / "packed")
    for ground, level in (("white", 255), ("grey", 128)):
        data = shards(tmp_path / "packed", tmp_path / "cache", ground=ground)
        assert f"data.ground={ground}" in " ".join(data.found)
        flat = [
            image
            for split in (data.train, data.validation, data.test)
            for image in (split.source.read(int(i)) for i in split.indices)
            if image.shape == (4, 4, 3)
        ]
        assert len(flat) == 1 and set(flat[0].ravel().tolist()) == {level}
