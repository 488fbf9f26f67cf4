"""Images that a table or a Hugging Face data set lists, and kinds of files that not every Pillow decodes.

Every test makes its input.
"""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from nas.data import DataSet, Split, find, load, peek
from nas.data.decoders import image_endings
from nas.data.folders import PassedOver
from nas.data.imagefolder import ImageFolderSettings
from nas.pack import pack
from search_space.errors import BadFile, UserError
from tests.reports.test_changes import fill, images, names, parts, picture, said


def table(path: Path, rows: list[tuple[str, ...]], head: str = "path,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def read(file: Path | None, **options: object) -> DataSet:
    """The images of a table, whose classes are those that are found before any is read."""
    settings = replace(find("table").defaults, file=file and str(file), resolution=16, validation_share=0.2)
    settings = replace(settings, **options)  # type: ignore[arg-type]
    data = load(settings)
    assert peek(settings).class_names == data.class_names
    return data


def flat(folder: Path, count: int = 40) -> list[str]:
    """Files in one folder, and their names."""
    fill(folder, range(count))
    return [f"{number:03}.png" for number in range(count)]


def seen(split: Split) -> list[bytes]:
    """The pictures of a split, in any order."""
    return sorted(split.source.read(int(index)).tobytes() for index in split.indices)


def refused(make: Callable[[], object], *words: str) -> None:
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


# ------------------------------------------------------------------ tables


def test_a_table_of_paths_and_labels(tmp_path: Path) -> None:
    """All images in one folder, their classes in a CSV beside it: Kaggle's habit. simsiam 49."""
    files = flat(tmp_path / "all")
    rows = [(f"all/{name}", "dog" if number % 2 else "cat") for number, name in enumerate(files)]
    data = read(table(tmp_path / "labels.csv", rows))
    assert data.class_names == ("cat", "dog") and data.name == "labels"
    for split in parts(data).values():
        for name, label in zip([data.identities.names[i] for i in split.indices], split.labels, strict=True):  # type: ignore[union-attr]
            assert int(name[4:7]) % 2 == label
    assert data.found[0].startswith("data labels: 40 images of 2 classes") and "nothing was passed" in data.found[0]
    elsewhere = table(tmp_path / "elsewhere" / "t.csv", rows)
    assert read(elsewhere, root=str(tmp_path)).digest == data.digest == read(None, root=str(tmp_path)).digest


def test_a_table_says_the_splits(tmp_path: Path) -> None:
    """By any of their names; without test rows the validation rows are the test. torchvision 613."""
    files = flat(tmp_path)
    split = ["Train"] * 24 + ["valid"] * 8 + ["testing"] * 8
    rows = [(name, str(i % 2), split[i]) for i, name in enumerate(files)]
    data = read(table(tmp_path / "t.csv", rows, "path,label,split"))
    assert [len(part) for part in parts(data).values()] == [24, 8, 8]
    assert "test 8 (column 'split')" in data.found[0]
    data = read(table(tmp_path / "u.csv", rows[:32], "path,label,split"))
    assert len(data.test) == 8 and "as there is no test split" in data.found[0]


def test_images_of_a_group_are_never_in_two_splits(tmp_path: Path) -> None:
    """Shots of one patient, or of one burst, in training and test: the accuracy is of known faces. PlantSeg 11."""
    files = flat(tmp_path, 120)
    rows = [(name, "cat" if i < 60 else "dog", f"patient {i // 4}" if i % 10 else "") for i, name in enumerate(files)]
    data = read(table(tmp_path / "t.csv", rows, "path,label,group"))
    group_of = {name: group for name, _, group in rows}
    groups = [{group_of[name] for name in names(data, split)} - {""} for split in parts(data).values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == 30
    assert all(set(split.labels.tolist()) == {0, 1} for split in parts(data).values())
    assert said(data, "groups: 30")
    pack(data, tmp_path / "shards")
    packed = load(replace(find("webdataset").defaults, root=str(tmp_path / "shards")))
    assert [seen(part) for part in parts(packed).values()] == [seen(part) for part in parts(data).values()]
    data = read(table(tmp_path / "t.csv", [(a, b, c.replace(" ", "")) for a, b, c in rows], "path,label,group"))
    assert sum(map(len, parts(data).values())) == 120


def test_groups_across_the_tables_own_splits_are_left_out(tmp_path: Path) -> None:
    """The table's splits tear a scene apart. RIAWELC 2."""
    files = flat(tmp_path)
    rows = [
        (name, str(i % 2), "test" if i >= 30 else "train", "scene" if 28 <= i < 32 else "")
        for i, name in enumerate(files)
    ]
    data = read(table(tmp_path / "t.csv", rows, "path,label,split,group"))
    assert names(data, data.test) == set(files[32:])
    assert said(data, "2 of 10 test images are of the same groups as train images and left out", "'030.png'")


def test_columns_have_other_names_and_labels_are_text(tmp_path: Path) -> None:
    """Whole numbers in their order, 10 after 9; NA is a label. simsiam 49."""
    files = flat(tmp_path, 60)
    rows = [(name, str(9 + i % 2)) for i, name in enumerate(files)]
    asked = {"path_column": "image_id", "label_column": "diagnosis"}
    assert read(table(tmp_path / "a.csv", rows, "image_id,diagnosis"), **asked).class_names == ("9", "10")
    rows = [(name, ("NA", "007")[i % 2]) for i, name in enumerate(files)]
    assert read(table(tmp_path / "b.csv", rows)).class_names == ("007", "NA")
    refused(lambda: read(tmp_path / "a.csv"), "no column 'path'", "'image_id', 'diagnosis'", "data.path_column=")


def test_files_that_are_all_elsewhere_are_named_once(tmp_path: Path) -> None:
    """Identities without endings, or a wrong folder: Kaggle's habit. simsiam 49."""
    files = flat(tmp_path / "all")
    rows = [(name.removesuffix(".png"), str(i % 2)) for i, name in enumerate(files)]
    file = table(tmp_path / "all" / "t.csv", rows)
    refused(lambda: read(file), "names 40 images and none of them is there", "/all/000'", "data.root=", "endings")


def test_a_table_changes_between_two_calls(tmp_path: Path) -> None:
    rows = [(name, str(i % 2)) for i, name in enumerate(flat(tmp_path))]
    assert read(table(tmp_path / "t.csv", rows)).class_names == ("0", "1")
    assert read(table(tmp_path / "t.csv", [(a, f"class {b}") for a, b in rows])).class_names == ("class 0", "class 1")


@pytest.mark.parametrize(
    ("head", "change", "words"),
    [
        ("path,label", lambda rows: [], ["0 classes"]),
        ("path,label", lambda rows: [(a, "x") for a, _ in rows], ["1 classes"]),
        ("path,label", lambda rows: [*rows[:-1], (rows[-1][0], "")], ["no label in 1 of 40 rows", "row 40"]),
        ("path,label", lambda rows: [*rows, (rows[0][0], "1")], ["'000.png' in rows 1 and 41", "other labels"]),
        ("path,label", lambda rows: [(a, b, "x") for a, b in rows[:2]] + rows, ["no table that can be read"]),
        ("path,label,split", lambda rows: [(a, b, "holdout") for a, b in rows], ["'holdout'", "train, training"]),
        ("path,label,split", lambda rows: [(a, b, "test") for a, b in rows], ["no training images"]),
        (
            "path,label,split",
            lambda rows: [(a, b, "test" if b == "1" else "train") for a, b in rows],
            ["class '1', which its training images lack"],
        ),
    ],
)
def test_tables_that_cannot_be_meant(head: str, change: Callable[[Any], Any], words: list[str], tmp_path: Path) -> None:
    """Refused in one line, before an image is read. simsiam 49."""
    rows = [(name, str(i % 2)) for i, name in enumerate(flat(tmp_path))]
    path = table(tmp_path / "t.csv", change(rows), head)
    refused(lambda: peek(replace(find("table").defaults, file=str(path))), str(path), *words)


def test_files_of_a_table_that_are_not_there(tmp_path: Path) -> None:
    """Few are left out as damaged ones are, many refused. yolov5 3095."""
    files = flat(tmp_path)
    rows = [(name, str(i % 2)) for i, name in enumerate([*files, "gone.png", files[1]])]
    data = read(table(tmp_path / "t.csv", rows), damaged=0.1)
    assert [one.name for one in data.findings.damaged] == ["gone.png"]
    assert "1 rows of an image that has one before" in data.found[0]
    refused(lambda: read(tmp_path / "t.csv"), "1 of 41 images", "gone.png", "No such file")
    refused(lambda: read(tmp_path / "none.csv"), "none.csv")
    refused(lambda: read(None), "data.file=", "data.root=")


@pytest.mark.parametrize("missing", [False, True])
def test_parquet(missing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read where pyarrow is; otherwise the line says what to install. datasets 6470."""
    path = tmp_path / "t.parquet"
    if missing:
        for name in ("pyarrow", "fastparquet"):
            monkeypatch.setitem(sys.modules, name, None)
        path.write_bytes(b"PAR1")
        refused(lambda: read(path), "needs pyarrow", "[huggingface]")
        return
    pytest.importorskip("pyarrow")
    import pandas as pd

    files = flat(tmp_path)
    pd.DataFrame({"path": files, "label": [i % 2 for i in range(40)], "group": [None] * 38 + ["g"] * 2}).to_parquet(
        path
    )
    data = read(path)
    assert data.class_names == ("0", "1") and said(data, "groups: 1")
    path.write_bytes(path.read_bytes()[:100])
    refused(lambda: read(path), "no table that can be read")


# ------------------------------------------------------------------ Hugging Face


def saved(folder: Path, splits: dict[str, range], labels: Callable[[int], object], kind: object = None) -> Path:
    """Written by `save_to_disk`; one split without a name is a data set alone."""
    datasets = pytest.importorskip("datasets")
    made = {}
    for name, numbers in splits.items():
        rows = []
        for number in numbers:
            with io.BytesIO() as file:
                Image.fromarray(picture(number)).save(file, "PNG")
                rows.append({"bytes": file.getvalue(), "path": None})
        kinds = datasets.Features({"img": datasets.Image(), "label": kind or datasets.ClassLabel(names=["cat", "dog"])})
        made[name] = datasets.Dataset.from_dict({"img": rows, "label": [labels(n) for n in numbers]}, kinds)
    whole = made[""] if "" in made else datasets.DatasetDict(made)
    whole.save_to_disk(folder)
    return folder


def hugged(root: Path, **options: object) -> DataSet:
    settings = replace(find("huggingface").defaults, root=str(root), resolution=16, validation_share=0.2)
    settings = replace(settings, **options)  # type: ignore[arg-type]
    data = load(settings)
    assert peek(settings).class_names == data.class_names
    return data


def test_a_saved_data_set_is_divided_and_its_splits_are_used(tmp_path: Path) -> None:
    """datasets 6470."""
    data = hugged(saved(tmp_path / "one", {"": range(60)}, lambda n: n % 2))
    assert data.class_names == ("cat", "dog") and sum(map(len, parts(data).values())) == 60
    sides = {"train": range(40), "validation": range(100, 110), "test": range(200, 220), "extra": range(300, 307)}
    data = hugged(saved(tmp_path / "several", sides, lambda n: n % 2))
    assert [len(split) for split in parts(data).values()] == [40, 10, 20]
    assert "passed over: 7 in the split 'extra'" in data.found[0] and "test 20 ('test')" in data.found[0]
    np.testing.assert_array_equal(data.test.source.read(int(data.test.indices[3])), picture(203))
    assert "50 training and 20 test images" in pack(data, tmp_path / "shards")


def test_rows_without_a_label_and_labels_as_text(tmp_path: Path) -> None:
    """-1 is the label of a hidden test; classes may be text without a list of them. datasets 6470."""
    sides = {"train": range(40), "test": range(100, 120)}
    data = hugged(saved(tmp_path / "a", sides, lambda n: n % 2 if n < 110 else -1))
    assert len(data.test) == 10 and "10 without a label" in data.found[0]
    datasets = pytest.importorskip("datasets")
    text = datasets.Value("string")
    data = hugged(saved(tmp_path / "b", {"": range(40)}, lambda n: ("owl", "ant")[n % 2], text))
    assert data.class_names == ("ant", "owl") and Counter(np.concatenate([s.labels for s in parts(data).values()])) == {
        0: 20,
        1: 20,
    }


def test_columns_are_asked_for_where_several_would_do(tmp_path: Path) -> None:
    """Fine and coarse labels; a table without images. datasets 6470."""
    datasets = pytest.importorskip("datasets")
    whole = datasets.load_from_disk(str(saved(tmp_path / "a", {"": range(40)}, lambda n: n % 2)))
    whole.add_column("burst", [n // 4 for n in range(40)]).rename_column("label", "fine").save_to_disk(tmp_path / "b")
    data = hugged(tmp_path / "b", group_column="burst")
    assert said(data, "groups: 10")
    bursts = [{int(name[6:-1]) // 4 for name in names(data, split)} for split in parts(data).values()]
    assert sum(map(len, bursts)) == len(set().union(*bursts)) == 10
    refused(lambda: hugged(tmp_path / "b", label_column="kind"), "data.label_column=kind", "'fine'")
    refused(lambda: hugged(tmp_path / "b", group_column="kind"), "data.group_column=kind", "'burst'")
    whole.remove_columns("img").save_to_disk(tmp_path / "c")
    refused(lambda: hugged(tmp_path / "c"), "0 columns of type Image", "data.image_column=")


def test_what_is_no_saved_data_set(tmp_path: Path) -> None:
    """One line each. datasets 6470."""
    pytest.importorskip("datasets")
    refused(lambda: hugged(tmp_path), "save_to_disk", "data=imagefolder")
    (tmp_path / "dataset_info.json").write_text("{")
    refused(lambda: hugged(tmp_path), str(tmp_path), "cannot be opened")


def test_without_the_package_the_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(lambda: hugged(tmp_path), "needs datasets", "'.[huggingface]'")


# ------------------------------------------------------------------ kinds of files

WRITTEN = {".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF", ".avif": "AVIF"}


@pytest.mark.parametrize("ending", WRITTEN)
def test_more_kinds_of_files_are_images(ending: str, tmp_path: Path) -> None:
    """A folder of .tif was "no image". fastai PR 2270."""
    if ending == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow decodes no AVIF")
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "a" / name).mkdir(parents=True)
        for number in range(12):
            at = tmp_path / "a" / name / f"{number}{ending}"
            Image.fromarray(picture(100 * label + number)).save(at, WRITTEN[ending])
    data = images(tmp_path / "a")
    assert "data a: 24 images" in data.found[0] and "nothing was passed over" in data.found[0]
    for split in parts(data).values():
        for index, label in zip(split.indices, split.labels, strict=True):
            number = int(Path(data.identities.names[index]).stem)  # type: ignore[union-attr]
            seen = split.source.read(int(index)).astype(int)
            assert abs(seen - picture(100 * int(label) + number)).mean() < 12  # GIF has 256 colours
    pack(data, tmp_path / "shards")
    again = load(replace(find("webdataset").defaults, root=str(tmp_path / "shards")))
    assert sum(map(len, parts(again).values())) == 24


@pytest.mark.parametrize("ending", [".tif", ".gif"])
def test_of_several_frames_the_first_is_used_and_said(ending: str, tmp_path: Path) -> None:
    """A stack of a microscope, an animation. DIGITS 85."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(12):
            first, *others = (Image.fromarray(picture(100 * label + number + 1000 * n)) for n in range(3))
            more = {"save_all": True, "append_images": others} if number < 3 else {}
            first.save(tmp_path / name / f"{number}{ending}", **more)
    data = images(tmp_path)
    assert said(data, "6 files hold several frames; the first one is used")
    index = data.identities.names.index(f"dog/1{ending}")  # type: ignore[union-attr]
    assert abs(data.train.source.read(index).astype(int) - picture(101)).mean() < 12


def test_a_cut_tiff_gif_or_avif_is_damaged(tmp_path: Path) -> None:
    """One truncated file among many. yolov5 3095."""
    for label, name in enumerate(("cat", "dog")):
        fill(tmp_path / name, range(100 * label, 100 * label + 20))
    for ending in WRITTEN.keys() & image_endings():
        for share in (0.0, 0.02, 0.3, 0.7, 0.9):
            with io.BytesIO() as file:
                Image.fromarray(picture(7, 60, 60)).save(file, WRITTEN[ending])
                whole = file.getvalue()
            (tmp_path / "cat" / f"cut{share}{ending}").write_bytes(whole[: int(share * len(whole))])
    data = load(ImageFolderSettings("imagefolder", str(tmp_path), resolution=16, damaged=0.5))
    expected = 5 * len(WRITTEN.keys() & image_endings())
    assert len(data.findings.damaged) == expected and sum(map(len, parts(data).values())) == 40


def test_phone_pictures_without_a_decoder_are_counted() -> None:
    """An iPhone's .heic were passed over like text files. fastai PR 2270."""
    passed = PassedOver()
    passed.endings.update({".heic": 12, ".txt": 3})
    said = passed.describe({".jpg"})
    assert said == "passed over: 12 .heic files, which need pillow-heif, 3 .txt (images are .jpg)"
    assert passed.describe({".jpg", ".heic"}).startswith("passed over: 12 .heic, 3 .txt (images")


def test_phone_pictures_are_read_where_the_decoder_is(tmp_path: Path) -> None:
    """fastai PR 2270."""
    heif = pytest.importorskip("pillow_heif")
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(8):
            at = tmp_path / name / f"{number}.heic"
            heif.from_pillow(Image.fromarray(picture(100 * label + number, 64, 64))).save(at)
    data = images(tmp_path)
    assert "16 images of 2 classes" in data.found[0] and not data.findings.damaged


def test_a_table_passes_over_what_cannot_be_decoded(tmp_path: Path) -> None:
    """simsiam 49."""
    if ".heic" in image_endings():
        pytest.skip("pillow-heif is here")
    rows = [(name, str(i % 2)) for i, name in enumerate(flat(tmp_path))]
    data = read(table(tmp_path / "t.csv", [*rows, ("a.HEIC", "0"), ("b.heic", "1")]))
    assert "passed over: 2 .heic files, which need pillow-heif" in data.found[0]


def test_the_run_keeps_the_tables_options(tmp_path: Path) -> None:
    """Read back from JSON, the same settings."""
    from nas.data.registry import settings_from_file

    asked = replace(find("table").defaults, file="a.csv", group_column="patient")
    assert settings_from_file(json.loads(json.dumps(vars(asked)))) == asked
    with pytest.raises(BadFile):
        load(replace(asked, file=str(tmp_path / "none.csv")))
