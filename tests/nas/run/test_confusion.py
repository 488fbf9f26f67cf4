"""The answers on the test images: counted, the surest mistakes as small pictures, the file read or refused."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas.data.dataset import DataSet, Split
from nas.data.sources import ArraySource, EncodedSource
from nas.run.confusion import FILE, MOST_BYTES, MOST_MISTAKES, MOST_PIXELS, Answers, Confusion, load_confusion
from search_space.errors import BadFile, UserError

CLASSES = ("cat", "dog", "owl")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def answered(n: int = 60, pixels: int = 128) -> tuple[Confusion, torch.Tensor, torch.Tensor]:
    """Random answers in three batches; labels (n,) and logits (n, 3) besides."""
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, pixels, pixels, generator=draws)
    labels = torch.arange(n) % 3
    logits = 3 * torch.randn(n, 3, generator=draws)
    normalised = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    answers = Answers(CLASSES, MEAN, STD)
    for part in torch.arange(n).chunk(3):
        answers.add(normalised[part], labels[part], logits[part], [f"{i}.jpg" for i in part.tolist()])
    return answers.confusion(), labels, logits


def test_counts_and_the_surest_of_all_batches() -> None:
    found, labels, logits = answered()
    answers = logits.argmax(1)
    for label, answer, images in found.counts:
        assert images == int(((labels == label) & (answers == answer)).sum())
    assert sum(images for _, _, images in found.counts) == 60 == sum(found.images_of().values())
    sure = logits.double().softmax(1).max(1).values
    wrong = sorted((-float(sure[i]), i) for i in range(60) if answers[i] != labels[i])[:MOST_MISTAKES]
    assert [mistake.name for mistake in found.surest] == [f"{i}.jpg" for _, i in wrong]
    assert [-mistake.probability for mistake in found.surest] == pytest.approx([p for p, _ in wrong])
    assert found.pairs()[0][2] == max(n for label, answer, n in found.counts if label != answer)
    table = found.table()
    assert table.to_numpy().sum() == 60 and table.loc["cat", "cat"] == int(((labels == 0) & (answers == 0)).sum())


@pytest.mark.parametrize("pixels", [16, 224])
def test_pictures_are_small_and_show_what_the_network_was_shown(pixels: int) -> None:
    found, _, _ = answered(12, pixels)
    assert found.surest
    for mistake in found.surest:
        content = base64.b64decode(mistake.picture)
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "JPEG" and picture.size == (min(pixels, MOST_PIXELS),) * 2
            assert np.asarray(picture).mean() == pytest.approx(
                127.5, abs=8
            )  # noise of all levels, normalisation undone
        assert len(content) <= MOST_BYTES


def test_the_file_reads_back(tmp_path: Path) -> None:
    found, _, _ = answered()
    found.save(tmp_path)
    assert load_confusion(tmp_path) == found
    (tmp_path / FILE).unlink()
    assert load_confusion(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": [[0, 3, 1]]}, "no class 3 among 3"),
        ({"counts": [[0, 1, 0]]}, "at least once"),
        ({"surest": [{"label": 0, "answer": 1, "probability": 1.5, "of_label": 0}]}, "probability is 1.5"),
        ({"surest": [{"label": 0, "answer": 1, "probability": 1, "of_label": 0, "picture": "<svg>"}]}, "no JPEG"),
        ({"schema": 2}, "schema"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, change: dict[str, object], said: str) -> None:
    answered()[0].save(tmp_path)
    values = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(values | change))
    with pytest.raises(BadFile, match=f"confusion.json.*{said}") as caught:
        load_confusion(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_picture_that_cannot_be_small_is_left_out() -> None:
    found, _, _ = answered()
    large = base64.b64encode(b"\xff\xd8\xff" + bytes(MOST_BYTES)).decode()
    with pytest.raises(UserError, match="no JPEG of at most 8192 bytes"):
        replace(found.surest[0], picture=large)


def test_names_come_in_the_order_of_the_batches(tmp_path: Path) -> None:
    """Each image's one colour is its number, so that a batch tells which images it holds."""
    for number in range(20):
        Image.new("RGB", (20, 20), (number * 10,) * 3).save(tmp_path / f"{number}.png")
    files = EncodedSource([tmp_path / f"{number}.png" for number in range(20)])
    labels = np.arange(20) % 2
    split = Split(files, np.arange(20)[::-1].copy(), labels)
    data = DataSet("x", ("a", "b"), split, split, split)
    levels = torch.cat([images[:, 0, 0, 0] for images, _ in data.batches(split, 16, 6)])
    numbers = ((levels * 0.25 + 0.5) * 25.5).round().int().tolist()
    assert [Path(name).name for name in data.names_in_order(split, 6)] == [f"{number}.png" for number in numbers]
    memory = Split(ArraySource(np.zeros((20, 16, 16, 3), np.uint8)), np.arange(20), labels)
    assert data.names_in_order(memory, 6) == [""] * 20
