"""The result of a search as a value, and its file architecture.json. Not for weights.

`load_result(path)` reads back a value equal to the one written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from search_space import Architecture, Cost
from search_space.files import write_whole
from search_space.reading import REQUIRED, AtLeast, check, read, read_json, to_plain, without_schema

SCHEMA = 1


NOT_REAL = "not real time"


def scale_note(calibration: str) -> str:
    """', calibration=NAME: not real time', or nothing on the device's measured scale."""
    return "" if calibration == "measured" else f", calibration={calibration}: {NOT_REAL}"


@dataclass(frozen=True)
class DeviceLatency:
    """Predicted latency of the network on one device, batch 1, at deployment resolution.

    The interval [low_ms, high_ms] holds `coverage` of measured networks, as the profile states.
    """

    title: str
    runtime: str
    precision: str
    latency_ms: float
    low_ms: float
    high_ms: float
    coverage: float
    profile_hash: str
    by_segment_ms: Mapping[str, float]
    calibration: str = "measured"


@dataclass(frozen=True)
class Budget:
    """The limit asked for, what the network is predicted to use of it, and the space's range.

    kept_ms: what stays within the limit: the prediction, or with `confidence` its interval's upper end;
    `used` and the range are in the same terms. calibration: the profile's factor on all of them.
    limits: what else the network had to keep, by option of `limits.*` (their units are in `nas.run.settings`).
    """

    device: str
    budget_ms: float
    predicted_ms: float
    used: float
    binds: bool
    space_min_ms: float
    space_max_ms: float
    confidence: float | None = None
    kept_ms: float | None = None  # None: the prediction
    calibration: str = "measured"
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers; `test` is that of model.onnx on images nothing else ever saw."""

    data: str
    test: float
    test_images: int
    validation: float
    measured_on: str


FOR_TIMING = "for timing, not trained"  # the purpose that an ONNX file states
RESIZE = "bilinear, antialiased where both sides shrink"


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the square that the network is shown, after it is turned upright as its EXIF says.

    crop: 'whole', or 'centre', the middle square whose side is `crop_share` of the picture's shorter side. resize: to
    the training resolution a side. training_crop, training_flip: how training varied the pictures, in the words of the
    options `data.crop` and `data.flip`.
    """

    crop: str
    crop_share: float
    training_crop: str
    training_flip: bool
    resize: str = RESIZE
    colours: str = "RGB"

    def words(self) -> dict[str, str]:
        """As the metadata of an ONNX file hold it."""
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in vars(self).items()
        }


@dataclass(frozen=True)
class InputFormat:
    """What the network wants to see: (image / 255 - mean) / std, RGB.

    preprocessing: None in files of earlier versions, which do not state it.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing | None = None

    def metadata(self) -> dict[str, str]:
        """As an ONNX file holds it: numbers with spaces between, classes on a line each."""
        return {
            "classes": "\n".join(self.class_names),
            "mean": " ".join(map(str, self.mean)),
            "std": " ".join(map(str, self.std)),
            **(self.preprocessing.words() if self.preprocessing else {}),
        }


@dataclass(frozen=True)
class Resolution:
    """Pixels a side: what the latency is for, and what the weights were trained at."""

    deployment: Annotated[int, AtLeast(1)]
    training: Annotated[int, AtLeast(1)]

    def __post_init__(self) -> None:
        check(self, where="resolution")


@dataclass(frozen=True)
class SearchResult:
    """Everything that architecture.json holds. Cost is at deployment resolution."""

    architecture: Architecture
    num_classes: int
    resolution: Resolution
    input: InputFormat
    cost: Cost
    budget: Budget | None
    latency: Mapping[str, DeviceLatency]
    accuracy: Accuracy | None  # None: no images were at hand
    gate_path: tuple[str, ...] | None = None  # the supernet's choice per slot; None if it came from elsewhere
    notes: Annotated[tuple[str, ...], REQUIRED] = ()
    provenance: Annotated[Mapping[str, Any], REQUIRED] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it. Raises ValueError for a number that is not finite."""
        return {"schema": SCHEMA, **to_plain(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "result") -> SearchResult:
        """Read `to_dict`'s form. Raises `BadFile` naming `where` and the field at fault."""
        return read(cls, without_schema(data, SCHEMA, where), where)


def save_result(result: SearchResult, path: Path) -> None:
    """Write architecture.json, whole or not at all."""
    write_whole(path, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")


def load_result(path: Path) -> SearchResult:
    """Raises `BadFile` for a file that is missing, truncated or not a search result."""
    return SearchResult.from_dict(read_json(path, "architecture.json"), where=f"'{path}'")
