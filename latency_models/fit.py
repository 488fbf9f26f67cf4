"""The command that rebuilds the shipped profiles from public measurements.

    python -m latency_models.fit device=NAME source=DIR [out=device_profiles/data]

Same files in, same bytes out. Not needed to predict.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import cast

from device_profiles import DeviceProfile, Header, KernelRow, save_profile
from latency_models.options import Options, run
from latency_models.table3 import TABLE_III, table3_scales
from search_space.errors import BadFile, UnknownName

DEVICES = {
    "cpu": "latency_models.public.cpu",
    "cpu_int8": "latency_models.public.cpu_int8",
    "vpu": "latency_models.public.vpu",
    "gpu": "latency_models.public.gpu",
    "gpu_eager_fp32": "latency_models.public.gpu_eager",
}
OPTIONS = {
    "device": "which one to rebuild",
    "source": "folder of the public latency measurements",
    "out": "where its two files go (default: the shipped profiles)",
}
USAGE = "usage: python -m latency_models.fit device=NAME source=DIR [out=DIR]"


def fit(device: str, source: Path, out: Path) -> str:
    """Rebuild one device from the measurements in `source` into `out/device`; the summary to print.

    Raises `UnknownName` for a device that has no public measurements, `BadFile` for a missing folder or file.
    """
    if device not in DEVICES:
        raise UnknownName("device with public measurements", device, DEVICES)
    if not source.is_dir():
        raise BadFile(f"no folder '{source}'; source= must name the folder of the public latency measurements")
    rebuild = cast("Callable[[Path], tuple[Header, list[KernelRow]]]", import_module(DEVICES[device]).rebuild)
    header, rows = rebuild(source)
    if device in TABLE_III[0].latency_ms:
        header = _with_table3(device, header, rows)
    profile = save_profile(out / device, header, rows)
    lines = [f"{device} {profile.digest}: {len(rows)} kernels, {profile.title}, {profile.runtime}, {profile.precision}"]
    lines += [f"  {name}: {text}" for name, text in header.accuracy.items() if name != "command"]
    return "\n".join(lines)


def _with_table3(device: str, header: Header, rows: list[KernelRow]) -> Header:
    profile = DeviceProfile(device, header, tuple(rows), "")
    return replace(header, calibration={**header.calibration, **table3_scales(profile)})


def main(arguments: Sequence[str]) -> int:
    return run(_fit, OPTIONS, USAGE, arguments)


def _fit(options: Options) -> str:
    shipped = Path(__file__).parent.parent / "device_profiles" / "data"
    return fit(options.text("device"), Path(options.text("source")), Path(options.text("out", str(shipped))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
