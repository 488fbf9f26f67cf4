"""A Slurm of two nodes on this machine: munge, MariaDB, slurmdbd, slurmctld and a slurmd for each node, in one folder.

It has its own key, ports and sockets, touches no Slurm that is installed as a service, and needs no root. By hand:

    python -m tests.cluster.slurm FOLDER      starts it and prints what to export; Ctrl-C stops it
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sbatch", "srun", "sacctmgr", "mariadbd", "mariadb-install-db")
DEBIAN = "apt-get install slurm-wlm slurmdbd munge mariadb-server"
WAIT_S = 60.0
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

SLURM = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[slurmctld]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[slurmdbd]}
AccountingStoragePass={folder}/munge/socket
JobAcctGatherType=jobacct_gather/linux
KillWait=20
ReturnToService=2
NodeName=node1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[node1]} CPUs=3 RealMemory=2000
NodeName=node2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[node2]} CPUs=1 RealMemory=2000
PartitionName=both Nodes=ALL Default=YES MaxTime=60 State=UP
"""
SLURMDBD = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports[slurmdbd]}
SlurmUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[mariadb]}
StorageUser=root
StorageLoc=slurm
"""


def missing() -> str:
    """Why Slurm cannot be started here, '' where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"{absent[0]} is not installed: {DEBIAN}" if absent else ""


@dataclass(frozen=True)
class Slurm:
    """A running cluster. environment: of everything that speaks to it. free_port: for whatever a job needs one."""

    folder: Path
    environment: Mapping[str, str]
    free_port: int

    def run(self, *words: str) -> str:
        """What a command of Slurm's prints. Raises `RuntimeError` with what it says in place of that."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False, timeout=WAIT_S)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State and node of every job in the queue: {'7_0': ('RUNNING', 'node1'), '7_1': ('PENDING', '')}."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T %N").splitlines()
        each = [[*line.split(), ""][:3] for line in lines]
        return {job: (state, node) for job, state, node in each}

    def restarts(self, job: str) -> int:
        """How often Slurm has started a job again."""
        (found,) = re.findall(r"Restarts=(\d+)", self.run("scontrol", "show", "job", job))
        return int(found)

    def start_again_now(self, job: str) -> None:
        """Spare a job that goes back to the queue the two minutes that Slurm has it wait there."""
        wait_for(lambda: self.jobs()[job][0] == "PENDING", f"{job} is back in the queue")
        self.run("scontrol", "update", f"job={job}", "StartTime=now")

    def boot(self, node: str) -> None:
        """Start a node, and wait until Slurm may use it."""
        self._start("slurmd", "-N", node)
        with suppress(RuntimeError):  # at first it is not down
            self.run("scontrol", "update", f"node={node}", "state=resume")
        wait_for(lambda: self.run("sinfo", "-h", "-n", node, "-o", "%T").strip() in {"idle", "mixed"}, f"{node} is up")

    def crash(self, node: str) -> None:
        """What the loss of power does to a node: every process on it is gone at once.

        Slurm is told that the node is down, which it finds by itself after SlurmdTimeout (5 minutes).
        """
        found = _environments()
        tasks = {process for process, own in found.items() if own.get("SLURMD_NODENAME") == node}
        keepers = {parent for task in tasks if (parent := _parent(task)) not in tasks}
        slurmd = int((self.folder / f"{node}.pid").read_text())
        for process in (slurmd, *keepers - {1}, *tasks):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.run("scontrol", "update", f"node={node}", "state=down", "reason=lost")

    def processes(self, job: str) -> list[int]:
        """Those of a job's tasks; job: 'ID' or 'ARRAY_TASK'."""
        array, _, task = job.partition("_")
        wanted = {"SLURM_ARRAY_JOB_ID": array, "SLURM_ARRAY_TASK_ID": task} if task else {"SLURM_JOB_ID": array}
        return [p for p, own in _environments().items() if wanted.items() <= own.items() and "SLURM_PROCID" in own]

    def _start(self, *words: str) -> None:
        subprocess.run(words, env=self.environment, check=True, timeout=WAIT_S, stdin=subprocess.DEVNULL)


def wait_for(done: Callable[[], bool], what: str, limit_s: float = WAIT_S) -> None:
    """Raises `TimeoutError`."""
    end = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.2)


@contextmanager
def two_nodes(folder: Path) -> Iterator[Slurm]:
    """A cluster in a new folder, gone at the end with all its processes. node1 has 3 processors, node2 has 1."""
    folder = folder.resolve()
    for name in ("munge", "state", "node1", "node2"):
        (folder / name).mkdir(parents=True, mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    ports = _free_ports("slurmctld", "slurmdbd", "mariadb", "node1", "node2", "free")
    filled = {"folder": folder, "ports": ports, "user": getpass.getuser()}
    for name, text in (("slurm.conf", SLURM), ("slurmdbd.conf", SLURMDBD)):
        (folder / name).write_text(text.format(**filled))
        (folder / name).chmod(0o600)
    environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    cluster = Slurm(folder, environment, ports["free"])
    database = None
    try:
        database = _database(folder, ports["mariadb"], environment)
        munge = {name: folder / "munge" / name for name in ("socket", "pid", "log", "seed")}
        cluster._start(
            *("munged", "--force", "--num-threads=2", f"--key-file={key}", f"--socket={munge['socket']}"),
            *(f"--pid-file={munge['pid']}", f"--log-file={munge['log']}", f"--seed-file={munge['seed']}"),
        )
        cluster._start("slurmdbd")
        wait_for(lambda: "started" in _text(folder / "slurmdbd.log"), "slurmdbd has started")
        cluster.run("sacctmgr", "--immediate", "add", "cluster", "test")
        cluster._start("slurmctld")
        for node in ("node1", "node2"):
            cluster.boot(node)
        yield cluster
    finally:
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            cluster.run("scancel", "--signal=KILL", "--full", f"--user={getpass.getuser()}")
        for node in ("node1", "node2"):
            with suppress(OSError, ValueError, RuntimeError):
                cluster.crash(node)
        for pid_file in ("slurmctld.pid", "slurmdbd.pid", "munge/pid"):
            with suppress(OSError, ValueError):
                os.kill(int((folder / pid_file).read_text()), signal.SIGTERM)
        if database is not None:
            database.kill()
            database.wait()


def _database(folder: Path, port: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """MariaDB without a password, on 127.0.0.1; it knows nothing but what jobs there were."""
    own, log = [f"--datadir={folder / 'mariadb'}"], (folder / "mariadb.log").open("wb")
    if os.geteuid() == 0:
        own.append("--user=root")
    with log:
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal", *own],
            env=environment,
            stdout=log,
            stderr=log,
            check=True,
            timeout=WAIT_S,
        )
        process = subprocess.Popen(
            [
                *("mariadbd", "--no-defaults", "--skip-grant-tables", "--bind-address=127.0.0.1", f"--port={port}"),
                *(
                    "--skip-networking=0",
                    f"--socket={folder / 'mariadb.socket'}",
                    f"--pid-file={folder / 'mariadb.pid'}",
                ),
                *own,
            ],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    wait_for(lambda: "ready for connections" in _text(folder / "mariadb.log"), "MariaDB has started")
    return process


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _free_ports(*names: str) -> dict[str, int]:
    open_ones = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [each.getsockname()[1] for each in open_ones]
    for each in open_ones:
        each.close()
    return dict(zip(names, ports, strict=True))


def _environments() -> dict[int, dict[str, str]]:
    """Of every process of this user."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pairs = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            found[int(path.name)] = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return found


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 1


def main() -> None:
    folder = Path(sys.argv[1])
    with two_nodes(folder) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
