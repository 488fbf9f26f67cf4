"""Reads the few networks that a user timed, and writes the profile that they and the known devices give.

Not for the mix (`whole_networks`). `python -m latency_models.profile few=FILE device=NAME` calls `profile_from_few`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_profiles import DeviceProfile, available_devices, load_profile, save_profile
from latency_models.fit.whole_networks import MIX, Measurement, few_profile
from search_space.architecture import Architecture
from search_space.errors import BadFile, UserError
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.lower import lower

COLUMNS = ("architecture", "latency_ms")
OPTIONAL = ("resolution", "num_classes")


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
    """The rows of a CSV of timed networks.

    Columns are architecture (path of an architecture.json, from the CSV's folder) and latency_ms, and optionally
    resolution and num_classes. Raises `BadFile` naming the row (the header is row 1).
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadFile(f"no file '{file}'") from error
    except OSError as error:
        raise BadFile(f"cannot read '{file}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadFile(f"'{file}' is not UTF-8 text") from error
    reader = csv.reader(io.StringIO(text))
    header = next(reader, [])
    allowed = (*COLUMNS, *OPTIONAL)
    if not set(COLUMNS) <= set(header) <= set(allowed) or len(set(header)) < len(header):
        raise BadFile(f"'{file}' row 1: columns must be {', '.join(COLUMNS)} and optionally {', '.join(OPTIONAL)}")
    measured: list[Measurement] = []
    first_seen: dict[tuple[object, ...], int] = {}
    for number, fields in enumerate(reader, start=2):
        if not fields:
            continue
        here = f"'{file}' row {number}"
        if len(fields) != len(header):
            raise BadFile(f"{here}: {len(fields)} fields where {len(header)} are needed")
        row = _measurement(dict(zip(header, fields, strict=True)), file.parent, here)
        if row[:3] in first_seen:
            raise BadFile(f"{here}: the network of row {first_seen[row[:3]]} again; give one time for each network")
        first_seen[row[:3]] = number
        measured.append(row)
    return measured


def _measurement(fields: Mapping[str, str], folder: Path, here: str) -> Measurement:
    try:
        latency_ms = float(fields["latency_ms"])
    except ValueError:
        latency_ms = math.nan
    if not math.isfinite(latency_ms) or latency_ms <= 0:
        raise BadFile(f"{here}: latency_ms is '{fields['latency_ms']}', not a number of ms above 0")
    data = _json(folder / fields["architecture"], here)
    resolution = data.get("resolution", {})
    deployed = resolution.get("deployment", RESOLUTION) if isinstance(resolution, dict) else resolution
    pixels = _integer(fields.get("resolution", "") or deployed, "resolution", here)
    classes = _integer(fields.get("num_classes", "") or data.get("num_classes", NUM_CLASSES), "num_classes", here)
    try:
        row = Measurement(Architecture.from_dict(data.get("architecture", data)), pixels, classes, latency_ms)
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
