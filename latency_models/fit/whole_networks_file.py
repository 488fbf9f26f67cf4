"""Reads the few networks that a user timed, and writes the profile that they and the known devices give.

Not for the mix (`whole_networks`). `python -m latency_models.profile few=FILE device=NAME` calls `profile_from_few`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_profiles import DeviceProfile, available_devices, load_profile, save_profile
from latency_models.fit.whole_networks import MIX, Measurement, few_profile
from search_space.errors import BadFile, UserError
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.lower import lower
from search_space.space import Architecture
from search_space.tables import Column, Schema, parse_rows, read_text

TIMED_NETWORKS = Schema(
    "few.csv",
    (
        Column("architecture", "str", "path of an architecture.json, from the table's folder"),
        Column("latency_ms", "float", "measured latency of the whole network at batch 1, ms", above=0),
        Column("resolution", "int", "pixels of the input's side", empty=True, least=1, optional=True),
        Column("num_classes", "int", "outputs of the network", empty=True, least=1, optional=True),
    ),
    by_hand=True,
)


def profile_from_few(file: Path, name: str, out: Path) -> str:
    """Write `out/name` from a CSV of timed networks; the summary to print.

    Raises `UserError` for too few networks and for the name of a device that was measured, `BadFile` naming a bad row.
    """
    measured = read_measurements(file)
    known = [profile for profile in map(load_profile, available_devices()) if not is_mix(profile)]
    if name in {profile.name for profile in known}:
        raise UserError(f"device '{name}' was measured already and would be hidden; choose another name")
    header, rows = few_profile(name, measured, known)
    profile = save_profile(out / name, header, rows)
    networks, coverage = header.interval.networks, header.interval.coverage
    lines = [f"{name} {profile.digest}: {len(rows)} kernels derived from {networks} whole networks, in '{out / name}'"]
    lines += [f"  {key}: {text}" for key, text in header.accuracy.items()]
    lines += [f"  interval: {coverage:.0%} of networks (by {networks} left out one by one)"]
    return "\n".join(lines)


def is_mix(profile: DeviceProfile) -> bool:
    """Whether a profile was itself mixed from others, so that it knows nothing of its own."""
    return MIX in profile.header.accuracy


def read_measurements(file: Path) -> list[Measurement]:
    """The rows of a CSV with the columns of `TIMED_NETWORKS`.

    A missing resolution or num_classes is that of the architecture.json. Raises `BadFile` naming row (the header is
    row 1) and column.
    """
    where = f"'{file}'"
    measured: list[Measurement] = []
    first_seen: dict[tuple[object, ...], str] = {}
    for here, values in parse_rows(read_text(file, where), TIMED_NETWORKS, where):
        row = _measurement(values, file.parent, here)
        if row[:3] in first_seen:
            before = first_seen[row[:3]].removeprefix(f"{where} ")
            raise BadFile(f"{here}: the network of {before} again; give one time for each network")
        first_seen[row[:3]] = here
        measured.append(row)
    return measured


def _measurement(values: Mapping[str, Any], folder: Path, here: str) -> Measurement:
    data = _json(folder / values["architecture"], here)
    resolution = data.get("resolution", {})
    deployed = resolution.get("deployment", RESOLUTION) if isinstance(resolution, dict) else resolution
    pixels = _integer(values.get("resolution") or deployed, "resolution", here)
    classes = _integer(values.get("num_classes") or data.get("num_classes", NUM_CLASSES), "num_classes", here)
    try:
        row = Measurement(Architecture.from_dict(data.get("architecture", data)), pixels, classes, values["latency_ms"])
        lower(*row[:3])
    except UserError as error:
        raise BadFile(f"{here}: {error}") from error
    return row


def _json(path: Path, here: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadFile(f"{here}: no file '{path}'") from error
    except OSError as error:
        raise BadFile(f"{here}: cannot read '{path}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadFile(f"{here}: '{path}' is not JSON") from error
    if not isinstance(data, dict):
        raise BadFile(f"{here}: '{path}' holds no object")
    return data


def _integer(value: object, name: str, here: str) -> int:
    text = str(value)
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise BadFile(f"{here}: {name} is '{text}', not a whole number above 0")
    return int(text)
