"""A device profile: find, load, check, save and hash the two files of a device's folder.

Not for what the header and the table mean (`header`, `table`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from device_profiles.header import Header, parse_header, render_header
from device_profiles.kernel import Kernel
from device_profiles.table import KernelRow, kernel_table, read_kernels, render_kernels
from search_space.errors import BadFile, UnknownName
from search_space.files import ensure_folder, write_whole
from search_space.reading import decode, parse_yaml

if TYPE_CHECKING:
    from pandas import DataFrame

HEADER_FILE = "device.yaml"
TABLE_FILE = "kernels.csv"
FOLDERS_VARIABLE = "NAS_DEVICE_PROFILES"
USER_FOLDER = "device_profiles"
CAVEATS = re.compile(rb"^caveats:\n(?:[- ].*\n)*", re.MULTILINE)  # the field as `save_profile` writes it


@dataclass(frozen=True)
class DeviceProfile:
    """A device as data.

    `digest` is a short hash of both files' bytes but for the header's `caveats`: equal only for equal prices.
    """

    name: str
    header: Header
    rows: tuple[KernelRow, ...]
    digest: str

    @cached_property
    def by_kernel(self) -> Mapping[Kernel, KernelRow]:
        """The row of every kernel that has one."""
        return {row.kernel: row for row in self.rows}

    @cached_property
    def table(self) -> DataFrame:
        """The rows as a pandas table, with the columns of `device_profiles.table.KERNELS`."""
        return kernel_table(self.rows)

    @property
    def title(self) -> str:
        """The device, in words."""
        return self.header.title

    @property
    def runtime(self) -> str:
        """The runtime and its version."""
        return f"{self.header.runtime} {self.header.runtime_version}"

    @property
    def precision(self) -> str:
        """The number format that its times are of, such as 'fp32'."""
        return self.header.precision


def available_devices() -> tuple[str, ...]:
    """Names of every device that `load_profile` finds, the user's own included."""
    return tuple(sorted({entry.name for folder in _folders() for entry in folder.iterdir() if _is_device(entry)}))


def load_profile(name: str) -> DeviceProfile:
    """Load a device by name.

    Looked for in `$NAS_DEVICE_PROFILES/NAME`, `./device_profiles/NAME` and the shipped ones, in that order. Raises
    `UnknownName`, or `BadFile` naming file and row.
    """
    for folder in _folders():
        for entry in folder.iterdir():
            if entry.name == name and _is_device(entry):
                return load_folder(entry)
    hint = f"Your own: a folder with {HEADER_FILE} and {TABLE_FILE} in ./{USER_FOLDER} or ${FOLDERS_VARIABLE}."
    raise UnknownName("device", name, available_devices(), hint)


def is_shipped(name: str) -> bool:
    """Whether a device of this name comes with the project."""
    return any(entry.name == name and _is_device(entry) for entry in _shipped().iterdir())


def shipped_digest(name: str) -> str | None:
    """The digest of the profile of this name that comes with the project; None where none does."""
    return load_folder(_shipped().joinpath(name)).digest if is_shipped(name) else None


def save_profile(folder: Path, header: Header, rows: Iterable[KernelRow]) -> DeviceProfile:
    """Write the two files of a device into `folder` (made if missing) and read them back."""
    import yaml

    header_text = yaml.safe_dump(render_header(header), sort_keys=False, width=110, allow_unicode=True)
    ensure_folder(folder)
    # the table first: between the two renames the old header refuses a table of another length
    write_whole(folder / TABLE_FILE, render_kernels(rows))
    write_whole(folder / HEADER_FILE, header_text)
    return load_folder(folder)


def _folders() -> list[Traversable]:
    found: list[Traversable] = []
    if named := os.environ.get(FOLDERS_VARIABLE):
        if not Path(named).is_dir():
            raise BadFile(f"${FOLDERS_VARIABLE} names '{named}', which is no folder")
        found.append(Path(named))
    found.append(Path(USER_FOLDER))
    found.append(_shipped())
    return [folder for folder in found if folder.is_dir()]


def _shipped() -> Traversable:
    return resources.files("device_profiles").joinpath("data")


def _is_device(entry: Traversable) -> bool:
    return entry.is_dir() and (entry.joinpath(HEADER_FILE).is_file() or entry.joinpath(TABLE_FILE).is_file())


def load_folder(folder: Traversable) -> DeviceProfile:
    """The device of one folder. Raises `BadFile` naming file and row."""
    header_bytes, table_bytes = _read(folder, HEADER_FILE), _read(folder, TABLE_FILE)
    header_name, table_name = f"{folder.name}/{HEADER_FILE}", f"{folder.name}/{TABLE_FILE}"
    header = parse_header(parse_yaml(decode(header_bytes, header_name), header_name), header_name)
    rows = read_kernels(decode(table_bytes, table_name), table_name)
    if header.device != folder.name:
        raise BadFile(f"{header_name}: device is '{header.device}', its folder '{folder.name}'")
    if header.kernel_rows != len(rows):
        raise BadFile(
            f"{table_name} row {len(rows) + 1}: the table ends after {len(rows)} of {header.kernel_rows} rows"
        )
    digest = hashlib.sha256(CAVEATS.sub(b"", header_bytes) + b"\0" + table_bytes).hexdigest()[:12]
    return DeviceProfile(folder.name, header, rows, digest)


def _read(folder: Traversable, name: str) -> bytes:
    path = folder.joinpath(name)
    if not path.is_file():
        raise BadFile(f"device '{folder.name}' has no {name}; a device is a folder with {HEADER_FILE} and {TABLE_FILE}")
    return path.read_bytes()
