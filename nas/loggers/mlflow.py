"""MLflow: a run of the experiment `quadranas` for every network, with its options as parameters and rows as metrics.

It goes to $MLFLOW_TRACKING_URI, or to MLflow's file store in `./mlruns`, which needs no database. Newer versions open
that one only where MLFLOW_ALLOW_FILE_STORE=true, which is set here for this process; to look at it:

    MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri ./mlruns

Not for the run's files: they stay in its folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from nas.loggers import Values
from search_space.files import write_whole

EXPERIMENT = "quadranas"
RUN_FILE = "mlflow.txt"  # in the network's folder: the run's id, for a resumed run
MOST_PARAMETERS = 100  # that MLflow takes at once
LONGEST = 500  # characters of a parameter that all of its versions take


class MlflowLogger:
    """A `Logger` by MLflow's client."""

    def __init__(self, folder: Path, options: Mapping[str, str | int | float], after: int | None) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        store = os.environ.get("MLFLOW_TRACKING_URI")
        if not store:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            store = (Path.cwd() / "mlruns").as_uri()
        self.client = MlflowClient(tracking_uri=store)
        kept = folder / RUN_FILE
        if after is not None and kept.is_file():
            self.run_id = kept.read_text(encoding="utf-8").strip()
            self.client.update_run(self.run_id, status="RUNNING")
            return
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self.client.create_experiment(EXPERIMENT)
        self.run_id = self.client.create_run(number, run_name=folder.name).info.run_id
        write_whole(kept, f"{self.run_id}\n")
        parameters = [Param(name, str(value)[:LONGEST]) for name, value in options.items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self.client.log_batch(self.run_id, params=parameters[start : start + MOST_PARAMETERS])

    def row(self, values: Values) -> None:
        """See `nas.loggers.Logger`."""
        from mlflow.entities import Metric

        now, step = int(1000 * time.time()), int(values["step"])
        numbers = {name: value for name, value in values.items() if name != "step" and not isinstance(value, str)}
        self.client.log_batch(self.run_id, metrics=[Metric(name, float(v), now, step) for name, v in numbers.items()])

    def close(self, finished: bool) -> None:
        """See `nas.loggers.Logger`."""
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")
