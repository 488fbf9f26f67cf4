"""The folder of a run: made, marked as begun, held by one process, left whole or not at all. Not for what is in it."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from nas.data.record import FILE as IMAGES
from nas.data.soundness import FILE as DAMAGED
from nas.run.checkpoint import Checkpoints
from nas.run.company import OtherStopped
from nas.run.distributed import Place, from_first
from nas.run.plan import taken
from nas.run.resume import CHECKPOINTS, Begun, only_process
from nas.run.resume import NAME as RUN
from nas.training.loop import NotFinite
from search_space import UserError
from search_space.errors import CannotWrite, Stopped
from search_space.files import neighbour
from search_space.sums import NAME as SUMS
from search_space.sums import save_sums


@contextmanager
def run_folder(out: str | None, default_name: str, begun: Begun, resumed: Path | None, here: Place) -> Iterator[Path]:
    """The folder of a run: made and marked as begun, or the one in which it resumes; this process alone in it.

    Within, a stop and a disk that refuses become `Stopped` and `CannotWrite` that say how to resume. Of several
    processes the first makes it.
    """
    folder = Path(from_first(here, lambda: str(resumed or make_folder(out, default_name, begun))))
    try:
        with only_process(folder) if here.first else nullcontext():
            if here.first:
                for sums in (folder / SUMS, *folder.glob(f"*/{SUMS}")):
                    sums.unlink(missing_ok=True)  # of one that was killed at its very end; files are written again
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


def make_folder(out: str | None, default_name: str, begun: Begun) -> Path:
    """Make the folder of a run with its run.json in it: both at once, so that a kill leaves neither alone.

    It is `runs/DEFAULT_NAME` unless `out` names one, which may be there while it is empty. Raises `UserError`.
    """
    folder = Path("runs") / default_name if out is None else Path(out).expanduser()
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = neighbour(folder.with_name("run"))
        aside.mkdir()
        begun.save(aside)
        for number in itertools.count(1):
            new = folder if number == 1 else folder.with_name(f"{default_name}-{number}")
            try:
                aside.rename(new)  # also onto an empty folder
                return new
            except OSError as error:  # a run that began this moment is there too
                if not new.exists():
                    raise
                if out is not None:
                    raise taken(folder) from error
    except CannotWrite:
        raise
    except OSError as error:
        raise UserError(f"cannot make the run folder '{folder}': {error.strerror}") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)  # renamed, where all went well
    raise AssertionError("counting ended")


def finish(folder: Path, begun: Begun, checkpoints: Checkpoints, *targets: Path) -> None:
    """Leave a run whole: its files get their checksums, then what only a resume needs goes. Raises `CannotWrite`."""
    for each in dict.fromkeys((*targets, folder)):
        save_sums(each, but=(RUN,))
    begun.forget(folder)
    checkpoints.clear()
