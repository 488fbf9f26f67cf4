"""A whole search from Python, without Hydra: `search(device="vpu", budget_ms=30)`. Not for parsing a command line."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from nas.data import DataSet
from nas.options import DataOptions, SearchOptions
from nas.run.defaults import with_defaults
from nas.run.finished import Finished, load_finished
from nas.run.plan import check_out, plan_targets
from nas.run.resume import Begun
from nas.run.search import carry_out
from nas.run.settings import Resumable, settings_from_dict
from nas.run.targets import settings_of
from search_space import UserError

__all__ = ["Finished", "load_finished", "search"]


def search(
    *,
    data: str | DataOptions | Mapping[str, Any] | DataSet | None = None,
    resolution: int | None = None,
    progress: bool | None = None,
    resume: str | Path | None = None,
    **given: Unpack[SearchOptions],
) -> Finished:
    """Search a network for every target and write the run's folder.

    Options and defaults are those of `python -m nas.search`, typed in `nas.options`; nested ones are dicts:
    `search(device="cpu", budget_ms=25, warmup={"epochs": 2}, out="runs/mine")`. Several targets are lists, as there:
    `search(device=["cpu", "vpu"], budget_ms=[[20, 30], [25]])`.

    data: a name, a dict of `data.*` options, or your own `nas.data.DataSet`; None: digits, or with `init` what that was
    trained on. resolution: pixels to train at. resume: the folder of a run that was stopped or killed, which resumes
    with its own options (your own `data` is given again); a finished one is read back.
    Raises `UserError` with a one-line message for anything that cannot be done; a deployment that fails is a warning.
    """
    own, options = data if isinstance(data, DataSet) else None, dict[str, Any](given)
    begun = None
    if resume is not None:
        if options or resolution is not None or (own is None and data is not None):
            raise UserError(f"resume={resume} resumes with the run's own options; give no others")
        begun_in = Path(str(settings_from_dict(Resumable, {"resume": str(resume)}).resume)).expanduser()
        begun = Begun.load(begun_in, "search")
        if begun is None:
            return load_finished(begun_in)
        options = dict(begun.options)
    else:
        if isinstance(data, str):
            options["data"] = {"name": data}
        elif isinstance(data, Mapping):
            options["data"] = dict(data)
        elif own is None and data is not None:
            raise UserError(f"data={data!r} is neither a name, nor a dict of data options, nor a DataSet")
        if resolution is not None:
            options["data"] = {**options.get("data", {}), "resolution": resolution}
        options = with_defaults(options, own.class_names if own else None)
    each = settings_of(options)
    if begun is None:
        check_out(each[0].out)
    plans = plan_targets(each, own.num_classes if own else None)
    folder = (begun_in, begun) if begun is not None else None
    finished = carry_out(plans, own, progress=progress, resume=folder)
    if finished is None:
        raise UserError("of several processes only the first has a result; use torchrun with -m nas.search")
    if plans[0].settings.deploy:
        from nas.deploy.finished import deploy_finished

        deploy_finished(finished, plans[0].settings, lambda line: None, lambda line: warnings.warn(line, stacklevel=4))
    return finished
