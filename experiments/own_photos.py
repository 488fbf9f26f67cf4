"""A network for some thousand photographs of one's own: what trained weights are worth, and choosing where to cut them.

Question   With 2,000 training photographs of ten classes and a latency budget, how accurate are networks (a) searched
           from random weights, with and without a teacher, (b) cut uniformly by hand out of a network trained on
           ImageNet and fine-tuned, (c) searched from those weights (`init=`), all budgets in one run, (d) the same
           with quadratic forms of the depthwise convolutions, which start at zero: are they worth their milliseconds?
Data       Imagenette: 2,000 of its training photographs of 96 pixels, 300 more to choose by, 1,500 of its validation
           photographs as the test. They are ImageNet's, so the weights have seen many of them, test photographs not
           excepted: rows that start from the weights, or are taught by them, gain by that. data=cifar10 has images that
           they have not seen (5,000 for training, enlarged); data=FOLDER takes a folder for each class.
Command    python -m experiments.own_photos [data=imagenette] [seeds=3] [jobs=2] [minutes=60]
           python -m experiments.own_photos data=cifar10 images=5000 out=cifar10.json
           python -m experiments.own_photos data=FOLDER out=mine.json
           python -m experiments.own_photos show
Cost       About 20 CPU-minutes a run over five budgets and 10 for each network that is cut by hand. Seed by seed, what
           starts from the weights first. runs=FOLDER keeps the runs of searches, which then resume too.
Expected   Trained weights are worth tens of points; a search beats the best uniform cut of equal latency by one.

A cut by hand has the recipe, the teacher and the soft labels of the searched networks, their way to keep the channels
that matter and the norms' statistics, and sees as many images as a search in all; "fitted", it starts as searched
networks do, with the last layer of every block fitted anew. Three cuts: all expansions to one ratio, the last blocks of
all stages, or the last block of every stage and one ratio, each the slowest that keeps the budget. Random starts have
the defaults of `data=imagefolder` but the crop, which is `shift` for all. Quadratic forms are offered beside every
plain block, where the search may leave them alone; and in place of narrow blocks, where those of stages 3 to 6 have no
other form, so that the search has to take them. Latencies are predictions at 224 pixels, batch 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from statistics import fmean
from typing import Any

from experiments.jobs import Work, run_jobs
from experiments.own_photos_work import (
    BOTH,
    BUDGETS_MS,
    CUTS,
    DEPTH,
    DEVICES,
    EXPANSION,
    QUADRATIC,
    Images,
    Job,
    Scale,
    Worker,
)
from experiments.results import (
    NOT_MEASURED,
    Results,
    Row,
    Value,
    earlier_profiles,
    markdown,
    number,
    profile_digests,
    shown,
)
from latency_models.options import Options
from search_space.errors import UnknownName, UserError

KINDS = ("searched", "quadratic", "cut", "fitted", "scratch")
SEARCHED = "weights searched"
IMAGENETTE, CIFAR10 = "imagenette", "cifar10"
OPTIONS = {
    "data": f"{IMAGENETTE} (default), {CIFAR10}, or a folder with a folder for each class",
    "data.root": "folder of the first two's files (default: ../shared/datasets)",
    "images": "training images (default: 2000 of imagenette, 5000 of cifar10, else all)",
    "weights": "what init= and teacher= are (default: efficientnet_lite0)",
    "devices": f"with commas between (default: {','.join(DEVICES)})",
    **{f"budgets.{d}": f"ms (default: {','.join(f'{b:g}' for b in BUDGETS_MS[d])})" for d in DEVICES},
    "kinds": f"which rows (default: {','.join(KINDS)})",
    "resolution": "pixels of training from the weights (default: that of nas.search)",
    "finetune": "epochs, from the weights (default: those of nas.search)",
    "seeds": "of every row (default: 3)",
    "runs": "a folder to keep the runs of searches in (default: nowhere)",
    "threads": "of each job (default: 1)",
}


@dataclass(frozen=True)
class Wanted:
    """Which jobs a call asks for. budgets: by device, in the order to be done."""

    kinds: Sequence[str]
    budgets: dict[str, tuple[float, ...]]
    spaces: Sequence[str]
    seeds: int

    def jobs(self, rows: Sequence[Row]) -> list[Job]:
        """Seed by seed; on the first device everything, then on the next."""
        found = [Job("price")]
        for seed in range(self.seeds):
            for device, budgets in self.budgets.items():
                found += self._on_device(device, budgets, seed, rows)
        found.insert(2, Job("whole"))
        return list({job.name: job for job in found}.values())

    def _on_device(self, device: str, budgets: tuple[float, ...], seed: int, rows: Sequence[Row]) -> Iterator[Job]:
        if "searched" in self.kinds:
            yield Job("searched", device, budgets, seed=seed)
        if "quadratic" in self.kinds:
            for what in QUADRATIC:
                yield Job("quadratic", device, budgets, what, seed=seed)
        for kind in (kind for kind in ("cut", "fitted") if kind in self.kinds):
            at = [[str(row["network"]) for cut in (DEPTH, BOTH, EXPANSION) for row in rows if row["kind"] == "price"
                   and (row["what"], row["device"], row.get("budget_ms")) == (cut, device, budget)]
                  for budget in budgets]  # fmt: skip
            for networks in zip_longest(*at):  # one of every budget, then another
                yield from (Job(kind, what=network, seed=seed) for network in networks if network)
        if "scratch" in self.kinds:
            for taught in (False, True):
                for space in self.spaces:
                    yield Job("scratch", device, budgets, space, taught, seed)


def prepare(options: Options, quick: bool) -> Work[Job]:
    """`quick`: a few pictures of 32 pixels, one epoch of everything, one budget."""
    scale = scale_of(options, quick)
    kinds, devices = options.names("kinds", KINDS), options.names("devices", DEVICES[:1] if quick else DEVICES)
    for what, named, known in (("kind of row", kinds, KINDS), ("device", devices, DEVICES)):
        if unknown := [name for name in named if name not in known]:
            raise UnknownName(what, unknown[0], known)
    if "quadratic" in kinds and scale.weights != Scale.weights:
        if options.given("kinds"):
            raise UserError(f"kinds=quadratic has spaces of {Scale.weights} alone, not of weights={scale.weights}")
        kinds = tuple(kind for kind in kinds if kind != "quadratic")
    budgets = {device: _budgets(options, device, quick) for device in devices}
    wanted = Wanted(kinds, budgets, scale.spaces, options.integer("seeds", 1 if quick else 3))
    runs = options.text("runs") if options.given("runs") else None
    return Work(settings_of(scale), wanted.jobs, Worker(scale, runs, options.integer("threads", 1)))


def scale_of(options: Options, quick: bool) -> Scale:
    """Raises `UserError` for options that do not fit."""
    name = options.text("data", IMAGENETTE)
    images = Images(name, options.text("data.root", Images.root), *((32, 20, 40) if quick else (2000, 300, 1500)))
    if name == CIFAR10 and not quick:
        images = replace(images, train=5000, validation=500)
    if name not in (IMAGENETTE, CIFAR10):
        images = replace(images, root="", train=None, validation=None)
    if options.given("images"):
        if images.train is None:
            raise UserError(f"images= goes with data={IMAGENETTE} and data={CIFAR10}; a folder is used whole")
        images = replace(images, train=options.integer("images", 1, least=40))
    scale = Scale(images, options.text("weights", Scale.weights))
    if quick:
        scale = replace(scale, batch_size=8, pixels=32, finetune=1, scratch_pixels=32,
                        scratch_epochs=1, spaces=("quadranet_lite",))  # fmt: skip
    said = {"pixels": "resolution", "finetune": "finetune"}
    given: dict[str, Any] = {
        name: options.integer(option, 1, least=16 if name == "pixels" else 0)
        for name, option in said.items()
        if options.given(option)
    }
    return replace(scale, **given)


def _budgets(options: Options, device: str, quick: bool) -> tuple[float, ...]:
    name = f"budgets.{device}"
    default = (20.0,) if quick else BUDGETS_MS[device]
    try:
        found = tuple(float(text) for text in options.names(name, [str(budget) for budget in default]))
    except ValueError:
        raise UserError(f"{name}={options.text(name)} is not numbers with commas between") from None
    if unpriced := [budget for budget in found if budget not in BUDGETS_MS[device]]:
        raise UserError(f"{name}={unpriced[0]:g} is none of {', '.join(f'{b:g}' for b in BUDGETS_MS[device])}")
    return found


def settings_of(scale: Scale) -> dict[str, Value]:
    """What all rows of a file have in common: the scale, with the defaults that it leaves open, and the profiles."""
    from nas.run.defaults import CUT, CUT_EPOCHS, PIXELS

    plain = {name: value for name, value in asdict(scale).items() if name not in ("images", "spaces")}
    images = {f"images_{name}": value for name, value in asdict(scale.images).items() if name != "root"}
    plain["finetune"] = CUT_EPOCHS["finetune"] if scale.finetune is None else scale.finetune
    plain["pixels"] = scale.pixels or PIXELS
    given = {f"{group}.{name}": value for group, values in CUT.items() for name, value in values.items()}
    profiles = profile_digests(DEVICES)
    return {**images, **plain, **given, "spaces": ",".join(scale.spaces), **profiles}


@dataclass(frozen=True)
class Line:
    """A line of the table: what it is, and its measured rows, one a seed; why there can be none, where that is so."""

    device: str
    budget_ms: float
    label: str
    rows: Sequence[Row]
    ms: float | None = None
    impossible: str = ""


HEADER = ("budget", "network", "predicted ms", "test accuracy, %", "images seen", "CPU-minutes", "seeds")


def lines_of(results: Results) -> list[Line]:
    """All that the table has, measured or not, from the file's rows alone."""
    rows = results.rows
    prices = [row for row in rows if row["kind"] == "price"]
    spaces = [str(name) for name in str(results.settings["spaces"]).split(",")]
    found = []
    for device, budgets in BUDGETS_MS.items():
        fastest = {row["what"]: number(row, "minimum_ms") for row in prices
                   if row["device"] == device and "minimum_ms" in row}  # fmt: skip
        for budget in budgets:
            at = [row for row in rows if (row.get("device"), row.get("budget_ms")) == (device, budget)]
            for taught in (False, True):
                for space in spaces:
                    label = f"`{space}` from random weights{', taught' if taught else ''}"
                    those = [
                        row
                        for row in at
                        if row["kind"] == "scratch" and (row["what"], row["taught"]) == (space, taught)
                    ]
                    slow = f"none: the fastest takes {fastest[space]:.1f} ms" if fastest.get(space, 0) > budget else ""
                    found.append(Line(device, budget, label, those, impossible=slow))
            for cut in CUTS:
                priced = [row for row in at if row["kind"] == "price" and row["what"] == cut]
                label = f"weights cut by hand: {cut}"
                if not priced:
                    why = "none is so fast" if prices else ""
                    found.append(Line(device, budget, label, [], impossible=why))
                    continue
                (price,) = priced
                for kind, how in (("cut", ""), ("fitted", ", fitted")):
                    those = [row for row in rows if row["kind"] == kind and row["what"] == price["network"]]
                    named = f"{label}{how} ({price['network']})"
                    found.append(Line(device, budget, named, those, number(price, "ms")))
            those = [row for row in at if row["kind"] == "searched"]
            found.append(Line(device, budget, SEARCHED, first_of_a_seed(those)))
            for what in QUADRATIC:
                those = [row for row in at if (row["kind"], row.get("what")) == ("quadratic", what)]
                found.append(Line(device, budget, quadratic_label(what), first_of_a_seed(those)))
    return found


def first_of_a_seed(rows: Sequence[Row]) -> list[Row]:
    """A budget that was searched for alone and with others has one row a seed."""
    return list({row["seed"]: row for row in reversed(rows)}.values())[::-1]


def quadratic_label(what: str) -> str:
    """Of a line of the table."""
    return f"{SEARCHED}, quadratic forms {what}"


def cells(line: Line) -> tuple[str, ...]:
    """As `HEADER`, without the device."""
    start = (f"{line.budget_ms:g} ms", line.label)
    if line.impossible:
        return (*start, line.impossible, *["-"] * 4)
    if not line.rows:
        return (*start, shown(line.ms, 1), *[NOT_MEASURED] * 4)
    ms = line.ms if line.ms is not None else fmean(number(row, "ms") for row in line.rows)
    return (
        *start,
        f"{ms:.1f}",
        spread([100 * number(row, "test") for row in line.rows]),
        shown(fmean(number(row, "images_seen") for row in line.rows)),
        minutes(line.rows),
        ", ".join(shown(row["seed"]) for row in line.rows),
    )


def spread(values: Sequence[float]) -> str:
    """'90.2', '90.4 (90.0..90.9)': the mean over seeds, with the least and the most."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{fmean(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def minutes(rows: Sequence[Row]) -> str:
    """Of a run, on average; '20.1 for 3' where that run found networks for three budgets."""
    known = [number(row, "cpu_s") / 60 for row in rows if row["cpu_s"] is not None]
    if not known:
        return NOT_MEASURED
    networks = sorted({int(number(row, "targets")) for row in rows if "targets" in row} - {1})
    return f"{fmean(known):.1f}{f' for {networks[-1]}' if networks else ''}"


def against_cuts(lines: Sequence[Line], fitted: bool) -> str:
    """Points of the searched networks over the best uniform cut of the same budget, by their means over seeds.

    fitted: cuts that start as searched networks do.
    """
    gains = {}
    for line in lines:
        if line.label == SEARCHED and line.rows:
            cuts = [other for other in lines if (other.device, other.budget_ms) == (line.device, line.budget_ms)
                    and "by hand" in other.label and (", fitted" in other.label) is fitted]  # fmt: skip
            missing = any(not other.rows and not other.impossible for other in cuts)
            if reached := [fmean(number(row, "test") for row in other.rows) for other in cuts if other.rows]:
                gain = 100 * (fmean(number(row, "test") for row in line.rows) - max(reached))
                gains[f"{line.budget_ms:g} ms on {line.device}{' (some cuts not measured)' if missing else ''}"] = gain
    against = f"Searched networks against the best uniform cut{', fitted' if fitted else ''}"
    if not gains:
        return f"{against}: {NOT_MEASURED}."
    listed = ", ".join(f"{gain:+.1f} at {name}" for name, gain in gains.items())
    return f"{against}, points: {listed}; on average {fmean(gains.values()):+.1f}."


def against_plain(lines: Sequence[Line], what: str) -> str:
    """Points of searches with quadratic forms over those without, by the seeds of a budget that have both.

    Also how many blocks the search made quadratic, since it may leave forms that are offered alone.
    """
    gains, taken = {}, []
    plain = {(line.device, line.budget_ms): line.rows for line in lines if line.label == SEARCHED}
    for line in lines:
        if line.label == quadratic_label(what):
            without = {row["seed"]: number(row, "test") for row in plain[line.device, line.budget_ms]}
            both = [row for row in line.rows if row["seed"] in without]
            if both:
                gain = 100 * fmean(number(row, "test") - without[row["seed"]] for row in both)
                seeds = f"{len(both)} seed{'s' * (len(both) > 1)}"
                gains[f"{line.budget_ms:g} ms on {line.device} ({seeds})"] = gain
            taken += [f"{shown(row['quadratic_blocks'])} of {shown(row['blocks'])}" for row in both]
    against = f"Quadratic forms {what} against searches without them"
    if not gains:
        return f"{against}: {NOT_MEASURED}."
    listed = ", ".join(f"{gain:+.1f} at {name}" for name, gain in gains.items())
    return (
        f"{against}, points: {listed}; on average {fmean(gains.values()):+.1f}. Blocks that are quadratic: "
        f"{', '.join(taken)}."
    )


def render(results: Results) -> str:
    """A table a device, what the numbers rest on, and what is missing."""
    lines, parts = lines_of(results), []
    for device in DEVICES:
        body = [cells(line) for line in lines if line.device == device]
        parts.append(f"On `{device}`:\n\n{markdown(HEADER, body)}")
    parts += [against_cuts(lines, fitted) for fitted in (False, True)]
    parts += [against_plain(lines, what) for what in QUADRATIC]
    for row in results.rows:
        if row["kind"] == "whole":
            parts.append(
                f"The whole network with a new classifier, nothing else trained: {shown(row['test'], 1, 100)} % "
                f"({shown(row['cpu_ms'], 1)} ms on `cpu`, {shown(row['vpu_ms'], 1)} on `vpu`)."
            )
    settings = results.settings
    seen = "the weights have seen many of them, test photographs not excepted" if (
        settings["images_name"] == IMAGENETTE) else "the weights have not seen them"  # fmt: skip
    told = {IMAGENETTE: "Imagenette's photographs (96 pixels, enlarged) are ImageNet's: " + seen,
            CIFAR10: "CIFAR-10's images (32 pixels, enlarged) are not ImageNet's: " + seen}  # fmt: skip
    sizes = next((row for row in results.rows if "train_images" in row), None)
    if sizes is not None:
        parts.append(
            f"{told.get(str(settings['images_name']), 'A folder of photographs')}. {sizes['train_images']} training "
            f"images, {sizes['test_images']} test images."
        )
    shared = "a supernet, whose images count for each" if settings.get("search") else "teacher and costs of candidates"
    parts.append(
        f"Latencies are predicted, at 224 pixels and batch 1. Networks that were found together share {shared}. "
        f"CPU-minutes were taken on a machine that did other work too. {earlier_profiles(settings)}".rstrip()
    )
    parts.append(f"{', '.join(f'{name} {value}' for name, value in settings.items())}.\n{results.provenance}")
    return "\n\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Do the jobs that are left, or show the results; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_jobs("own_photos", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
