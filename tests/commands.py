"""Commands as a user gives them, for the tests: `python -m MODULE ...` in a process of its own.

Most of such a command's time is the import of torch and its company. So one process imports these once, and every
command runs in a fork of it: its own working directory, environment, output and exit status. What the project itself
imports late stays late there. A command that must be killed or timed, or that starts others, is not for this; several
processes of one command are, see `ranks`.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

from tests import ROOT

PRELOADED = ("torch", "torch._dynamo", "pandas", "sklearn.linear_model", "hydra", "PIL.Image", "onnxruntime")
PORT_DIGITS = 5
TORCHRUN_WAITS_S = 30.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_module(
    words: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str] = ENVIRONMENT,
    timeout_s: float = 300,
    ranks: int = 1,
) -> subprocess.CompletedProcess[str]:
    """`python -m words...` in `cwd`, waited for. Raises `subprocess.TimeoutExpired` when it took too long.

    ranks: of several processes, as `torchrun --nproc-per-node=RANKS` starts them; the exit status is the first bad one.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {"words": list(words), "cwd": str(cwd), "environment": dict(environment), "to": [str(out), str(err)]}
        request["ranks"] = ranks
        process = _forking()
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        if not select.select([process.stdout], [], [], timeout_s)[0]:
            os.killpg(child, signal.SIGKILL)
            process.stdout.readline()
            raise subprocess.TimeoutExpired(list(words), timeout_s)
        code = os.waitstatus_to_exitcode(int(process.stdout.readline()))
        said = [path.read_text(encoding="utf-8") if path.exists() else "" for path in (out, err)]
    return subprocess.CompletedProcess(list(words), code, *said)


@cache
def _forking() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.commands"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
    )
    atexit.register(process.kill)
    return process


def _serve() -> None:
    """Run what stdin asks for, a line each, in forks; print each one's number and then its wait status."""
    for name in PRELOADED:
        __import__(name)
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    for line in requests:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        print(child, file=answers, flush=True)
        print(os.waitpid(child, 0)[1], file=answers, flush=True)


def _become(words: Sequence[str], cwd: str, environment: Mapping[str, str], to: Sequence[str], ranks: int) -> NoReturn:
    os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate([os.devnull, *to]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False))
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True)
    if ranks > 1:
        _launch(ranks)
    sys.argv, sys.path[0] = list(words), cwd
    status = 0
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
        sys.stdout.flush()
    os._exit(status)


def _launch(ranks: int) -> None:
    """Go on as each of several processes; this one does what torchrun's does: keeps their store and waits for them.

    When one ends badly the others get SIGTERM, and SIGKILL if they take as long as torchrun gives them.
    """
    import torch

    read, write = os.pipe()
    running = set()
    for rank in range(ranks):
        if (child := os.fork()) == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "GROUP_RANK": 0}
            os.environ |= {name: str(number) for name, number in place.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.read(read, PORT_DIGITS).decode()}
            os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
            return
        running.add(child)
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.write(write, f"{store.port:0{PORT_DIGITS}}".encode() * ranks)
    first_bad, asked = 0, float("inf")
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            time.sleep(0.02)
            if time.monotonic() - asked > TORCHRUN_WAITS_S:
                for each in running:
                    os.kill(each, signal.SIGKILL)
            continue
        running.discard(child)
        if status and not first_bad:
            first_bad, asked = os.waitstatus_to_exitcode(status), time.monotonic()
            for each in running:
                os.kill(each, signal.SIGTERM)
                if Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    os.kill(each, signal.SIGKILL)  # one that is frozen takes all of that time
    os._exit(first_bad % 256)


if __name__ == "__main__":
    _serve()
