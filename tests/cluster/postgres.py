"""A PostgreSQL of its own in a temporary folder, on a socket alone. As root it runs as the user `postgres`."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

DEBIAN = "apt-get install postgresql"
SERVICE_USER = "postgres"  # whom root lends the work to: PostgreSQL refuses root


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, the newest; Debian keeps it off the PATH."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if (on_path := shutil.which("initdb")) is not None:
        found.append(Path(on_path))
    return max(found, key=lambda path: path.parts, default=Path()).parent if found else None


def missing() -> str:
    """Why it cannot be used here, '' where it can."""
    if programs() is None:
        return f"PostgreSQL is not installed: {DEBIAN}"
    if find_spec("psycopg") is None:
        return "psycopg is not installed: pip install -c constraints.txt -e '.[postgres]'"
    if os.geteuid() == 0 and SERVICE_USER not in {user.pw_name for user in pwd.getpwall()}:
        return f"PostgreSQL refuses root, and there is no user {SERVICE_USER}"
    return ""


@contextmanager
def database() -> Iterator[str]:
    """The address of an empty database, gone with its server at the end."""
    found = programs()
    assert found is not None
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:  # not below pytest's folder, which is one user's
        folder, prefix = Path(name), list[str]()
        if os.geteuid() == 0:
            prefix = ["setpriv", f"--reuid={SERVICE_USER}", f"--regid={SERVICE_USER}", "--clear-groups"]
            shutil.chown(folder, SERVICE_USER, SERVICE_USER)
        folder.chmod(0o755)

        def run(program: str, *words: str) -> None:
            command = [*prefix, str(found / program), f"--pgdata={folder / 'data'}", *words]
            subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

        run("initdb", "--auth=trust", "--username=test", "--no-sync")
        server = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off"
        run("pg_ctl", "start", "--wait", f"--log={folder / 'log'}", f"--options={server}")
        try:
            yield f"postgresql+psycopg://test@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "--mode=immediate")
