"""Names of shards' members as others wrote them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data import DataSet, load
from nas.data.webdataset import WebDatasetSettings
from search_space.errors import BadFile
from tests.nas.data.test_webdataset import write_shard


def picture(level: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(content, "PNG")
    return content.getvalue()


def shard(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_shard(path, files)


def of_shards(folder: Path) -> DataSet:
    return load(WebDatasetSettings("webdataset", str(folder), cache=str(folder.parent / "cache")))


def found(folder: Path) -> str:
    return of_shards(folder).found[0]


def loaded(folder: Path) -> int:
    data = of_shards(folder)
    return sum(len(split) for split in (data.train, data.validation, data.test))


def members(names: list[str]) -> dict[str, bytes]:
    files = {}
    for number, name in enumerate(names):
        files |= {f"{name}.png": picture(number), f"{name}.cls": str(number % 2).encode()}
    return files


def test_names_with_dots_of_their_own_are_used(tmp_path: Path) -> None:
    """As in webdataset issue 237: of cam1.2024.05.001.jpg all but the part before the first dot was an ending."""
    plain, dotted = [f"{i:03d}" for i in range(40)], [f"cam{i % 2}.2024.05.{i:03d}" for i in range(80)]
    shard(tmp_path / "shards" / "train-0.tar", members([*plain, *dotted]))
    assert loaded(tmp_path / "shards") == 120
    shard(tmp_path / "others" / "train-0.tar", members(dotted))
    assert loaded(tmp_path / "others") == 80
    assert found(tmp_path / "others").endswith("; nothing was passed over")


def test_further_pictures_of_a_sample_are_no_images_of_their_own(tmp_path: Path) -> None:
    files = members([f"{i:03d}" for i in range(40)])
    files |= {f"{i:03d}.seg.png": picture(i) for i in range(40)}
    shard(tmp_path / "shards" / "train-0.tar", files)
    assert loaded(tmp_path / "shards") == 40
    assert found(tmp_path / "shards").endswith("; passed over: 40 files that are neither an image nor its label")


def test_dots_without_labels_are_named_as_the_reason(tmp_path: Path) -> None:
    shard(tmp_path / "shards" / "train-0.tar", {"cam1.05.png": picture(1), "cam1.cls": b"0"})
    with pytest.raises(BadFile, match=r"the names of 1 have dots"):
        loaded(tmp_path / "shards")
