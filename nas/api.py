"""A whole search from Python, without Hydra: `search(device="vpu", budget_ms=30)`.

Runs one way: plan -> strategy -> fine-tune -> export -> result files -> report. Not for parsing options.
"""

from __future__ import annotations

import itertools
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from device_profiles import available_devices, load_profile
from latency_models import fit_latency_model
from nas import data as data_sets
from nas.data import DataSet
from nas.export import export_network
from nas.log import LOG_EVERY, Row, SearchLog
from nas.preflight import Plan, plan_search
from nas.progress import SearchProgress
from nas.report import write_report
from nas.result import Accuracy, Budget, DeviceLatency, InputFormat, Resolution, SearchResult, save_result
from nas.settings import DataSettings, SearchSettings, settings_from_dict
from nas.strategies import proxyless
from nas.strategies.base import Found, Strategy
from nas.training import NotFinite, Recipe, accuracy, recalibrate, train_network
from search_space import Architecture, UserError, cost_of, lower
from search_space.build import Network, to_channels_last

STRATEGIES: Mapping[str, Strategy] = {"proxyless": proxyless}


@dataclass(frozen=True)
class Finished:
    """A finished search: the result value and the folder that holds its files."""

    result: SearchResult
    folder: Path


def search(
    *, data: str | Mapping[str, Any] | DataSet = "digits", progress: bool | None = None, **options: Any
) -> Finished:
    """Search a network and write its folder. Options are those of `python -m nas.search`.

    data: a name, a dict of `data.*` options, or your own `nas.data.DataSet`. Nested options are
    dicts: `search(device="cpu", budget_ms=25, warmup={"epochs": 2}, out="runs/mine")`.
    Raises `UserError` with a one-line message for anything that cannot be done.
    """
    own = data if isinstance(data, DataSet) else None
    if isinstance(data, str):
        options["data"] = {"name": data}
    elif isinstance(data, Mapping):
        options["data"] = dict(data)
    unknown = sorted(set(options) - set(SearchSettings.__dataclass_fields__))
    if unknown:
        raise UserError(f"unknown option '{unknown[0]}'; options: {', '.join(SearchSettings.__dataclass_fields__)}")
    settings = settings_from_dict(SearchSettings, options)
    plan = plan_search(settings, own.num_classes if own else None)
    return run_search(plan, own, progress=progress)


def load_data(settings: DataSettings) -> DataSet:
    """The data set that the settings name. Raises `UserError` or `BadFile`."""
    share, limit = settings.validation_share, settings.limit
    match settings.name:
        case "digits":
            return data_sets.load_digits(share, limit)
        case "cifar10":
            return data_sets.load_cifar10(settings.root, share, limit)
        case "imagefolder":
            return data_sets.load_imagefolder(settings.root, share, limit)
        case _:
            return data_sets.load_packed(settings.train, settings.test, share, limit)


def run_search(
    plan: Plan,
    data: DataSet | None = None,
    command: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Finished:
    """Carry out a plan. `say` gets the lines that a person should read."""
    settings = plan.settings
    started, clock = datetime.now(UTC), time.monotonic()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    data = load_data(settings.data) if data is None else data
    stem = f"{started:%Y%m%d-%H%M%S}-{settings.device}-{settings.budget_ms:g}ms-{plan.space.name}"
    folder = make_folder(settings.out, stem)
    log = SearchLog(folder)
    notes = (*plan.notes, *_proxy_notes(settings, plan))
    for note in notes:
        say(f"note: {note}")
    strategy = STRATEGIES[settings.strategy]
    finetune_steps = settings.finetune.epochs * data.steps(data.train, settings.train.batch_size)
    with SearchProgress(strategy.total_steps(plan, data) + finetune_steps, progress) as bar:
        try:
            found = strategy.search(plan, data, log, bar)
            network = _finetune(plan, data, found, log, bar)
        except NotFinite as error:
            kept = folder / "checkpoint.safetensors"
            state = f"the last good state is in '{kept}'" if kept.is_file() else "no epoch had ended"
            raise NotFinite(f"{error}; {state}") from error
    batches = data.batches(data.validation, settings.data.resolution, 128)
    validation = accuracy(network, batches)
    log.add(Row(log.rows[-1].step, "finetune", settings.finetune.epochs, val_accuracy=validation))
    log.save()
    architecture = plan.space.architecture(found.path)
    provenance = {
        "seed": settings.seed,
        "settings": asdict(replace(settings, out=None)),
        "versions": versions(),
        "profile_hash": plan.profile.digest,
        "git_commit": git_commit(),
        "threads": torch.get_num_threads(),
        "command": command,
        "started": started.isoformat(timespec="seconds"),
    }
    input_format = InputFormat(data.mean, data.std, data.class_names)
    test = export_network(
        folder,
        network,
        architecture,
        data.num_classes,
        settings.data.resolution,
        settings.deployment_resolution,
        input_format,
        data.batches(data.test, settings.data.resolution, 128),
    )
    result = SearchResult(
        architecture=architecture,
        num_classes=data.num_classes,
        resolution=Resolution(settings.deployment_resolution, settings.data.resolution),
        input=input_format,
        cost=cost_of(lower(architecture, settings.deployment_resolution, data.num_classes)),
        budget=_kept_budget(plan, architecture),
        latency=latency_everywhere(architecture, settings.deployment_resolution, data.num_classes, settings.device),
        accuracy=Accuracy(data.name, test, len(data.test), validation, "model.onnx in onnxruntime"),
        gate_path=tuple(
            str(slot.candidates[choice]) for slot, choice in zip(plan.space.slots, found.path.choices, strict=True)
        ),
        notes=notes,
        provenance={**provenance, "wall_time_s": round(time.monotonic() - clock, 1)},
    )
    save_result(result, folder / "architecture.json")
    write_report(folder)
    return Finished(result, folder)


def _finetune(plan: Plan, data: DataSet, found: Found, log: SearchLog, bar: SearchProgress) -> Network:
    """The chosen path as a network of its own, trained on a little with its inherited weights."""
    settings = plan.settings
    network = found.supernet.extract(found.path)
    to_channels_last(network)
    first = log.rows[-1].step if log.rows else 0
    latency_ms = plan.table.path_ms(found.path)

    def on_step(step: int, epoch: int, loss: float) -> None:
        bar.advance(
            "finetune",
            loss=loss,
            accuracy=found.validation_accuracy,
            expected_ms=latency_ms,
            budget_ms=settings.budget_ms,
        )
        if step % LOG_EVERY == 0:
            row = Row(first + step, "finetune", epoch + 1, loss, expected_ms=latency_ms, budget_ms=settings.budget_ms)
            log.add(row)

    if settings.finetune.epochs:
        recipe = Recipe(
            epochs=settings.finetune.epochs,
            warmup_epochs=0.5,
            batch_size=settings.train.batch_size,
            lr=settings.finetune.lr,
            weight_decay=settings.train.weight_decay,
            label_smoothing=settings.train.label_smoothing,
            gradient_clip=settings.train.gradient_clip,
        )
        train_network(network, data, data.train, settings.data.resolution, recipe, settings.seed, on_step)
    recalibrate(network, data.batches(data.train, settings.data.resolution, 128))
    return network.eval()


def _kept_budget(plan: Plan, architecture: Architecture) -> Budget:
    """Check the winner with the full predictor, not the table that chose it."""
    settings = plan.settings
    predicted = plan.model.predict(lower(architecture, settings.deployment_resolution, plan.num_classes))
    used = predicted.latency_ms / settings.budget_ms
    if used > 1 + 1e-9:
        raise AssertionError(f"the chosen network takes {predicted.latency_ms} ms of {settings.budget_ms} ms")
    return Budget(
        device=settings.device,
        budget_ms=settings.budget_ms,
        predicted_ms=predicted.latency_ms,
        used=used,
        binds=plan.binds,
        space_min_ms=plan.table.minimum_ms,
        space_max_ms=plan.table.maximum_ms,
    )


def latency_everywhere(
    architecture: Architecture, resolution: int, num_classes: int, *first: str
) -> dict[str, DeviceLatency]:
    """Predicted latency on every known device, the named ones first."""
    segments = lower(architecture, resolution, num_classes)
    table = {}
    for name in dict.fromkeys((*first, *available_devices())):
        profile = load_profile(name)
        model = fit_latency_model(profile)
        p = model.predict(segments)
        table[name] = DeviceLatency(
            title=profile.title,
            runtime=profile.runtime,
            precision=profile.precision,
            latency_ms=p.latency_ms,
            low_ms=p.low_ms,
            high_ms=p.high_ms,
            coverage=p.coverage,
            profile_hash=profile.digest,
            by_segment_ms=model.segment_ms(segments),
        )
    return table


def _proxy_notes(settings: SearchSettings, plan: Plan) -> list[str]:
    trained, deployed = settings.data.resolution, settings.deployment_resolution
    notes = [f"Latency is predicted at {deployed} pixels, batch 1; weights are trained at {trained} pixels"]
    smallest = lower(plan.space.smallest(), trained, plan.num_classes)
    last = [s.nodes[-1].spec for s in smallest if s.slot is not None][-1]
    widest = max(plan.space.kernel_sizes)
    if last.out_height < widest:
        notes.append(
            f"At {trained} pixels the last stage sees {last.out_height}x{last.out_width} maps: what the search says "
            f"of kernels wider than that there ({widest}x{widest}) is not told by the images, only by latency"
        )
    return notes


def make_folder(out: str | None, default_name: str) -> Path:
    """Make the folder of a run, `runs/DEFAULT_NAME` unless `out` names one. Raises `UserError` if `out` exists."""
    folder = Path("runs") / default_name if out is None else Path(out).expanduser()
    if out is None:
        attempts = (folder.with_name(f"{default_name}-{n}") for n in itertools.count(2))
        while folder.exists():
            folder = next(attempts)
    elif folder.exists():
        raise UserError(f"the run folder '{folder}' exists; name another with out=, or remove it")
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot make the run folder '{folder}': {error.strerror}") from error
    return folder


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
