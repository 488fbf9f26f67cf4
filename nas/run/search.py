"""One run, for one target or several: plan -> strategy -> fine-tune -> export -> result files -> report.

    runs/TIME-DEVICE-BUDGET-SPACE/     one target: all files; front.csv has its one row
    runs/TIME-front-SPACE/             several: front.csv and report.html about all of them, and
      checkpoint.safetensors           the supernet with every target's gates
      vpu-30ms/                        the files of each

Targets share images, supernet and every training step of the search; each keeps its own budget and is fine-tuned and
exported by itself. Not for parsing options, nor for what is refused before torch is imported (`nas.run.plan`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nas.data import DataSet
from nas.report.front import write_front_report
from nas.report.page import write_report
from nas.run.checkpoint import Checkpoint, Checkpoints
from nas.run.chosen import Chosen, LatencyModels, chosen_by_search
from nas.run.company import OtherStopped
from nas.run.conclude import conclude
from nas.run.distributed import from_first, joined, place, together, with_global_norms
from nas.run.finished import RESULT, Finished, FinishedTarget
from nas.run.folder import finish, run_folder
from nas.run.front_table import FrontRow, save_front_table
from nas.run.images import images_of
from nas.run.log import LOG_EVERY, Row, SearchLog
from nas.run.plan import Plan
from nas.run.progress import SearchProgress
from nas.run.provenance import provenance
from nas.run.result import load_result
from nas.run.resume import IMAGES, Begun, content_of
from nas.run.targets import options_of, target_name
from nas.strategies import load_strategy
from nas.strategies.base import Strategy, Task
from nas.strategies.start import accuracy_before_training, start_of
from nas.strategies.untrained import decided
from nas.strategies.weights import first_supernet, trained_supernet
from nas.supernet.network import Supernet
from nas.supernet.origin import CHECKPOINT
from nas.training.loop import NotFinite, train_network
from nas.training.recipes import finetune_recipe
from search_space import GatePath
from search_space.build import Network, to_channels_last
from search_space.files import plain_name

REPORT = "report.html"  # the last of a target's files


def carry_out(
    plans: Sequence[Plan],
    data: DataSet | None = None,
    command: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    resume: tuple[Path, Begun] | None = None,
) -> Finished | None:
    """Carry out plans that differ in device and budget alone, or resume them in the folder where they were begun.

    data: the caller's own images instead of those that the settings name. `say` gets the lines that a person should
    read. What was done stays in the folder when the run ends early, for `resume`; a folder with nothing in it is
    removed. Of several processes only the first writes and has a result, the others return None.
    Raises `UserError` with a one-line message for anything that cannot be done.
    """
    settings = plans[0].settings
    strategy = load_strategy(settings.strategy)
    strategy.check(plans)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    here = place(settings.accelerator)
    with together(here, settings.distributed.timeout_s):
        return _carry_out(
            plans, replace(images_of(settings, data), place=here), strategy, command, progress, say, resume
        )


def _carry_out(
    plans: Sequence[Plan],
    data: DataSet,
    strategy: Strategy,
    command: str | None,
    progress: bool | None,
    say: Callable[[str], None],
    resume: tuple[Path, Begun] | None,
) -> Finished | None:
    settings, several, here = plans[0].settings, len(plans) > 1, data.place
    for line in data.said:
        say(line)
    options, inputs = options_of([plan.asked for plan in plans]), _inputs(plans, data)
    begun = resume[1] if resume else Begun("search", options, command, datetime.now(UTC), inputs)
    plans = [decided(plan, data) for plan in plans]
    about = f"{'front' if several else target_name(settings)}-{plain_name(plans[0].space.name)}"
    stem = f"{begun.started:%Y%m%d-%H%M%S}-{about}"
    with run_folder(settings.out, stem, begun, resume[0] if resume else None, here) as folder:
        checkpoints = Checkpoints(
            folder, settings.checkpoint.minutes, settings.checkpoint.steps, say, resume is not None, writes=here.first
        )
        begun.require_same(folder, inputs, data.changed_since(folder))
        if here.first:
            data.save_found(folder)
        logs = [_log(folder, plan, checkpoints, several) for plan in plans]
        steps = strategy.total_steps(plans[0], data) + len(plans) * _finetune_steps(plans[0], data)
        with _keeping(logs), SearchProgress(steps, progress if here.first else False) as bar:
            with joined(here):
                start = start_of(plans[0], data)
                if taught := start.facts.get("teacher"):
                    say(f"teacher {taught['name']}: validation accuracy {taught['validation']:.1%}")
                task = Task(plans, data, logs, checkpoints, bar, start)
                _measure_inherited(task, say)
                supernet = _search(task, strategy)
            models = LatencyModels.of(plans)
            targets = [_finish(task, number, supernet, models, begun) for number in range(len(plans))]
        if not here.first:
            return None
        finished = Finished(tuple(target for target in targets if target is not None), folder)
        save_front_table(
            folder, [FrontRow.of(t.result, t.folder.relative_to(folder).as_posix()) for t in finished.targets]
        )
        if several:
            write_front_report(folder)
        finish(folder, begun, checkpoints, *(target.folder for target in finished.targets))
    return finished


def _inputs(plans: Sequence[Plan], data: DataSet) -> dict[str, Any]:
    """What a search's result depends on besides its options."""
    settings = plans[0].settings
    return {
        IMAGES: data.digest,
        "files of the images": data.files,
        "space": plans[0].space.to_dict(),
        **{f"device profile {plan.settings.device}": plan.profile.digest for plan in plans},
        "start that init= names": content_of(settings.init),
        "teacher": content_of(settings.teacher),
    }


def _log(folder: Path, plan: Plan, checkpoints: Checkpoints, several: bool) -> SearchLog:
    name = target_name(plan.settings)
    own = folder / name if several else folder
    if checkpoints.writes:
        own.mkdir(exist_ok=True)
    return SearchLog(own, checkpoints, name, plan.settings.log, asdict(plan.settings))


@contextmanager
def _keeping(logs: Sequence[SearchLog]) -> Iterator[None]:
    """Within, a run that ends early leaves its logs as far as they are."""
    finished = False
    try:
        yield
        finished = True
    except (NotFinite, OtherStopped, KeyboardInterrupt):
        for log in logs:
            log.save_meanwhile()
        raise
    finally:
        for log in logs:
            log.close(finished)


def _measure_inherited(task: Task, say: Callable[[str], None]) -> None:
    """What inherited weights are worth before any training, into the log and the checkpoints' facts."""
    start, facts = task.start, task.checkpoints.facts
    if start is None or start.supernet is None or not task.data.at_hand or "inherited" in facts:
        return
    facts["inherited"] = found = accuracy_before_training(task.plan, task.data, start)
    for log in task.logs:
        for value in found.values():
            log.add(Row(0, "inherited", 0, val_accuracy=value))
    say("validation accuracy before training: " + ", ".join(f"{name} {value:.1%}" for name, value in found.items()))


def _search(task: Task, strategy: Strategy) -> Supernet:
    """The supernet; what was found in it is in the checkpoints' facts, now or since the run was stopped."""
    checkpoints = task.checkpoints
    if "found" in checkpoints.facts:
        if checkpoints.facts["trained"]:
            return trained_supernet(task.plan, task.data, checkpoints.run_folder)
        return first_supernet(task.plan, task.data, task.start)
    supernet, found = strategy.search(task)
    checkpoints.facts["found"] = [
        {"path": one.path.choices, "accuracy": one.validation_accuracy, "step": log.rows[-1].step if log.rows else 0}
        for one, log in zip(found, task.logs, strict=True)
    ]
    of_first = from_first(task.data.place, lambda: str((checkpoints.run_folder / CHECKPOINT).is_file()))
    checkpoints.facts["trained"] = of_first == str(True)  # another machine need not see the folder
    checkpoints.facts["search_s"] = round(checkpoints.seconds, 1)
    checkpoints.keep("chosen", 0, Checkpoint, now=True)
    return supernet


def _finish(task: Task, number: int, supernet: Supernet, models: LatencyModels, begun: Begun) -> FinishedTarget | None:
    """A target's network, trained on and written to its folder; one that was finished before is read back.

    None in processes other than the first.
    """
    plan, data, log, checkpoints = task.plans[number], task.data, task.logs[number], task.checkpoints
    if (log.folder / REPORT).is_file() and (log.folder / RESULT).is_file():
        return FinishedTarget(load_result(log.folder / RESULT), log.folder) if data.place.first else None
    found = checkpoints.facts["found"][number]
    path = GatePath(tuple(found["path"]))
    cut = task.start is not None and task.start.supernet is not None and not checkpoints.facts["trained"]
    network = task.start.extract(path) if cut and task.start else supernet.extract(path)
    with joined(data.place):
        _finetune(task, number, network, found, plan.table.path_ms(path), supernet.kept_statistics)
    if not data.place.first:
        return None
    chosen = chosen_by_search(plan, path, data.num_classes, models)
    origin = {
        "settings": asdict(replace(plan.settings, out=None)),
        "profile_hash": plan.profile.digest,
        **provenance(plan.settings.seed, begun.command, begun.started, checkpoints.seconds, data.place),
        "search_s": checkpoints.facts["search_s"],
        **(task.start.facts if task.start else {}),
    }
    if inherited := checkpoints.facts.get("inherited"):
        origin["validation before training"] = inherited
    together = len(task.plans) > 1 and checkpoints.facts["trained"]
    notes = (*_notes(plan, chosen, together), *data.found)
    result = conclude(log.folder, network, chosen, data, notes, origin, supernet.kept_statistics)
    last = log.rows[-1].step if log.rows else 0
    reached = result.accuracy.validation if result.accuracy else None
    log.add(Row(last, "finetune", plan.settings.finetune.epochs, val_accuracy=reached))
    log.save()
    write_report(log.folder)
    return FinishedTarget(result, log.folder)


def _finetune(
    task: Task, number: int, network: Network, found: dict[str, Any], latency_ms: float, keep_statistics: bool
) -> None:
    """Train a chosen path's network further in place, from its inherited weights; resumes from the checkpoints."""
    plan, data, log = task.plans[number], task.data, task.logs[number]
    settings, own = plan.settings, _finetune_steps(plan, data)
    with_global_norms(to_channels_last(network)).to(data.place.device)
    before = task.progress.total - (len(task.plans) - number) * own
    task.progress.skip(before)

    def on_step(step: int, epoch: int, loss: float) -> None:
        task.progress.skip(before + step - 1)
        task.progress.advance(
            "finetune",
            loss=loss,
            accuracy=found["accuracy"],
            expected_ms=latency_ms,
            budget_ms=settings.budget_ms,
            part=f"{target_name(settings)} epoch {epoch + 1}" if len(task.plans) > 1 else f"epoch {epoch + 1}",
        )
        if step % LOG_EVERY == 0:
            at = found["step"] + step
            log.add(Row(at, "finetune", epoch + 1, loss, expected_ms=latency_ms, budget_ms=settings.budget_ms))

    if settings.finetune.epochs:
        train_network(
            network,
            data,
            data.train,
            settings.data.resolution,
            finetune_recipe(settings, keep_statistics),
            settings.seed,
            on_step,
            task.checkpoints,
            f"finetune {target_name(settings)}",
            task.start.lessons if task.start else None,
        )


def _finetune_steps(plan: Plan, data: DataSet) -> int:
    return plan.settings.finetune.epochs * data.steps(data.train, plan.settings.train.batch_size)


def _notes(plan: Plan, chosen: Chosen, together: bool) -> tuple[str, ...]:
    settings, budget, notes = plan.settings, chosen.budget, list(plan.notes)
    if together:
        notes.append("Its supernet was trained together with other targets'")
    assert budget is not None
    if budget.binds and budget.used < settings.use_at_least - 1e-9:
        kept = " that keeps the limits" if plan.limits else ""
        notes.append(
            f"No network of '{plan.space.name}'{kept} takes between {settings.use_at_least:.0%} and all of "
            f"{settings.budget_ms:g} ms; this is the best below, at {budget.used:.1%}"
        )
    support = chosen.latency[budget.device].support
    notes += support.notes(budget.device) if support else ()
    return tuple(notes)
