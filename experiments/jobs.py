"""The door of experiments made of many jobs: rows are kept as each job ends, and a later call resumes from there.

`python -m experiments.NAME [show] [--quick] [jobs=N] [minutes=M] [out=FILE] [option=value ...]`. The results file is
written whole after every job, so it can be read, and the call stopped, at any moment. Not for what a job does.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from experiments.results import FOLDER, Results, Row, Value, load_results, save_results, take_provenance
from latency_models.options import Options, run
from search_space.errors import Stopped, UserError
from search_space.files import write_whole


class Job(Protocol):
    """One piece of work; a frozen value, since it may travel to another process."""

    @property
    def name(self) -> str:
        """Unique in its experiment: the rows of a job that was done carry it as `job`."""


J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Work(Generic[J]):
    """do(job) -> its rows; settings: what a file's rows have in common; device: 'cpu' or 'cuda', where it is done.

    jobs: in the order to be done; where that depends on what others found, a function of the rows so far.
    """

    settings: Mapping[str, Value]
    jobs: Sequence[J] | Callable[[Sequence[Row]], Sequence[J]]
    do: Callable[[J], Sequence[Row]]
    device: str = "cpu"

    def known(self, rows: Sequence[Row]) -> Sequence[J]:
        """All jobs that are known once these rows were found, done ones included, in the order to be done."""
        return self.jobs(rows) if callable(self.jobs) else self.jobs


def run_jobs(
    experiment: str,
    known: Mapping[str, str],
    prepare: Callable[[Options, bool], Work[J]],
    render: Callable[[Results], str],
    arguments: Sequence[str],
    draw: Callable[[Results], bytes] | None = None,
) -> int:
    """Do the jobs that are left, or show the results file; the exit status, as of `latency_models.options.run`.

    known: option -> what it means; prepare(options, whether this is a quick trial); where `draw` makes a file (SVG or
    HTML), `show` takes figure=.
    """
    flags = [argument for argument in arguments if argument in ("show", "--quick")]
    rest = [argument for argument in arguments if argument not in flags]
    usage = f"python -m experiments.{experiment} [show] [--quick] [option=value ...]"
    figure = {} if draw is None else {"figure": "with show: a file to draw the results into"}
    known = {
        **known,
        **figure,
        "jobs": "processes that work at the same time, one thread each (default: 1)",
        "minutes": "begin no job after so long (default: until all are done)",
        "out": f"the results file, resumed if it exists (default: {FOLDER.name}/{experiment}.json beside this)",
    }

    def task(options: Options) -> str:
        path = Path(options.text("out")) if options.given("out") else FOLDER / f"{experiment}.json"
        if "show" in flags:
            if unused := sorted(options.values.keys() - {"out", *figure}):
                raise UserError(f"'show' measures nothing and takes no {unused[0]}=")
            results = load_results(path, experiment)
            if draw is not None and options.given("figure"):
                write_whole(Path(options.text("figure")), draw(results))
            return render(results)
        if options.given("figure"):
            raise UserError("figure= goes with show")
        quick = "--quick" in flags
        _one_thread()
        work = prepare(options, quick)
        command = " ".join([f"python -m experiments.{experiment}", *arguments])
        kept = not quick or options.given("out")
        results = _started(path, experiment, work, command, kept)
        done = {str(row["job"]) for row in results.rows}
        if done and all(job.name in done for job in work.known(results.rows)):
            return f"{render(load_results(path, experiment))}\n\n'{path}' has all of it; nothing was left to do"
        minutes = options.number("minutes") if options.given("minutes") else None
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        count = 0

        def left() -> list[J]:
            return [job for job in work.known(results.rows) if job.name not in done]

        try:
            for job, rows in _completed(left, work.do, options.integer("jobs", 1), deadline):
                marked = tuple({"job": job.name, "commit": results.provenance.commit, **row} for row in rows)
                results = replace(results, rows=(*results.rows, *marked))
                done.add(job.name)
                count += 1
                if kept:
                    save_results(path, results)
                of = len(work.known(results.rows))
                print(f"{of - len(left())}/{of} {job.name}", flush=True)
        except (KeyboardInterrupt, Stopped) as error:  # a search names a folder of its own, which is gone
            raise Stopped(f"stopped; {count} jobs were added{f' to {path}' if kept else ''}") from error
        waiting = len(left())
        end = f"-> {path}" if kept else "A quick trial, not written (out=FILE writes it)."
        return f"{render(results)}\n\n{end}{f'; {waiting} jobs are left, the same command resumes' if waiting else ''}"

    return run(task, known, usage, rest)


def _started(path: Path, experiment: str, work: Work[J], command: str, kept: bool) -> Results:
    """The results so far, with this call's provenance. Raises `UserError` where they were measured otherwise."""
    rows: tuple[Row, ...] = ()
    if kept and path.exists():
        before = load_results(path, experiment)
        for name in {**before.settings, **work.settings}:
            old, new = before.settings.get(name), work.settings.get(name)
            if old != new:
                raise UserError(f"'{path}' was measured with {name}={old}, not {new}; name another file with out=")
        rows = before.rows
    return Results(experiment, take_provenance(command, work.device), work.settings, rows)


def _completed(
    left: Callable[[], Sequence[J]], do: Callable[[J], Sequence[Row]], workers: int, deadline: float | None
) -> Iterator[tuple[J, Sequence[Row]]]:
    """Jobs and their rows as they end; none begins after the deadline (of time.monotonic()).

    left(): the jobs to be done, without those that were yielded.
    """

    def late() -> bool:
        return deadline is not None and time.monotonic() >= deadline

    if workers == 1:
        while (jobs := left()) and not late():
            yield jobs[0], do(jobs[0])
        return
    running: dict[Future[Sequence[Row]], J] = {}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_begin_process) as pool:
        while True:
            begun = {job.name for job in running.values()}
            waiting = [] if late() else [job for job in left() if job.name not in begun]
            for job in waiting[: workers - len(running)]:
                running[pool.submit(partial(do, job))] = job
            if not running:
                return
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                yield running.pop(future), future.result()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _begin_process() -> None:
    """The process ends with the one that began it, however that ends."""
    _one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
