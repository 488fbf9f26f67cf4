"""The door of the hydra commands: options checked before anything heavy is imported.

A typo names the nearest option, a bad value is one line, and no user mistake shows a traceback.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from search_space.errors import Stopped, UnknownName, UserError, one_line

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

DATA_PATHS = ("data.root", "data.train", "data.test", "data.cache")
PATHS = {"architecture", "init", "optuna.storage", "out", "resume", "space", "weights", *DATA_PATHS}


def check_overrides(config: str, arguments: Sequence[str]) -> None:
    """Raise `UserError` for an override that names no option of `nas/conf/CONFIG.yaml` or its groups."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    known = _load(f"{config}.yaml")
    groups = {key for entry in known.pop("defaults") if isinstance(entry, dict) for key in entry if "hydra" not in key}
    multirun = "-m" in arguments or "--multirun" in arguments
    chosen = {group: [next(e[group] for e in _load(f"{config}.yaml")["defaults"] if group in e)] for group in groups}
    parser = OverridesParser.create()
    overrides = [a for a in arguments if not a.startswith("-")]
    parsed = []
    for argument in overrides:
        if "=" not in argument:
            raise UserError(f"'{argument}' is not an option; options are written key=value (all: --help)")
        try:
            parsed.append(parser.parse_override(argument))
        except HydraException as error:
            raise UserError(f"cannot read '{argument}': {str(error).splitlines()[0]}") from error
    for override in parsed:
        if override.key_or_group in groups:
            if override.is_delete():
                raise UserError(
                    f"{override.key_or_group} cannot be left out; choose another by {override.key_or_group}="
                )
            chosen[override.key_or_group] = _options_named(override)
    names = set(_leaves({k: v for k, v in known.items() if k != "hydra"}))
    for group, options in chosen.items():
        names |= {group, *(name for o in options for name in _leaves(_load(f"{group}/{o}.yaml"), f"{group}."))}
    # what data= and epochs= set
    names -= {name for name in names if name == "data.name" or name.startswith("data.epochs")}
    for override in parsed:
        key = override.key_or_group
        if override.is_sweep_override() and not multirun:
            raise UserError(f"{key} has several values; a sweep over them needs --multirun")
        if key not in names and not re.match(r"hydra[./]", key):
            raise UnknownName("option", key, names, "All: --help")


def _load(name: str) -> dict[str, Any]:
    text = resources.files("nas.conf").joinpath(*name.split("/")).read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    assert isinstance(data, dict)
    return data


def _group_options(group: str) -> list[str]:
    files = resources.files("nas.conf").joinpath(group).iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def _options_named(override: Override) -> list[str]:
    """What an override names of its group: one option, or in a sweep several. Raises `UnknownName`."""
    from hydra.core.override_parser.types import ChoiceSweep, Glob, QuotedString

    group, value = override.key_or_group, override.value()
    known = _group_options(group)
    if isinstance(value, Glob):
        return value.filter(known)
    named = []
    for element in value.list if isinstance(value, ChoiceSweep) else [value]:
        name = element.text if isinstance(element, QuotedString) else element
        if not isinstance(name, str) or name not in known:
            written = str(override.input_line).partition("=")[2]
            raise UnknownName(group, name if isinstance(name, str) else written, known)
        named.append(name)
    return named


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")


def given(values: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Of composed options those that the command line names, as nested dicts; of a group, its name."""
    found: dict[str, Any] = {}
    for argument in arguments:
        *groups, name = argument.lstrip("+~").split("=")[0].split(".")
        at, inside = values, found
        for group in groups:
            at, inside = at.get(group, {}), inside.setdefault(group, {}) if group in at else {}
        if name in at:
            if isinstance(at[name], Mapping):
                whole = at[name] if "name" not in at[name] else {"name": at[name]["name"]}
                inside[name] = {**whole, **inside.get(name, {})}
            else:
                inside[name] = at[name]
    return found


def run_command(config: str, task: Callable[[dict[str, Any]], None]) -> None:
    """Compose the options by hydra and call `task` with plain dicts; exit 2 on a user's mistake.

    Of a sweep (--multirun) every job is tried, each says its mistake on one line, and the sweep ends with exit 2.
    """
    multirun = "-m" in sys.argv or "--multirun" in sys.argv
    sys.argv[1:] = [_quoted(argument, multirun) for argument in sys.argv[1:]]
    try:
        check_overrides(config, sys.argv[1:])
        _compose_and_run(config, task)
    except UserError as error:
        fail(error)
    except KeyboardInterrupt:
        fail(UserError("stopped"), code=130)


def _quoted(argument: str, multirun: bool = False) -> str:
    """With quotes around a path or an address that means something else to hydra.

    Such are `~/images`, `runs/lr=0.1`, `train-{000..999}.tar`. Of a sweep each value has its own; those that are
    quoted, and lists, stay as they are.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    key, _, value = argument.partition("=")
    if key.lstrip("+") not in PATHS or not _is_misread(argument, multirun):
        return argument
    each = value.split(",") if multirun else [value]
    quotes = [Quote.single if '"' in text else Quote.double for text in each]
    return f"{key}={','.join(QuotedString(*pair).with_quotes() for pair in zip(each, quotes, strict=True))}"


def _is_misread(argument: str, multirun: bool) -> bool:
    """Whether hydra refuses the value of an option, or reads other than text, and the user has not quoted it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep
    from hydra.errors import HydraException

    if argument.partition("=")[2].startswith(("'", '"')):
        return False
    try:
        value = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return True
    if isinstance(value, ChoiceSweep):
        return value.simple_form and not multirun
    return isinstance(value, int | float)  # 2026_11_24 would become 20261124


def _compose_and_run(config: str, task: Callable[[dict[str, Any]], None]) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def guarded(cfg: DictConfig) -> None:
        sweeping = _enter_job()
        try:
            values = OmegaConf.to_container(cfg, resolve=True)
            assert isinstance(values, dict)
            task({str(key): value for key, value in values.items()})
        except OmegaConfBaseException as error:
            _give_up(UserError(f"options do not fit together: {one_line(error)}"), sweeping)
        except UserError as error:
            _give_up(error, sweeping)

    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra lets what it catches reach this module
    try:
        hydra.main(version_base="1.3", config_path="pkg://nas.conf", config_name=config)(guarded)()
    except HydraException as error:
        raise UserError(f"the options cannot be composed: {one_line(error)}") from error


def _enter_job() -> bool:
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


def _give_up(error: UserError, sweeping: bool) -> None:
    if not sweeping or isinstance(error, Stopped):
        fail(error, code=130 if isinstance(error, Stopped) else 2)
    line = f"{' '.join(sys.argv[1:])}: {' '.join(str(error).split())}"
    print(f"error: {line}", file=sys.stderr)
    raise UserError(f"the sweep is not complete; first of all: {line}")  # plain, so that any launcher can pickle it


def print_first(line: str) -> None:
    """Print at once; of several processes (torchrun) only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def fail(error: UserError, code: int = 2) -> None:
    """Say a user's mistake on one line and exit; of several processes (torchrun) one says it."""
    if "WORLD_SIZE" in os.environ:
        from nas.run.distributed import hold_stops_off, is_said

        hold_stops_off()  # another process that leaves first has torchrun end this one, which may be the one to speak
        if is_said(error):
            sys.exit(code)
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(code)
