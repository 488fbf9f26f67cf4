"""Every command ends in its own words: readers that leave, full disks, closed streams, folders that are gone."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nas.command.options import print_first
from search_space.errors import Stopped, UserError
from search_space.last_words import last_words, status_of
from tests import ROOT

COMMANDS = (
    "latency_models.calibrate",
    "latency_models.evaluate",
    "latency_models.predict",
    "latency_models.profile",
    "latency_models.verify",
    "nas.build",
    "nas.compare",
    "nas.pack",
    "nas.predict",
    "nas.report",
    "nas.search",
    "nas.train",
    "search_space.family",
)


def ran(code: str, folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    """A process that does this within `last_words`."""
    script = f"from search_space.last_words import last_words\nwith last_words():\n    {code}\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    given: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    given |= {"env": environment, "timeout": 60, **options}
    return subprocess.run([sys.executable, "-c", script], **given)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def nobody() -> Iterator[int]:
    """A pipe whose reader has left."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_leaves_ends_nothing(stream: str, nobody: int, tmp_path: Path) -> None:
    done = ran(f"import sys; [print(i, file=sys.{stream}) for i in range(20_000)]", tmp_path, **{stream: nobody})
    assert done.returncode == 0 and not (done.stdout or done.stderr)
    done = ran("raise KeyboardInterrupt", tmp_path, **{stream: nobody})
    assert done.returncode == 130 and (done.stderr or "error: stopped\n") == "error: stopped\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = ran("print('x')", tmp_path, stdout=full)
        assert (done.returncode, done.stderr) == (
            2,
            "error: the output could not be written: No space left on device\n",
        )
        done = ran("print('x'); raise SystemExit(0)", tmp_path, stdout=full)
        assert done.returncode == 2


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_stream_is_no_file(number: int, tmp_path: Path) -> None:
    code = "print('lost'); file = open('own', 'w'); print('too'); file.close(); print(len(open('own').read()))"
    done = ran(code, tmp_path, preexec_fn=lambda: os.close(number))
    assert done.returncode == 0 and (tmp_path / "own").read_text() == "" and not done.stderr
    assert done.stdout == ("" if number == 1 else "lost\ntoo\n0\n")


def test_what_cannot_be_shown_is_an_escape(tmp_path: Path) -> None:
    done = ran(
        r"print('\xe9 \udcff'); raise OSError(2, 'nothing there', '\xfc')",
        tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
    )
    assert (done.stdout, done.stderr) == ("\\xe9 \\udcff\n", "error: '\\xfc': nothing there\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_gone_and_help_that_nobody_reads(command: str, nobody: int, tmp_path: Path) -> None:
    """One after the other in one process, since to start one takes longest."""
    script = f"""
import os, runpy, sys
sys.argv = ["{command}", "--help" if "{command}" != "search_space.family" else "quadranet12"]
def run():
    try:
        runpy.run_module("{command}", run_name="__main__")
    except SystemExit as ended:
        return ended.code
    return 0
first = run() or 0
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
print(first, run(), file=sys.stderr)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=nobody, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    *said, codes = done.stderr.splitlines()
    assert said[-1:] == ["error: the folder that this was started in is gone; change to one that exists"], done.stderr
    assert codes.split()[1] == "2" and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (UserError("two\nlines"), 2, "two lines"),
        (Stopped("stopped; resume it"), 130, "stopped; resume it"),
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError(), 2, "there is not enough memory"),
        (PermissionError(13, "Permission denied", b"a"), 2, "'a': Permission denied"),
        (ConnectionResetError(104, "Connection reset by peer"), 2, "Connection reset by peer"),
    ],
)
def test_what_a_user_can_cause_is_one_line(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise raised

    assert status_of(work) == code
    assert capsys.readouterr().err == f"error: {line}\n"


def test_bugs_keep_their_traceback_and_good_ends_their_status() -> None:
    with pytest.raises(ZeroDivisionError), last_words():
        print(1 // 0)
    end: Callable[[], None] = lambda: None  # noqa: E731
    assert status_of(end) == 0


def test_lines_are_printed_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    print_first("é")
    monkeypatch.setenv("RANK", "1")
    print_first("not this")
    assert capsys.readouterr().out == "é\n"
