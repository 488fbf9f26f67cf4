"""Rebuilds a shipped device profile from public measurements.

Question   do device.yaml and kernels.csv follow from the public rows, and from nothing else?
Command    python -m experiments.profiles.fit device=NAME [source=FOLDER] [out=device_profiles/data]
Cost       1 second; gpu_eager_fp32 about 10
Expected   the shipped files, byte for byte

Not needed to predict.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from device_profiles import DeviceProfile, Header, KernelRow, save_profile
from experiments.profiles import DATA, find_device
from experiments.profiles.paper_scale import TABLE_III, table3_scales
from latency_models.options import Options, run

SHIPPED = Path(__file__).parents[2] / "device_profiles" / "data"
OPTIONS = {
    "device": "which one to rebuild",
    "source": "folder of the public rows (default: experiments/profiles/data)",
    "out": "where NAME/device.yaml and NAME/kernels.csv go (default: the shipped profiles)",
}
USAGE = "usage: python -m experiments.profiles.fit device=NAME [source=FOLDER] [out=FOLDER]"


def fit(device: str, source: Path, out: Path) -> str:
    """Rebuild one device from the rows in `source` into `out/device`; the summary to print.

    Raises `UnknownName` for a device without public measurements, `BadFile` for a missing folder or file.
    """
    header, rows = find_device(device, source).rebuild(source)
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
    """The command; its exit status."""
    return run(_fit, OPTIONS, USAGE, arguments)


def _fit(options: Options) -> str:
    source, out = Path(options.text("source", str(DATA))), Path(options.text("out", str(SHIPPED)))
    return fit(options.text("device"), source, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
