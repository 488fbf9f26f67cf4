"""The command that rebuilds the shipped profiles from public measurements.

    python -m latency_models.fit device=cpu|vpu|gpu source=DIR [out=device_profiles/data]

Same files in, same bytes out. Not needed to predict.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from device_profiles import Header, KernelRow, save_profile
from search_space.errors import BadFile, UnknownName, UserError

DEVICES = {"cpu": "latency_models.public.cpu", "vpu": "latency_models.public.vpu", "gpu": "latency_models.public.gpu"}
OPTIONS = ("device", "source", "out")
USAGE = "usage: python -m latency_models.fit device=cpu|vpu|gpu source=DIR [out=DIR]"


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
    profile = save_profile(out / device, header, rows)
    lines = [f"{device} {profile.digest}: {len(rows)} kernels, {profile.title}, {profile.runtime}, {profile.precision}"]
    lines += [f"  {name}: {text}" for name, text in header.accuracy.items() if name != "command"]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 done, 2 a user's error, told in one line on stderr."""
    try:
        options = _options(arguments)
        out = Path(options.get("out", Path(__file__).parent.parent / "device_profiles" / "data"))
        print(fit(options["device"], Path(options["source"]), out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _options(arguments: Sequence[str]) -> dict[str, str]:
    options = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in OPTIONS:
            raise UnknownName("option", name, OPTIONS, USAGE)
        if not equals or not value:
            raise UserError(f"option '{name}' has no value; {USAGE}")
        options[name] = value
    if missing := [name for name in ("device", "source") if name not in options]:
        raise UserError(f"missing {' and '.join(f'{name}=' for name in missing)}; {USAGE}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
