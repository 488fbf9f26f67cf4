"""The command that checks a profile where it was taken: random networks timed whole beside their predictions.

    python -m latency_models.verify device=host n=50 [space=quadranet] [out=FOLDER]

Other networks than those the profile was fitted on, by the same protocol. Not for devices elsewhere.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from device_profiles import DeviceProfile, load_profile
from latency_models.measure.kernel_onnx import network_item, reference_item
from latency_models.measure.progress import TimingProgress
from latency_models.measure.timing import (
    ROUNDS,
    RUNTIMES,
    Bench,
    Item,
    Refused,
    Result,
    add_runtime,
    cpu_name,
    make_settings,
    pinned,
)
from latency_models.measure.to_profile import results
from latency_models.model import Prediction, fit_latency_model
from latency_models.options import Options, run
from latency_models.scores import Evaluation
from search_space.errors import BadFile, Stopped, UserError
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.files import ensure_folder
from search_space.lower import Segment, lower
from search_space.space import SearchSpace
from search_space.space_file import load_space
from search_space.tables import Column, Schema, make_table, write_table

if TYPE_CHECKING:
    from pandas import DataFrame

USAGE = "usage: python -m latency_models.verify device=NAME [n=50] [space=NAME,...] [key=value ...]"
OPTIONS = {
    "device": "a profile taken on this machine (default: host)",
    "n": "how many networks (default: 50)",
    "space": "of which spaces, with commas between (default: quadranet)",
    "seed": "of the random networks (default: 0)",
    "resolution": "pixels (default: the profile's)",
    "busy": "refuse (default) or accept a machine that does other work",
    "runtime": "the full dotted path of a class of your own, for a profile that was taken in it",
    "out": "where verify.csv goes (default: ./verify-NAME)",
}
VERIFICATION = Schema(
    "verify.csv",
    (
        Column("network", "str", "space and number of a random network"),
        Column("predicted_ms", "float", "predicted latency, ms", above=0),
        Column("low_ms", "float", "lower end of the prediction's interval, ms", least=0),
        Column("high_ms", "float", "upper end of the prediction's interval, ms", above=0),
        Column("measured_ms", "float", "measured latency at the reference's speed of then, ms", above=0),
        Column("spread_ms", "float", "half the width of the measurement's interval, ms", least=0),
    ),
)
MARK_MAPE, MARK_WITHIN = 5.0, 95.0  # %: a profile's mark is a MAPE below, and so many networks within 10 %
Networks = Mapping[str, tuple[Segment, ...]]


@dataclass(frozen=True)
class Verification:
    """What was found.

    evaluation: of times scaled to the reference's speed when the profile was taken; as_timed: of times without that;
    reference_ratio: the reference's time now over then. parts: of `evaluation`, the networks of every space, where
    there are several.
    """

    evaluation: Evaluation
    as_timed: Evaluation
    reference_ratio: float
    timed: Mapping[str, Result]
    notes: tuple[str, ...] = ()
    parts: tuple[Evaluation, ...] = ()


@dataclass(frozen=True)
class TimedHere:
    """By item name: times scaled to the reference's speed when the profile was taken, and without that.

    reference_ratio: the reference's time now over then.
    """

    scaled: Mapping[str, Result]
    as_timed: Mapping[str, Result]
    reference_ratio: float
    notes: tuple[str, ...] = ()


def verify(
    profile: DeviceProfile, spaces: Sequence[SearchSpace], n: int, seed: int, resolution: int, out: Path, noise: bool
) -> Verification:
    """Time n random networks here. noise: accept a busy machine.

    Raises `UserError` for a profile of another machine, and `Refused` for a busy one.
    """
    networks = random_networks(spaces, n, seed, resolution)
    model = fit_latency_model(profile)
    predicted = [model.predict(segments) for segments in networks.values()]
    items = [network_item(name, segments) for name, segments in networks.items()]
    what = f"{[space.name for space in spaces]} n={n} seed={seed} resolution={resolution}"
    here = time_here(profile, items, what, out / ".timings.partial.csv", noise)
    evaluation = _evaluation("scaled to the reference", networks, predicted, here.scaled)
    found = Verification(
        evaluation=evaluation,
        parts=tuple(_parts(evaluation, spaces)),
        as_timed=_evaluation("as timed", networks, predicted, here.as_timed),
        reference_ratio=here.reference_ratio,
        timed=here.scaled,
        notes=here.notes,
    )
    write_table(out / VERIFICATION.name, _table(found), VERIFICATION)
    return found


def time_here(profile: DeviceProfile, items: Sequence[Item], what: str, partial_file: Path, noise: bool) -> TimedHere:
    """Time models on the machine and in the runtime of the profile.

    what: names the work, so that a killed run resumes from `partial_file`, which is gone in the end; noise: accept a
    busy machine. Raises `UserError` for a profile of another machine, and `Refused` for a busy one.
    """
    reference_ms, header, begin = _refuse_others(profile), profile.header, time.monotonic()
    options = header.runtime_options
    settings = make_settings(
        header.runtime, options["optimization"], header.precision, header.threads, options.get("processor", "")
    )
    with pinned(settings.threads), TimingProgress(len(items)) as progress:
        names = [item.name for item in items]
        bench = Bench(settings, reference_item(), partial_file, {"manifest": what}, names, noise)
        before = len(bench.records)

        def report(name: str) -> None:
            done = len(bench.records)
            spent = time.monotonic() - begin
            left = spent / (done - before) * (len(items) * ROUNDS - done) if done > before else inf
            progress.show("networks", done // ROUNDS, left)

        bench.measure(items, report)
    partial_file.unlink()
    version = str(bench.facts["runtime_version"])
    notes = [f"the profile was taken with {profile.runtime}, this is {version}"] * (version != header.runtime_version)
    now = median(record.reference_ms for record in bench.records)
    return TimedHere(results(bench.records, reference_ms), results(bench.records), now / reference_ms, tuple(notes))


def random_networks(spaces: Sequence[SearchSpace], n: int, seed: int, resolution: int) -> Networks:
    """Gate paths drawn uniformly, the spaces in turn; others than any profile is fitted on."""
    networks = {}
    for i in range(n):
        space = spaces[i % len(spaces)]
        path = space.random_path(random.Random(f"verify {space.name} {seed} {i}"))
        networks[f"{space.name}_{i:03d}"] = lower(space.architecture(path), resolution, NUM_CLASSES)
    return networks


def _parts(evaluation: Evaluation, spaces: Sequence[SearchSpace]) -> Iterator[Evaluation]:
    if len(spaces) > 1:
        for i, space in enumerate(spaces):  # they take turns
            yield evaluation.part(space.name, np.arange(len(evaluation.names)) % len(spaces) == i)


def render(found: Verification, device: str) -> str:
    """A table, as text."""
    sets = (found.evaluation, found.as_timed)
    rows = [
        ("", *(e.name for e in sets)),
        ("MAPE", *(f"{e.mape:.2f} %" for e in sets)),
        ("within 5 %", *(f"{e.within(0.05):.0f} %" for e in sets)),
        ("within 10 %", *(f"{e.within(0.1):.0f} %" for e in sets)),
        ("RMSE", *(f"{e.rmse_ms:.3g} ms" for e in sets)),
        ("Spearman", *(f"{e.spearman:.4f}" for e in sets)),
        ("interval", *(e.coverage_text() for e in sets)),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    measured = found.evaluation.measured_ms
    notes = "".join(f"\nnote: {note}" for note in found.notes)
    parts = "".join(
        f"\n{e.name}: {len(e.names)} networks, MAPE {e.mape:.2f} %, {e.within(0.1):.0f} % within 10 %"
        for e in found.parts
    )
    scaled = found.evaluation
    reached = scaled.mape < MARK_MAPE and scaled.within(0.1) >= MARK_WITHIN
    mark = f"\nmark: MAPE below {MARK_MAPE:g} %, {MARK_WITHIN:g} % within 10 %: {'reached' if reached else 'missed'}"
    return (
        f"{device}: {len(measured)} networks from {measured.min():.3g} to {measured.max():.3g} ms; the reference took "
        f"{found.reference_ratio:.3f} times what it took for the profile\n{table}{parts}{mark}{notes}"
    )


def _refuse_others(profile: DeviceProfile) -> float:
    """The reference's ms when the profile was taken. Raises `UserError` unless that was on this machine."""
    header, elsewhere = profile.header, "time its networks there: python -m latency_models.profile export=DIR"
    if header.runtime not in RUNTIMES or not {"cpu", "reference_ms"} <= header.runtime_options.keys():
        raise UserError(
            f"device '{profile.name}' ({header.title}, {header.runtime}) cannot be timed by this command, which "
            f"verifies profiles that latency_models.profile took on this machine; {elsewhere}"
        )
    if header.runtime_options["cpu"] != cpu_name():
        raise UserError(
            f"device '{profile.name}' was taken on '{header.runtime_options['cpu']}', this machine is "
            f"'{cpu_name()}'; {elsewhere}"
        )
    try:
        return float(header.runtime_options["reference_ms"])
    except ValueError:
        text = header.runtime_options["reference_ms"]
        raise BadFile(f"{profile.name}/device.yaml: runtime_options.reference_ms is '{text}', not a number") from None


def _evaluation(
    name: str, networks: Networks, predicted: Sequence[Prediction], timed: Mapping[str, Result]
) -> Evaluation:
    return Evaluation(
        name,
        tuple(networks),
        measured_ms=np.array([timed[network].ms for network in networks]),
        predicted_ms=np.array([p.latency_ms for p in predicted]),
        low_ms=np.array([p.low_ms for p in predicted]),
        high_ms=np.array([p.high_ms for p in predicted]),
        coverage=predicted[0].coverage,
    )


def _table(found: Verification) -> DataFrame:
    e = found.evaluation
    assert e.low_ms is not None and e.high_ms is not None
    spreads = [found.timed[name].spread_ms for name in e.names]
    return make_table(
        zip(e.names, e.predicted_ms, e.low_ms, e.high_ms, e.measured_ms, spreads, strict=True), VERIFICATION
    )


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_verify, OPTIONS, USAGE, arguments)


def _verify(options: Options) -> str:
    profile = load_profile(options.text("device", "host"))
    resolution = profile.header.runtime_options.get("resolution", str(RESOLUTION))
    out = Path(options.text("out", f"verify-{profile.name}"))
    spaces = [load_space(name) for name in options.names("space", ("quadranet",))]
    n, seed = options.integer("n", 50, least=3), options.integer("seed", 0, least=0)
    pixels = options.integer("resolution", int(resolution), least=32)
    noise = options.choice("busy", ("refuse", "accept")) == "accept"
    try:
        if options.given("runtime"):
            add_runtime(options.text("runtime"))
        _refuse_others(profile)
        ensure_folder(out)
        found = verify(profile, spaces, n, seed, pixels, out, noise)
    except Refused as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        raise Stopped("stopped; the same command resumes from here") from None
    return f"{render(found, profile.name)}\nevery network: '{out / 'verify.csv'}'"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
