"""Two machines: network namespaces with a name, an address and a cable each, in which torchrun's processes meet.

Skipped where namespaces cannot be made, which takes root. Both see one disk, as machines do that share a folder.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import ROOT
from tests.commands import ENVIRONMENT, run_module
from tests.nas.run import mishap
from tests.nas.run.test_distributed import BRIEF, TORCHRUN, files_below
from tests.nas.run.test_resume import SPACES

LIMIT_S = 25.0
LATER_S = 15.0  # after the limit at most, docs/faults.md says, a process has ended


@dataclass(frozen=True)
class Machine:
    """One of two: `name` is its host's name, its namespace's, and that of its end of the cable."""

    name: str
    other: str
    number: int

    @property
    def address(self) -> str:
        return f"10.213.77.{self.number}"

    def start(self, words: Sequence[str], cwd: Path, log: Path) -> subprocess.Popen[bytes]:
        """The words by torchrun, as docs/cluster.md starts it."""
        pages = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").splitlines()
        shown = next(line for line in pages if line.startswith("torchrun --nnodes=2 ")).split()
        first = min(self.name, self.other)
        meet = [word.replace("FIRST", first) for word in shown[1 : shown.index("-m")]]
        own_name = ["unshare", "--uts", "sh", "-c", f'hostname {self.name} && exec "$@"', "sh"]
        command = ["ip", "netns", "exec", self.name, *own_name, *TORCHRUN[:3], *meet, "-m", *words]
        with log.open("wb") as file:
            return subprocess.Popen(command, cwd=cwd, env=ENVIRONMENT, stdout=file, stderr=file, start_new_session=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    if os.geteuid() != 0:
        pytest.skip("network namespaces take root")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces take iproute2 and util-linux")
    names = f"one{os.getpid()}", f"two{os.getpid()}"
    one, two = Machine(names[0], names[1], 1), Machine(names[1], names[0], 2)
    hosts = "127.0.0.1 localhost\n" + "".join(f"{each.address} {each.name}\n" for each in (one, two))
    settings = [Path("/etc/netns") / each.name for each in (one, two)]
    try:
        try:
            for each in (one, two):
                ip("netns", "add", each.name)
            ip("link", "add", one.name, "netns", one.name, "type", "veth", "peer", "name", two.name, "netns", two.name)
            for each, folder in zip((one, two), settings, strict=True):
                folder.mkdir(parents=True)
                (folder / "hosts").write_text(hosts)
                ip("-n", each.name, "addr", "add", f"{each.address}/24", "dev", each.name)
                ip("-n", each.name, "link", "set", each.name, "up")
                ip("-n", each.name, "link", "set", "lo", "up")
        except (subprocess.CalledProcessError, OSError) as error:
            pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', None) or error}")
        yield one, two
    finally:
        for each, folder in zip((one, two), settings, strict=True):
            subprocess.run(["ip", "netns", "del", each.name], check=False, capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_cut_cable_ends_both_by_a_line_each_and_the_resumed_run_is_that_of_one_machine(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    for folder in ("whole", "shared"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "space.yaml").write_text(SPACES["mbconv"])
    done = run_module(["nas.search", *BRIEF, "out=run"], tmp_path / "whole", ranks=2)
    assert done.returncode == 0, done.stderr

    shared, whole = tmp_path / "shared", tmp_path / "whole" / "run"
    cut = tmp_path / "cut"
    mishap.prepare(shared, rank=1, step=3, words=f"ip link set $(hostname) down && touch {cut}")
    limit = f"distributed.timeout_s={LIMIT_S:g}"
    logs = [tmp_path / f"{each.name}.log" for each in machines]
    both = [
        each.start(["nas.search", *BRIEF, limit, "out=run"], shared, log)
        for each, log in zip(machines, logs, strict=True)
    ]
    try:
        assert wait_until_ended(both, cut) < LIMIT_S + LATER_S
    finally:
        kill(both)
    line = (
        f"error: another process was not heard of for {LIMIT_S:g} s (distributed.timeout_s); resume it with resume=run"
    )
    for log in logs:
        assert [said for said in log.read_text().splitlines() if said.startswith("error: ")] == [line]

    for each in machines:  # one of them is down
        ip("-n", each.name, "link", "set", each.name, "up")
    resume = ["nas.search", "resume=run", "distributed.timeout_s=120"]
    both = [each.start(resume, shared, log) for each, log in zip(machines, logs, strict=True)]
    try:
        assert [each.wait(250) for each in both] == [0, 0], "\n".join(log.read_text() for log in logs)
    finally:
        kill(both)
    assert files_below(shared / "run") == files_below(whole)
    for name in ("weights.safetensors", "gates.csv", "model.onnx"):
        assert (shared / "run" / name).read_bytes() == (whole / name).read_bytes()


def wait_until_ended(launchers: Sequence[subprocess.Popen[bytes]], cut: Path) -> float:
    """Seconds from the cut until nothing runs that they have started, whether or not they have noticed themselves."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        if cut.exists() and not any(is_running(child) for each in launchers for child in children_of(each.pid)):
            return time.time() - cut.stat().st_mtime
        time.sleep(0.1)
    raise AssertionError("no end" if cut.exists() else "no cut")


def children_of(process: int) -> list[str]:
    path = Path(f"/proc/{process}/task/{process}/children")
    with suppress(OSError):  # gone
        return path.read_text().split()
    return []


def is_running(process: str) -> bool:
    with suppress(OSError):  # gone
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def kill(launchers: Sequence[subprocess.Popen[bytes]]) -> None:
    """With all that they started: torchrun itself may look for the other machine for minutes."""
    for each in launchers:
        for process in (*map(int, children_of(each.pid)), each.pid):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        each.wait(10)
