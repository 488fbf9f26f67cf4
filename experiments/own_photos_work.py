"""The jobs of `experiments.own_photos`: searching with and without trained weights, and cutting them by hand.

Latencies are those of networks for the data set's own classes at 224 pixels, batch 1. Not for tables.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles import load_profile
from experiments.results import Row, Value
from latency_models import LatencyModel, fit_latency_model, latency_table
from nas.data.registry import find
from nas.pretrained.sources import load_trained
from nas.run.defaults import with_defaults
from search_space import Architecture, BlockChoice, load_space, lower
from search_space.errors import UserError
from search_space.family import RESOLUTION

if TYPE_CHECKING:
    from nas.data import DataSet
    from nas.run.plan import Plan
    from nas.training.lessons import Lessons
    from nas.training.teacher import Teacher

    Colours = tuple[tuple[float, float, float], tuple[float, float, float]]

DEVICES = ("cpu", "vpu")
BUDGETS_MS: Mapping[str, tuple[float, ...]] = {"cpu": (12, 15, 20, 25, 30), "vpu": (12, 15, 20)}
SCRATCH = ("quadranet", "quadranet_lite", "proxyless")  # spaces without trained weights
EXPANSION, DEPTH, BOTH = "expansion", "depth", "both"
CUTS = (EXPANSION, DEPTH, BOTH)
DROPPED = 3  # last blocks that a cut in depth takes from every stage, at most
OFFERED, IN_PLACE = "offered", "in place of narrow blocks"
QUADRATIC = {
    OFFERED: "efficientnet_lite0_quadratic",
    IN_PLACE: str(Path(__file__).parent / "spaces" / "efficientnet_lite0_narrow_quadratic.yaml"),
}  # what a space has of quadratic forms -> that space
PHOTOGRAPHS = "imagefolder"  # whose defaults hold for networks that start at random


@dataclass(frozen=True)
class Images:
    """Which images, and how many of them. name: imagenette, cifar10 or a folder of classes; root: of the first two.

    None: as many as there are.
    """

    name: str = "imagenette"
    root: str = "../shared/datasets"
    train: int | None = 2000
    validation: int | None = 300
    test: int | None = 1500


@dataclass(frozen=True)
class Scale:
    """How large the experiment is; None: the defaults of `nas.search`.

    weights: what `init=` and `teacher=` are. pixels, finetune (epochs): of searches that start from the weights, and of
    the networks cut by hand; scratch_*: of those that start at random.
    """

    images: Images = Images()
    weights: str = "efficientnet_lite0"
    batch_size: int = 32
    pixels: int | None = None
    finetune: int | None = None
    scratch_pixels: int | None = None
    scratch_epochs: int | None = None
    spaces: tuple[str, ...] = SCRATCH


@dataclass(frozen=True)
class Job:
    """A part of the experiment that is done in one go and then kept.

    kind: 'price' (what budgets every row can keep), 'whole' (the published network with a new classifier), 'searched'
    (from trained weights, all of `budgets` in one run), 'quadratic' (the same with quadratic forms, `what` of them),
    'cut' (`what` by hand), 'fitted' (the same, started as searched networks are: `nas.supernet.refit`) or 'scratch'
    (`what` is the space).
    """

    kind: str
    device: str = ""
    budgets: tuple[float, ...] = ()
    what: str = ""
    taught: bool = False
    seed: int | None = None

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        budgets = ",".join(f"{budget:g}" for budget in self.budgets)
        seed = "" if self.seed is None else f"seed {self.seed}"
        parts = (self.kind, self.what, "taught" if self.taught else "", self.device, budgets, seed)
        return " ".join(part for part in parts if part)


@cache
def model_of(device: str) -> LatencyModel:
    """The latency model of a shipped profile, fitted once a process."""
    return fit_latency_model(load_profile(device))


@cache
def load_images(images: Images) -> DataSet:
    """The images, divided: the same for every row and seed. Raises `UserError`, `BadFile`."""
    from nas.data import DataSettings, load
    from nas.data.settings import ImageFileSettings
    from nas.data.splits import assemble

    if images.name == "imagenette":
        from experiments.shards import read_packs

        found = sorted(Path(images.root).expanduser().glob("imagenette*_train.npz"))
        if not found:
            raise UserError(f"no imagenette*_train.npz in '{images.root}'; give data.root=, or data=FOLDER of your own")
        packs = read_packs(found[0], found[0].with_name(found[0].name.replace("_train", "_val")))
        kept = None if images.train is None else images.train + (images.validation or images.train // 10)
        share = 0.1 if kept is None else (images.validation or kept // 11) / kept
        data = assemble(replace(packs, name="imagenette"), packs.train, packs.test, share, kept)
    elif images.name == "cifar10":
        kept = None if images.train is None else images.train + (images.validation or images.train // 10)
        share = 0.1 if kept is None else (images.validation or kept // 11) / kept
        data = load(DataSettings("cifar10", images.root, validation_share=share, limit=kept))
    else:
        data = load(ImageFileSettings(PHOTOGRAPHS, images.name, validation_share=0.1))
    if images.test is not None and images.test < len(data.test):
        from nas.data.order import by_class_in_turn

        data = replace(data, test=data.test.take(by_class_in_turn(data.test.labels, seed=4)[: images.test]))
    return data


def uniform_cut(whole: Architecture, dropped: int, ratio: int) -> Architecture:
    """A network without the last blocks of its stages, as many of each as it can spare, and with no larger expansions.

    Its space holds the whole network too.
    """
    stages = tuple(
        tuple(BlockChoice(block.kernel_size, min(ratio, block.expand_ratio)) for block in blocks)
        for blocks in (blocks[: max(1, len(blocks) - dropped)] for blocks in whole.stages)
    )
    offered = tuple(
        replace(stage, blocks=tuple(dict.fromkeys((*was, *now))), kernel_sizes=None, expand_ratios=None)
        for stage, was, now in zip(whole.space.stages, whole.stages, stages, strict=True)
    )
    return Architecture(replace(whole.space, stages=offered), stages)


def nearest_cuts(whole: Architecture, device: str, budget_ms: float, classes: int) -> dict[str, tuple[int, int, float]]:
    """Kind of cut -> (blocks dropped, ratio, ms): the slowest that keeps the budget, where there is one."""
    most = max(block.expand_ratio for blocks in whole.stages for block in blocks)
    ratios = range(1, most)
    kinds = {
        EXPANSION: [(0, ratio) for ratio in ratios],
        DEPTH: [(dropped, most) for dropped in range(1, DROPPED + 1)],
        BOTH: [(1, ratio) for ratio in ratios],
    }
    found = {}
    for kind, cuts in kinds.items():
        priced = [(*cut, _ms(uniform_cut(whole, *cut), device, classes)) for cut in cuts]
        if kept := [cut for cut in priced if cut[2] <= budget_ms]:
            found[kind] = max(kept, key=lambda cut: cut[2])
    return found


def cut_name(dropped: int, ratio: int) -> str:
    """'1 less a stage, ratio 3'."""
    return f"{dropped} less a stage, ratio {ratio}"


@cache
def _ms(architecture: Architecture, device: str, classes: int) -> float:
    return model_of(device).predict(lower(architecture, RESOLUTION, classes)).latency_ms


@dataclass(frozen=True)
class Worker:
    """Does jobs; a value, so that it can travel to another process.

    runs: the folder where runs of searches are kept, and resumed from; None: nowhere.
    """

    scale: Scale
    runs: str | None = None
    threads: int = 1

    def __call__(self, job: Job) -> Sequence[Row]:
        """A job's rows, each with the whole job's CPU seconds."""
        import torch

        torch.set_num_threads(self.threads)
        clock = time.process_time()
        rows: list[Row] = list(getattr(self, f"_{job.kind}")(job))
        cost = {"cpu_s": round(time.process_time() - clock, 1), "threads": self.threads}
        return [{"kind": job.kind, "seed": job.seed, **cost, **row} for row in rows]

    def _price(self, job: Job) -> Iterator[Row]:
        """What every row of the table can be at every budget, and how fast its fastest network is."""
        classes = load_images(self.scale.images).num_classes
        whole = load_trained(self.scale.weights).architecture
        for device in DEVICES:
            for space in (*self.scale.spaces, whole.space.name):
                table = latency_table(model_of(device), load_space(space), RESOLUTION, classes)
                ends: dict[str, Value] = {"minimum_ms": table.minimum_ms, "maximum_ms": table.maximum_ms}
                yield {"what": space, "device": device, **ends}
            for budget_ms in BUDGETS_MS[device]:
                for kind, (dropped, ratio, ms) in nearest_cuts(whole, device, budget_ms, classes).items():
                    cut: dict[str, Value] = {"dropped": dropped, "ratio": ratio, "network": cut_name(dropped, ratio)}
                    yield {"what": kind, "device": device, "budget_ms": budget_ms, "ms": ms, **cut}

    def _whole(self, job: Job) -> Iterator[Row]:
        """Nothing is trained but the classifier."""
        from nas.training.loop import accuracy

        trained = load_trained(self.scale.weights)
        plan, data = self._plan_of_weights(trained.architecture, 0)
        pixels = plan.settings.data.resolution
        teacher, _ = self._taught(data, pixels)
        reached = accuracy(teacher, data.batches(data.test, pixels, 128))
        ms = {f"{device}_ms": _ms(trained.architecture, device, data.num_classes) for device in DEVICES}
        yield {"what": "whole", "test": reached, "validation": teacher.validation, "images_seen": 0, **ms,
               **_sizes(data, pixels)}  # fmt: skip

    def _fitted(self, job: Job) -> Iterator[Row]:
        yield from self._cut(job)

    def _cut(self, job: Job) -> Iterator[Row]:
        """Trained by the recipe of a search's chosen network."""
        from nas.strategies.start import MEASURED_ON, Start, inheriting, some_images
        from nas.training.loop import accuracy, train_network
        from nas.training.recipes import finetune_recipe
        from search_space.build import to_channels_last

        assert job.seed is not None
        dropped, ratio = (int(number) for number in job.what.split(" less a stage, ratio "))
        trained = load_trained(self.scale.weights)
        cut = uniform_cut(trained.architecture, dropped, ratio)
        plan, data = self._plan_of_weights(cut, job.seed)
        settings, pixels = plan.settings, plan.settings.data.resolution
        teacher, lessons = self._taught(data, pixels)
        images = some_images(data, pixels)
        supernet = inheriting(plan, data, trained, teacher, images[:MEASURED_ON])
        start = Start(lessons, supernet, images=images if job.kind == "fitted" else None)
        network = to_channels_last(start.extract(plan.space.path(cut))).eval()
        before = accuracy(network, data.batches(data.validation, pixels, 128))
        recipe = finetune_recipe(settings, keep_statistics=True)
        train_network(network, data, data.train, pixels, recipe, settings.seed, lessons=lessons)
        reached = {
            name: accuracy(network, data.batches(split, pixels, 128))
            for name, split in (("validation", data.validation), ("test", data.test))
        }
        ms = {f"{device}_ms": _ms(cut, device, data.num_classes) for device in DEVICES}
        yield {"what": job.what, "architecture": str(cut), **ms, **reached, "before_training": before,
               "images_seen": recipe.epochs * _epoch(data, recipe.batch_size), **_sizes(data, pixels)}  # fmt: skip

    def _searched(self, job: Job) -> Iterator[Row]:
        yield from self._search(job, self._options_of_weights())

    def _quadratic(self, job: Job) -> Iterator[Row]:
        for row in self._search(job, {**self._options_of_weights(), "space": QUADRATIC[job.what]}):
            blocks = str(row["architecture"]).replace("|", "").split()
            yield {**row, "quadratic_blocks": sum("q" in block for block in blocks), "blocks": len(blocks)}

    def _scratch(self, job: Job) -> Iterator[Row]:
        """Budgets below the space's fastest network are left out; `_price` tells which."""
        scale, classes = self.scale, load_images(self.scale.images).num_classes
        table = latency_table(model_of(job.device), load_space(job.what), RESOLUTION, classes)
        kept = tuple(budget for budget in job.budgets if budget >= table.minimum_ms)
        defaults, images = find(PHOTOGRAPHS).epochs, find(PHOTOGRAPHS).defaults
        options = {
            "space": job.what,
            "data": {"name": PHOTOGRAPHS, "resolution": scale.scratch_pixels or images.resolution, "crop": "shift"},
            "warmup": {"epochs": defaults.warmup},
            "epochs": scale.scratch_epochs or defaults.search,
            "finetune": {"epochs": scale.scratch_epochs or defaults.finetune},
            **({"teacher": scale.weights} if job.taught else {}),
        }
        if kept:
            yield from self._search(replace(job, budgets=kept), options)
        else:
            yield {"what": job.what, "taught": job.taught, "device": job.device, "minimum_ms": table.minimum_ms}

    def _search(self, job: Job, options: Mapping[str, Any]) -> Iterator[Row]:
        """All budgets in one run, as `nas.search` carries it out; one that was stopped is resumed."""
        from nas.run.finished import load_finished
        from nas.run.plan import plan_targets
        from nas.run.resume import Begun
        from nas.run.search import carry_out
        from nas.run.targets import settings_of

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(self.runs or temporary) / job.name.replace(" ", "-").replace(",", "-")
            begun = Begun.load(folder, "search") if folder.is_dir() else None
            resumed = folder.is_dir()
            asked = {
                **options,
                "device": [job.device],
                "budget_ms": [list(job.budgets)],
                "seed": job.seed,
                "threads": self.threads,
                "train": {"batch_size": self.scale.batch_size, **options.get("train", {})},
            }
            each = settings_of(begun.options if begun else with_defaults({**asked, "out": str(folder)}))
            data = load_images(self.scale.images).as_asked(each[0].data)
            plans = plan_targets(each, data.num_classes)
            if resumed and begun is None:
                finished = load_finished(folder)
            else:
                done = carry_out(plans, data, progress=False, resume=(folder, begun) if begun else None)
                assert done is not None  # this is the only process
                finished = done
            settings = each[0]
            epochs = settings.warmup.epochs + settings.epochs + settings.finetune.epochs
            for target, budget_ms in zip(finished.targets, job.budgets, strict=True):
                result = target.result
                assert result.budget is not None and result.accuracy is not None
                facts = result.provenance
                before = facts.get("validation before training", {})
                yield {
                    "what": job.what,
                    "taught": job.taught,
                    "device": job.device,
                    "budget_ms": budget_ms,
                    "ms": result.budget.predicted_ms,
                    "architecture": str(result.architecture),
                    "test": result.accuracy.test,
                    "validation": result.accuracy.validation,
                    "teacher": facts.get("teacher", {}).get("validation"),
                    "largest_before_training": before.get("largest"),
                    "smallest_before_training": before.get("smallest"),
                    "images_seen": epochs * _epoch(data, settings.train.batch_size),
                    "targets": len(job.budgets),
                    **({"cpu_s": None} if resumed else {}),
                    **_sizes(data, settings.data.resolution),
                }

    def _options_of_weights(self) -> dict[str, Any]:
        """Of a search that starts from the weights, as far as they are not the defaults."""
        scale = self.scale
        given = {} if scale.finetune is None else {"finetune": {"epochs": scale.finetune}}
        pixels = {} if scale.pixels is None else {"resolution": scale.pixels}
        return {"init": scale.weights, "data": {"name": PHOTOGRAPHS, **pixels}, **given}

    def _taught(self, data: DataSet, pixels: int) -> tuple[Teacher, Lessons]:
        return _teacher(self.scale.weights, self.scale.images, (data.mean, data.std), pixels)

    def _plan_of_weights(self, network: Architecture, seed: int) -> tuple[Plan, DataSet]:
        """The plan of a search from the weights, in the network's own space, and the images as it sees them."""
        from nas.run.images import images_of
        from nas.run.plan import plan_search
        from nas.run.settings import SearchSettings, settings_from_dict

        budget = {"device": "cpu", "budget_ms": 1000.0, "seed": seed}
        train = {"batch_size": self.scale.batch_size, "share_weights": True}
        options = with_defaults({**self._options_of_weights(), **budget, "train": train})
        settings = settings_from_dict(SearchSettings, options)
        data = images_of(settings, load_images(self.scale.images).as_asked(settings.data))
        return replace(plan_search(settings, data.num_classes), space=network.space), data


@cache
def _teacher(weights: str, images: Images, colours: Colours, pixels: int) -> tuple[Teacher, Lessons]:
    """The whole network with a classifier for the images, and its soft labels: worked out once a process."""
    from nas.strategies.start import teacher_of
    from nas.training.teacher import lessons_of

    mean, std = colours
    data = load_images(images).varied(None, "shift", mean, std)
    teacher = teacher_of(weights, load_trained(weights), data, pixels)
    return teacher, lessons_of(data, pixels, teacher)


def _epoch(data: DataSet, batch_size: int) -> int:
    """Images that an epoch of training shows."""
    return data.steps(data.train, batch_size) * min(batch_size, len(data.train))


def _sizes(data: DataSet, pixels: int) -> dict[str, int]:
    return {"train_images": len(data.train), "test_images": len(data.test), "pixels": pixels}
