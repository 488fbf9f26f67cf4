"""Jobs of a sweep (--multirun): what each is told about itself, and what a launcher says in place of a result.

Not for how an option is swept: that is hydra's. A launcher's own files, pickles among them, are its affair.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from nas.run.resume import AUTO
from search_space.errors import UserError, one_line

SLURM = "hydra/launcher=submitit_slurm"
RESTARTS = "SLURM_RESTART_COUNT"  # how often Slurm has started this job again; not set at first


def require_launcher(arguments: Sequence[str]) -> None:
    """Raise `UserError` where a command line asks for Slurm and there is none."""
    if SLURM in arguments and shutil.which("srun") is None:
        raise UserError(f"{SLURM}: there is no srun here; start the sweep where Slurm's commands are")


def enter_job() -> bool:
    """Whether this is a job of a sweep. Its command line is then its own, and beside others it draws no progress."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    job = HydraConfig.get()
    if job.mode != RunMode.MULTIRUN:
        return False
    sys.argv[1:] = list(job.overrides.task)
    if not job.launcher["_target_"].endswith(".BasicLauncher"):
        os.environ["TTY_COMPATIBLE"] = "0"  # rich's word for a stream that nobody watches
    return True


def in_own_folder(values: dict[str, Any]) -> dict[str, Any]:
    """The options of a job of a sweep: of Slurm's with a run folder of its own, where it goes on when started again.

    Slurm does so when a node is lost or a job makes room for another, with the same command line.
    """
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    if not job.launcher["_target_"].endswith(".SlurmLauncher") or "resume" not in values:
        return values
    values = {**values, "out": values["out"] or f"{job.sweep.dir}/slurm-{job.job.id}"}
    if values["resume"] is None and int(os.environ.get(RESTARTS, "0")):
        values["resume"] = AUTO
    return values


def of_launcher(error: RuntimeError) -> UserError:
    """What submitit raises in place of a job's result, on one line. An error of another origin is raised again."""
    if not type(error).__module__.startswith("submitit."):
        raise error
    if lost := re.match(r"Job (\S+) .*? with path (.*?)/[^/]*\n.*?\(state: (.*?)\)", str(error), re.DOTALL):
        job, folder, state = lost.groups()
        return UserError(
            f"job {job} ended without a result ({state}); what it printed is in '{os.path.relpath(folder)}'. Other "
            "jobs run on; once it is known why it ended, continue it with resume= and its run folder"
        )
    if "timed-out" in str(error):
        return UserError(
            "its time is up; hydra.launcher.max_num_timeout=N has it continue N times, resume= does so by hand"
        )
    return UserError(f"the launcher cannot start the jobs: {one_line(error)}")
