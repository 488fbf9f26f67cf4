"""A whole search from Python, without Hydra: `search(device="vpu", budget_ms=30)`.

Runs one way: plan -> strategy -> fine-tune -> export -> result files -> report. Not for parsing options.
"""

from __future__ import annotations

import itertools
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from device_profiles import available_devices, load_profile
from latency_models import fit_latency_model
from nas.data import DataSet, load, no_images
from nas.report.page import write_report
from nas.run.checkpoint import FOLDER as CHECKPOINTS
from nas.run.checkpoint import Checkpoints
from nas.run.defaults import with_defaults
from nas.run.distributed import OtherStopped, Place, from_first, joined, place, with_global_norms
from nas.run.export import export_network, load_gates, load_supernet, onnx_predictor
from nas.run.log import LOG_EVERY, Row, SearchLog
from nas.run.plan import Plan, plan_search, taken
from nas.run.progress import SearchProgress
from nas.run.result import Accuracy, Budget, DeviceLatency, Resolution, SearchResult, load_result, save_result
from nas.run.resume import Begun, only_process
from nas.run.settings import SearchSettings, settings_from_dict
from nas.run.targets import is_front
from nas.strategies import proxyless, subnetworks
from nas.strategies.base import Strategy, choose
from nas.strategies.weights import decided, new_supernet
from nas.supernet.gates import Gates
from nas.supernet.origin import find_checkpoint, images_at_hand, origin_of
from nas.training.loop import NotFinite, Recipe, accuracy, recalibrate, train_network
from search_space import Architecture, GatePath, UserError, cost_of, lower
from search_space.build import Network, to_channels_last
from search_space.errors import CannotWrite, Stopped

STRATEGIES: Mapping[str, Strategy] = {
    "evolution": subnetworks.evolution,
    "optuna": subnetworks.optuna,
    "proxyless": proxyless,
    "random": subnetworks.random,
}


@dataclass(frozen=True)
class Finished:
    """A finished search: the result value and the folder that holds its files."""

    result: SearchResult
    folder: Path


def search(
    *,
    data: str | Mapping[str, Any] | DataSet | None = None,
    resolution: int | None = None,
    progress: bool | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> Finished:
    """Search a network and write its folder. Options and defaults are those of `python -m nas.search`.

    resume: the folder of a run that was stopped or killed, which goes on with its own options
    (your own `data` is given again).

    data: a name, a dict of `data.*` options, or your own `nas.data.DataSet`; None: digits, or with `init` what that was
    trained on. resolution: pixels to train at. Nested options are dicts:
    `search(device="cpu", budget_ms=25, warmup={"epochs": 2}, out="runs/mine")`.
    Raises `UserError` with a one-line message for anything that cannot be done.
    """
    own = data if isinstance(data, DataSet) else None
    if resume is not None:
        if options or resolution is not None or (own is None and data is not None):
            raise UserError(f"resume={resume} goes on with the run's own options; give no others")
        return resume_search(Path(resume), own, progress)
    if isinstance(data, str):
        options["data"] = {"name": data}
    elif isinstance(data, Mapping):
        options["data"] = dict(data)
    elif own is None and data is not None:
        raise UserError(f"data={data!r} is neither a name, nor a dict of data options, nor a DataSet")
    if resolution is not None:
        options["data"] = {**options.get("data", {}), "resolution": resolution}
    if is_front(options):
        raise UserError("several targets are searched for by nas.front.search_front")
    settings = settings_from_dict(SearchSettings, with_defaults(options))
    plan = plan_search(settings, own.num_classes if own else None)
    return run_search(plan, own, progress=progress)


def images_of(settings: SearchSettings, own: DataSet | None = None) -> DataSet:
    """Of a search. From an earlier supernet networks can be chosen without any (`nas.data.no_images`).

    Raises `UserError` for images that its supernet cannot be asked about.
    """
    if own is not None or settings.init is None or images_at_hand(settings.data):
        data = own or load(settings.data)
        if settings.init is not None:
            origin_of(settings.init).check_images(data.inputs, data.digest)
        return data
    origin = origin_of(settings.init)
    return no_images(settings.data.name, origin.inputs)


def resume_search(folder: Path, own: DataSet | None = None, progress: bool | None = None) -> Finished:
    """Go on with the run in a folder; a finished one is read back. Raises `BadFile`."""
    begun = Begun.load(folder, "search")
    if begun is None:
        return Finished(load_result(folder / "architecture.json"), folder)
    if is_front(begun.options):
        raise UserError(f"'{folder}' is a run for several targets, gone on with by nas.front.search_front")
    plan = plan_search(settings_from_dict(SearchSettings, dict(begun.options)), own.num_classes if own else None)
    return run_search(plan, own, progress=progress, resume=(folder, begun))


def run_search(plan: Plan, data: DataSet | None = None, **options: Any) -> Finished:
    """`take_part` in the only process, with its options."""
    finished = take_part(plan, data, **options)
    if finished is None:
        raise UserError("of several processes only the first has a result; use torchrun with -m nas.search")
    return finished


def take_part(
    plan: Plan,
    data: DataSet | None = None,
    command: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    resume: tuple[Path, Begun] | None = None,
) -> Finished | None:
    """Carry out a plan, or go on with it in the folder where it was begun.

    `say` gets the lines that a person should read, the plan's own notes apart. What was done stays in the folder
    when the run ends early, for `resume`; a folder with nothing in it goes. Of several processes only the first
    writes and has a result, the others return None.
    """
    settings = plan.settings
    if settings.threads:
        torch.set_num_threads(settings.threads)
    here = place(settings.accelerator)
    data = replace(images_of(settings, data), place=here)
    notes = (*plan.notes, *proxy_notes(settings, plan))
    for note in notes[len(plan.notes) :]:
        say(f"note: {note}")
    began = resume[1] if resume else Begun("search", asdict(settings), command, datetime.now(UTC))
    stem = f"{began.started:%Y%m%d-%H%M%S}-{settings.device}-{settings.budget_ms:g}ms-{plan.space.name}"
    with run_folder(settings.out, stem, began, resume[0] if resume else None, here) as folder:
        strategy = STRATEGIES[settings.strategy]
        result = carry_out(decided(plan, data), data, folder, began, notes, progress, say, resume is not None, strategy)
    return None if result is None else Finished(result, folder)


def carry_out(
    plan: Plan,
    data: DataSet,
    folder: Path,
    begun: Begun,
    notes: tuple[str, ...],
    progress: bool | None,
    say: Callable[[str], None],
    resume: bool,
    strategy: Strategy,
) -> SearchResult | None:
    """Search, fine-tune, export and report in a folder; `resume`: from the checkpoints there, if any.

    None in processes other than the first.
    """
    settings, here = plan.settings, data.place
    checkpoints = Checkpoints(
        folder, settings.checkpoint.minutes, settings.checkpoint.steps, say, resume, writes=here.first
    )
    checkpoints.require_same({"data": data.digest, "device profile": plan.profile.digest})
    log = SearchLog(folder, checkpoints)
    search_steps = strategy.total_steps(plan, data)
    finetune_steps = settings.finetune.epochs * data.steps(data.train, settings.train.batch_size)
    try:
        with joined(here), SearchProgress(search_steps + finetune_steps, progress if here.first else False) as bar:
            if "found" not in checkpoints.facts:
                found = strategy.search(plan, data, log, bar)
                network = found.supernet.extract(found.path)
                checkpoints.facts["found"] = {
                    "path": found.path.choices,
                    "accuracy": found.validation_accuracy,
                    "step": log.rows[-1].step if log.rows else 0,
                }
                path = found.path
            else:
                path = GatePath(tuple(checkpoints.facts["found"]["path"]))
                network = Network(lower(plan.space.architecture(path), settings.data.resolution, data.num_classes))
            _finetune(plan, data, network, path, log, bar)
        if not here.first:
            return None
        origin = provenance(settings.seed, begun.command, begun.started, checkpoints.seconds, here)
        result = _conclude(folder, plan, data, path, network, notes, origin)
        last = log.rows[-1].step if log.rows else 0
        reached = result.accuracy.validation if result.accuracy else None
        log.add(Row(last, "finetune", settings.finetune.epochs, val_accuracy=reached))
        log.save()
        write_report(folder)
        checkpoints.clear()
        begun.forget(folder)
    except (NotFinite, OtherStopped, KeyboardInterrupt):
        log.save_meanwhile()
        raise
    return result


@contextmanager
def run_folder(out: str | None, default_name: str, begun: Begun, resumed: Path | None, here: Place) -> Iterator[Path]:
    """The folder of a run: made and marked as begun, or the one that it goes on in; alone in it.

    Within, a stop and a refusing disk become `Stopped` and `CannotWrite` that say how to go on. Of several
    processes the first makes it.
    """
    folder = Path(from_first(here, lambda: str(resumed or make_folder(out, default_name))))
    try:
        if here.first and resumed is None:
            begun.save(folder)
        with only_process(folder) if here.first else nullcontext():
            yield folder
    except NotFinite as error:
        state = folder / CHECKPOINTS
        raise NotFinite(f"{error}; the state before it is in '{state}'" if state.is_dir() else str(error)) from error
    except OtherStopped as error:
        raise OtherStopped(f"{error}; go on with resume={folder}") from error
    except KeyboardInterrupt as error:
        raise Stopped(f"stopped; go on with resume={folder}") from error
    except CannotWrite as error:
        raise CannotWrite(f"{error}; mend that and go on with resume={folder}") from error
    finally:
        if here.first:
            remove_if_empty(folder)


def derive_from_checkpoint(plan: Plan, run_folder: Path, command: str | None = None) -> Finished:
    """Choose anew with the gates and weights that a search left, under the plan's device and budget.

    Nothing is trained. Raises `BadFile` for a checkpoint that is missing, damaged or of another space.
    """
    settings = plan.settings
    started, clock = datetime.now(UTC), time.monotonic()
    data = load(settings.data)
    checkpoint, key = find_checkpoint(run_folder)
    supernet, gates = new_supernet(plan, data), Gates(plan.space)
    load_supernet(checkpoint, supernet)
    load_gates(checkpoint, gates, key)
    origin_of(str(checkpoint)).check_images(data.inputs, data.digest)
    found = choose(plan, data, supernet, gates)
    network = supernet.extract(found.path)
    to_channels_last(network)
    stem = f"{started:%Y%m%d-%H%M%S}-{settings.device}-{settings.budget_ms:g}ms-{plan.space.name}"
    folder = make_folder(settings.out, stem)
    notes = (*plan.notes, f"Chosen anew from the gates and weights in {checkpoint}; nothing was trained")
    try:
        origin = {
            "derived_from": str(checkpoint),
            **provenance(settings.seed, command, started, time.monotonic() - clock),
        }
        return Finished(_conclude(folder, plan, data, found.path, network, notes, origin), folder)
    finally:
        remove_if_empty(folder)


def _conclude(
    folder: Path,
    plan: Plan,
    data: DataSet,
    path: GatePath,
    network: Network,
    notes: tuple[str, ...],
    origin: Mapping[str, Any],
) -> SearchResult:
    """Write what a search found; `origin` goes into the provenance beside settings and profile."""
    settings = plan.settings
    architecture = plan.space.architecture(path)
    budget = kept_budget(plan, architecture)
    if budget.binds and budget.used < settings.use_at_least - 1e-9:
        kept = " that keeps the limits" if plan.limits else ""
        notes = (
            *notes,
            f"No network of '{plan.space.name}'{kept} takes between {settings.use_at_least:.0%} and all of "
            f"{settings.budget_ms:g} ms; this is the best below, at {budget.used:.1%}",
        )
    return finish(
        folder,
        network,
        architecture,
        data,
        Resolution(settings.deployment_resolution, settings.data.resolution),
        budget=budget,
        gate_path=tuple(
            str(slot.candidates[choice]) for slot, choice in zip(plan.space.slots, path.choices, strict=True)
        ),
        notes=notes,
        provenance={
            "settings": asdict(replace(settings, out=None)),
            "profile_hash": plan.profile.digest,
            **origin,
        },
    )


def remove_if_empty(folder: Path) -> None:
    """Leave no empty run folder behind, so that the same `out` can be used again."""
    with suppress(OSError):
        folder.rmdir()


def finish(
    folder: Path,
    network: Network,
    architecture: Architecture,
    data: DataSet,
    resolution: Resolution,
    budget: Budget | None,
    gate_path: tuple[str, ...] | None,
    notes: tuple[str, ...],
    provenance: Mapping[str, Any],
) -> SearchResult:
    """Export a trained network, measure it if there are images, and write architecture.json."""
    validation = None
    data = replace(data, place=Place(data.place.device))  # all images by this process
    if data.at_hand:
        recalibrate(network, data.batches(data.train, resolution.training, 128))
        validation = accuracy(network, data.batches(data.validation, resolution.training, 128))
    data, network = replace(data, place=Place()), network.cpu()
    if data.at_hand:
        sample, _ = next(data.batches(data.validation, resolution.training, 16))
    else:
        sample = torch.randn(
            16, 3, resolution.training, resolution.training, generator=torch.Generator().manual_seed(0)
        )
    export_network(folder, network, architecture, resolution, data.inputs, sample)
    latency, left_out = latency_everywhere(architecture, resolution.deployment, data.num_classes, budget)
    result = SearchResult(
        architecture=architecture,
        num_classes=data.num_classes,
        resolution=resolution,
        input=data.inputs,
        cost=cost_of(lower(architecture, resolution.deployment, data.num_classes)),
        budget=budget,
        latency=latency,
        accuracy=None if validation is None else _tested(folder / "model.onnx", data, resolution.training, validation),
        gate_path=gate_path,
        notes=(*notes, *left_out),
        provenance=provenance,
    )
    save_result(result, folder / "architecture.json")
    return result


def _tested(model: Path, data: DataSet, resolution: int, validation: float) -> Accuracy:
    test = accuracy(onnx_predictor(model), data.batches(data.test, resolution, 128))  # seen last, by nothing else
    return Accuracy(data.name, test, len(data.test), validation, "model.onnx in onnxruntime")


def provenance(
    seed: int, command: str | None, started: datetime, seconds: float, here: Place | None = None
) -> dict[str, Any]:
    """Where a result comes from; `seconds` is what it took."""
    here = here or Place()
    return {
        "seed": seed,
        "versions": versions(),
        "git_commit": git_commit(),
        "threads": torch.get_num_threads(),
        "processes": here.ranks,
        "trained_on": torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else platform.machine(),
        "command": command,
        "started": started.isoformat(timespec="seconds"),
        "wall_time_s": round(seconds, 1),
    }


def _finetune(plan: Plan, data: DataSet, network: Network, path: GatePath, log: SearchLog, bar: SearchProgress) -> None:
    """Train the chosen path's network on, with its inherited weights."""
    settings = plan.settings
    with_global_norms(to_channels_last(network)).to(data.place.device)
    found = log.checkpoints.facts["found"]
    latency_ms = plan.table.path_ms(path)

    def on_step(step: int, epoch: int, loss: float) -> None:
        bar.advance(
            "finetune",
            loss=loss,
            accuracy=found["accuracy"],
            expected_ms=latency_ms,
            budget_ms=settings.budget_ms,
        )
        if step % LOG_EVERY == 0:
            row = Row(
                found["step"] + step, "finetune", epoch + 1, loss, expected_ms=latency_ms, budget_ms=settings.budget_ms
            )
            log.add(row)

    if settings.finetune.epochs:
        recipe, pixels = finetune_recipe(settings), settings.data.resolution
        train_network(network, data, data.train, pixels, recipe, settings.seed, on_step, log.checkpoints)


def finetune_recipe(settings: SearchSettings) -> Recipe:
    """The supernet's training, with what `finetune` says instead. Raises `UserError` for `finetune.epochs=0`."""
    of_supernet = asdict(settings.train)
    del of_supernet["share_weights"]
    own = {name: value for name, value in asdict(settings.finetune).items() if value is not None}
    return Recipe(**{"warmup_epochs": 0.5, **of_supernet, **own})


def kept_budget(plan: Plan, architecture: Architecture) -> Budget:
    """Check the winner with the full predictor and the full count, not the tables that chose it."""
    settings = plan.settings
    segments = lower(architecture, settings.deployment_resolution, plan.num_classes)
    plan.limits.check(cost_of(segments))
    predicted = plan.model.predict(segments)
    kept_ms = predicted.high_ms if settings.confidence else predicted.latency_ms
    used = kept_ms / settings.budget_ms
    if used > 1 + 1e-9:
        raise AssertionError(f"the chosen network takes {kept_ms} ms of {settings.budget_ms} ms")
    return Budget(
        device=settings.device,
        budget_ms=settings.budget_ms,
        predicted_ms=predicted.latency_ms,
        used=used,
        binds=plan.binds,
        space_min_ms=plan.table.minimum_ms,
        space_max_ms=plan.table.maximum_ms,
        confidence=settings.confidence,
        kept_ms=kept_ms,
        calibration=settings.calibration,
        limits=plan.limits.most,
    )


def reprice(found: SearchResult, num_classes: int) -> Budget | None:
    """The budget of a found network for another number of classes, by the device's profile as it is now."""
    if found.budget is None:
        return None
    budget = found.budget
    model = fit_latency_model(load_profile(budget.device), budget.calibration, budget.confidence)
    predicted = model.predict(lower(found.architecture, found.resolution.deployment, num_classes))
    kept_ms = predicted.high_ms if budget.confidence else predicted.latency_ms
    return replace(budget, predicted_ms=predicted.latency_ms, kept_ms=kept_ms, used=kept_ms / budget.budget_ms)


def latency_everywhere(
    architecture: Architecture, resolution: int, num_classes: int, budget: Budget | None = None
) -> tuple[dict[str, DeviceLatency], tuple[str, ...]]:
    """Predicted latency on every known device, the budget's first and with its confidence; and why others have none.

    A profile that is broken, or timed other kinds of kernels, spoils no result for the budget's device. The budget's
    calibration holds for every device that has it; the others are as measured.
    """
    segments = lower(architecture, resolution, num_classes)
    asked = budget.calibration if budget else "measured"
    table = {}

    def price(name: str) -> DeviceLatency:
        profile = load_profile(name)
        calibration = asked if asked in profile.header.calibration else "measured"
        confidence = budget.confidence if budget and budget.device == name else None
        model = fit_latency_model(profile, calibration, confidence)
        p = model.predict(segments)
        return DeviceLatency(
            title=profile.title,
            runtime=profile.runtime,
            precision=profile.precision,
            latency_ms=p.latency_ms,
            low_ms=p.low_ms,
            high_ms=p.high_ms,
            coverage=p.coverage,
            profile_hash=profile.digest,
            by_segment_ms=model.segment_ms(segments),
            calibration=calibration,
        )

    left_out = []
    for name in dict.fromkeys((*([budget.device] if budget else []), *available_devices())):
        try:
            table[name] = price(name)
        except UserError as error:
            if budget and budget.device == name:
                raise
            left_out.append(f"No latency on '{name}': {error}")
    return table, tuple(left_out)


def proxy_notes(settings: SearchSettings, plan: Plan) -> list[str]:
    trained, deployed = settings.data.resolution, settings.deployment_resolution
    notes = [f"Latency is predicted at {deployed} pixels, batch 1; weights are trained at {trained} pixels"]
    smallest = lower(plan.space.smallest(), trained, plan.num_classes)
    maps = [s.nodes[-1].spec.out_height for s in smallest if s.slot is not None]
    blind = []
    for number, size in enumerate(maps, start=1):
        if wide := [f"{k}x{k}" for k in plan.space.kernel_sizes if k > size]:
            blind.append(f"{' and '.join(wide)} in stage {number} ({size}x{size} maps)")
    if blind:
        notes.append(
            f"At {trained} pixels the images cannot tell what wide kernels are worth, only latency does: "
            + "; ".join(blind)
        )
    return notes


def make_folder(out: str | None, default_name: str) -> Path:
    """Make the folder of a run, `runs/DEFAULT_NAME` unless `out` names one. Raises `UserError` if `out` exists."""
    folder = Path("runs") / default_name if out is None else Path(out).expanduser()
    for number in itertools.count(1):
        new = folder if number == 1 else folder.with_name(f"{default_name}-{number}")
        try:
            new.mkdir(parents=True)
        except FileExistsError as error:  # also of a run that began this moment
            if out is not None:
                raise taken(folder) from error
        except OSError as error:
            raise UserError(f"cannot make the run folder '{new}': {error.strerror}") from error
        else:
            return new
    raise AssertionError("counting ended")


def versions() -> dict[str, str]:
    """Of Python and the packages that a result depends on."""
    names = ("torch", "numpy", "onnx", "onnxruntime", "scikit-learn", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def git_commit() -> str | None:
    """The commit of this source tree, '-dirty' appended when it was changed; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
