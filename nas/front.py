"""Several targets in one run: one supernet's training, then a network and a folder of its own for every target.

    runs/TIME-front-SPACE/
      front.json, front.csv, report.html    all targets beside each other
      checkpoint.safetensors                the supernet and every target's gates, for `nas.rederive`
      vpu-30ms/                             what a plain search leaves

A target's promises are those of a plain search: the same functions carry it out. Not for one target: see `nas.api`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nas.api import Finished, carry_out, images_of, provenance, proxy_notes, run_folder
from nas.data import DataSet
from nas.report.front import Row, load_front, write_front
from nas.run.checkpoint import Checkpoints
from nas.run.defaults import with_defaults
from nas.run.distributed import joined, place
from nas.run.export import load_gates, load_supernet, save_supernet
from nas.run.log import SearchLog
from nas.run.plan import Plan, plan_front
from nas.run.progress import SearchProgress
from nas.run.result import load_result
from nas.run.resume import Begun
from nas.run.settings import SearchSettings, settings_from_dict
from nas.run.targets import each_target, target_name
from nas.strategies import proxyless
from nas.strategies.inherited import Inherited
from nas.strategies.weights import decided, new_supernet
from nas.supernet.gates import Gates
from nas.supernet.network import Supernet
from nas.supernet.origin import CHECKPOINT, gates_key, trained_for
from search_space import UserError


@dataclass(frozen=True)
class FinishedFront:
    """A finished run over several targets, in the order asked for; `folder` holds theirs."""

    targets: tuple[Finished, ...]
    folder: Path


def search_front(
    *,
    data: str | Mapping[str, Any] | None = None,
    progress: bool | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> FinishedFront:
    """Search for several targets from Python: `search_front(device=["cpu", "vpu"], budget_ms=[[20, 30], [25]])`.

    Options and defaults are those of `python -m nas.search`; `nas.run.targets` has the forms of device and budget_ms.
    resume: the folder of such a run that was stopped or killed, which goes on with its own options.
    Raises `UserError` with a one-line message for anything that cannot be done.
    """
    begun = None
    if resume is not None:
        if options or data is not None:
            raise UserError(f"resume={resume} goes on with the run's own options; give no others")
        begun = Begun.load(Path(resume), "search")
        if begun is None:
            return load_finished(Path(resume))
        options = dict(begun.options)
    else:
        images = {"name": data} if isinstance(data, str) else dict(data or {})
        options = with_defaults({**options, "data": images})
    each = [settings_from_dict(SearchSettings, target) for target in each_target(options)]
    return run_front(plan_front(each), progress=progress, resume=(Path(resume), begun) if resume and begun else None)


def load_finished(folder: Path) -> FinishedFront:
    """A finished run, read back. Raises `BadFile`."""
    targets = [folder / row.folder for row in load_front(folder)]
    return FinishedFront(tuple(Finished(load_result(t / "architecture.json"), t) for t in targets), folder)


def run_front(plans: Sequence[Plan], data: DataSet | None = None, **options: Any) -> FinishedFront:
    """`take_part` in the only process, with its options."""
    finished = take_part(plans, data, **options)
    if finished is None:
        raise UserError("of several processes only the first has a result; use torchrun with -m nas.search")
    return finished


def take_part(
    plans: Sequence[Plan],
    data: DataSet | None = None,
    command: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    resume: tuple[Path, Begun] | None = None,
) -> FinishedFront | None:
    """Carry out plans that differ in device and budget alone, or go on in the folder where that was begun.

    Of several processes only the first writes and has a result, the others return None.
    """
    settings = plans[0].settings
    if settings.threads:
        torch.set_num_threads(settings.threads)
    here = place(settings.accelerator)
    data = replace(images_of(settings, data), place=here)
    if not data.at_hand:
        raise UserError(f"several budgets in one run need images: add data={data.name} data.root=FOLDER")
    for note in proxy_notes(settings, plans[0]):
        say(f"note: {note}")
    begun = resume[1] if resume else Begun("search", _options(plans), command, datetime.now(UTC))
    stem = f"{begun.started:%Y%m%d-%H%M%S}-front-{plans[0].space.name}"
    with run_folder(settings.out, stem, begun, resume[0] if resume else None, here) as folder:
        clock = time.monotonic()
        plans = [decided(plan, data) for plan in plans]
        supernet, gates = _shared(plans, data, folder, progress, say, resume is not None)
        shared_s = time.monotonic() - clock
        finished = [
            _finish(plan, data, folder, begun, progress, say, Inherited(supernet, own))
            for plan, own in zip(plans, gates, strict=True)
        ]
        targets = tuple(target for target in finished if target is not None)
        if not here.first:
            return None
        seconds = {"shared": round(shared_s, 1), "all targets": round(time.monotonic() - clock - shared_s, 1)}
        origin = provenance(settings.seed, begun.command, begun.started, time.monotonic() - clock, here)
        write_front(folder, [Row.of(t.result, t.folder.name) for t in targets], {**origin, "seconds": seconds})
        begun.forget(folder)
    return FinishedFront(targets, folder)


def _options(plans: Sequence[Plan]) -> dict[str, Any]:
    """The settings that all share, with the targets as `nas.run.targets.each_target` reads them."""
    budgets: dict[str, list[float]] = {}
    for plan in plans:
        budgets.setdefault(plan.settings.device, []).append(plan.settings.budget_ms)
    return {**asdict(plans[0].settings), "device": list(budgets), "budget_ms": list(budgets.values())}


def _shared(
    plans: Sequence[Plan],
    data: DataSet,
    folder: Path,
    progress: bool | None,
    say: Callable[[str], None],
    resume: bool,
) -> tuple[Supernet, list[Gates]]:
    """The supernet and every target's gates: trained, or read from the checkpoint that this left there before."""
    with joined(data.place):
        if not (folder / CHECKPOINT).is_file():
            return _train(plans, data, folder, progress, say, resume)
        supernet, gates = new_supernet(plans[0], data), [Gates(plan.space) for plan in plans]
        load_supernet(folder / CHECKPOINT, supernet)
        for plan, own in zip(plans, gates, strict=True):
            load_gates(folder / CHECKPOINT, own, gates_key(target_name(plan.settings)))
        return supernet, gates


def _train(
    plans: Sequence[Plan],
    data: DataSet,
    folder: Path,
    progress: bool | None,
    say: Callable[[str], None],
    resume: bool,
) -> tuple[Supernet, list[Gates]]:
    """Leaves the checkpoint, and the course of every target in its folder."""
    settings, first = plans[0].settings, data.place.first
    checkpoints = Checkpoints(folder, settings.checkpoint.minutes, settings.checkpoint.steps, say, resume, writes=first)
    profiles = {f"device profile {plan.settings.device}": plan.profile.digest for plan in plans}
    checkpoints.require_same({"data": data.digest, **profiles})
    logs = [SearchLog(folder / target_name(plan.settings), checkpoints, target_name(plan.settings)) for plan in plans]
    if first:
        for log in logs:
            log.folder.mkdir(exist_ok=True)
    with SearchProgress(proxyless.total_steps(plans[0], data), progress if first else False) as bar:
        supernet, gates = proxyless.train_front(plans, data, logs, checkpoints, bar)
    if first:
        for log in logs:
            log.save()
        alphas = {gates_key(log.folder.name): own.alpha for log, own in zip(logs, gates, strict=True)}
        save_supernet(folder / CHECKPOINT, supernet, alphas, trained_for(settings, data.inputs, data.digest))
        checkpoints.clear()
    return supernet, gates


def _finish(
    plan: Plan,
    data: DataSet,
    folder: Path,
    begun: Begun,
    progress: bool | None,
    say: Callable[[str], None],
    strategy: Inherited,
) -> Finished | None:
    """A target's network from what all share; one that was finished before is read back.

    None in processes other than the first.
    """
    target = folder / target_name(plan.settings)
    if (target / "report.html").is_file():
        return Finished(load_result(target / "architecture.json"), target)
    notes = (*plan.notes, *proxy_notes(plan.settings, plan), "Its supernet was trained together with other targets'")
    result = carry_out(plan, data, target, begun, notes, progress, say, True, strategy)
    return None if result is None else Finished(result, target)
