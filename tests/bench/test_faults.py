"""The quick form of `python -m tests.bench.faults`: a few faults of every kind."""

import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.bench.faults import Counts, File, Workshop, _batch, damages, in_process, kills, options, secrets_in, servers

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs processes that fork")


@pytest.mark.slow
def test_a_few_faults_of_every_kind(tmp_path: Path) -> None:
    counts, draws, later = Counts(), random.Random(3), time.monotonic() + 600
    workshop = Workshop(tmp_path)
    workshop.begin()
    damages(workshop, draws, later, counts, most=1)
    kills(workshop, draws, later, counts, most=3)
    servers(workshop, draws, later, counts, most=4)
    options(workshop, draws, later, counts, most=10)
    assert not counts.failed, "\n".join(counts.failed)
    assert len(counts.tried) > 25 and not secrets_in(tmp_path), counts.table()


def test_the_bench_sees_what_it_looks_for(tmp_path: Path) -> None:
    """A crash, a wait, a traceback and a changed value are failures."""
    assert in_process(lambda: __import__("os").kill(__import__("os").getpid(), signal.SIGSEGV), 9)[0] == -signal.SIGSEGV
    assert in_process(lambda: time.sleep(9), 0.1)[0] is None
    assert in_process(lambda: time.sleep(9), 9, kill_after=0.1)[0] == -signal.SIGKILL
    assert "ZeroDivisionError" in in_process(lambda: 1 // 0, 9)[1]
    assert in_process(lambda: sys.exit(2), 9) == (2, "") and in_process(lambda: [1], 9) == (0, "[1]")
    path = tmp_path / "numbers"
    path.write_text("1234567890")

    def load(path: Path) -> int:
        return int(path.read_bytes())

    endings = {ending for ending, _ in _batch(File(path, load), 0, 40)}
    assert endings == {"FAILED"} and path.read_text() == "1234567890"
    assert "read as another" in {ending for ending, _ in _batch(File(path, load, sealed=False), 0, 40)}
