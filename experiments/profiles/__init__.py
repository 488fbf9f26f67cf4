"""Rebuilds and evaluates the shipped device profiles from public measurements, a folder a device.

    python -m experiments.profiles.fit device=NAME         the two files of a profile, byte for byte
    python -m experiments.profiles.evaluate device=NAME    how far it is from measurements that it did not see
    python -m experiments.profiles.collect source=FOLDER   the rows of data/ from the collected tables

Every device's `profile` module has two functions of a folder of tables, `rebuild` and `evaluations`. Nothing here is
in the wheel or needed to predict.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from device_profiles import Header, KernelRow
from latency_models.scores import Evaluation
from search_space.errors import BadFile, UnknownName

DATA = Path(__file__).parent / "data"
"""The rows that the shipped profiles are fitted on and evaluated with."""
DEVICES: Mapping[str, str] = {
    name: f"experiments.profiles.{name}.profile"
    for name in ("cpu", "cpu_2420mhz", "cpu_int8", "vpu", "gpu", "gpu_eager_fp32")
}
"""Device -> the module that rebuilds it."""


EVALUATED_BY = "python -m experiments.profiles.evaluate device={device}"
"""What the shipped headers name as the command of their figures."""


class Device(Protocol):
    """What a device's module offers; both read the tables of a folder and raise `BadFile` for a missing or bad one."""

    def rebuild(self, folder: Path) -> tuple[Header, list[KernelRow]]:
        """Header and kernel rows of the shipped profile."""

    def evaluations(self, folder: Path) -> list[Evaluation]:
        """Every held-out set, times in ms at batch 1."""


def find_device(name: str, source: Path) -> Device:
    """The module of a device. Raises `UnknownName` for another name, `BadFile` where `source` is no folder."""
    if name not in DEVICES:
        raise UnknownName("device with public measurements", name, DEVICES)
    if not source.is_dir():
        raise BadFile(f"no folder '{source}'; source= must name a folder that experiments.profiles.collect wrote")
    return cast("Device", import_module(DEVICES[name]))
