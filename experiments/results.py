"""What an experiment found, as one JSON file with where it comes from; tables are drawn from that file alone.

Not for measuring: see `experiments.throughput` and the tables' own modules.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from device_profiles import load_profile
from search_space.errors import BadFile
from search_space.files import write_whole

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1
FOLDER = Path(__file__).parent / "results"
NOT_MEASURED = "not measured"
PROFILE = "profile_"  # what settings call a profile's digest, before the device

Value = str | int | float | bool | None
Row = Mapping[str, Value]
"""One line of a table by column; None where nothing was measured."""


@dataclass(frozen=True)
class Provenance:
    """`load_average`: of the minute before the start; other work on the machine shows there."""

    command: str
    date: str
    commit: str | None
    hardware: str
    threads: int
    load_average: float | None
    versions: Mapping[str, str]

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        load = "" if self.load_average is None else f", load average {self.load_average:.1f} at the start"
        return (
            f"{self.hardware}, {self.threads} threads{load}; {versions}; {self.date}; "
            f"commit {self.commit or 'unknown'}; `{self.command}`"
        )


@dataclass(frozen=True)
class Results:
    """settings: what was chosen for this run, by name."""

    experiment: str
    provenance: Provenance
    settings: Mapping[str, Value]
    rows: tuple[Row, ...]

    @property
    def table(self) -> DataFrame:
        """The rows as a pandas table, a column for every name that any row has; NaN where a row lacks it."""
        import pandas as pd

        return pd.DataFrame.from_records(list(self.rows))


def take_provenance(command: str, device: str) -> Provenance:
    """Of this process, now. device: 'cpu' or 'cuda', on which is measured."""
    import torch

    from latency_models.measure.timing import cpu_name
    from nas.run.provenance import git_commit

    cpu = f"{cpu_name()}, {os.cpu_count()} cores"
    return Provenance(
        command=command,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=git_commit(),
        hardware=f"{torch.cuda.get_device_name()} ({cpu})" if device == "cuda" else cpu,
        threads=torch.get_num_threads(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        versions={
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **(_gpu_versions() if device == "cuda" else {}),
        },
    )


def _gpu_versions() -> dict[str, str]:
    import torch

    found = {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    with suppress(PackageNotFoundError):
        found["triton"] = version("triton")
    return found


def profile_digests(devices: Iterable[str]) -> dict[str, str]:
    """Settings that say which profiles priced: 'profile_cpu' -> its digest."""
    return {f"{PROFILE}{device}": load_profile(device).digest for device in devices}


def earlier_profiles(settings: Mapping[str, Value]) -> str:
    """A sentence where a profile that priced is no longer the one that ships, by `profile_digests`; else ''."""
    used = {name.removeprefix(PROFILE): value for name, value in settings.items() if name.startswith(PROFILE)}
    earlier = [device for device, digest in used.items() if load_profile(device).digest != digest]
    if not earlier:
        return ""
    return (
        f"Priced by earlier profiles of {', '.join(earlier)} than the present ones: milliseconds, budgets and the "
        "networks that were found would be others today."
    )


def save_results(path: Path, results: Results) -> None:
    """Whole or not at all. Raises `UserError` when the disk refuses."""
    write_whole(path, json.dumps({"schema": SCHEMA, **asdict(results)}, indent=1) + "\n")


def load_results(path: Path, experiment: str) -> Results:
    """The inverse of `save_results`. Raises `BadFile` for any other file, another experiment's among them."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFile(f"no results '{path}'; python -m experiments.{experiment} measures them") from error
    except (OSError, ValueError) as error:
        raise BadFile(f"'{path}' cannot be read as JSON: {error}") from error
    try:
        if data["schema"] != SCHEMA or data["experiment"] != experiment:
            raise BadFile(
                f"'{path}' holds {data['experiment']} in schema {data['schema']}, not {experiment} in {SCHEMA}"
            )
        return Results(experiment, Provenance(**data["provenance"]), data["settings"], tuple(data["rows"]))
    except (KeyError, TypeError) as error:
        raise BadFile(f"'{path}' holds no results of {experiment}: {error}") from error


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; names in the first column, the rest to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))


def shown(value: Value, digits: int = 0, scale: float = 1.0) -> str:
    """A cell: a number with `digits` after the point, text as it is, 'not measured' for None."""
    if value is None:
        return NOT_MEASURED
    return value if isinstance(value, str) else f"{value * scale:.{digits}f}"


def number(row: Row, column: str) -> float:
    """A cell that holds one; any other is a bug (`AssertionError`)."""
    value = row[column]
    assert isinstance(value, int | float), f"{column}={value!r}"
    return float(value)


def spread_shown(row: Row, name: str) -> str:
    """A cell: a median over rounds with its quartiles."""
    if row[name] is None:
        return NOT_MEASURED
    return f"{shown(row[name], 2)} ({shown(row[f'{name}_low'], 2)}..{shown(row[f'{name}_high'], 2)})"


def ratio(numerator: Value, denominator: Value) -> float | None:
    """None where either is missing."""
    if not isinstance(numerator, int | float) or not isinstance(denominator, int | float):
        return None
    return numerator / denominator
