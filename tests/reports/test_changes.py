"""The same picture more than once, and pictures that change between a run and the next: what is kept apart and said.

Every test makes its input. Not for how folders are laid out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from nas.api import search
from nas.data import DataSet, DataSettings, Split, load
from nas.data.copies import kept_together
from nas.data.record import FILE, Record
from nas.data.splits import split_by_key
from nas.run.resume import Begun
from search_space.errors import BadFile, UserError


def picture(number: int, height: int = 24, width: int = 24) -> NDArray[np.uint8]:
    """(H, W, 3) of smooth colours that no other number has."""
    coarse = np.random.default_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def fill(folder: Path, numbers: range) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(picture(number)).save(folder / f"{number:03}.png")
    return folder


def pets(root: Path, each: int = 30) -> Path:
    for label, name in enumerate(("cat", "dog")):
        fill(root / name, range(1000 * label, 1000 * label + each))
    return root


def images(root: Path, **options: object) -> DataSet:
    settings = DataSettings("imagefolder", str(root), resolution=16, validation_share=0.2)
    return load(replace(settings, **options))  # type: ignore[arg-type]


def names(data: DataSet, split: Split) -> set[str]:
    assert data.identities is not None
    return {data.identities.names[index] for index in split.indices}


def contents(data: DataSet, split: Split) -> set[str]:
    assert data.identities is not None
    return {data.identities.contents[index] for index in split.indices}


def parts(data: DataSet) -> dict[str, Split]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def said(data: DataSet, *words: str) -> bool:
    return any(all(word in sentence for word in words) for sentence in data.found)


# ------------------------------------------------------------------ copies


def test_copies_of_a_picture_stay_on_one_side(tmp_path: Path) -> None:
    """Each picture five times, as "(1)" to "(4)": noise with random labels was learnt by heart, "100.0 %".

    RIAWELC 2, PlantSeg 11.
    """
    root = pets(tmp_path, 12)
    for path in sorted(root.rglob("*.png")):
        for number in range(1, 5):
            path.with_stem(f"{path.stem} ({number})").write_bytes(path.read_bytes())
    data = images(root)
    assert sum(len(split) for split in parts(data).values()) == 120
    seen = [contents(data, split) for split in parts(data).values()]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 24
    assert said(data, "96 images are byte copies")


def test_held_out_copies_of_training_images_are_left_out(tmp_path: Path) -> None:
    """The splits are the user's own, and share pictures. RIAWELC 2."""
    for split, first in (("train", 0), ("val", 100), ("test", 200)):
        for label, name in enumerate(("cat", "dog")):
            fill(tmp_path / split / name, range(first + 1000 * label, first + 1000 * label + 10))
    whole = images(tmp_path)
    for split, name in (("val", "a"), ("test", "b"), ("test", "c")):
        (tmp_path / split / "cat" / f"{name}.png").write_bytes((tmp_path / "train/cat/003.png").read_bytes())
    (tmp_path / "val" / "dog" / "d.png").write_bytes((tmp_path / "test/dog/1203.png").read_bytes())
    data = images(tmp_path)
    for role, split in parts(whole).items():
        assert names(whole, split) == names(data, parts(data)[role])
    assert said(data, "2 of 22 test images are copies of train images and left out", "'test/cat/b.png'")
    assert said(data, "1 of 22 validation images are copies of train images", "'val/cat/a.png'")
    assert said(data, "1 of 22 validation images are copies of test images", "'val/dog/d.png'")


def test_a_test_folder_that_is_the_training_folder_is_said(tmp_path: Path) -> None:
    """Nothing is left to measure on. PlantSeg 11."""
    pets(tmp_path / "train", 10)
    pets(tmp_path / "test", 10)
    data = images(tmp_path)
    assert len(data.test) == 20 and said(data, "every test image is a copy", "says nothing about other images")


def test_copies_of_two_classes_are_named(tmp_path: Path) -> None:
    """The same picture is a cat and a dog. PlantSeg 11."""
    root = pets(tmp_path, 10)
    (root / "dog" / "x.png").write_bytes((root / "cat" / "004.png").read_bytes())
    assert said(images(root), "pictures with copies of another class: 1 (", "cat/004.png = dog/x.png")


def test_a_picture_saved_anew_or_smaller_is_a_near_copy(tmp_path: Path) -> None:
    """No byte is the same. PlantSeg 11."""
    for split, first in (("train", 0), ("test", 200)):
        for label, name in enumerate(("cat", "dog")):
            fill(tmp_path / split / name, range(first + 1000 * label, first + 1000 * label + 20))
    assert not said(images(tmp_path), "look like")
    Image.fromarray(picture(3)).save(tmp_path / "test" / "cat" / "x.jpg", quality=80)
    Image.fromarray(picture(1005)).resize((48, 48)).save(tmp_path / "test" / "dog" / "y.png")
    trained = images(tmp_path)
    both = {"train/cat/003.png", "train/dog/1005.png"} & names(trained, trained.train)
    assert both and said(trained, f"{len(both)} of 42 test images look like a training image")


def test_pictures_of_one_colour_are_no_near_copies(tmp_path: Path) -> None:
    """An empty ground under small things: all look alike when they are small. PlantSeg 11."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(20):
            pixels = np.full((64, 64, 3), 200, np.uint8)
            pixels[number, label] = 0
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    assert len(images(tmp_path).found) == 1


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["", "p", "q", "r", "s"])), min_size=1, max_size=30)
)
def test_what_is_tied_by_copies_or_groups_has_one_key(rows: list[tuple[str, str]]) -> None:
    keys = kept_together([content for content, _ in rows], [group for _, group in rows])
    for one, (content, group) in zip(keys, rows, strict=True):
        for other, (its_content, its_group) in zip(keys, rows, strict=True):
            if content == its_content or (group and group == its_group):
                assert one == other
    assert kept_together([c for c, _ in reversed(rows)], [g for _, g in reversed(rows)]) == keys[::-1]
    assert len(set(keys)) >= (1 if any(g for _, g in rows) else len({c for c, _ in rows}))


# ------------------------------------------------------------------ the division


def test_keys_alone_decide_the_split() -> None:
    keys = [f"{number:x}" for number in range(400)]
    labels = np.arange(400) % 4
    rest, held = split_by_key(labels, keys, 0.2, seed=1)
    assert sorted([*rest, *held]) == list(range(400))
    assert np.bincount(labels[held]).tolist() == [20] * 4
    order = np.random.default_rng(0).permutation(400)
    _, again = split_by_key(labels[order], [keys[i] for i in order], 0.2, seed=1)
    assert set(order[again].tolist()) == set(held.tolist())
    assert set(split_by_key(labels, keys, 0.2, seed=2)[1].tolist()) != set(held.tolist())


@given(st.lists(st.integers(3, 8), min_size=2, max_size=4), st.integers(0, 1000))
def test_small_classes_have_an_image_in_every_split(counts: list[int], salt: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = [f"{salt} {number}" for number in range(len(labels))]
    rest, held = split_by_key(labels, keys, 0.2, seed=1, least=2)
    assert min(Counter(labels[held].tolist()).values()) >= 1 and len(set(labels[held])) == len(counts)
    assert min(Counter(labels[rest].tolist()).values()) >= 2 and len(set(labels[rest])) == len(counts)


def test_images_that_come_move_no_other(tmp_path: Path) -> None:
    """Positions shifted, and images that were trained on became test images. OpenTau 502, torchani 443."""
    before = images(pets(tmp_path, 60))
    record = before.record
    assert record is not None and before.divided_as(record).digest == before.digest
    fill(tmp_path / "cat", range(500, 530))
    (tmp_path / "dog" / "1007.png").rename(tmp_path / "dog" / "aaa.png")
    (tmp_path / "dog" / "bbb.png").write_bytes((tmp_path / "dog" / "1008.png").read_bytes())
    drawn = images(tmp_path)
    after = drawn.divided_as(record)
    for role, split in parts(before).items():
        assert contents(before, split) <= contents(after, parts(after)[role])
    assert sum(map(len, parts(after).values())) == 151
    assert any(
        not contents(before, split) <= contents(drawn, parts(drawn)[role]) for role, split in parts(before).items()
    )
    seen = [contents(after, split) for split in parts(after).values()]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 150


# ------------------------------------------------------------------ between two runs

OPTIONS = {
    "device": "cpu",
    "budget_ms": 30.0,
    "space": "experiments/spaces/miniature.yaml",
    "threads": 1,
    "accelerator": "cpu",
    "train": {"batch_size": 8},
    "warmup": {"epochs": 1},
    "epochs": 1,
    "finetune": {"epochs": 1},
    "rerank": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A search's folder, and the images that it was on."""
    folder = tmp_path_factory.mktemp("run")
    root = pets(folder / "images")
    search(data={"name": "imagefolder", "root": str(root), "resolution": 16}, out=str(folder / "a"), **OPTIONS)  # type: ignore[arg-type]
    return folder / "a", root


def again(run: Path, root: Path, out: Path, **options: object) -> tuple[str, ...]:
    """Notes of a search that starts from the run's supernet."""
    data = {"name": "imagefolder", "root": str(root), **options}
    finished = search(init=str(run), device="cpu", budget_ms=30, threads=1, data=data, out=str(out))  # type: ignore[arg-type]
    assert finished is not None
    return finished.targets[0].result.notes


def copied(root: Path, to: Path) -> Path:
    for path in sorted(root.rglob("*.png")):
        (to / path.parent.name).mkdir(parents=True, exist_ok=True)
        (to / path.parent.name / path.name).write_bytes(path.read_bytes())
    return to


def test_a_run_keeps_which_image_was_in_which_split(run: tuple[Path, Path]) -> None:
    record, data = Record.load(run[0]), images(run[1], validation_share=0.1)
    assert record is not None and record == data.record
    assert Counter(one.split for one in record.images) == {role: len(split) for role, split in parts(data).items()}
    assert record.images[0].name == "cat/000.png" and (run[0] / FILE).read_text().startswith("split,class_name,")


def test_a_renamed_image_stays_in_its_split(run: tuple[Path, Path], tmp_path: Path) -> None:
    """6 of 12 test images had been trained on, without a word. OpenTau 502."""
    root = copied(run[1], tmp_path / "images")
    (root / "cat" / "000.png").rename(root / "cat" / "zzz.png")
    notes = again(run[0], root, tmp_path / "b")
    assert any("1 under another name ('cat/000.png' as 'cat/zzz.png')" in note for note in notes)


def test_an_added_image_is_said_to_be_new(run: tuple[Path, Path], tmp_path: Path) -> None:
    """An option was blamed that had not changed. torchani 443."""
    root = copied(run[1], tmp_path / "images")
    fill(root / "cat", range(700, 701))
    (root / "dog" / "1000.png").unlink()
    Image.fromarray(picture(800)).save(root / "dog" / "1001.png")
    notes = again(run[0], root, tmp_path / "b")
    (note,) = [note for note in notes if "the images changed" in note]
    assert "1 new ('cat/700.png'), 1 gone ('dog/1000.png'), 1 with other content ('dog/1001.png')" in note


def test_images_that_were_trained_on_are_not_measured_on(run: tuple[Path, Path], tmp_path: Path) -> None:
    """The user divides anew what was trained on. OpenTau 502."""
    record = Record.load(run[0])
    assert record is not None
    trained = [one.name for one in record.images if one.split == "train"]
    for name in (one.name for one in record.images):
        to = tmp_path / "images" / ("test" if name in trained[:2] + trained[-2:] else "train") / name
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes((run[1] / name).read_bytes())
    with pytest.raises(UserError, match="4 of its train images would be test images") as caught:
        again(run[0], tmp_path / "images", tmp_path / "b")
    assert "\n" not in str(caught.value) and not (tmp_path / "b").exists()


def test_another_share_is_still_the_options_fault(run: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"with data\.validation_share=0\.1 .*divided otherwise"):
        again(run[0], run[1], tmp_path / "b", validation_share=0.6)


def test_resuming_says_what_changed(run: tuple[Path, Path], tmp_path: Path) -> None:
    """ "The data changed", of 60 images, and nobody knew which. torchani 443."""
    data = images(run[1])
    begun = Begun("search", {}, None, datetime.now(UTC), {"data": data.digest})
    begun.require_same(tmp_path, {"data": data.digest}, data.changed_since(tmp_path))
    data.save_found(tmp_path)
    root = copied(run[1], tmp_path / "images")
    fill(root / "cat", range(700, 701))
    other = images(root)
    with pytest.raises(UserError, match=re.escape("begun: 1 new ('cat/700.png'); put the images back, or start")):
        begun.require_same(tmp_path, {"data": other.digest}, other.changed_since(tmp_path))


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"split,class_name,sha256,name\n1,2\n", b"\xff\xfe\n"])
def test_a_damaged_list_of_images_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(BadFile, match="is not the list of a run's images") as caught:
        Record.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_architecture_json_says_what_was_found(run: tuple[Path, Path]) -> None:
    notes = json.loads((run[0] / "architecture.json").read_text())["notes"]
    assert any(note.startswith("data images: 60 images of 2 classes") for note in notes)
