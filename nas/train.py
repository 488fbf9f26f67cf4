"""The command `python -m nas.train ARCHITECTURE.json data=...`: train a found network in full, export it again.

Recipes: `recipe=small` for small data, `recipe=imagenet` for 300 epochs on ImageNet. Any resolution.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.command.options import as_command, print_first, run_command
from nas.data.addresses import hidden_in, redacted
from nas.data.settings import DataSettings
from nas.loggers import check_loggers
from nas.run.resume import AUTO, IMAGES, Begun, content_of, folder_to_resume, options_to_resume
from nas.run.settings import CheckpointSettings, Resumable, TrainCommand, settings_from_dict
from nas.training.recipes import Recipe
from search_space import UserError

if TYPE_CHECKING:
    from nas.run.result import InputFormat, SearchResult


def main() -> None:
    """Run the command; a bare path, of a file or of a run's folder, stands for architecture=PATH."""
    with as_command():
        sys.argv[1:] = [f"architecture={a}" if _is_bare_path(a) else a for a in sys.argv[1:]]
        named = [a.partition("=")[2] for a in sys.argv[1:] if a.startswith("architecture=")]
        if len(named) > 1:
            raise UserError(f"one network is trained at a time, not '{named[0]}' and '{named[1]}'; name one of them")
        run_command("train", _train)


def _is_bare_path(argument: str) -> bool:
    """Whether it stands for architecture=PATH."""
    if "=" not in argument and Path(argument).expanduser().exists():
        return True
    return argument.endswith(".json") and ("=" not in argument or Path(argument).is_file())


def _train(values: dict[str, Any]) -> None:
    values["data"] = hidden_in(values["data"])
    values["data"].pop("epochs")
    resume = settings_from_dict(Resumable, {"resume": values.pop("resume")}).resume
    begun, begun_in = None, folder_to_resume(resume, values["out"])
    if begun_in is not None:
        begun = Begun.load(begun_in, "train")
        if begun is None:
            said = f"the run in '{begun_in}' has finished: see {begun_in / 'architecture.json'}"
            if resume != AUTO:
                raise UserError(said)
            print_first(said)
            return
        values = options_to_resume(begun.options, values, sys.argv[1:])
    data, recipe, minutes = values.pop("data"), values.pop("recipe"), values.pop("checkpoint")
    command = settings_from_dict(TrainCommand, values)
    data_settings = settings_from_dict(DataSettings, data, "data.")
    checkpoint = settings_from_dict(CheckpointSettings, minutes, "checkpoint.")

    line = " ".join(["python -m nas.train", *(redacted(a) for a in sys.argv[1:] if not a.startswith("out="))])
    trained = full_training(
        command,
        data_settings,
        settings_from_dict(Recipe, recipe, "recipe."),
        checkpoint,
        line,
        say=print_first,
        resume=(begun_in, begun) if begun_in and begun else None,
    )
    if trained is None:
        return
    from nas.command.summary import one_training

    print_first(one_training(*trained))


def full_training(
    command: TrainCommand,
    data_settings: DataSettings,
    recipe: Recipe,
    checkpoint: CheckpointSettings | None = None,
    line: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    resume: tuple[Path, Begun] | None = None,
) -> tuple[SearchResult, Path] | None:
    """Train the network of an architecture.json from scratch, or from weights, and export it to a new folder.

    `resume`: continue in the folder where it was begun. Of several processes only the first has a result, the others
    return None. Raises `UserError` for anything that cannot be done.
    """
    import torch

    from nas.data import load
    from nas.report.page import write_report
    from nas.run.checkpoint import Checkpoints
    from nas.run.chosen import chosen_before
    from nas.run.conclude import conclude
    from nas.run.distributed import joined, place, together, with_global_norms
    from nas.run.export import load_weights
    from nas.run.finished import RESULT, WEIGHTS
    from nas.run.folder import finish, run_folder
    from nas.run.log import TrainLog
    from nas.run.progress import SearchProgress
    from nas.run.provenance import provenance
    from nas.run.result import ALONE, load_result_or_architecture
    from nas.strategies.start import named_teacher
    from nas.training.loop import steps_per_epoch, train_network
    from nas.training.teacher import changes_pictures, lessons_of
    from search_space.build import Network, to_channels_last
    from search_space.files import plain_name

    check_loggers(command.log)
    assert command.architecture is not None
    checkpoint = checkpoint or CheckpointSettings()
    if command.threads:
        torch.set_num_threads(command.threads)
    found = load_result_or_architecture(_inside(command.architecture, RESULT))
    here = place(command.accelerator)
    with together(here, command.distributed.timeout_s):
        data = replace(load(data_settings), place=here)
        for line in data.said:
            say(line)
        asked, data_settings = data_settings, _shown_as_before(data_settings, data.class_names, found.input)
        data = data.varied(data_settings.flip, data_settings.crop)
        torch.manual_seed(command.seed)
        chosen = chosen_before(found, data.num_classes, command.resolution)
        network = Network(
            chosen.training_segments, recipe.layer_scale, recipe.drop_path, paper_init=recipe.layer_scale < 0.01
        )
        notes = [f"Trained in full at {command.resolution} pixels for {recipe.epochs} epochs"]
        notes += [ALONE] if ALONE in found.notes else []
        if command.weights is not None:
            weights = _inside(command.weights, WEIGHTS)
            load_weights(network, weights, f"data={data_settings.name}")
            if other := _other_head(weights, data.class_names):
                notes.append(other)
                say(f"note: {other}")
        options = {
            **asdict(command),
            "data": asdict(asked),
            "recipe": asdict(recipe),
            "checkpoint": asdict(checkpoint),
        }
        inputs = {
            IMAGES: data.digest,
            "files of the images": data.files,
            "architecture": str(found.architecture),
            "weights": content_of(command.weights),
            "teacher": content_of(command.teacher),
        }
        begun = resume[1] if resume else Begun("train", options, line, datetime.now(UTC), inputs)
        stem = f"{begun.started:%Y%m%d-%H%M%S}-train-{plain_name(found.architecture.space.name)}"
        per_epoch = steps_per_epoch(data, data.train, recipe)
        before = resume[0] if resume else None
        with run_folder(command.out, stem, begun, before, here) as folder, ExitStack() as at_the_end:
            checkpoints = Checkpoints(
                folder, checkpoint.minutes, checkpoint.steps, say, resume is not None, writes=here.first
            )
            begun.require_same(folder, inputs, data.changed_since(folder))
            if here.first:
                data.save_found(folder)
            shown = {**options, "data": asdict(data_settings)}
            log, facts = TrainLog(folder, checkpoints, per_epoch, command.log, shown), dict[str, Any]()
            at_the_end.push(lambda kind, error, trace: log.close(kind is None))
            with joined(here), SearchProgress(recipe.epochs * per_epoch, progress if here.first else False) as bar:

                def on_step(step: int, epoch: int, loss: float) -> None:
                    bar.skip(step - 1)
                    bar.advance("train", loss=loss, part=f"epoch {epoch + 1} of {recipe.epochs}")
                    log.step(step, epoch + 1, loss)

                with_global_norms(to_channels_last(network)).to(here.device)
                lessons = None
                if command.teacher is not None:
                    teacher = named_teacher(command.teacher, data, command.resolution)
                    facts["teacher"] = {"name": teacher.name, "validation": teacher.validation}
                    lessons = lessons_of(data, command.resolution, teacher, changes_pictures(recipe))
                train_network(
                    network,
                    data,
                    data.train,
                    command.resolution,
                    recipe,
                    command.seed,
                    on_step,
                    checkpoints,
                    lessons=lessons,
                )
            if not here.first:
                return None
            result = conclude(
                folder,
                network,
                chosen,
                data,
                (*notes, *data.found),
                {
                    "data": asdict(data_settings),
                    "recipe": asdict(recipe),
                    "search": dict(found.provenance),
                    **facts,
                    **provenance(command.seed, begun.command, begun.started, checkpoints.seconds, here),
                },
            )
            log.end(recipe.epochs, result.accuracy.validation if result.accuracy else None)
            write_report(folder)
            finish(folder, begun, checkpoints)
        return result, folder


def _inside(path: str, name: str) -> Path:
    """A file, or the one of this name in a run's folder."""
    found = Path(path).expanduser()
    return found / name if found.is_dir() else found


def _shown_as_before(settings: DataSettings, classes: tuple[str, ...], before: InputFormat) -> DataSettings:
    """The flip and crop of the search that found the network, where none is asked for and its classes were these."""
    shown = before.preprocessing
    if shown is None or before.class_names != classes:
        return settings
    return replace(
        settings,
        flip=shown.training_flip if settings.flip is None else settings.flip,
        crop=settings.crop or shown.training_crop,
    )


def _other_head(weights: Path, classes: tuple[str, ...]) -> str | None:
    """A note where the weights' run, by the architecture.json beside them, had other classes, though equally many."""
    from nas.run.result import load_result

    try:
        before = load_result(weights.with_name("architecture.json")).input.class_names
    except UserError:  # weights from elsewhere, of which no file tells the classes
        return None
    for number, (old, new) in enumerate(zip(before, classes, strict=False)):
        if old != new:
            return f"The weights were trained for other classes: class {number} was '{old}' and is now '{new}'"
    return None


if __name__ == "__main__":
    main()
