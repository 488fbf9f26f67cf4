"""The result of a search as a value, and its file architecture.json. Not for weights.

`load_result(path)` reads back a value equal to the one written.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from latency_models.support import Support
from nas.published import Published
from search_space import Architecture, Cost, UserError, cost_of, lower
from search_space.files import write_whole
from search_space.reading import REQUIRED, AtLeast, check, read, read_json, to_plain, without_schema

SCHEMA = 1
BASELINE_PIXELS = 16  # a side, of the images that the baseline sees
DEVIATIONS = 2  # of the binomial distribution: what lies further off is hardly chance

NOT_REAL = "not real time"


def scale_note(calibration: str) -> str:
    """', calibration=NAME: not real time', or nothing on the device's measured scale."""
    return "" if calibration == "measured" else f", calibration={calibration}: {NOT_REAL}"


@dataclass(frozen=True)
class DeviceLatency:
    """Predicted latency of the network on one device, batch 1, at deployment resolution.

    The interval [low_ms, high_ms] holds `coverage` of measured networks, as the profile states. support: what the
    prediction rests on; None in files of earlier versions, which do not state it.
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
    support: Support | None = None

    @property
    def derived(self) -> float | None:
        """The share of the time whose prices are derived; None where the file does not say."""
        return self.support.derived if self.support else None


@dataclass(frozen=True)
class Budget:
    """The limit asked for, what the network is predicted to use of it, and the space's range.

    kept_ms: what stays within the limit: the prediction, or with `confidence` its interval's upper end;
    `used` and the range are in the same terms. calibration: the profile's factor on all of them.
    limits: what else the network had to keep, by option of `limits.*` (their units are in `nas.run.settings`).
    published: the most accurate published network within the limit, where one is known (`nas.published`).
    thin: candidates of the network, such as 'k7e3', with the share of its time there that is derived or rests on few
    measured rows (`latency_models.support.Support.thin`), the largest first.
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
    thin: Mapping[str, float] = field(default_factory=dict)
    published: Published | None = None


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers; `test` is that of model.onnx on images nothing else ever saw.

    All but `validation` are of the same test images. largest_class: the share of right answers of always naming the
    class that has most images. by_class: the share within every class, by its name; a class without test images is
    left out. balanced: the mean of these. baseline: that of a logistic regression on the images reduced to 16x16
    pixels, trained on at most 5,000 training images. None, or empty: not measured.
    """

    data: str
    test: float
    test_images: int
    validation: float
    measured_on: str
    largest_class: float | None = None
    by_class: Mapping[str, float] = field(default_factory=dict)
    balanced: float | None = None
    baseline: float | None = None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Clauses on what the network does not beat, each to follow 'the network is'; empty where it beats all."""
        found = []
        if self.baseline is not None and self.test < self.baseline:
            found.append(f"below the {self.baseline:.1%} of {BASELINE}")
        if self.largest_class is not None:
            chance = math.sqrt(self.largest_class * (1 - self.largest_class) / max(1, self.test_images))
            if self.test <= self.largest_class + DEVIATIONS * chance:
                found.append(
                    f"no better, beyond chance, than always naming the largest class ({self.largest_class:.1%})"
                )
        return tuple(found)


def class_name(names: Sequence[str], number: int) -> str:
    """A class' name, with its number where another has the same."""
    return names[number] if names.count(names[number]) == 1 else f"{names[number]} ({number})"


BASELINE = f"a logistic regression on {BASELINE_PIXELS}x{BASELINE_PIXELS} pixels"


FOR_TIMING = "for timing, not trained"  # the purpose that an ONNX file states
RESIZE = "bilinear, antialiased where both sides shrink"


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the square that the network is shown, after it is turned upright as its EXIF says.

    crop: 'whole', or 'centre', the middle square whose side is `crop_share` of the picture's shorter side. resize: to
    the training resolution a side. training_crop, training_flip: how training varied the pictures, in the words of the
    options `data.crop` and `data.flip`. ground: what transparent parts are laid on. A large JPEG is decoded at the
    scale that the resolution and the training crop need (`nas.data.reduced.Purpose`).
    """

    crop: str
    crop_share: float
    training_crop: str
    training_flip: bool
    resize: str = RESIZE
    colours: str = "RGB"
    ground: str = "white"

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

    @property
    def published_words(self) -> str:
        """What the best published network within the budget reaches, and whether this one compares; '' if unknown."""
        budget, accuracy = self.budget, self.accuracy
        if budget is None or budget.published is None:
            return ""
        best = budget.published
        how = f"measured {best.measured}" if best.measured else "predicted"
        said = (
            f"the best published network within {budget.budget_ms:g} ms on {budget.device} is {best.network} at "
            f"{100 * best.top1:.1f} % of ImageNet ({best.latency_ms:.3g} ms, {how}; fp32 weights {best.weights}, "
            f"{best.resolution} pixels)"
        )
        if accuracy is None:
            return f"{said}; the accuracy of yours was not measured"
        yours = f"{said}; yours is {100 * accuracy.test:.1f} % on {accuracy.data}"
        if not self.is_of_imagenet:
            return f"{yours}, which are other images: the two do not compare"
        if best.top1 > accuracy.test and best.latency_ms <= budget.predicted_ms:
            return f"{yours}, the same classes: it is dominated, no faster and less accurate"
        return f"{yours}, the same classes"

    @property
    def is_of_imagenet(self) -> bool:
        """Whether its classes are ImageNet's thousand, as folders of the data set are called."""
        names = self.input.class_names
        return len(set(names)) == len(names) == CLASSES and all(re.fullmatch(r"n\d{8}", name) for name in names)

    @property
    def thin_words(self) -> str:
        """'k7e3 (2 blocks) 14 %, k5e3 (1 block) 9 %': `Budget.thin`, and how often each is in the network; or ''."""
        if self.budget is None:
            return ""
        count = Counter(str(block) for stage in self.architecture.stages for block in stage)
        return ", ".join(
            f"{name} ({count[name]} block{'s' * (count[name] != 1)}) {100 * share:.0f} %"
            for name, share in self.budget.thin.items()
        )

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


DEPLOYMENT = 224  # pixels that an architecture alone is priced at, as a search is by default
CLASSES = 1000  # that it is counted with where nothing says how many: ImageNet's
ALONE = f"The file holds an architecture alone: latency is for {DEPLOYMENT} pixels"


def load_result_or_architecture(path: Path) -> SearchResult:
    """`load_result`, or of a file with an architecture alone (`Architecture.to_dict`) a result without the rest.

    That has `ALONE` among its notes, `CLASSES` classes, and neither budget, latency, accuracy nor names of classes.
    Raises `BadFile`, and `UserError` for a file of another kind that a run leaves.
    """
    if path.suffix in (".onnx", ".safetensors", ".tflite", ".xml") and path.is_file():
        raise UserError(f"'{path}' holds weights, not the choice of blocks: name the architecture.json of its run")
    data, where = read_json(path, "architecture.json"), f"'{path}'"
    if isinstance(data, Mapping) and "schema" not in data and {"space", "stages"} <= data.keys():
        return result_of(Architecture.from_dict(data, where), CLASSES)
    return SearchResult.from_dict(data, where)


def result_of(architecture: Architecture, num_classes: int) -> SearchResult:
    """What is known of an architecture of which only the number of classes is known besides."""
    return SearchResult(
        architecture=architecture,
        num_classes=num_classes,
        resolution=Resolution(DEPLOYMENT, DEPLOYMENT),
        input=InputFormat((0.5, 0.5, 0.5), (0.25, 0.25, 0.25), ()),
        cost=cost_of(lower(architecture, DEPLOYMENT, num_classes)),
        budget=None,
        latency={},
        accuracy=None,
        notes=(ALONE,),
    )
