"""How good the answers of a network are, as the page shows it: beside baselines, by class, and what it takes for what.

Values for templates/answers.html. Not for measuring: they are of architecture.json and confusion.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.report.words import percent
from nas.run.confusion import Confusion
from nas.run.result import BASELINE, Accuracy

MOST_CLASSES = 20  # in the list of accuracies and in the confusion matrix
MOST_PAIRS = 12  # of classes that are taken for each other


@dataclass(frozen=True)
class Bar:
    """A named share of 1, and how it is written; None where there is nothing to draw."""

    name: str
    share: float | None
    words: str
    css: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix: images, and their share of the class' images."""

    images: int
    share: float
    tip: str
    right: bool


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix: a row a class with test images, a column an answer."""

    answers: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def beside_baselines(accuracy: Accuracy | None) -> list[Bar]:
    """The network's accuracy and what is reached without it on the same images; nothing where neither is known."""
    if accuracy is None or (accuracy.baseline is None and accuracy.largest_class is None):
        return []
    named = [("this network", accuracy.test, "own"), (BASELINE, accuracy.baseline, "")]
    named.append(("always naming the largest class", accuracy.largest_class, ""))
    return [Bar(name, share, percent(share), css) for name, share, css in named]


def by_class(accuracy: Accuracy | None) -> list[Bar]:
    """Accuracy within every class, in their order; of more than `MOST_CLASSES` the worst and the best ones."""
    bars = [Bar(name, share, percent(share), "own") for name, share in (accuracy.by_class if accuracy else {}).items()]
    if len(bars) <= MOST_CLASSES:
        return bars
    ranked = sorted(bars, key=lambda bar: bar.share or 0.0)
    worst, best = ranked[: MOST_CLASSES // 2], ranked[-MOST_CLASSES // 2 :]
    return [*worst, Bar(f"{len(ranked) - MOST_CLASSES} classes between them", None, "–"), *best]


def matrix(confusion: Confusion | None) -> Matrix | None:
    """The confusion matrix; None where there is none, or where it has more classes than fit a page."""
    if confusion is None or len(confusion.class_names) > MOST_CLASSES:
        return None
    images_of = confusion.images_of()
    counts = {(label, answer): images for label, answer, images in confusion.counts}
    numbers = range(len(confusion.class_names))

    def cell(label: int, answer: int) -> Cell:
        images = counts.get((label, answer), 0)
        words = f"{images} of {images_of[label]} images of {confusion.name(label)}\nanswer {confusion.name(answer)}"
        return Cell(images, images / images_of[label], words, label == answer)

    rows = ((confusion.name(label), tuple(cell(label, answer) for answer in numbers)) for label in sorted(images_of))
    return Matrix(tuple(confusion.name(answer) for answer in numbers), tuple(rows))


def confused_pairs(confusion: Confusion | None) -> list[tuple[str, str, str]]:
    """(class, wrong answer, 'N of M images (x %)'), the most images first, at most `MOST_PAIRS`."""
    if confusion is None:
        return []
    images_of = confusion.images_of()
    return [
        (
            confusion.name(label),
            confusion.name(answer),
            f"{images} of {images_of[label]} images ({percent(images / images_of[label])})",
        )
        for label, answer, images in confusion.pairs()[:MOST_PAIRS]
    ]


@dataclass(frozen=True)
class Shown:
    """A mistake as the page shows it. source: of its picture, '' where it has none."""

    source: str
    answer: str
    label: str
    name: str


def surest_mistakes(confusion: Confusion | None) -> Sequence[Shown]:
    """The wrong answers with the highest probability, pictures as `data:` addresses."""
    if confusion is None:
        return ()
    return tuple(
        Shown(
            f"data:image/jpeg;base64,{one.picture}" if one.picture else "",
            f"{confusion.name(one.answer)}, {percent(one.probability)}",
            f"{confusion.name(one.label)}, {percent(one.of_label)}",
            one.name,
        )
        for one in confusion.surest
    )


@dataclass(frozen=True)
class Answers:
    """All of it."""

    beside: list[Bar]
    by_class: list[Bar]
    matrix: Matrix | None
    pairs: list[tuple[str, str, str]]
    mistakes: Sequence[Shown]

    @classmethod
    def of(cls, accuracy: Accuracy | None, confusion: Confusion | None) -> Answers:
        """What a result and its confusion.json say; empty where they do not."""
        return cls(
            beside_baselines(accuracy),
            by_class(accuracy),
            matrix(confusion),
            confused_pairs(confusion),
            surest_mistakes(confusion),
        )
