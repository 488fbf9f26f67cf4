"""The one command for a GPU: shares of time, what is kept and resumed, and that its steps' commands exist."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from experiments import on_gpu
from experiments.on_gpu import DONE, FAILED, LATE, NOT_BEGUN, WAITS, Step, main, steps_of
from experiments.results import Row, load_results

SLEEPS = "import time; print('began', flush=True); time.sleep(60)"


def step(name: str, code: str, seconds: float = 20.0, after: str | None = None) -> Step:
    return Step(name, f"what {name} tells", seconds, ("-c", code), after)


def once(monkeypatch: pytest.MonkeyPatch, folder: Path, *steps: Step, minutes: float = 1.0) -> dict[str, Row]:
    """One call of the command with these steps; its manifest."""
    monkeypatch.setattr(on_gpu, "steps_of", lambda *asked: list(steps))
    assert main(["--quick", f"minutes={minutes}", f"out={folder}"]) == 0
    return {str(row["step"]): row for row in load_results(folder / "manifest.json", "on_gpu").rows}


def test_a_step_that_fails_is_noted_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, mark = tmp_path / "out", tmp_path / "mark"
    wrong = step("wrong", f"import os, sys; sys.exit(None if os.path.exists({str(mark)!r}) else 'error: no luck')")
    after = step("after", "print('it is there')", after="wrong")
    found = once(monkeypatch, folder, wrong, after, step("right", "print('one'); print('two'); print()"))
    assert [row["status"] for row in found.values()] == [FAILED, WAITS, DONE]
    assert found["wrong"]["last_line"] == "error: no luck" and found["wrong"]["exit_status"] == 1
    assert found["after"]["last_line"] == "needs wrong"
    assert found["right"]["last_line"] == "two" and (folder / "right.txt").read_text() == "one\ntwo\n\n"
    assert "2 of 3 steps are left, the same command goes on" in capsys.readouterr().out
    mark.touch()
    again = once(monkeypatch, folder, wrong, after, step("right", "raise SystemExit('done already')"))
    assert [row["status"] for row in again.values()] == [DONE] * 3
    assert [row["tries"] for row in again.values()] == [2, 1, 1] and again["right"] == found["right"]
    assert list(again) == ["wrong", "after", "right"]
    assert main(["show", f"out={folder}"]) == 0
    assert "| wrong | what wrong tells | done |" in capsys.readouterr().out


def test_a_late_step_keeps_what_it_has_and_gets_longer_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = time.monotonic()
    slow = step("slow", SLEEPS, seconds=1.0)
    found = once(monkeypatch, tmp_path / "out", slow, step("next", "print('ok')"))
    assert [row["status"] for row in found.values()] == [LATE, DONE]
    assert time.monotonic() - begin < 50
    assert "slow: what slow tells, at most 1 s" in capsys.readouterr().err
    once(monkeypatch, tmp_path / "out", slow, step("next", "print('ok')"))
    assert "slow: what slow tells, at most 2 s" in capsys.readouterr().err


def begun(code: str, said: Path) -> subprocess.Popen[bytes]:
    """A process that has printed its first line."""
    process = on_gpu._begin(["-u", "-c", code], said, {})
    deadline = time.monotonic() + 50
    while not said.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_a_process_hears_its_end_even_where_a_shell_had_ctrl_c_ignored(tmp_path: Path) -> None:
    """As for commands that a script begins with '&'."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = begun(f"try:\n    {SLEEPS}\nexcept KeyboardInterrupt:\n    print('kept')", tmp_path / "said.txt")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    on_gpu._end(process, 50)
    assert process.returncode == 0 and on_gpu._last_line(tmp_path / "said.txt") == "kept"


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    deaf = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {SLEEPS}"
    process = begun(deaf, tmp_path / "said.txt")
    on_gpu._end(process, 0.2)
    assert process.returncode == -signal.SIGKILL


def test_when_the_time_is_over_no_step_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.monotonic()
    found = once(monkeypatch, tmp_path / "out", step("slow", SLEEPS), step("never", "print()"), minutes=0.05)
    assert [row["status"] for row in found.values()] == [LATE, NOT_BEGUN]
    assert found["never"]["tries"] == 0 and 2 < time.monotonic() - begin < 50


def test_the_manifest_is_there_after_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills the command between two steps loses neither what was found nor how."""
    manifest = tmp_path / "out" / "manifest.json"
    reads = f"import json; print([r['status'] for r in json.load(open({str(manifest)!r}))['rows']])"
    found = once(monkeypatch, manifest.parent, step("first", "print()"), step("second", reads))
    assert found["second"]["last_line"] == str([DONE, NOT_BEGUN])
    data = json.loads(manifest.read_text())
    assert data["provenance"]["hardware"] and data["provenance"]["versions"]["torch"] == torch.__version__
    assert data["rows"][0]["command"] == "python -c 'print()'" and data["rows"][0]["exit_status"] == 0


def test_ctrl_c_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "steps_of", lambda *asked: [step("first", "print()"), step("second", SLEEPS)])
    run, ran = on_gpu._run, []

    def stopped(folder: Path, asked: Step, *times: float) -> Row:
        ran.append(asked.name)
        if asked.name == "second":
            raise KeyboardInterrupt
        return run(folder, asked, *times)

    monkeypatch.setattr(on_gpu, "_run", stopped)
    assert main(["--quick", f"out={tmp_path / 'out'}"]) == 130
    rows = load_results(tmp_path / "out" / "manifest.json", "on_gpu").rows
    assert [row["status"] for row in rows] == [DONE, LATE] and ran == ["first", "second"]


def test_figures_of_two_machines_or_scales_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    once(monkeypatch, tmp_path / "out", step("first", "print()"))
    manifest = tmp_path / "out" / "manifest.json"
    data = json.loads(manifest.read_text())
    data["provenance"]["hardware"] = "another GPU"
    manifest.write_text(json.dumps(data))
    assert main(["--quick", f"out={manifest.parent}"]) == 2
    assert "was measured on another GPU, this is" in capsys.readouterr().err
    data["provenance"]["hardware"] = on_gpu.take_provenance("", "cpu").hardware
    data["settings"]["quick"] = False
    manifest.write_text(json.dumps(data))
    assert main(["--quick", f"out={manifest.parent}"]) == 2
    assert "is no miniature" in capsys.readouterr().err


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("gpu", [True, False])
def test_every_step_is_a_shipped_command_with_options_that_it_has(gpu: bool, quick: bool, tmp_path: Path) -> None:
    steps = steps_of(tmp_path, gpu, quick, "DATA")
    assert len({s.name for s in steps}) == len(steps)
    assert [s for s in steps if s.after] and all(s.after in {t.name for t in steps} for s in steps if s.after)
    for one in steps:
        flag, module, *words = one.words
        assert flag == "-m"
        known = getattr(importlib.import_module(module), "OPTIONS", {"batch", "precision", "lean"})
        of_any = {"out"} if module.startswith("experiments.") else set()
        options = {word.partition("=")[0] for word in words if "=" in word}
        assert options <= {*known, *of_any}, one
        if module.startswith("experiments."):
            assert f"out={tmp_path / one.name}.json" in words and ("--quick" in words) == quick
        if module.endswith("table1"):
            names = next(word for word in words if word.startswith("models=")).removeprefix("models=").split(",")
            assert set(names) <= set(importlib.import_module(module).LINES) and len(names) > 1


def test_bad_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick"]) == 2 and "missing out=" in capsys.readouterr().err
    assert main(["show", "minutes=1", f"out={tmp_path}"]) == 2
    assert main(["show", f"out={tmp_path}"]) == 2 and "no results" in capsys.readouterr().err
