"""Jobs that follow from what others found, one after another and side by side, kept and gone on with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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


def test_a_call_that_was_stopped_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "chain.json"
    assert chain(f"out={out}", "minutes=1e-9") == 0
    assert "2 jobs are left" in capsys.readouterr().out
    assert chain(f"out={out}") == 0
    assert len(names(out)) == 4


@pytest.mark.parametrize("end", [KeyboardInterrupt(), Stopped("go on with resume=elsewhere")], ids=["here", "within"])
def test_a_stop_tells_what_was_kept(
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


@pytest.mark.slow
def test_side_by_side_as_well() -> None:
    rows: list[Row] = []

    def left() -> list[Step]:
        done = {row["job"] for row in rows}
        return [job for job in known(rows) if job.name not in done]

    for job, found in jobs._completed(left, do, 2, None):
        rows += [{"job": job.name, **row} for row in found]
    assert sorted(str(row["job"]) for row in rows) == ["first", "first 1", "first 2", "last"]
