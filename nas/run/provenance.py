"""Where a result comes from: seed, versions, commit, machine, time. Not for the settings: those are the caller's."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from nas.run.distributed import Place

ROOT = Path(__file__).resolve().parents[2]  # of the source tree


def provenance(
    seed: int, command: str | None, started: datetime, seconds: float, here: Place | None = None
) -> dict[str, Any]:
    """What architecture.json says of a result's origin; `seconds` is what it took."""
    here = here or Place()
    return {
        "seed": seed,
        "versions": versions(),
        "git_commit": git_commit(),
        "threads": torch.get_num_threads(),
        "processes": here.ranks,
        "trained_on": torch.cuda.get_device_name(here.device) if here.device.type == "cuda" else platform.machine(),
        "command": command,
        "started": started.isoformat(timespec="seconds"),
        "wall_time_s": round(seconds, 1),
    }


def versions() -> dict[str, str]:
    """Of Python and the packages that a result depends on."""
    names = ("torch", "numpy", "onnx", "onnxruntime", "scikit-learn", "safetensors")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def git_commit() -> str | None:
    """The commit of this source tree, '-dirty' appended when it was changed; None outside a checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
