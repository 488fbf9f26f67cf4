"""The command that closes the loop: one network timed on the device rescales the device's profile.

    python -m latency_models.calibrate device=NAME architecture=FILE measured_ms=NUMBER [out=./device_profiles]

The profile is copied to `out/NAME`, where it stands before a shipped one; both of its files are kept but for
the factor on every time. Of a profile with scenarios (guesses at kinds that were never timed) the one nearest to the
measurement is taken, where they differ for this network, before the rest becomes the factor.
Searches then choose again without training: `python -m nas.search init=RUN`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

from device_profiles import Calibration, DeviceProfile, load_profile, save_profile
from device_profiles.profile import USER_FOLDER
from latency_models.fit.regression import round_significant
from latency_models.model import LatencyModel, fit_latency_model
from latency_models.options import Options, run
from latency_models.scenario import assume, settle
from search_space.errors import BadFile, UserError, one_line
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.lower import lower
from search_space.space import Architecture

USAGE = "usage: python -m latency_models.calibrate device=NAME architecture=FILE measured_ms=NUMBER"
OPTIONS = {
    "device": "the profile to rescale",
    "architecture": "architecture.json of the network that was timed",
    "measured_ms": "its median time on the device, batch 1, ms",
    "resolution": "pixels at which it was timed (default: the file's deployment resolution)",
    "out": f"where the rescaled profile goes (default: ./{USER_FOLDER})",
}
LARGEST_FACTOR = 100.0  # beyond it, a unit or a file is wrong
PRICED = "as priced"  # the guess that a profile's models make
LEAST_DIFFERENCE = 0.02  # between the guesses' predictions, as a share; below it a network cannot choose


@dataclass(frozen=True)
class TimedNetwork:
    """What a run's architecture.json says of the network that was timed."""

    architecture: Architecture
    resolution: int
    num_classes: int


def read_architecture(path: Path) -> TimedNetwork:
    """Read the `architecture`, `resolution.deployment` and `num_classes` of a run's JSON. Raises `BadFile`."""
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        resolution = data.get("resolution", RESOLUTION)
        pixels = resolution["deployment"] if isinstance(resolution, Mapping) else resolution
        architecture = Architecture.from_dict(data["architecture"])
        return TimedNetwork(architecture, int(pixels), int(data.get("num_classes", NUM_CLASSES)))
    except OSError as error:
        raise BadFile(f"cannot read '{path}': {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadFile(f"'{path}' is not JSON: {one_line(error)}") from error
    except UserError as error:
        raise BadFile(f"'{path}': {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadFile(f"'{path}' is not the architecture.json of a run: {error}") from error


def likeliest(profile: DeviceProfile, timed: TimedNetwork, measured_ms: float) -> tuple[DeviceProfile, str]:
    """The profile under the guess whose prediction is nearest to the measurement, and what was chosen in words.

    Ratios count, not differences. The profile as it is where it has no scenarios, or none that changes this network.
    """
    guesses = {PRICED: settle(profile), **{name: assume(profile, name) for name in profile.header.scenarios}}
    network = lower(timed.architecture, timed.resolution, timed.num_classes)
    predicted = {name: fit_latency_model(guess).predict(network).latency_ms for name, guess in guesses.items()}
    if max(predicted.values()) < (1 + LEAST_DIFFERENCE) * min(predicted.values()):
        return profile, ""
    chosen = min(predicted, key=lambda name: abs(log(predicted[name] / measured_ms)))
    said = ", ".join(f"{name} {ms:.4g} ms" for name, ms in predicted.items())
    return guesses[chosen], f"of the guesses {said}, '{chosen}' is nearest to {measured_ms:g} ms and taken for true"


def rescaled(profile: DeviceProfile, timed: TimedNetwork, measured_ms: float) -> tuple[float, float]:
    """(factor of the profile as it should be, ms that the profile predicts as it is).

    Raises `UserError` where measurement and prediction are a hundredfold apart.
    """
    model: LatencyModel = fit_latency_model(profile)
    predicted_ms = model.predict(lower(timed.architecture, timed.resolution, timed.num_classes)).latency_ms
    ratio = measured_ms / predicted_ms
    if not 1 / LARGEST_FACTOR <= ratio <= LARGEST_FACTOR:
        raise UserError(
            f"measured_ms={measured_ms:g} is {ratio:.3g} times the predicted {predicted_ms:.4g} ms: too far apart "
            "to be one network on one device; times are in milliseconds at batch 1"
        )
    return round_significant(profile.header.calibration["measured"].factor * ratio), predicted_ms


def calibrate(device: str, architecture: Path, measured_ms: float, resolution: int | None, out: Path) -> str:
    """Write the rescaled profile and say what changed."""
    profile, timed = load_profile(device), read_architecture(architecture)
    if resolution is not None:
        timed = replace(timed, resolution=resolution)
    profile, choice = likeliest(profile, timed, measured_ms)
    factor, predicted_ms = rescaled(profile, timed, measured_ms)
    header = profile.header
    note = f"{choice}; " if choice else ""
    note += f"times rescaled by {factor:g} on one network measured at {measured_ms:g} ms ({timed.architecture})"
    saved = save_profile(
        out / device,
        replace(
            header,
            calibration={**header.calibration, "measured": Calibration(factor)},
            accuracy={**header.accuracy, "calibrated": f"{note}; the other figures here are from before"},
        ),
        profile.rows,
    )
    chosen = f"{device}: {choice}\n" if choice else ""
    return (
        f"{chosen}{device}: predicted {predicted_ms:.4g} ms, measured {measured_ms:g} ms: every time x "
        f"{measured_ms / predicted_ms:.4g} from now on (profile {saved.digest} in '{out / device}')\n"
        f"choose a network again, without training: python -m nas.search init={architecture.parent} device={device} "
        "budget_ms=MILLISECONDS"
    )


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_calibrate, OPTIONS, USAGE, arguments)


def _calibrate(options: Options) -> str:
    device, path = options.text("device"), Path(options.text("architecture"))
    measured_ms = options.number("measured_ms")
    resolution = options.integer("resolution", RESOLUTION, 32) if options.given("resolution") else None
    return calibrate(device, path, measured_ms, resolution, Path(options.text("out", USER_FOLDER)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
