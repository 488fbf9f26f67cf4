"""One run, for one target or several: plan -> strategy -> fine-tune -> export -> result files -> report.

    runs/TIME-DEVICE-BUDGET-SPACE/     one target: its files, front.csv with its one row
    runs/TIME-front-SPACE/             several: front.csv and report.html about all of them, and
      checkpoint.safetensors           the supernet with every target's gates
      vpu-30ms/                        the files of each

Targets share images, supernet and every training step of the search; each keeps its own budget, is fine-tuned and
exported by itself. Not for parsing options, nor for what is refused before torch is imported (`nas.run.plan`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from nas.data import DataSet
from nas.run.checkpoint import Checkpoint, Checkpoints
from nas.run.chosen import Chosen, LatencyModels, chosen_by_search
from nas.run.conclude import conclude
from nas.run.distributed import OtherStopped, joined, place, with_global_norms
from nas.run.finished import Finished, FinishedTarget
from nas.run.folder import run_folder
from nas.run.front_table import FrontRow, save_front_table
from nas.run.log import LOG_EVERY, Row, SearchLog
from nas.run.plan import Plan
from nas.run.progress import SearchProgress
from nas.run.provenance import provenance
from nas.run.result import load_result
from nas.run.resume import Begun
from nas.run.settings import SearchSettings
from nas.run.targets import options_of, target_name
from nas.report.front import write_front_report
from nas.report.page import write_report
from nas.strategies import load_strategy
from nas.strategies.base import Found, Task
from nas.strategies.weights import decided, last_supernet
from nas.supernet.network import Supernet
from nas.training.loop import NotFinite, train_network
from nas.training.recipes import finetune_recipe
from search_space import GatePath
from search_space.build import Network, to_channels_last

REPORT = "report.html"  # written last of a target's files


def carry_out(
    plans: Sequence[Plan],
    data: DataSet,
    command: str | None = None,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
    resume: tuple[Path, Begun] | None = None,
) -> Finished | None:
    """Carry out plans that differ in device and budget alone, or resume them in the folder where they were begun.

    `say` gets the lines that a person should read. What was done stays in the folder when the run ends early, for
    `resume`; a folder with nothing in it is removed. Of several processes only the first writes and has a result,
    the others return None. Raises `UserError` with a one-line message for anything that cannot be done.
    """
    settings = plans[0].settings
    strategy = load_strategy(settings.strategy)
    strategy.check(plans)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    here = place(settings.accelerator)
    data = replace(data, place=here)
    plans = [decided(plan, data) for plan in plans]
    begun = resume[1] if resume else Begun("search", options_of([p.settings for p in plans]), command, datetime.now(UTC))
    of_targets = f"{settings.device}-{settings.budget_ms:g}ms" if len(plans) == 1 else "front"
    stem = f"{begun.started:%Y%m%d-%H%M%S}-{of_targets}-{plans[0].space.name}"
    with run_folder(settings.out, stem, begun, resume[0] if resume else None, here) as folder:
        run = _Run(plans, data, folder, begun, progress, say, resume is not None)
        with SearchProgress(run.total_steps, progress if here.first else False) as bar:
            run.search(bar)
            targets = [run.finish(number, bar) for number in range(len(plans))]
        if not here.first:
            return None
        finished = Finished(tuple(target for target in targets if target is not None), folder)
        run.close(finished)
    return finished
