"""The card of a deployed file: what it takes and gives, what it is worth and how fast it is, beside what it was before.

card.json holds it; `Card.lines` are what the command prints. Not for measuring: see `nas.deploy.work`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_space.reading import read, to_plain, without_schema

FILE = "card.json"
SCHEMA = 1
LOSS = 0.01  # share of the test images by which a file may be worse without a warning
SLOWER = 1.05  # times the fp32 file's time in the same runtime from which on it is said


@dataclass(frozen=True)
class Measured:
    """One form of the network. accuracy: on the test images, in that runtime.

    ms: of one picture at deployment resolution; ms_spread: half the range of the five passes. bytes: of its files at
    training resolution. None: not measured.
    """

    name: str
    accuracy: float | None
    ms: float | None
    ms_spread: float | None
    bytes: int


@dataclass(frozen=True)
class Parity:
    """Against torch, on so many pictures: largest difference of a probability, share of equal answers.

    real: whether the pictures are test images, or noise as none were at hand.
    """

    images: int
    largest_difference: float
    equal_answers: float
    real: bool


@dataclass(frozen=True)
class Card:
    """All of card.json.

    before: model.onnx and latency_<R>.onnx in onnxruntime; in_fp32: the same file in fp32 in the same runtime,
    None where `after` is just that. calibration_images: training images that ranges were measured on, 0 for none.
    partitions, not_delegated: of the file at deployment resolution; None, or empty, where the runtime does not tell.
    """

    network: str
    target: str
    precision: str
    files: tuple[str, ...]
    training_resolution: int
    deployment_resolution: int
    input: Mapping[str, str]
    classes: tuple[str, ...]
    before: Measured
    in_fp32: Measured | None
    after: Measured
    test_images: int
    parity: Parity
    calibration_images: int
    partitions: int | None
    not_delegated: Mapping[str, int]
    threads: int
    machine: str
    versions: Mapping[str, str]
    date: str
    notes: tuple[str, ...] = field(default_factory=tuple)

    def to_json(self) -> str:
        """The text of card.json."""
        return json.dumps({"schema": SCHEMA, **to_plain(self)}, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> Card:
        """The inverse. Raises `BadFile`."""
        return read(cls, without_schema(data, SCHEMA, where), where)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must not miss, a clause each; empty where all is well."""
        found = []
        if self.before.accuracy is not None and self.after.accuracy is not None:
            loss = self.before.accuracy - self.after.accuracy
            if loss > LOSS:
                found.append(f"it loses {100 * loss:.1f} points of test accuracy")
        if self.partitions is not None and self.partitions != 1:
            found.append(f"the delegate takes it in {self.partitions} parts")
        if self.in_fp32 and self.in_fp32.ms and self.after.ms and self.after.ms > SLOWER * self.in_fp32.ms:
            found.append(f"it is {self.after.ms / self.in_fp32.ms:.2f} times as slow as fp32 there")
        return tuple(found)

    def lines(self, folder: str) -> list[str]:
        """What to print: the forms beside each other, parity, notes, and a last line with the warnings."""
        rows = [self.before, *([self.in_fp32] if self.in_fp32 else []), self.after]
        width = max(len(row.name) for row in rows)
        table = [
            f"{row.name:{width}}  {_share(row.accuracy):>7}  {_ms(row.ms):>9}  {row.bytes / 1e6:6.2f} MB"
            for row in rows
        ]
        pictures = "test images" if self.parity.real else "pictures of noise"
        parity = (
            f"against torch on {self.parity.images} {pictures}: probabilities differ by "
            f"{self.parity.largest_difference:.1e} at most, {self.parity.equal_answers:.1%} of the answers are equal"
        )
        parts = []
        if self.partitions is not None:
            outside = ", ".join(f"{count} {name}" for name, count in self.not_delegated.items())
            parts = [f"delegate partitions: {self.partitions}; not delegated: {outside or 'none'}"]
        what = f"{self.target} {self.precision}: {_share(self.after.accuracy)} of {self.test_images} test images"
        what += f", {_ms(self.after.ms)} at {self.deployment_resolution} pixels"
        doubts = f"; warning: {'; '.join(self.warnings)}" if self.warnings else ""
        return [*table, parity, *parts, *(f"note: {note}" for note in self.notes), f"{what} -> {folder}{doubts}"]


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.1%}"


def _ms(value: float | None) -> str:
    return "not timed" if value is None else f"{value:.3g} ms"
