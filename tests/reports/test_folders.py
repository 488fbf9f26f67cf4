"""Folders of images as people lay them out: what is recognised, refused, passed over and said.

Every test makes its input. Not for single images: damaged ones and their formats are tested elsewhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import DataSet, DataSettings, Split, load, peek
from nas.data.folders import PassedOver, images_in, layout_of, printable
from nas.pack import pack
from search_space.errors import BadFile
from tests import ROOT

SMALL = [
    *("device=cpu", "budget_ms=30", "space=experiments/spaces/miniature.yaml", "threads=1", "accelerator=cpu"),
    *("train.batch_size=8", "data.resolution=16", "warmup.epochs=1", "epochs=1", "finetune.epochs=1", "rerank=1"),
]


def write(folder: Path, count: int = 1) -> Path:
    """A folder with so many images, each different from those of other folders."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([number, *os.fsencode(folder)])
        Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


def splits(root: Path, counts: dict[str, int], classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """ROOT/SPLIT/CLASS with so many images in every class."""
    for split, count in counts.items():
        for name in classes:
            write(root / split / name, count)
    return root


def loaded(root: Path, **options: int) -> DataSet:
    """The images, whose classes are those that are found before any is read."""
    settings = DataSettings("imagefolder", str(root), validation_share=0.1, **options)
    data = load(settings)
    assert peek(settings).class_names == data.class_names
    return data


def files(data: DataSet, split: Split) -> list[str]:
    """Of a split's images their paths, each once."""
    items: list[Path] = split.source.items  # type: ignore[attr-defined]
    paths = [str(items[index]) for index in split.indices]
    assert len(paths) == len(set(paths))
    for path, label in zip(paths, split.labels, strict=True):
        assert f"/{data.class_names[label]}/" in path
    return paths


def sizes(data: DataSet) -> tuple[int, int, int]:
    return len(data.train), len(data.validation), len(data.test)


def refused(root: Path, *named: str) -> str:
    """The one line with which a folder is refused, before its images are read."""
    with pytest.raises(BadFile) as caught:
        peek(DataSettings("imagefolder", str(root)))
    message = str(caught.value)
    assert "\n" not in message and all(name in message for name in named), message
    return message


# ------------------------------------------------------------------ which folders are splits


@pytest.mark.parametrize("train", ["train", "Train", "TRAIN", "training", "Training"])
@pytest.mark.parametrize("held", ["Test", "testing", "TESTING", "Validation", "valid", "Val", "dev"])
def test_splits_have_many_names_in_any_case(train: str, held: str, tmp_path: Path) -> None:
    """Folders Train/Test and training/testing were read as two classes.

    pytorch-image-models 957, torchvision 613, simsiam 49.
    """
    data = loaded(splits(tmp_path, {train: 10, held: 3}))
    assert data.class_names == ("cat", "dog") and sizes(data) == (18, 2, 6)
    assert all(f"/{held}/" in path for path in files(data, data.test))
    assert all(f"/{train}/" in path for path in files(data, data.train) + files(data, data.validation))
    assert f"'{train}'" in data.found[0] and f"'{held}'" in data.found[0]


def test_training_images_alone_are_divided(tmp_path: Path) -> None:
    """One folder Train, and nothing to test with. simsiam 49."""
    data = loaded(splits(tmp_path, {"Train": 10}))
    assert data.class_names == ("cat", "dog") and sizes(data) == (14, 2, 4)
    assert "validation 2 (held out), test 4 (held out)" in data.found[0]


@pytest.mark.parametrize("names", [("train", "Train"), ("val", "valid"), ("test", "Testing")])
def test_two_names_of_one_split_are_a_question(names: tuple[str, str], tmp_path: Path) -> None:
    """Which of valid and val is meant cannot be known. torchvision 613."""
    splits(tmp_path, {"training" if "train" not in names else "test": 3, **dict.fromkeys(names, 3)})
    assert "which one" in refused(tmp_path, *(f"'{name}'" for name in names))


def test_a_train_among_vehicles_is_a_class(tmp_path: Path) -> None:
    """Train is a class of COCO and CIFAR-100, too. pytorch-image-models 957."""
    for name in ("bus", "car", "train"):
        write(tmp_path / name, 10)
    data = loaded(tmp_path)
    assert data.class_names == ("bus", "car", "train") and sum(sizes(data)) == 30
    assert any("'train' is taken for a class" in sentence for sentence in data.found)
    write(tmp_path / "train" / "steam", 2)  # now it may be either
    assert f"data.root={tmp_path / 'train'}" in refused(tmp_path, "'bus', 'car'", "'train'")


def test_a_test_among_classes_is_a_question(tmp_path: Path) -> None:
    """Training classes in the root beside a folder of test images. pytorch-image-models 957."""
    for name in ("cat", "dog", "test/cat", "test/dog"):
        write(tmp_path / name, 3)
    refused(tmp_path, "'test'", "'cat', 'dog'", "'train'")


def test_images_to_test_alone_are_refused(tmp_path: Path) -> None:
    """A root with nothing to train on. simsiam 49."""
    assert "no training images" in refused(splits(tmp_path, {"val": 3, "test": 3}), "'test'", "'val'")


def test_a_train_folder_without_classes_is_refused(tmp_path: Path) -> None:
    """Images flat in train and test were no classes called train and test. torchvision 613."""
    write(tmp_path / "train", 3)
    write(tmp_path / "test", 3)
    refused(tmp_path, f"'{tmp_path / 'train'}' has 0 class folders")


def test_test_images_without_classes_are_passed_over(tmp_path: Path) -> None:
    """Kaggle's test images have no labels. simsiam 49."""
    write(splits(tmp_path, {"train": 10}) / "test", 7)
    data = loaded(tmp_path)
    assert sizes(data) == (14, 2, 4)
    assert "passed over: 7 in the folder 'test'" in data.found[0] and "'test' has no class folders" in data.found[1]


@pytest.mark.parametrize("inner", ["dataset", "archive/dataset", "dataset/dataset"])
@pytest.mark.parametrize("split", [False, True])
def test_folders_around_the_root_are_entered(inner: str, split: bool, tmp_path: Path) -> None:
    """An unpacked archive holds a folder that holds everything; it was taken for the only class.

    pytorch-image-models 957.
    """
    root = tmp_path / inner
    if split:
        splits(root, {"Train": 10, "Test": 3})
    for name in () if split else ("cat", "dog"):
        write(root / name, 10)
    (tmp_path / "README.txt").touch()
    data = loaded(tmp_path)
    assert data.class_names == ("cat", "dog") and data.name == tmp_path.name
    assert sizes(data) == ((18, 2, 6) if split else (14, 2, 4))
    assert any(f"'{inner}'" in sentence for sentence in data.found[1:])
    assert "passed over: 1 .txt" in data.found[0]


def test_a_folder_around_the_classes_of_a_split_is_entered(tmp_path: Path) -> None:
    """Kaggle's archives hold train/train/CLASS. pytorch-image-models 957."""
    splits(tmp_path, {"train/train": 10, "test/test": 3})
    assert sizes(loaded(tmp_path)) == (18, 2, 6)


def test_one_folder_without_folders_is_a_question(tmp_path: Path) -> None:
    """All images in one folder. torchvision 613."""
    write(tmp_path / "images", 3)
    refused(tmp_path, "has 1 class folders", "one folder of images for every class")


def test_a_folder_linked_into_itself_ends(tmp_path: Path) -> None:
    """A link to its own folder was followed for ever. pytorch-image-models PR 334."""
    (tmp_path / "again").symlink_to(tmp_path)
    refused(tmp_path, "has 1 class folders")


# ------------------------------------------------------------------ what each split is for


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "dev"])
def test_three_splits_are_used_as_they_are(name: str, tmp_path: Path) -> None:
    """Roboflow's train, valid and test: the validation images were never looked at. simsiam 49."""
    data = loaded(splits(tmp_path, {"train": 10, name: 4, "test": 3}))
    assert sizes(data) == (20, 8, 6)
    for split, folder in ((data.train, "train"), (data.validation, name), (data.test, "test")):
        assert all(path.startswith(f"{tmp_path / folder}/") for path in files(data, split))
        assert Counter(split.labels.tolist()).keys() == {0, 1}
    assert "34 images of 2 classes ('cat', 'dog'), 17 each; train 20 ('train')" in data.found[0]
    assert f"validation 8 ('{name}')" in data.found[0]
    assert "test 6 ('test')" in data.found[0] and len(data.found) == 1


def test_a_limit_leaves_validation_and_test_images(tmp_path: Path) -> None:
    """Use fewer training images, measured on the same others. simsiam 49."""
    data = loaded(splits(tmp_path, {"train": 10, "val": 4, "test": 3}), limit=8)
    assert sizes(data) == (8, 8, 6) and "data.limit leaves out 12" in data.found[0]


@pytest.mark.parametrize("name", ["val", "valid"])
def test_without_test_images_validation_images_are_the_test(name: str, tmp_path: Path) -> None:
    """ImageNet's habit: accuracies are those of val, which nothing may see before. torchvision 613."""
    data = loaded(splits(tmp_path, {"train": 10, name: 4}))
    assert sizes(data) == (18, 2, 8)
    assert f"validation 2 (held out), test 8 ('{name}', as there is no test folder)" in data.found[0]


def test_validation_images_are_packed_by_themselves(tmp_path: Path) -> None:
    """Each image must come from its own split. webdataset 291."""
    data = loaded(splits(tmp_path / "images", {"train": 10, "val": 4, "test": 3}))
    assert "20 training, 8 validation and 6 test images" in pack(data, tmp_path / "shards")


# ------------------------------------------------------------------ splits that lack classes


@pytest.mark.parametrize("held", ["val", "test", "dev"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_held_out_split_may_lack_a_class(held: str, empty: bool, tmp_path: Path) -> None:
    """A rare class has no image to test with. Its labels must stay those of its name. ultralytics 13936."""
    splits(tmp_path, {"train": 10}, ("ant", "bee", "cow"))
    splits(tmp_path, {held: 3}, ("ant", "cow"))
    if held == "dev":
        splits(tmp_path, {"test": 3}, ("ant", "bee", "cow"))
    if empty:
        (tmp_path / held / "bee").mkdir()
    data = loaded(tmp_path)
    lacking, name = (data.validation, "validation") if held == "dev" else (data.test, "test")
    assert Counter(lacking.labels.tolist()) == {0: 3, 2: 3}
    files(data, lacking)  # every label is that of its folder
    assert f"the {name} images lack 1 of 3 classes: 'bee'" in data.found


def test_a_split_may_have_one_class_alone(tmp_path: Path) -> None:
    """Its only folder is a class, though it has folders of its own. ultralytics 13936."""
    splits(tmp_path, {"train": 10})
    write(tmp_path / "test" / "dog" / "monday", 3)
    assert loaded(tmp_path).test.labels.tolist() == [1, 1, 1]


def test_a_class_that_was_never_trained_is_named(tmp_path: Path) -> None:
    """Labels would have shifted without a word. ultralytics 13936."""
    splits(tmp_path, {"train": 3, "test": 3})
    write(tmp_path / "test" / "emu")
    refused(tmp_path, "'emu'", "training images lack")
    (tmp_path / "test" / "emu").rename(tmp_path / "test" / "Cat")
    refused(tmp_path, "'Cat'", "'cat'")


def test_an_empty_split_and_an_empty_class_to_train_are_named(tmp_path: Path) -> None:
    """Nothing to measure on, and nothing to learn from. ultralytics 13936."""
    splits(tmp_path, {"train": 3, "val": 0})
    with pytest.raises(BadFile, match="val' holds no image"):
        loaded(tmp_path)
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(BadFile, match="emu' holds no image"):
        loaded(tmp_path)


# ------------------------------------------------------------------ links, folders in folders, other files


def test_images_in_linked_and_inner_folders_are_used(tmp_path: Path) -> None:
    """Two thirds of the images lay behind links, and were left out without a word. pytorch-image-models PR 334."""
    for name in ("cat", "dog"):
        write(tmp_path / "images" / name, 5)
        write(tmp_path / "images" / name / "monday" / "noon", 5)
        write(tmp_path / "store" / name, 10)
        (tmp_path / "images" / name / "batch_2").symlink_to(Path("../../store") / name)
    data = loaded(tmp_path / "images")
    assert sum(sizes(data)) == 40 and "40 images" in data.found[0] and "nothing was passed over" in data.found[0]
    for split in (data.train, data.validation, data.test):
        files(data, split)


def test_a_linked_class_folder_and_a_linked_split_are_used(tmp_path: Path) -> None:
    """The whole class, or the whole split, is elsewhere. fastai PR 2270."""
    splits(tmp_path / "store", {"a": 10, "b": 3})
    root = tmp_path / "images"
    (root / "train").mkdir(parents=True)
    for name in ("cat", "dog"):
        (root / "train" / name).symlink_to(tmp_path / "store" / "a" / name)
    (root / "test").symlink_to(tmp_path / "store" / "b")
    assert sizes(loaded(root)) == (18, 2, 6)


def test_links_that_lead_nowhere_or_back_are_counted(tmp_path: Path) -> None:
    """A link to a folder above never ended, or brought every class into one. pytorch-image-models PR 334."""
    for name in ("cat", "dog"):
        write(tmp_path / "images" / name / "inner", 10)
    cat = tmp_path / "images" / "cat"
    (cat / "up").symlink_to("..")
    (cat / "inner" / "top").symlink_to(tmp_path)
    (cat / "self").symlink_to("self")
    (cat / "gone.png").symlink_to("nowhere.png")
    (cat / "twice").symlink_to("inner")
    data = loaded(tmp_path / "images")
    assert sum(sizes(data)) == 20 and len(files(data, data.train)) == len(data.train)
    assert "2 linked to a folder above, 1 linked to a folder met before, 2 linked to nothing" in data.found[0]


def test_a_folder_named_like_a_picture_is_looked_into(tmp_path: Path) -> None:
    """shots.jpg is a folder; Synology keeps thumbnails in @eaDir/NAME.jpg/. fastai PR 2270."""
    for name in ("cat", "dog"):
        write(tmp_path / name, 9)
        write(tmp_path / name / "shots.jpg", 1)
        write(tmp_path / name / "@eaDir" / "00.png", 3)
    write(tmp_path / "@eaDir" / "cat", 3)
    data = loaded(tmp_path)
    assert data.class_names == ("cat", "dog") and sum(sizes(data)) == 20
    assert data.found[0].endswith("passed over: 3 hidden or of the system")


def test_what_is_no_image_is_counted_wherever_it_lies(tmp_path: Path) -> None:
    """Lists, notes and stray images beside the classes and splits. fastai PR 2270."""
    splits(tmp_path, {"train": 10, "test": 3})
    write(tmp_path, 2)
    write(tmp_path / "train", 1)
    for name in ("labels.csv", "train/cat/notes.txt", "test/dog/Thumbs.db", "train/dog/clip.mp4", "test/cat/a.txt"):
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "train" / "cat" / "pipe.jpg")  # reading it would never end
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "1.xml").touch()
    data = loaded(tmp_path)
    assert sizes(data) == (18, 2, 6)
    _, said = data.found[0].split("passed over: ")
    assert said.startswith("2 .txt, 1 .csv, 1 .mp4 (images are ")
    assert said.endswith(
        "), 1 hidden or of the system, 1 in the folder 'annotations', 1 neither file nor folder, "
        "3 outside of class folders"
    )


def test_images_come_in_the_same_order_however_the_disk_lists_them(tmp_path: Path) -> None:
    """Equal seeds are equal weights: the order is that of the paths. pytorch-image-models PR 334."""
    write(tmp_path / "b", 3)
    write(tmp_path / "a.d", 2)
    write(tmp_path / "c" / "a", 1)
    found = sorted(images_in(tmp_path, {".png"}, PassedOver()))
    assert found == sorted(tmp_path.rglob("*.png")) and len(found) == 6


# ------------------------------------------------------------------ names in any bytes


def test_accents_in_two_forms_are_one_class(tmp_path: Path) -> None:
    """macOS writes letter and accent apart; on Linux the names differ. renpy 2327, usdb_syncer 110."""
    composed, apart = (unicodedata.normalize(form, "Hühner") for form in ("NFC", "NFD"))
    assert composed != apart
    splits(tmp_path, {"train": 10}, (apart, "cat"))
    splits(tmp_path, {"test": 3}, (composed, "cat"))
    data = loaded(tmp_path)
    assert data.class_names == (composed, "cat") and sizes(data) == (18, 2, 6) and len(data.found) == 1
    splits(tmp_path, {"train": 5}, (composed,))
    data = loaded(tmp_path)
    assert data.class_names == (composed, "cat") and sum(sizes(data)) == 31
    assert any(composed in sentence and "2 folders" in sentence for sentence in data.found[1:])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9", "caf\\xe9"),
        ("cafe\u0301".encode(), "café"),
        (b"two\nlines", "two\\nlines"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        ("two\u2028lines".encode(), "two\\u2028lines"),
        ("👩‍🌾 犬".encode(), "👩‍🌾 犬"),
    ],
)
def test_names_are_printable(name: bytes, shown: str) -> None:
    """Bytes that are no UTF-8 stopped what printed or saved them. LibrePhotos 125."""
    assert printable(os.fsdecode(name)) == shown
    assert shown.encode().decode() == shown and "\n" not in shown


def test_a_search_with_any_names_says_and_keeps_what_was_found(tmp_path: Path) -> None:
    """From folders in Latin-1 to the last line, on a terminal that knows ASCII alone. LibrePhotos 125."""
    root = tmp_path / os.fsdecode(b"photos \xe9")
    for name in (os.fsdecode(b"caf\xe9"), "Hühner", "two\nlines"):
        write(root / "Train" / name, 12)
        if name != "two\nlines":
            write(root / "Test" / name, 4)
    command = [sys.executable, "-m", "nas.search", *SMALL, "data=imagefolder", f"data.root={root}"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    out = tmp_path / "run é"
    ended = subprocess.run([*command, f"out={out}"], capture_output=True, cwd=ROOT, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"Traceback" not in ended.stderr and ended.stdout.isascii()
    record = json.loads((out / "architecture.json").read_text())
    assert record["input"]["class_names"] == ["Hühner", "caf\\xe9", "two\\nlines"]
    assert record["accuracy"]["data"] == "photos \\xe9"
    counts = "44 images of 3 classes ('Hühner', 'caf\\xe9', 'two\\nlines'), 12 to 16 each; train 33 ('Train'), valid"
    lacks = "the test images lack 1 of 3 classes: 'two\\nlines'"
    assert any(counts in note for note in record["notes"]) and lacks in record["notes"]
    lines = ended.stdout.decode().splitlines()
    assert sum(counts.replace("ü", "\\xfc") in line for line in lines) == 1 and f"note: {lacks}" in lines
    assert any(line.endswith("run \\xe9") for line in lines)


# ------------------------------------------------------------------ what every run says


def test_a_data_set_of_the_package_says_how_many_images_it_has() -> None:
    """A run that found a third of the images looked like any other. pytorch-image-models PR 334."""
    data = load(DataSettings("digits", limit=100))
    (found,) = data.found
    a, b, c = sizes(data)
    assert found.startswith("data digits: 1797 images of 10 classes ('0', '1', '2', '3', '4', '5', ...), 174 to 183 e")
    assert f"train {a}, validation {b} (held out), test {c} (held out)" in found
    assert f"data.limit leaves out {1797 - a - b - c}" in found


def test_folders_are_found_without_reading_images(tmp_path: Path) -> None:
    """A layout is what the folders are named; a file of any content may lie in them. torchvision 613."""
    for name in ("Train/cat", "Train/dog", "Dev/cat"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "damaged.png").write_bytes(b"no image")
    layout = layout_of(tmp_path)
    assert layout.class_names == ("cat", "dog") and layout.train.folder == tmp_path / "Train"
    assert list(layout.held_out) == ["validation"] and layout.held_out["validation"].folder == tmp_path / "Dev"
