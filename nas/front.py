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

from nas.api import Finished, carry_out, load_data, make_folder, provenance, proxy_notes, remove_if_empty
from nas.checkpoint import Checkpoints
from nas.data import DataSet
from nas.distributed import place
from nas.export import CHECKPOINT, gates_key, save_supernet
from nas.front_report import Row, load_front, write_front
from nas.log import SearchLog
from nas.preflight import Plan, plan_front
from nas.progress import SearchProgress
from nas.result import load_result
from nas.resume import Begun, only_process
from nas.settings import SearchSettings, settings_from_dict, with_data_defaults
from nas.strategies import proxyless
from nas.strategies.inherited import Inherited
from nas.targets import each_target, target_name
from nas.training import NotFinite
from search_space import UserError
from search_space.errors import CannotWrite, Stopped


@dataclass(frozen=True)
class FinishedFront:
    """A finished run over several targets, in the order asked for; `folder` holds theirs."""

    targets: tuple[Finished, ...]
    folder: Path


def search_front(
    *,
    data: str | Mapping[str, Any] = "digits",
    progress: bool | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> FinishedFront:
    """Search for several targets from Python: `search_front(device=["cpu", "vpu"], budget_ms=[[20, 30], [25]])`.

    Options and defaults are those of `python -m nas.search`; see `nas.targets` for the forms of device and budget_ms.
    resume: the folder of such a run that was stopped or killed, which goes on with its own options.
    Raises `UserError` with a one-line message for anything that cannot be done.
    """
    begun = None
    if resume is not None:
        if options:
            raise UserError(f"resume={resume} goes on with the run's own options; give no others")
        begun = Begun.load(Path(resume), "search")
        if begun is None:
            return load_finished(Path(resume))
        options = dict(begun.options)
    else:
        options = with_data_defaults({**options, "data": {"name": data} if isinstance(data, str) else dict(data)})
    each = [settings_from_dict(SearchSettings, target) for target in each_target(options)]
    return run_front(plan_front(each), progress=progress, resume=(Path(resume), begun) if resume and begun else None)


def load_finished(folder: Path) -> FinishedFront:
    """A finished run, read back. Raises `BadFile`."""
    targets = [folder / row.folder for row in load_front(folder)]
    return FinishedFront(tuple(Finished(load_result(t / "architecture.json"), t) for t in targets), folder)


def run_front(
    plans: Sequence[Plan],
    data: DataSet | None = None,
    command: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    resume: tuple[Path, Begun] | None = None,
) -> FinishedFront:
    """Carry out plans that differ in device and budget alone, or go on in the folder where that was begun."""
    settings = plans[0].settings
    if settings.threads:
        torch.set_num_threads(settings.threads)
    here = place(settings.accelerator)
    if here.ranks > 1:
        raise UserError("several budgets in one run take one process; with torchrun search one budget at a time")
    data = replace(load_data(settings.data) if data is None else data, place=here)
    for note in proxy_notes(settings, plans[0]):
        say(f"note: {note}")
    if resume:
        folder, begun = resume
    else:
        begun = Begun("search", _options(plans), command, datetime.now(UTC))
        folder = make_folder(settings.out, f"{begun.started:%Y%m%d-%H%M%S}-front-{plans[0].space.name}")
        begun.save(folder)
    try:
        with only_process(folder):
            clock = time.monotonic()
            if not (folder / CHECKPOINT).is_file():
                _train(plans, data, folder, progress, say, resume is not None)
            shared_s = time.monotonic() - clock
            targets = tuple(_finish(plan, data, folder, begun, progress, say) for plan in plans)
            seconds = {"shared": round(shared_s, 1), "all targets": round(time.monotonic() - clock - shared_s, 1)}
            origin = provenance(settings.seed, begun.command, begun.started, time.monotonic() - clock)
            write_front(folder, [Row.of(t.result, t.folder.name) for t in targets], {**origin, "seconds": seconds})
            begun.forget(folder)
    except KeyboardInterrupt as error:
        raise Stopped(f"stopped; go on with resume={folder}") from error
    except CannotWrite as error:
        raise CannotWrite(f"{error}; the whole run goes on with resume={folder}") from error
    finally:
        remove_if_empty(folder)
    return FinishedFront(targets, folder)


def _options(plans: Sequence[Plan]) -> dict[str, Any]:
    """The settings that all share, with the targets as `nas.targets.each_target` reads them."""
    budgets: dict[str, list[float]] = {}
    for plan in plans:
        budgets.setdefault(plan.settings.device, []).append(plan.settings.budget_ms)
    return {**asdict(plans[0].settings), "device": list(budgets), "budget_ms": list(budgets.values())}


def _train(
    plans: Sequence[Plan],
    data: DataSet,
    folder: Path,
    progress: bool | None,
    say: Callable[[str], None],
    resume: bool,
) -> None:
    """What the targets share; leaves the checkpoint, and the course of every target in its folder."""
    settings = plans[0].settings
    checkpoints = Checkpoints(folder, settings.checkpoint.minutes, settings.checkpoint.steps, say, resume)
    profiles = {f"device profile {plan.settings.device}": plan.profile.digest for plan in plans}
    checkpoints.require_same({"data": data.digest, **profiles})
    logs = []
    for plan in plans:
        target = folder / target_name(plan.settings)
        target.mkdir(exist_ok=True)
        logs.append(SearchLog(target, checkpoints, target.name))
    try:
        with SearchProgress(proxyless.total_steps(plans[0], data), progress) as bar:
            supernet, gates = proxyless.train_front(plans, data, logs, checkpoints, bar)
    except NotFinite as error:
        kept = f"; the state before it is in '{checkpoints.folder}'" if checkpoints.exist() else ""
        raise NotFinite(f"{error}{kept}") from error
    for log in logs:
        log.save()
    alphas = {gates_key(log.folder.name): each.alpha for log, each in zip(logs, gates, strict=True)}
    save_supernet(folder / CHECKPOINT, supernet, alphas)
    checkpoints.clear()


def _finish(
    plan: Plan, data: DataSet, folder: Path, begun: Begun, progress: bool | None, say: Callable[[str], None]
) -> Finished:
    """A target's network from what all share; one that was finished before is read back."""
    target = folder / target_name(plan.settings)
    if (target / "report.html").is_file():
        return Finished(load_result(target / "architecture.json"), target)
    strategy = Inherited(folder / CHECKPOINT, gates_key(target.name))
    notes = (*plan.notes, *proxy_notes(plan.settings, plan), "Its supernet was trained together with other targets'")
    result = carry_out(plan, data, target, begun, notes, progress, say, True, strategy)
    assert result is not None  # the only process is the first
    return Finished(result, target)
