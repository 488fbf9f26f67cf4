"""Jobs that follow from what others found, one after another and side by side, kept and resumed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments import jobs
from experiments.jobs import Work, run_jobs
from experiments.results import Results, Row, load_results
from search_space.errors import Stopped


@dataclass(frozen=True)
class Step:
    name: str


def do(job: Step) -> list[Row]:
    return [{"found": f"after {job.name}"}]


def known(rows: Sequence[Row]) -> list[Step]:
    """'first' calls for two more, which stand before 'last'."""
    followers = [Step(f"{row['job']} {i}") for row in rows if row["job"] == "first" for i in (1, 2)]
    return [Step("first"), *followers, Step("last")]


def names(path: Path) -> list[str]:
    return [str(row["job"]) for row in load_results(path, "chain").rows]


def chain(*arguments: str) -> int:
    def render(results: Results) -> str:
        return f"{len(results.rows)} rows"

    def draw(results: Results) -> bytes:
        return render(results).encode()

    work = Work({}, known, do)
    return run_jobs(
        "chain", {}, lambda options, quick: work, render, arguments, lambda results: render(results).encode()
    )


def test_what_a_job_calls_for_is_done_before_what_stands_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "chain.json", tmp_path / "chain.html"
    assert chain(f"out={out}") == 0
    assert names(out) == ["first", "first 1", "first 2", "last"]
    assert "1/4 first\n" in capsys.readouterr().out

    assert chain(f"out={out}") == chain("show", f"out={out}", f"figure={page}") == 0
    assert len(names(out)) == 4 and page.read_text() == "4 rows"


def test_a_call_that_was_stopped_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chain.json"
    assert chain(f"out={out}", "minutes=1e-12") == 0
    assert "2 jobs are left" in capsys.readouterr().out
    assert chain(f"out={out}") == 0
    assert len(names(out)) == 4


def test_a_call_with_nothing_left_claims_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chain.json"
    assert chain(f"out={out}") == 0
    before = out.read_bytes()
    capsys.readouterr()
    assert chain(f"out={out}", "minutes=5") == 0
    assert f"4 rows\n\n'{out}' has all of it; nothing was left to do" in capsys.readouterr().out
    assert out.read_bytes() == before


@pytest.mark.parametrize("end", [KeyboardInterrupt(), Stopped("resume with resume=elsewhere")], ids=["here", "within"])
def test_a_stop_says_what_was_kept(
    end: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: Step) -> list[Row]:
        if job.name == "first 2":
            raise end
        return [{"found": "more"}]

    out = tmp_path / "chain.json"
    monkeypatch.setattr(sys.modules[__name__], "do", stop)
    assert chain(f"out={out}") == 130
    assert capsys.readouterr().err == f"error: stopped; 2 jobs were added to {out}\n"
    assert names(out) == ["first", "first 1"]


ENDLESS = """
import os, sys, time
from dataclasses import dataclass
from pathlib import Path
from experiments import jobs

@dataclass(frozen=True)
class Sleep:
    name: str

def sleep(job):
    Path(job.name).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    list(jobs._completed(lambda: [Sleep("one"), Sleep("two")], sleep, 2, None))
"""


@pytest.mark.slow
def test_processes_end_with_the_one_that_began_them_even_if_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, "endless.py"], cwd=tmp_path)
    try:
        assert comes_true(lambda: all((tmp_path / name).is_file() for name in ("one", "two")), 60)
        workers = [int((tmp_path / name).read_text()) for name in ("one", "two")]
    finally:
        parent.kill()
        parent.wait()
    assert comes_true(lambda: not any(Path(f"/proc/{worker}/cmdline").is_file() for worker in workers), 20)


def comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


@pytest.mark.slow
def test_side_by_side_as_well() -> None:
    rows: list[Row] = []

    def left() -> list[Step]:
        done = {row["job"] for row in rows}
        return [job for job in known(rows) if job.name not in done]

    for job, found in jobs._completed(left, do, 2, None):
        rows += [{"job": job.name, **row} for row in found]
    assert sorted(str(row["job"]) for row in rows) == ["first", "first 1", "first 2", "last"]
