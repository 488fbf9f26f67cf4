"""The jobs of `experiments.table3`: searching, choosing what to compare with, and training. Not for tables.

Every network is priced at 224 pixels and 1000 classes, as Table III is, whatever the images it is trained on.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles import load_profile
from experiments.baselines.mobile import (
    MOBILENET_V2_WIDTHS,
    MOBILENET_V3_WIDTHS,
    PROXYLESS,
    mobilenet_v2,
    mobilenet_v3_like,
)
from experiments.profiles.paper_scale import SCALES, TABLE_III, typical_ms
from experiments.results import Row, Value
from latency_models import LatencyModel, LatencyTable, fit_latency_model, latency_table
from latency_models.fuse import fuse
from nas.data import DataSettings
from search_space import Architecture, cost_of, load_space, lower
from search_space.family import DEPTHS_12, NUM_CLASSES, RESOLUTION, linear_twin, quadranet
from search_space.files import ensure_folder

if TYPE_CHECKING:
    from nas.data import DataSet, Split
    from nas.run.checkpoint import Checkpoints
    from nas.run.finished import Finished

DEVICES = ("cpu", "vpu", "gpu")
SPACES = ("proxyless", "quadranet")
BUDGETS_MS: Mapping[str, Mapping[str, float]] = {  # calibration -> device -> budget
    **{scale: {"cpu": 300.0, "vpu": 30.0, "gpu": 3.0} for scale in SCALES},  # the paper's
    "measured": {"cpu": 40.0, "vpu": 40.0, "gpu": 0.5},  # bind in both spaces
}
COMPARED = "measured"  # at its budgets random and published networks are compared with those searched
USE_AT_LEAST = 0.97


@dataclass(frozen=True)
class Scale:
    """How large the experiment is.

    epochs: of a network's own training, None for the recipe's; warmup and search: of a supernet; drawn: random networks
    a budget, space and seed; every_image: whether a network's own training sees the images that choose as well.
    """

    data: DataSettings = field(
        default_factory=lambda: DataSettings("cifar10", resolution=32, validation_share=0.2, limit=6_000)
    )
    recipe: str = "small"
    epochs: int | None = 4
    warmup: int = 2
    search: int = 3
    batch_size: int = 64
    lr: float = 5e-3
    drawn: int = 2
    every_image: bool = False


FULL = Scale(DataSettings("cifar10", resolution=64, validation_share=0.2), epochs=20, drawn=1, every_image=True)


@dataclass(frozen=True)
class Job:
    """A part of the experiment that is done in one go and then kept.

    kind: 'range' (what a space's budgets may be), 'scale' (what a scale of Table III makes of its rows), 'published'
    (of a family, named as `space`), 'random' and 'free' (price networks to compare with), 'search' (all devices'
    budgets of a calibration in one run) or 'train' (`architecture`, as JSON, on its own).
    """

    kind: str
    seed: int = 0
    space: str = ""
    calibration: str = ""
    architecture: str = ""

    @property
    def name(self) -> str:
        """By which a results file says that the job is done; unique among the jobs."""
        network = Architecture.from_dict(json.loads(self.architecture)).digest if self.architecture else ""
        parts = (self.kind, self.space, self.calibration, network, f"seed {self.seed}")
        return " ".join(part for part in parts if part)


@cache
def model_of(device: str, calibration: str) -> LatencyModel:
    """The latency model of a shipped profile in a calibration, fitted once a process. Raises `UnknownName`."""
    return fit_latency_model(load_profile(device), calibration)


@cache
def table_of(device: str, calibration: str, space: str) -> LatencyTable:
    """The latency lookup table, in ms, of a shipped space at 224 pixels and 1000 classes. Raises `UnknownName`."""
    return latency_table(model_of(device, calibration), load_space(space), RESOLUTION, NUM_CLASSES)


def nearest_feasible(minimum_ms: float) -> float:
    """The least budget of two digits that the fastest network keeps."""
    digit = 10.0 ** (math.floor(math.log10(minimum_ms)) - 1)
    return round(math.ceil(minimum_ms / digit) * digit, 6)


def targets(space: str, calibration: str) -> dict[str, float]:
    """Device -> the budget searched for: the one wanted, or the nearest feasible one."""
    found = {}
    for device, budget_ms in BUDGETS_MS[calibration].items():
        minimum_ms = table_of(device, calibration, space).minimum_ms
        found[device] = budget_ms if budget_ms >= minimum_ms else nearest_feasible(minimum_ms)
    return found


@cache
def published() -> Mapping[str, Sequence[Architecture]]:
    """Family -> all that the budgets may let pass; the last two families are scaled by width alone."""
    by_width = [quadranet(f"QuadraNet12 C={width}", width, DEPTHS_12) for width in range(16, 97, 4)]
    return {
        "ProxylessNAS": PROXYLESS,
        "MobileNetV2": [mobilenet_v2(width) for width in MOBILENET_V2_WIDTHS],
        "MobileNetV3-like": [mobilenet_v3_like(width) for width in MOBILENET_V3_WIDTHS],
        "QuadraNet-like": by_width,
        "ConvNeXt-like": [linear_twin(architecture) for architecture in by_width],
    }


@dataclass(frozen=True)
class Worker:
    """Does jobs; a value, so that it can travel to another process.

    trainings: a folder for the states of trainings and searches that were stopped, from which they go on; None keeps
    none.
    """

    scale: Scale
    trainings: Path | None = None

    def __call__(self, job: Job) -> Sequence[Row]:
        """A job's rows, each with the whole job's CPU and wall seconds and where it ran ('cpu' or 'cuda')."""
        cpu_s, wall_s = time.process_time(), time.monotonic()
        rows: list[dict[str, Any]] = getattr(self, f"_{job.kind}")(job)
        cpu_s, wall_s = time.process_time() - cpu_s, round(time.monotonic() - wall_s, 1)
        ran: dict[str, Value] = {"wall_s": wall_s, "on": accelerator()}
        return [{**row, "cpu_s": round(cpu_s + row.get("cpu_s", 0.0), 1), **ran} for row in rows]

    def _range(self, job: Job) -> list[Row]:
        """The fastest and the slowest network of a space on every device, in the calibration's ms."""
        rows: list[Row] = []
        for device, budget_ms in BUDGETS_MS[job.calibration].items():
            table = table_of(device, job.calibration, job.space)
            ends = {"minimum_ms": table.minimum_ms, "maximum_ms": table.maximum_ms}
            rows.append({"kind": "range", **_target(job, device, budget_ms), "seed": None, **ends})
        return rows

    def _scale(self, job: Job) -> list[Row]:
        """Of every published network and device: the median of random networks of its space and MACs."""
        return [
            {"kind": "scale", "calibration": job.calibration, "name": row.name, "device": device, "seed": None,
             "published_ms": row.latency_ms[device], "typical_ms": typical_ms(model_of(device, job.calibration), row)}
            for row in TABLE_III
            for device in DEVICES
        ]  # fmt: skip

    def _published(self, job: Job) -> list[Row]:
        """For every budget the network of the family with the most MACs that keeps it."""
        members = [(a, priced(a)) for a in published()[job.space]]
        rows: list[Row] = []
        for device, budget_ms in BUDGETS_MS[COMPARED].items():
            fits = [(a, columns) for a, columns in members if columns[f"{device}_ms"] <= budget_ms]
            for a, columns in sorted(fits, key=lambda member: member[1]["macs"])[-1:]:
                row = {"kind": "published", "name": a.space.name, **_target(job, device, budget_ms), "seed": None}
                rows.append({**row, "calibration": COMPARED, **columns})
        return rows

    def _random(self, job: Job) -> list[Row]:
        """Random networks that use a budget as searched ones do.

        They are the exact choice under it by scores from Gumbel's distribution, by which, without a budget, every gate
        path is as probable.
        """
        import numpy as np

        from nas.choose.derive import derive

        space, rng = load_space(job.space), np.random.default_rng(job.seed)
        rows: list[Row] = []
        for device, budget_ms in targets(job.space, job.calibration).items():
            table = table_of(device, job.calibration, job.space)
            for number in range(self.scale.drawn):
                scores = np.where(np.isnan(table.slot_ms), -np.inf, rng.gumbel(size=table.slot_ms.shape))
                (found,) = derive(space, table, scores, budget_ms, USE_AT_LEAST)
                row = {"kind": "random", "name": f"random {number}", **_target(job, device, budget_ms)}
                rows.append({**row, **priced(space.architecture(found.path))})
        return rows

    def _free(self, job: Job) -> list[Row]:
        """For every budget the network of the space with the most parameters that keeps it: a choice at no cost."""
        from experiments.budget_buys import largest
        from nas.choose.limits import limits_of
        from nas.run.settings import LimitSettings

        limits = limits_of(load_space(job.space), RESOLUTION, NUM_CLASSES, LimitSettings())
        rows: list[Row] = []
        for device, budget_ms in targets(job.space, job.calibration).items():
            network = largest("params", limits, table_of(device, job.calibration, job.space), budget_ms)
            row = {"kind": "free", "name": "most parameters", **_target(job, device, budget_ms), "seed": None}
            rows.append({**row, **priced(network)})
        return rows

    def _search(self, job: Job) -> list[Row]:
        """All devices' budgets in one run; with `trainings` one that was stopped goes on."""
        wanted = targets(job.space, job.calibration)
        rows: list[Row] = []
        with self._run_folder(job) as folder:
            options: dict[str, Any] = {
                "device": list(wanted),
                "budget_ms": list(wanted.values()),
                "space": job.space,
                "calibration": job.calibration,
                "seed": job.seed,
                "data": asdict(self.scale.data),
                "warmup": {"epochs": self.scale.warmup},
                "epochs": self.scale.search,
                "finetune": {"epochs": 0},
                "train": {"batch_size": self.scale.batch_size, "lr": self.scale.lr},
                "use_at_least": USE_AT_LEAST,
                "threads": 1,
                "out": str(folder),
            }
            front = carried_out(options, folder, _for_searches(self.scale.data))
        for device, finished in zip(wanted, front.targets, strict=True):
            result = finished.result
            assert result.budget is not None
            row = {"kind": "searched", "name": job.space, **_target(job, device, wanted[device])}
            kept = {"kept_ms": result.budget.predicted_ms, "binds": result.budget.binds}
            costs = {**priced(result.architecture), **on_scale(result.architecture, job.calibration)}
            rows.append({**row, **kept, **costs, "blocks": _by_block(result.architecture, device)})
        return rows

    @contextmanager
    def _run_folder(self, job: Job) -> Iterator[Path]:
        """For a search: gone with it, or among `trainings` until it has ended."""
        with tempfile.TemporaryDirectory() as aside:
            folder = Path(aside) / "run"
            if self.trainings is not None:
                folder = ensure_folder(self.trainings) / f"search-{job.space}-{job.calibration}-{job.seed}"
            yield folder
        shutil.rmtree(folder, ignore_errors=True)

    def _train(self, job: Job) -> list[Row]:
        """From scratch; the accuracy is that of the last weights.

        With `trainings` a training that was stopped goes on; cpu_s: of the processes before this one.
        """
        import torch

        from nas.run.checkpoint import Checkpoints
        from nas.run.distributed import place
        from nas.training.loop import accuracy, recalibrate, steps_per_epoch, train_network
        from nas.training.recipes import load_recipe
        from search_space.build import Network, to_channels_last

        data, pixels = replace(load_images(self.scale.data), place=place("auto")), self.scale.data.resolution
        split = _every_image(data) if self.scale.every_image else data.train
        recipe = load_recipe(self.scale.recipe, **({} if self.scale.epochs is None else {"epochs": self.scale.epochs}))
        architecture = Architecture.from_dict(json.loads(job.architecture))
        torch.manual_seed(job.seed)
        segments = lower(architecture, pixels, data.num_classes)
        network = Network(segments, recipe.layer_scale, recipe.drop_path, paper_init=recipe.layer_scale < 0.01)
        to_channels_last(network).to(data.place.device)

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        checkpoints, per_epoch = None, steps_per_epoch(data, split, recipe)
        if self.trainings is not None:
            folder = ensure_folder(self.trainings / f"{architecture.digest}-{job.seed}")
            checkpoints = Checkpoints(folder, steps=per_epoch, say=say, resume=any(folder.iterdir()))
        pace = _Pace(
            architecture.digest, len(split), recipe.epochs, per_epoch, data.place.device.type, say, checkpoints
        )
        train_network(network, data, split, pixels, recipe, job.seed, pace.watch, checkpoints)
        recalibrate(network, data.batches(split, pixels, 256))
        reached = {
            name: accuracy(network, data.batches(part, pixels, 256))
            for name, part in (("validation", data.validation), ("test", data.test))
            if name == "test" or split is data.train
        }
        if checkpoints is not None:
            checkpoints.clear()
            checkpoints.run_folder.rmdir()
        return [{"kind": "training", "network": architecture.digest, "seed": job.seed, "epochs": recipe.epochs,
                 "train_images": len(split), "test_images": len(data.test), **reached,
                 "s_per_1000_images": pace.s_per_1000, "cpu_s": pace.before_s}]  # fmt: skip


def carried_out(options: Mapping[str, Any], folder: Path, data: DataSet) -> Finished:
    """A search in a folder: begun there, gone on with, or read where it has finished.

    Raises `BadFile` and `UserError` where what is there cannot be gone on with.
    """
    from nas.run.finished import load_finished
    from nas.run.plan import plan_targets
    from nas.run.resume import Begun
    from nas.run.search import carry_out
    from nas.run.targets import settings_of

    begun = Begun.load(folder, "search") if folder.exists() else None
    if folder.exists() and begun is None:
        return load_finished(folder)
    plans = plan_targets(settings_of(begun.options if begun else options), NUM_CLASSES)
    finished = carry_out(plans, data, progress=False, resume=(folder, begun) if begun else None)
    assert finished is not None  # this is the only process
    return finished


class _Pace:
    """How fast a training is: seconds of the CPU, or of the clock on a GPU, of this process alone.

    before_s: CPU seconds of the earlier processes up to the state that this one goes on from.
    """

    def __init__(
        self, name: str, images: int, epochs: int, per_epoch: int, device: str,
        say: Callable[[str], None], checkpoints: Checkpoints | None,
    ) -> None:  # fmt: skip
        self.name, self.images, self.epochs, self.per_epoch = name, images, epochs, per_epoch
        self.unit, self.clock = ("s", time.monotonic) if device == "cuda" else ("CPU-s", time.process_time)
        self.say, self.checkpoints = say, checkpoints
        self.before_s = 0.0 if checkpoints is None else float(checkpoints.facts.get("cpu_s", 0.0))
        self.begin, self.begin_cpu_s, self.steps = self.clock(), time.process_time(), 0
        self.s_per_1000: float | None = None

    def watch(self, step: int, epoch: int, loss: float) -> None:
        """Call after every step: says at each epoch's end how fast it goes, and what is left."""
        self.steps += 1
        if self.checkpoints is not None:
            self.checkpoints.facts["cpu_s"] = self.before_s + time.process_time() - self.begin_cpu_s
        if step % self.per_epoch == 0:
            epoch_s = (self.clock() - self.begin) / self.steps * self.per_epoch
            self.s_per_1000 = round(1000 * epoch_s / self.images, 3)
            if self.checkpoints is not None:
                left = f"{epoch_s * (self.epochs - epoch - 1) / 3600:.2f} hours to go"
                pace = f"{self.s_per_1000:.2f} {self.unit} per 1,000 images"
                self.say(f"{self.name}: epoch {epoch + 1} of {self.epochs}, {pace}, {left}")


def _every_image(data: DataSet) -> Split:
    """The images that train and those that choose, where they are of one source."""
    import numpy as np

    from nas.data import Split

    parts = (data.train, data.validation)
    if data.validation.source is not data.train.source:
        return data.train
    indices, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("indices", "labels"))
    return Split(data.train.source, indices, labels)


def accelerator() -> str:
    """'cpu' or 'cuda': where searches and trainings run here."""
    from nas.run.distributed import place

    return place("auto").device.type


def _target(job: Job, device: str, budget_ms: float) -> dict[str, Any]:
    return {"space": job.space, "device": device, "calibration": job.calibration, "budget_ms": budget_ms,
            "seed": job.seed}  # fmt: skip


def priced(architecture: Architecture) -> dict[str, Any]:
    """The columns of a network: what it is, what it costs, and its measured ms (predicted) on every device."""
    segments = lower(architecture, RESOLUTION, NUM_CLASSES)
    cost = cost_of(segments)
    return {
        "network": architecture.digest,
        "architecture": json.dumps(architecture.to_dict()),
        "macs": cost.macs,
        "params": cost.params,
        **{f"{device}_ms": model_of(device, "measured").predict(segments).latency_ms for device in DEVICES},
    }


def on_scale(architecture: Architecture, calibration: str) -> dict[str, float]:
    """A network's ms on every device on the scale of a calibration."""
    segments = lower(architecture, RESOLUTION, NUM_CLASSES)
    return {f"{device}_scaled_ms": model_of(device, calibration).predict(segments).latency_ms for device in DEVICES}


def _by_block(architecture: Architecture, device: str) -> str:
    """JSON: segment -> its measured ms on each of `DEVICES`, and its kernels on `device`.

    Equal kernels stand together, with the ms of all of them.
    """
    segments = lower(architecture, RESOLUTION, NUM_CLASSES)
    times = [model_of(name, "measured").segment_ms(segments) for name in DEVICES]
    model, found = model_of(device, "measured"), {}
    for segment in segments:
        kernels = Counter(fuse(segment.nodes, model.fusion))
        listed = [[f"{count} x {kernel}" if count > 1 else str(kernel), _short(count * model.kernel_price(kernel).ms)]
                  for kernel, count in kernels.items()]  # fmt: skip
        found[segment.name] = {"ms": [_short(each[segment.name]) for each in times], "kernels": listed}
    return json.dumps(found)


def _short(value: float) -> float:
    return float(f"{value:.4g}")


@cache
def load_images(settings: DataSettings) -> DataSet:
    """Raises `UserError` or `BadFile` where the images are not."""
    from nas.data import load

    return load(settings)


def _for_searches(settings: DataSettings) -> DataSet:
    """With few test images: nothing here reads what a search's own network reaches on them."""
    import numpy as np

    data = load_images(settings)
    return replace(data, test=data.test.take(np.arange(min(16, len(data.test)))))
