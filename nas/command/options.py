"""The door of the hydra commands: options checked before anything heavy is imported.

A typo names the nearest option, a bad value is one line, and no user mistake shows a traceback.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NoReturn

from nas.command.jobs import enter_job, in_own_folder, of_launcher, require_launcher
from nas.data import registry as data_sets
from nas.data.addresses import redacted
from nas.data.settings import DataSettings
from nas.run.settings import CheckpointSettings, PackCommand, Resumable, SearchSettings, TrainCommand
from nas.training.recipes import Recipe
from search_space.errors import Stopped, UnknownName, UserError, one_line
from search_space.last_words import STOPPED, WRONG, in_words, last_words, say, say_and_exit
from search_space.reading import LONGEST_SHOWN, declared, read_yaml, to_plain

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

DATA_PATHS = ("data.root", "data.train", "data.test", "data.cache")
PATHS = {"architecture", "init", "optuna.storage", "out", "resume", "space", "teacher", "weights", *DATA_PATHS}


WIDTH = 120  # characters a line of --help


# command -> the dataclasses of its options, each with the group that it stands in
COMMANDS: Mapping[str, Sequence[tuple[str, type]]] = {
    "search": (("", SearchSettings), ("", Resumable)),
    "train": (
        ("", TrainCommand),
        ("checkpoint", CheckpointSettings),
        ("", Resumable),
        ("data", DataSettings),
        ("recipe", Recipe),
    ),
    "pack": (("", PackCommand), ("data", DataSettings)),
}
DATA = "data"  # the group of hydra's whose choices are data sets, which state their options themselves
GROUPS = {
    DATA: "the images' data set; each has its own defaults, and some have further options",
    "recipe": "how the network is trained",
}


@dataclass(frozen=True)
class Option:
    """An option of a command, in words: `data.root`, 'text or null', 'null', its limits, its explanation.

    default: as it is written in a command line. wanted: '' where there is no limit beside the type.
    """

    name: str
    type: str
    default: str
    wanted: str
    help: str


def describe(config: str) -> list[Option]:
    """All options of `python -m nas.CONFIG`, in order; of data and recipe, first the name and then what it holds.

    Defaults of `data.*` and `recipe.*` are those of the data set and recipe that a command takes where none is named.
    """
    chosen = {name: value for name, value in _defaults_list(config).items() if name in GROUPS}
    values = dict(_leaves(_declared_values(config)))
    values |= dict(_leaves(_without_hydra(config)))  # what a data set says takes the place of the declared
    for group, name in chosen.items():
        values |= dict(_leaves(_group_values(group, name), f"{group}."))
    options = []
    for name, kind, wanted, text in _declared_options(config, chosen[DATA]):
        if name in GROUPS:
            known = _group_options(name)
            options.append(Option(name, "name", chosen[name], f"one of {', '.join(known)}", text))
        elif name != "data.name" and kind != "group":
            value = values[name]
            if isinstance(value, str) and (reference := re.fullmatch(r"\$\{(.*)\}", value)):
                value = values[reference[1]]
            options.append(Option(name, kind, _written(value), wanted, text))
    return options


def _declared_options(config: str, data: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, limits and explanation of every field; of groups of hydra's their own name first; data: which set."""

    def walk(kind: type, prefix: str) -> Iterator[tuple[str, str, str, str]]:
        for field in declared(kind):
            name = f"{prefix}{field.name}"
            if field.group is None:
                yield name, field.type_words, field.wanted, field.help
                continue
            yield name, "group", "", GROUPS.get(name, field.help)
            yield from walk(own_data if field.group is DataSettings else field.group, f"{name}.")

    own_data = data_sets.settings_class({"name": data})
    for group, kind in COMMANDS[config]:
        if group:
            yield group, "group", "", GROUPS.get(group, "")
        yield from walk(own_data if kind is DataSettings else kind, f"{group}." if group else "")


def _declared_values(config: str) -> dict[str, Any]:
    """The declared defaults as nested dicts, data and recipe included."""
    values: dict[str, Any] = {}
    for group, kind in COMMANDS[config]:
        inside = {field.name: to_plain(field.default) for field in declared(kind)}
        values |= {group: inside} if group else inside
    return values


def register_options(config: str, data: Iterable[str] = ()) -> None:
    """Give hydra the declared defaults of a command, which `nas/conf/CONFIG.yaml` and its groups start from.

    data: names of data sets from outside this package that are to be choices too.
    """
    from hydra.core.config_store import ConfigStore

    values = _declared_values(config)
    store = ConfigStore.instance()
    store.store(name=f"declared_{config}", node={name: v for name, v in values.items() if name not in GROUPS})
    if "recipe" in values:
        store.store(group="recipe", name="declared", node=values["recipe"])
    for name in {*data_sets.DATA_SETS, *data}:
        store.store(name, data_sets.option_defaults(name), DATA, provider="nas.data")


def compose_options(config: str, overrides: Sequence[str], with_hydra: bool = False) -> Any:
    """The options of a command as hydra composes them, without running it: an omegaconf `DictConfig`."""
    from hydra import compose, initialize_config_module

    register_options(config, check_overrides(config, overrides))
    with initialize_config_module("nas.conf", version_base="1.3"):
        return compose(config, list(overrides), return_hydra_config=with_hydra)


def check_overrides(config: str, arguments: Sequence[str]) -> list[str]:
    """Raise `UserError` for an override that names no option of a command or its groups; the data sets named."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    chosen = {name: [value] for name, value in _defaults_list(config).items() if name in GROUPS}
    groups = set(chosen)
    multirun = "-m" in arguments or "--multirun" in arguments
    parser = OverridesParser.create()
    overrides = [a for a in arguments if not a.startswith("-")]
    parsed = []
    for argument in overrides:
        if "=" not in argument:
            raise UserError(f"'{argument}' is not an option; options are written key=value (all: --help)")
        try:
            parsed.append(parser.parse_override(argument))
        except (HydraException, ValueError) as error:  # the second for an integer of thousands of digits
            raise UserError(f"cannot read '{argument[:LONGEST_SHOWN]}': {one_line(error)}") from error
    for override in parsed:
        if override.key_or_group in groups:
            if override.is_delete():
                raise UserError(
                    f"{override.key_or_group} cannot be left out; choose another by {override.key_or_group}="
                )
            chosen[override.key_or_group] = _options_named(override)
    own = {k: v for k, v in _declared_values(config).items() if k not in GROUPS}
    names = {name for name, _ in _leaves(own)} | {*own, *(name for name, v in own.items() if isinstance(v, dict))}
    for group, options in chosen.items():
        names |= {group, *(name for o in options for name, _ in _leaves(_group_values(group, o), f"{group}."))}
    # what data= and epochs= set
    names -= {name for name in names if name == "data.name" or name.startswith("data.epochs")}
    for override in parsed:
        key = override.key_or_group
        if override.is_sweep_override() and not multirun:
            raise UserError(f"{key} has several values; a sweep over them needs --multirun")
        if key not in names and not re.match(r"hydra[./]", key):
            raise UnknownName("option", key, names, "All: --help")
    return chosen.get(DATA, [])


@cache
def _load(name: str) -> Mapping[str, Any]:
    data = read_yaml(resources.files("nas.conf").joinpath(*name.split("/")))
    assert isinstance(data, dict)
    return data


def _defaults_list(config: str) -> dict[str, str]:
    """Of hydra's defaults list what chooses an option of a group."""
    entries = _load(f"{config}.yaml")["defaults"]
    return {group: name for entry in entries if isinstance(entry, dict) for group, name in entry.items()}


def _without_hydra(config: str) -> dict[str, Any]:
    return {name: v for name, v in _load(f"{config}.yaml").items() if name not in ("defaults", "hydra")}


def _group_values(group: str, name: str) -> dict[str, Any]:
    """What a choice of a group holds."""
    if group == DATA:
        return data_sets.option_defaults(name)
    values = dict(_load(f"{group}/{name}.yaml"))
    base = to_plain(Recipe()) if "declared" in values.pop("defaults", []) else {}
    return {**base, **values}


def _group_options(group: str) -> list[str]:
    if group == DATA:
        return data_sets.known()
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
        if group == DATA and isinstance(name, str):
            data_sets.find(name)  # raises `UnknownName`, unless it is the path of a module
        elif not isinstance(name, str) or name not in known:
            written = str(override.input_line).partition("=")[2]
            raise UnknownName(group, name if isinstance(name, str) else written, known)
        named.append(name)
    return named


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


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
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun stops all when one is lost, which may be early
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with as_command():
        sys.argv[1:] = [_quoted(argument, multirun) for argument in sys.argv[1:]]
        named = check_overrides(config, sys.argv[1:])
        require_launcher(sys.argv[1:])
        if not {"--help", "-h"}.isdisjoint(sys.argv):
            print(_help(config, [a for a in sys.argv[1:] if not a.startswith("-")]))
            return
        _compose_and_run(config, task, named)


def _help(config: str, overrides: Sequence[str]) -> str:
    """The command's help, with every option's value under these overrides, its explanation and its limits."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    try:
        composed = compose_options(config, overrides, with_hydra=True)
    except HydraException as error:
        raise UserError(f"the options cannot be composed: {one_line(error)}") from error
    text = str(composed.hydra.help.template)
    del composed.hydra
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    values.get("data", {}).pop("epochs", None)  # stand where they act
    return text.replace("$CONFIG", "\n".join(_help_lines(config, values)))


def _help_lines(config: str, values: Mapping[Any, Any]) -> Iterator[str]:
    data = str(values.get(DATA, {}).get("name", DataSettings.name))
    explained = {
        name: f"{text} [{wanted}]" if wanted else text for name, _, wanted, text in _declared_options(config, data)
    }

    def walk(inside: Mapping[Any, Any], prefix: str, indent: str) -> Iterator[str]:
        for key, value in inside.items():
            name, is_group = f"{prefix}{key}", isinstance(value, Mapping)
            begin = f"  {indent}{key}:" + ("" if is_group else f" {_written(value)}")
            yield from _with_comment(begin, explained.get(name, ""))
            if is_group:
                yield from walk(value, f"{name}.", f"{indent}  ")

    yield from walk(values, "", "")


def _with_comment(begin: str, comment: str, column: int = 32) -> Iterator[str]:
    if not comment:
        yield begin
        return
    first, *others = textwrap.wrap(comment, WIDTH - column - 4, break_on_hyphens=False)
    yield f"{begin:<{column - 1}} # {first}"
    for line in others:
        yield f"{'':<{column}}#   {line}"


def _written(value: Any) -> str:
    """As in a command line: null, true, 30, 0.002, digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


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


def _compose_and_run(config: str, task: Callable[[dict[str, Any]], None], data: Iterable[str]) -> None:
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def guarded(cfg: DictConfig) -> None:
        sweeping = enter_job()
        try:
            composed = OmegaConf.to_container(cfg, resolve=True)
            assert isinstance(composed, dict)
            values = {str(key): value for key, value in composed.items()}
            with in_words():
                task(in_own_folder(values) if sweeping else values)
        except OmegaConfBaseException as error:
            _give_up(UserError(f"options do not fit together: {one_line(error)}"), sweeping)
        except UserError as error:
            _give_up(error, sweeping)
        except RuntimeError as error:
            _give_up(of_launcher(error), sweeping)

    register_options(config, data)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra lets what it catches reach this module
    try:
        hydra.main(version_base="1.3", config_path="pkg://nas.conf", config_name=config)(guarded)()
    except HydraException as error:
        raise UserError(f"the options cannot be composed: {one_line(error)}") from error
    except RuntimeError as error:
        raise of_launcher(error) from error


def _give_up(error: UserError, sweeping: bool) -> None:
    if not sweeping or isinstance(error, Stopped):
        fail(error)
    line = f"{' '.join(sys.argv[1:])}: {' '.join(str(error).split())}"
    say(UserError(line))
    raise UserError(f"the sweep is not complete; first of all: {line}")  # plain, so that any launcher can pickle it


def print_first(line: str) -> None:
    """Print at once; of several processes (torchrun) only the first speaks."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def as_command() -> AbstractContextManager[None]:
    """What every command of this package is within, see `search_space.last_words.last_words`."""
    return last_words(fail)


def fail(error: UserError) -> NoReturn:
    """Say a user's mistake on one line and exit; of several processes (torchrun) one of each machine says it."""
    error.args = (redacted(str(error)),)  # an address may stand where a number should
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        say_and_exit(error)
    try:
        from nas.run.distributed import hold_stops_off, is_to_say
    except Exception:  # stopped while it imported torch, which cannot be imported again
        speaks = os.environ.get("LOCAL_RANK", "0") == "0"
    else:
        hold_stops_off()  # another process that leaves first has torchrun end this one, which may be the one to speak
        speaks = is_to_say()
    if speaks:
        say(error)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(STOPPED if isinstance(error, Stopped) else WRONG)  # threads may wait for one that will never answer
