"""The folder of a run: made, marked as begun, held by one process, left whole or not at all. Not for what is in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from nas.data.record import FILE as IMAGES
from nas.data.soundness import FILE as DAMAGED
from nas.run.checkpoint import FOLDER as CHECKPOINTS
from nas.run.distributed import OtherStopped, Place, from_first
from nas.run.plan import taken
from nas.run.resume import NAME as RUN
from nas.run.resume import Begun, only_process
from nas.training.loop import NotFinite
from search_space import UserError
from search_space.errors import CannotWrite, Stopped


@contextmanager
def run_folder(out: str | None, default_name: str, begun: Begun, resumed: Path | None, here: Place) -> Iterator[Path]:
    """The folder of a run: made and marked as begun, or the one in which it resumes; this process alone in it.

    Within, a stop and a disk that refuses become `Stopped` and `CannotWrite` that say how to resume. Of several
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
        raise OtherStopped(f"{error}; resume it with resume={folder}") from error
    except KeyboardInterrupt as error:
        raise Stopped(f"stopped; resume it with resume={folder}") from error
    except CannotWrite as error:
        raise CannotWrite(f"{error}; fix that and resume it with resume={folder}") from error
    except UserError:
        if here.first and resumed is None and {p.name for p in folder.iterdir()} - {DAMAGED, IMAGES} == {RUN}:
            for name in (DAMAGED, IMAGES):
                (folder / name).unlink(missing_ok=True)
            begun.forget(folder)  # refused before anything was done: nothing to resume
        raise
    finally:
        if here.first:
            with suppress(OSError):  # an empty one goes, so that the same `out` can be used again
                folder.rmdir()


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
