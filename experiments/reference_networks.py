"""Known networks on every device: predicted ms by the shipped profiles, and by others that are set against them.

Question   What do the profiles make of networks that readers know, and what did earlier profiles make of them?
Command    python -m experiments.reference_networks [devices=cpu,cpu_int8,vpu,gpu,gpu_eager_fp32] [earlier=FOLDER]
           python -m experiments.reference_networks show
           earlier=: a folder of profiles, as `git archive REVISION device_profiles/data | tar -x -C before` leaves it
           in before/device_profiles/data.
Cost       Seconds; nothing is trained or timed.
Expected   Without LayerNorm and GELU, as before within a few per cent on `cpu`; with them, dearer.
Reading    224 pixels, 1000 classes, batch 1. `quadranet` k5e3 ... is the network of README's run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.baselines.mobile import PROXYLESS_MOBILE, mobilenet_v2
from experiments.command import run_experiment
from experiments.results import Results, Row, earlier_profiles, markdown, profile_digests, shown, take_provenance
from search_space import Architecture, load_space, lower
from search_space.errors import UserError
from search_space.space import parse_block

if TYPE_CHECKING:
    from device_profiles import DeviceProfile
    from latency_models.options import Options
    from search_space import Segment

DEVICES = ("cpu", "cpu_int8", "vpu", "gpu", "gpu_eager_fp32")
OF_README = "k5e3 | k7e3 | k7e3 | k3e6 k3e3 k3e6 k5e6"
OF_FIRST_README = "k5e3 | k7e3 | k7e3 k5e6 | k3e6 k5e6 k3e3 k7e6"  # of November 23, 2026
RESOLUTION, NUM_CLASSES = 224, 1000
OPTIONS = {
    "devices": f"which, commas between (default: {','.join(DEVICES)})",
    "earlier": "a folder of other profiles of these devices, one folder each (default: none)",
}
HEADER = ("network", "device", "earlier ms", "interval", "derived", "now ms", "interval", "derived")


def networks() -> dict[str, Architecture]:
    """Name -> network: of README in `quadranet`, its blocks in `quadranet_lite`, and three published ones."""
    lite0 = load_space("efficientnet_lite0")
    return {
        "README's run (quadranet)": parsed("quadranet", OF_README),
        "README's run of November 23 (quadranet)": parsed("quadranet", OF_FIRST_README),
        "README's run, its blocks in quadranet_lite": parsed("quadranet_lite", OF_README),
        "MobileNetV2": mobilenet_v2(1.0),
        "ProxylessNAS-Mobile": PROXYLESS_MOBILE,
        "EfficientNet-Lite0": lite0.largest(),
    }


def parsed(space: str, blocks: str) -> Architecture:
    """A network of a shipped space from what a search prints, 'k5e3 | k7e3 k3e6'."""
    stages = (stage.split() for stage in blocks.split("|"))
    return Architecture(load_space(space), tuple(tuple(map(parse_block, stage)) for stage in stages))


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: the first device alone."""
    from device_profiles import load_profile
    from device_profiles.profile import load_folder

    devices = options.names("devices", DEVICES)[: 1 if quick else None]
    profiles = {device: load_profile(device) for device in devices}
    before: dict[str, DeviceProfile] = {}
    if options.given("earlier"):
        folder = Path(options.text("earlier"))
        if missing := [device for device in devices if not (folder / device).is_dir()]:
            raise UserError(f"earlier={folder} has no profile of {', '.join(missing)}; it holds one folder a device")
        before = {device: load_folder(folder / device) for device in devices}
    rows = []
    for name, network in networks().items():
        segments = lower(network, RESOLUTION, NUM_CLASSES)
        for device in devices:
            row: dict[str, str | float | None] = {"network": name, "device": device}
            row |= said(segments, profiles[device], "now")
            if before:
                row |= said(segments, before[device], "earlier")
            rows.append(row)
    settings = {**profile_digests(devices), **{f"earlier_{device}": p.digest for device, p in before.items()}}
    return Results("reference_networks", take_provenance(command, "cpu"), settings, tuple(rows))


def said(segments: Sequence[Segment], profile: DeviceProfile, name: str) -> Mapping[str, float]:
    """Prediction, interval and share of derived time by columns that begin with a name."""
    from latency_models import fit_latency_model

    model = fit_latency_model(profile)
    prediction = model.predict(segments)
    return {
        f"{name}_ms": round(prediction.latency_ms, 6),
        f"{name}_low_ms": round(prediction.low_ms, 6),
        f"{name}_high_ms": round(prediction.high_ms, 6),
        f"{name}_derived": round(model.support(segments).derived, 6),
    }


def render(results: Results) -> str:
    """A line for every network and device."""
    lines = [
        [str(row["network"]), str(row["device"]), *_cells(row, "earlier"), *_cells(row, "now")] for row in results.rows
    ]
    earlier = earlier_profiles(results.settings)
    return (
        f"{markdown(HEADER, lines)}\n\n{RESOLUTION} pixels, {NUM_CLASSES} classes, batch 1; intervals as each profile "
        f"claims them; derived: share of the predicted time.{earlier and f' {earlier}'}\n{results.provenance}"
    )


def _cells(row: Row, name: str) -> tuple[str, str, str]:
    if f"{name}_ms" not in row:
        return "-", "-", "-"
    digits = 1 if float(row[f"{name}_ms"] or 0) >= 10 else 2
    low, high = (shown(row[f"{name}_{end}_ms"], digits) for end in ("low", "high"))
    return shown(row[f"{name}_ms"], digits), f"{low}..{high}", f"{shown(row[f'{name}_derived'], 0, 100)} %"


def main(arguments: Sequence[str]) -> int:
    """Predict, or show what was predicted; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("reference_networks", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
