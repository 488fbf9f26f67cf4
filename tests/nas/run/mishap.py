"""A penalty during which something happens, once, at a step and in a process that a test chooses: no race decides it.

`penalty.form=tests.nas.run.mishap:multiplier` is the multiplier. After so many architecture steps the process of that
rank runs the words that it finds in ./mishap.json, as in `{"rank": 1, "step": 3, "words": "kill -9 $OWN"}`; $OTHERS
are the processes that its parent started as well. Step 0 is when options are checked.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nas.penalties.multiplier import Multiplier
from nas.run.settings import PenaltySettings

FORM = "penalty.form=tests.nas.run.mishap:multiplier"
FILE = Path("mishap.json")


def prepare(folder: Path, rank: int, step: int, words: str) -> None:
    (folder / FILE).write_text(json.dumps({"rank": rank, "step": step, "words": words}))


@dataclass
class Eventful(Multiplier):
    steps: int = 0

    def observe(self, latency_ms: float) -> None:
        super().observe(latency_ms)
        self.steps += 1
        happen(self.steps)


def happen(step: int) -> None:
    due = json.loads(FILE.read_text()) if FILE.is_file() else {}
    if (due.get("rank"), due.get("step")) == (int(os.environ.get("RANK", "0")), step):
        FILE.unlink()
        own, parent = os.getpid(), os.getppid()
        others = set(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()) - {str(own)}
        environment = {**os.environ, "OWN": str(own), "OTHERS": " ".join(sorted(others))}
        subprocess.run(["sh", "-c", due["words"]], env=environment, check=True)


def multiplier(settings: PenaltySettings, table: object, budget_ms: float) -> Eventful:
    happen(0)  # before torch is imported
    return Eventful(budget_ms)
