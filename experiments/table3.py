"""Table III: networks searched for CPU, VPU and GPU in the quadratic space and in ProxylessNAS', trained alike.

Question   Under the paper's budgets (300, 30 and 3 ms, on its scale: calibration=table3, and table3_nn_meter with the
           kernels that nn-Meter cannot predict left out) and under budgets that bind in real milliseconds
           (calibration=measured): what do the six searches find, is the quadratic network the better one at the same
           budget, is each best on its own device, and was the search worth it beside random and published networks?
Data       CIFAR-10 at 32 pixels by default: 6,000 of its train images, of which 1,200 choose; the whole test set.
           data=webdataset data.root=FOLDER data.resolution=64 (`experiments.shards` writes such folders), or ImageNet
           with the full recipe:
           data=imagefolder data.root=FOLDER data.resolution=224 recipe=imagenet out=FILE.
Command    python -m experiments.table3 [jobs=2] [minutes=60]
           python -m experiments.table3 scale=full out=FILE [jobs=2]
           python -m experiments.table3 show figure=table3.html
           Searches and trainings run on a GPU where torch finds one.
Cost       About 38 trainings and 6 searches a seed, 47 minutes of an x86-64 core: three seeds take 75 minutes of two.
           Seed by seed, the searches and what they found first, so that a part is of use. --quick: a CPU minute.
           scale=full: all 50,000 images at 64 pixels, where the maps are 16, 8, 4 and 2 pixels wide, 20 epochs; under
           the budgets that bind the six searched networks, one random network each and the one with the most
           parameters, which costs no search. About 50 CPU-hours a seed. Each training says its pace, and one that was
           stopped goes on from its last epoch or from two minutes before.
Expected   Every feasible budget kept and at least 97 % of it used where it binds. Of accuracies nothing is known
           beforehand: at 32 pixels the quadratic networks' maps are 8, 4, 2 and 1 pixels wide, and a few epochs on an
           eighth of CIFAR-10 say which networks learn fast, not what they reach on ImageNet.

Latencies are predictions of the device profiles at 224 pixels, batch 1 and 1000 classes; none is a timing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.jobs import Work, run_jobs
from experiments.profiles.paper_scale import SCALES
from experiments.results import Results, Row, Value, profile_digests
from experiments.table3_tables import render
from experiments.table3_work import (
    BUDGETS_MS,
    COMPARED,
    DEVICES,
    FULL,
    SPACES,
    Job,
    Scale,
    Worker,
    accelerator,
    model_of,
    published,
)
from search_space.errors import UnknownName, UserError

if TYPE_CHECKING:
    from latency_models.options import Options
    from nas.data.settings import DataSettings

KINDS = ("range", "scale", "published", "random", "search", "train")
KINDS_FULL = ("range", "random", "free", "search", "train")
ALL_KINDS = tuple(dict.fromkeys((*KINDS, *KINDS_FULL)))
SIZES = ("small", "full")
OPTIONS = {
    "scale": "small (default), or full: see the head of this file",
    "data": "cifar10 (default), webdataset, imagefolder or digits",
    "data.root": "folder of the images or shards (default for cifar10: ../shared/datasets)",
    "data.train": "of webdataset, instead of data.root: a pattern of the shards to train on",
    "data.test": "of webdataset: a pattern of the shards to test on",
    "data.resolution": "pixels to search and train at (default: 32)",
    "data.limit": "use only so many train images (default: 6000 of cifar10, else all)",
    "recipe": "of the trainings: small (default) or imagenet, whose epochs and augmentation are the paper's",
    "epochs": "of every training (default: 4 with recipe=small)",
    "warmup": "epochs of a supernet's weights alone (default: 2)",
    "search": "epochs of weights and gates in turn (default: 3)",
    "drawn": "random networks a budget, space and seed (default: 2)",
    "seeds": "searches and trainings of each kind (default: 3)",
    "kinds": f"which jobs, with commas between (default: {','.join(KINDS)}; of scale=full {','.join(KINDS_FULL)})",
    "spaces": f"in which spaces (default: {','.join(SPACES)})",
    "calibrations": f"under which budgets (default: {','.join(BUDGETS_MS)}; of scale=full {COMPARED})",
}


@dataclass(frozen=True)
class Wanted:
    """Which jobs a call asks for."""

    kinds: Sequence[str]
    spaces: Sequence[str]
    calibrations: Sequence[str]
    seeds: int

    def jobs(self, rows: Sequence[Row]) -> list[Job]:
        """Seed by seed: searches, each before the trainings of what it found, then what they are compared with."""
        found = {job.name: job for seed in range(self.seeds) for job in self._of_seed(seed, rows)}
        return [job for job in found.values() if job.kind in self.kinds]

    def _of_seed(self, seed: int, rows: Sequence[Row]) -> Iterator[Job]:
        for calibration in self.calibrations:
            for space in self.spaces:
                yield Job("range", space=space, calibration=calibration)
            if calibration in SCALES:
                yield Job("scale", calibration=calibration)
        if COMPARED in self.calibrations:
            priced = {row["space"] for row in rows if row["kind"] == "published"}
            yield from (Job("published", space=family) for family in published() if family not in priced)
            for space in self.spaces:
                yield Job("random", seed, space, COMPARED)
                yield Job("free", space=space, calibration=COMPARED)
        for calibration in self.calibrations:
            for space in self.spaces:
                yield Job("search", seed, space, calibration)
                yield from _trainings(seed, rows, kind="searched", space=space, calibration=calibration, seed_of=seed)
        if COMPARED in self.calibrations:
            yield from _trainings(seed, rows, kind="published", calibration=COMPARED)
            for space in self.spaces:
                yield from _trainings(seed, rows, kind="free", space=space, calibration=COMPARED)
                yield from _trainings(seed, rows, kind="random", space=space, calibration=COMPARED, seed_of=seed)


def _trainings(seed: int, rows: Sequence[Row], seed_of: int | None = None, **columns: Value) -> Iterator[Job]:
    """One for every network of the rows with these columns, drawn or searched with `seed_of`."""
    wanted = {**columns, "seed": seed_of}
    for row in rows:
        if all(row.get(name) == value for name, value in wanted.items()):
            yield Job("train", seed, architecture=str(row["architecture"]))


def prepare(options: Options, quick: bool) -> Work[Job]:
    """`quick`: digits, one seed, one epoch of everything."""
    scale, full = scale_of(options, quick), _is_full(options)
    if full and not quick and not options.given("out"):
        raise UserError("scale=full has a results file of its own, beside which stopped trainings are kept: out=FILE")
    kinds, spaces = options.names("kinds", KINDS_FULL if full else KINDS), options.names("spaces", SPACES)
    calibrations = options.names("calibrations", (COMPARED,) if full else tuple(BUDGETS_MS))
    for what, named, known in (("kind of job", kinds, ALL_KINDS), ("space", spaces, SPACES),
                               ("calibration", calibrations, BUDGETS_MS)):  # fmt: skip
        if unknown := [name for name in named if name not in known]:
            raise UnknownName(what, unknown[0], known)
    wanted = Wanted(kinds, spaces, calibrations, options.integer("seeds", 1 if quick or full else 3))
    trainings = Path(f"{options.text('out')}.trainings") if full and options.given("out") else None
    return Work(settings_of(scale), wanted.jobs, Worker(scale, trainings), accelerator())


def _is_full(options: Options) -> bool:
    return options.choice("scale", SIZES) == "full"


def scale_of(options: Options, quick: bool) -> Scale:
    """Raises `UserError` for options that do not fit."""
    from nas.data.settings import DataSettings
    from nas.training.recipes import available_recipes

    scale = FULL if _is_full(options) else Scale()
    recipe = options.text("recipe", scale.recipe)
    if recipe not in available_recipes():
        raise UnknownName("recipe", recipe, available_recipes())
    if quick:
        data = DataSettings("digits", resolution=32, limit=120)
        scale = replace(scale, data=data, epochs=1, warmup=1, search=1, batch_size=16, drawn=1)
    return replace(
        scale,
        data=_data_of(options, scale.data),
        recipe=recipe,
        epochs=options.integer("epochs", scale.epochs or 1) if recipe == "small" or options.given("epochs") else None,
        warmup=options.integer("warmup", scale.warmup, 0),
        search=options.integer("search", scale.search),
        drawn=options.integer("drawn", scale.drawn),
    )


def _data_of(options: Options, default: DataSettings) -> DataSettings:
    from nas.data.registry import option_defaults
    from nas.data.settings import DataSettings
    from nas.run.settings import settings_from_dict

    name = options.text("data", default.name)
    given: dict[str, Any] = asdict(default) if name == default.name else option_defaults(name)
    given.pop("epochs", None)
    if name == "cifar10":
        given["root"] = "../shared/datasets"
    for key in ("root", "train", "test"):
        if options.given(f"data.{key}"):
            given[key] = options.text(f"data.{key}")
    for key in ("resolution", "limit"):
        if options.given(f"data.{key}"):
            given[key] = options.integer(f"data.{key}", 1)
    return settings_from_dict(DataSettings, given, "data.")


def _named(data: DataSettings) -> str:
    """What the results call the images: shards by their folder, others by `data=`."""
    from nas.data.webdataset import WebDatasetSettings

    if isinstance(data, WebDatasetSettings):
        folder = data.train.rpartition("/")[0] if data.train else data.root
        return (folder or "").rstrip("/").rpartition("/")[2] or data.name
    return data.name


def settings_of(scale: Scale) -> dict[str, Value]:
    """What all rows of a file have in common: the scale, and the profiles that price."""
    data = scale.data
    plain = {f.name: getattr(scale, f.name) for f in fields(scale) if f.name not in ("data", "drawn", "every_image")}
    every_image = {"every_image": True} if scale.every_image else {}  # files of before it do not say that it is not so
    return {
        "data": _named(data),
        "on": accelerator(),
        "limit": data.limit,
        "resolution": data.resolution,
        "validation_share": data.validation_share,
        **plain,
        **every_image,
        **{f"factors_{scale}": _factors(scale) for scale in SCALES},
        **profile_digests(DEVICES),
    }


def _factors(scale: str) -> str:
    """'cpu 12.41, vpu 1.643, gpu 3.739': a scale's ms over measured ones."""
    ratios = {
        device: model_of(device, scale).scale.factor / model_of(device, "measured").scale.factor for device in DEVICES
    }
    return ", ".join(f"{device} {ratio:.4g}" for device, ratio in ratios.items())


def draw(results: Results) -> bytes:
    """The page."""
    from experiments.table3_page import render_page

    return render_page(results).encode()


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    return run_jobs("table3", OPTIONS, prepare, render, arguments, draw)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
