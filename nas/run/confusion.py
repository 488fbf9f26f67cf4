"""What a trained network answered on the test images: confusion.json, with the surest of its mistakes as pictures.

Not for how good the answers are: architecture.json says that (`nas.run.result.Accuracy`).
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from nas.run.result import class_name
from search_space.errors import UserError
from search_space.files import write_whole
from search_space.reading import AtLeast, Between, check, read, read_json, to_plain, without_schema

if TYPE_CHECKING:
    import pandas as pd
    import torch

SCHEMA = 1
FILE = "confusion.json"
MOST_MISTAKES = 8
MOST_PIXELS = 96  # of the longer side of a kept picture
MOST_BYTES = 8192  # of a kept picture

Number = Annotated[int, AtLeast(0)]
Share = Annotated[float, Between(0, 1)]


@dataclass(frozen=True)
class Mistake:
    """A test image with a wrong answer.

    label, answer: numbers of classes; probability, of_label: what the network gives to the answer and to the label.
    name: the image's file; '' where images have none. picture: the image as the network was shown it, a JPEG of at
    most 96 pixels a side and 8 KiB in base64; '' where it cannot be made so small.
    """

    label: Number
    answer: Number
    probability: Share
    of_label: Share
    name: str = ""
    picture: str = ""

    def __post_init__(self) -> None:
        check(self, "surest.")
        if self.picture and not _is_small_jpeg(self.picture):
            raise UserError(f"a picture is no JPEG of at most {MOST_BYTES} bytes in base64")


@dataclass(frozen=True)
class Confusion:
    """All answers of model.onnx on the test images.

    counts: [label, answer, images] for every pair of class numbers that occurs, in order. surest: at most eight of the
    wrong answers, those with the highest probability first.
    """

    class_names: tuple[str, ...]
    counts: tuple[tuple[int, int, int], ...]
    surest: tuple[Mistake, ...] = field(default=())

    def __post_init__(self) -> None:
        named = [number for row in self.counts for number in row[:2]]
        named += [number for mistake in self.surest for number in (mistake.label, mistake.answer)]
        if outside := [number for number in named if not 0 <= number < len(self.class_names)]:
            raise UserError(f"there is no class {outside[0]} among {len(self.class_names)} classes")
        if wrong := [row for row in self.counts if row[2] < 1]:
            raise UserError(f"counts has {list(wrong[0])}: a pair occurs at least once")

    def name(self, number: int) -> str:
        """A class' name, with its number where another has the same."""
        return class_name(self.class_names, number)

    def images_of(self) -> dict[int, int]:
        """How many test images every class has; a class without is left out."""
        found: dict[int, int] = {}
        for label, _, images in self.counts:
            found[label] = found.get(label, 0) + images
        return found

    def pairs(self) -> list[tuple[int, int, int]]:
        """(label, wrong answer, images), the most images first."""
        return sorted((row for row in self.counts if row[0] != row[1]), key=lambda row: (-row[2], row[:2]))

    def table(self) -> pd.DataFrame:
        """Images by class (a row each) and answer (a column each)."""
        import pandas as pd

        names = [self.name(number) for number in range(len(self.class_names))]
        frame = pd.DataFrame(0, index=pd.Index(names, name="class"), columns=pd.Index(names, name="answer"))
        for label, answer, images in self.counts:
            frame.iloc[label, answer] = images
        return frame

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all. Raises `CannotWrite`."""
        write_whole(folder / FILE, json.dumps({"schema": SCHEMA, **to_plain(self)}) + "\n")


def load_confusion(folder: Path) -> Confusion | None:
    """A run folder's confusion.json; None where it has none, as of earlier versions. Raises `BadFile`."""
    path = folder / FILE
    if not path.is_file():
        return None
    return read(Confusion, without_schema(read_json(path), SCHEMA, FILE), FILE)


class Answers:
    """Collects a network's answers on test images batch by batch, and of the mistakes the surest."""

    def __init__(self, class_names: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> None:
        """mean, std: (3,), what images are normalised by."""
        self.class_names, self.mean, self.std = tuple(class_names), mean, std
        self.counts: dict[tuple[int, int], int] = {}
        self.surest: list[tuple[Mistake, torch.Tensor]] = []

    def add(self, images: torch.Tensor, labels: torch.Tensor, logits: torch.Tensor, names: Sequence[str]) -> None:
        """images: (N, 3, R, R), normalised; labels: (N,); logits: (N, classes); names: N, of the images' files."""
        probabilities = logits.double().softmax(1)
        sureness, answers = probabilities.max(1)
        for pair in zip(labels.tolist(), answers.tolist(), strict=True):
            self.counts[pair] = self.counts.get(pair, 0) + 1
        wrong = (answers != labels).nonzero().flatten()
        for number in wrong[sureness[wrong].argsort(descending=True, stable=True)][:MOST_MISTAKES].tolist():
            label, answer = int(labels[number]), int(answers[number])
            sure, of_label = (min(1.0, float(probabilities[number, one])) for one in (answer, label))
            mistake = Mistake(label, answer, sure, of_label, names[number])
            self.surest.append((mistake, images[number].clone()))
        self.surest = sorted(self.surest, key=lambda found: -found[0].probability)[:MOST_MISTAKES]

    def confusion(self) -> Confusion:
        """All of it, the mistakes with their pictures."""
        mistakes = tuple(replace(mistake, picture=self._picture(image)) for mistake, image in self.surest)
        return Confusion(self.class_names, tuple((*pair, n) for pair, n in sorted(self.counts.items())), mistakes)

    def _picture(self, image: torch.Tensor) -> str:
        """image: (3, R, R), normalised."""
        import torch
        from PIL import Image

        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        levels = ((image * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        picture = Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
        for quality in (80, 50, 20):
            file = io.BytesIO()
            picture.save(file, "JPEG", quality=quality)
            if file.tell() <= MOST_BYTES:
                return base64.b64encode(file.getvalue()).decode()
        return ""


def _is_small_jpeg(picture: str) -> bool:
    try:
        content = base64.b64decode(picture, validate=True)
    except (binascii.Error, ValueError):
        return False
    return content.startswith(b"\xff\xd8\xff") and len(content) <= MOST_BYTES
