"""The result of a search as a value, and its file architecture.json. Not for weights.

`load_result(path)` reads back a value equal to the one written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from search_space import Architecture, Cost, UserError
from search_space.errors import BadFile
from search_space.files import write_whole

SCHEMA = 1


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


@dataclass(frozen=True)
class InputFormat:
    """What the network wants to see: (image / 255 - mean) / std, RGB."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Resolution:
    """Pixels a side: what the latency is for, and what the weights were trained at."""

    deployment: int
    training: int

    def __post_init__(self) -> None:
        for name, pixels in (("deployment", self.deployment), ("training", self.training)):
            if type(pixels) is not int or pixels < 1:
                raise BadFile(f"resolution.{name} is {pixels!r}, not a number of pixels")


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
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        values = {f: getattr(self, f) for f in self.__dataclass_fields__}
        plain = {
            name: value.to_dict() if isinstance(value, Architecture) else _plain(value)
            for name, value in values.items()
        }
        return {"schema": SCHEMA, **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "result") -> SearchResult:
        """Read `to_dict`'s form. Raises `BadFile` naming `where`."""
        try:
            if data["schema"] != SCHEMA:
                raise BadFile(f"{where} has schema {data['schema']}; this version reads schema {SCHEMA}")
            budget, inputs = data["budget"], data["input"]
            return cls(
                architecture=Architecture.from_dict(data["architecture"]),
                num_classes=int(data["num_classes"]),
                resolution=Resolution(**data["resolution"]),
                input=InputFormat(**{key: tuple(value) for key, value in inputs.items()}),
                cost=Cost(**data["cost"]),
                budget=Budget(**budget) if budget else None,
                latency={name: DeviceLatency(**value) for name, value in data["latency"].items()},
                accuracy=Accuracy(**data["accuracy"]) if data["accuracy"] else None,
                gate_path=tuple(data["gate_path"]) if data.get("gate_path") else None,
                notes=tuple(data["notes"]),
                provenance=data["provenance"],
            )
        except KeyError as error:
            raise BadFile(f"{where} is not a search result: it has no field {error}") from error
        except (TypeError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise BadFile(f"{where}: {error}") from error
            raise BadFile(f"{where} is not a search result: {error}") from error


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as JSON would give them back."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written as JSON")
    return value


def save_result(result: SearchResult, path: Path) -> None:
    """Write architecture.json, whole or not at all."""
    write_whole(path, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")


def load_result(path: Path) -> SearchResult:
    """Raises `BadFile` for a file that is missing, truncated or not a search result."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFile(f"no file '{path}'") from error
    except IsADirectoryError as error:
        raise BadFile(f"'{path}' is a folder; name the architecture.json in it") from error
    except OSError as error:
        raise BadFile(f"cannot read '{path}': {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"'{path}' is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadFile(f"'{path}' holds no object")
    return SearchResult.from_dict(data, where=f"'{path}'")
