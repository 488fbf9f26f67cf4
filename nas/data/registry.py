"""Which data sets there are, found by name or by the path of the module that describes one.

To add one: a module with a `NamedDataSet` called DATA_SET, and a line in `DATA_SETS`. From outside this package: name
the module itself, `data=my_package.my_module` or `data=my_package.my_module:VALUE`, or declare an entry point of the
group 'quadranas.data'. Modules are imported when they are named. Not for reading images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas.data.named import NamedDataSet, Peeked
from nas.data.settings import DataSettings
from search_space.errors import UnknownName, UserError, one_line
from search_space.reading import read

if TYPE_CHECKING:
    from nas.data.dataset import DataSet

DATA_SETS = {
    "cifar10": "nas.data.cifar10",
    "digits": "nas.data.digits",
    "huggingface": "nas.data.huggingface",
    "imagefolder": "nas.data.imagefolder",
    "table": "nas.data.table",
    "webdataset": "nas.data.webdataset",
}
ENTRY_POINTS = "quadranas.data"
VALUE = "DATA_SET"  # what a module's value is called, unless the path names another


def known() -> list[str]:
    """Names that need no path: those of this package and of installed entry points."""
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    return sorted({*DATA_SETS, *entry_points(group=ENTRY_POINTS).names})


def find(name: str) -> NamedDataSet:
    """The data set of a name or of a module's path. Raises `UnknownName`, and `UserError` for a path without one."""
    if name in DATA_SETS:
        found: NamedDataSet = getattr(import_module(DATA_SETS[name]), VALUE)
        return found
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return _imported(name, entry.value)
    if "." in name or ":" in name:
        return _imported(name, name)
    raise UnknownName("data", name, known())


def _imported(name: str, path: str) -> NamedDataSet:
    """The value in a module outside this package, whose every failure is said on one line."""
    module, _, value = path.partition(":")
    try:
        found = getattr(import_module(module), value or VALUE, None)
    except UserError:
        raise
    except Exception as error:  # a module may raise anything while it is imported
        raise UserError(
            f"data={name}: importing '{module}' failed, {type(error).__name__}: {one_line(error)}; "
            f"give a module that Python finds, or one of {', '.join(known())}"
        ) from error
    if not isinstance(found, NamedDataSet):
        wanted = f"called {value or VALUE}" if (value or VALUE).isidentifier() else "of that name"
        raise UserError(f"data={name}: '{module}' has no nas.data.NamedDataSet {wanted}")
    return found


def peek(settings: DataSettings) -> Peeked:
    """The classes, found without torch and before any image is read. Raises `UserError` or `BadFile`."""
    named = find(settings.name)
    return named.peek(_own(named, settings))


def load(settings: DataSettings) -> DataSet:
    """The data set that the settings name, shown as they say. Raises `UserError` or `BadFile`."""
    named = find(settings.name)
    return named.load(_own(named, settings)).as_asked(settings)


def _own(named: NamedDataSet, settings: DataSettings) -> DataSettings:
    """With the data set's further options at their defaults, where the settings have only those that all share."""
    kind = type(named.defaults)
    return settings if isinstance(settings, kind) else kind(**vars(settings))


def settings_class(options: Mapping[str, Any]) -> type[DataSettings]:
    """What options of `data.` are read as. Raises `UnknownName`."""
    name = options.get("name", DataSettings.name)
    return type(find(name).defaults) if isinstance(name, str) else DataSettings


def option_defaults(name: str) -> dict[str, Any]:
    """The options of `data=NAME` with their defaults, and `epochs`, those of a search. Raises `UnknownName`."""
    named = find(name)
    options = {**asdict(named.defaults), "name": name, "epochs": asdict(named.epochs)}
    if not named.rooted:
        options.pop("root")
    return options


def settings_from_file(options: Mapping[str, Any]) -> DataSettings:
    """Settings that a file says a network was trained with, which may come from anywhere.

    Only modules of this package are imported for it; of other data sets the options are kept that all share. Options
    that the data set does not have are left out: files of earlier versions hold every data set's. Raises `UserError`
    for values that are no settings, or out of range, and `KeyError` where one has no name.
    """
    kind = settings_class(options) if options["name"] in DATA_SETS else DataSettings
    own = {field.name: options[field.name] for field in fields(kind) if field.name in options}
    return read(kind, own, "settings of the images")
