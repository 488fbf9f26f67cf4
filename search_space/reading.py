"""Plain data, from YAML or JSON, into frozen dataclasses, and back; what a field may hold stands beside it, once.

    @dataclass(frozen=True)
    class Schedule:
        epochs: Annotated[int, AtLeast(1), "passes over the training images"] = 5

`read(Schedule, {"epochs": 0}, "run.json")` raises `BadFile`: run.json: epochs is 0, not 1 or more. A field's type says
what is accepted: bool, int, float, str, enums, datetime, Any; tuple, frozenset, Mapping and dataclasses of these;
`X | None`. An integer is taken where a number is wanted, true and false never are; numbers are finite. How large and
deep a file may be stands in `search_space.bounds`. Not for tables, weights or command lines. Written here instead of
taken from cattrs, which drops `Annotated` without a word in modules with `from __future__ import annotations`, and with
it every limit. Standard library only.
"""

from __future__ import annotations

import math
import os
import stat
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from search_space.bounds import DEEPEST, TEXT_BYTES, YAML_BYTES, YAML_NODES
from search_space.errors import BadFile, UnknownName, UserError, one_line
from search_space.sums import require_sum

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

T = TypeVar("T")
REQUIRED = "\0required"  # beside a field: data must state it, although the dataclass has a default
UNSAID = (
    object()
)  # beside a field: `to_plain` leaves it out where it has its default, so that old files stay as they are
LONGEST_PATH = 4096  # characters, of addresses too
LONGEST_SHOWN = 80  # characters of a refused value in a message


def _is_number(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


class Must:
    """What a value must keep: `wanted` ends the sentence 'x is not ...', `holds` says whether it does."""

    def __init__(self, wanted: str, holds: Callable[[Any], bool]) -> None:
        self.wanted, self.holds = wanted, holds


class Plain(Must):
    """A rule that nobody needs to be told before it is broken: lists of options leave it out."""


class Limit(Must):
    """A rule for finite numbers; several of one field are said together."""

    def __init__(self, wanted: str, holds: Callable[[Any], bool]) -> None:
        super().__init__(wanted, lambda value: _is_number(value) and holds(value))


class Above(Limit):
    """A number greater than `low`."""

    def __init__(self, low: float) -> None:
        super().__init__(f"above {low:.10g}", lambda value: value > low)


class AtLeast(Limit):
    """A number not less than `low`."""

    def __init__(self, low: float) -> None:
        super().__init__(f"{low:.10g} or more", lambda value: value >= low)


class Below(Limit):
    """A number less than `high`."""

    def __init__(self, high: float) -> None:
        super().__init__(f"below {high:.10g}", lambda value: value < high)


class AtMost(Limit):
    """A number not greater than `high`."""

    def __init__(self, high: float) -> None:
        super().__init__(f"at most {high:.10g}", lambda value: value <= high)


class Between(Limit):
    """A number of the closed interval [low, high]; `unit` is for the message."""

    def __init__(self, low: float, high: float, unit: str = "") -> None:
        words = f"between {low:.10g} and {high:.10g} {unit}".rstrip()
        super().__init__(words, lambda value: low <= value <= high)


class OneOf(Must):
    """One of the names; another is refused with the nearest, and `hint`."""

    hint = ""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        super().__init__(
            f"one of {', '.join(sorted(self.names))}", lambda value: isinstance(value, str) and value in self.names
        )


@dataclass(frozen=True, slots=True)
class ReadAs:
    """A group whose fields depend on what it holds: `choose` takes the values and gives the dataclass to read."""

    choose: Callable[[Mapping[str, Any]], type]


@dataclass(frozen=True, slots=True)
class Spelled:
    """How a file writes a value.

    `parse` takes what stands there and gives what the type reads, or raises ValueError with what is wanted;
    `render` is its inverse.
    """

    parse: Callable[[Any], Any]
    render: Callable[[Any], Any]


def path_that_can_be(longest_part: int = 255) -> Plain:
    """A path or an address that file systems can have: the length of its parts, and of a local one the home folder.

    longest_part: bytes.
    """

    def holds(path: object) -> bool:
        if not isinstance(path, str) or "\0" in path or len(path) > LONGEST_PATH:
            return False
        if "://" in path:
            return True
        try:
            Path(path).expanduser()
        except RuntimeError:  # the home folder of nobody here
            return False
        return all(len(os.fsencode(part)) <= longest_part for part in path.split("/"))

    return Plain(
        f"a possible path (parts of at most {longest_part} bytes, at most {LONGEST_PATH} in all, a ~NAME that exists)",
        holds,
    )


PATH = path_that_can_be()
NOT_BLANK = Must("text that is not blank", lambda text: isinstance(text, str) and bool(text.strip()))
NOT_EMPTY = Must("a list of one or more", lambda values: len(values) > 0)


class _Faults(Protocol):
    """How a fault is said."""

    @property
    def number_as_text(self) -> bool: ...  # whether a number is taken where text is wanted
    def wrong(self, path: str, value: object, wanted: str) -> UserError: ...
    def unlisted(self, path: str, name: str, rule: OneOf) -> UserError: ...
    def unknown(self, path: str, name: str, known: Iterable[str]) -> UserError: ...
    def missing(self, path: str) -> UserError: ...
    def no_group(self, path: str, value: object, kind: type) -> UserError: ...
    def conflict(self, path: str, error: UserError) -> UserError: ...


@dataclass(frozen=True, slots=True)
class _InFile:
    where: str
    number_as_text: bool = False

    def wrong(self, path: str, value: object, wanted: str) -> UserError:
        return BadFile(f"{self.where}: {path or 'the file'} is {shown(value)}, not {wanted}")

    def unlisted(self, path: str, name: str, rule: OneOf) -> UserError:
        return self.wrong(path, name, rule.wanted)

    def unknown(self, path: str, name: str, known: Iterable[str]) -> UserError:
        return BadFile(f"{self.where}: {UnknownName(f'field of {path}' if path else 'field', name, known)}")

    def missing(self, path: str) -> UserError:
        return BadFile(f"{self.where}: no field '{path}'")

    def no_group(self, path: str, value: object, kind: type) -> UserError:
        return self.wrong(path, value, f"a mapping of fields ({', '.join(hints_of(kind))})")

    def conflict(self, path: str, error: UserError) -> UserError:
        return error if isinstance(error, BadFile) else BadFile(f"{self.where}: {path}{': ' * bool(path)}{error}")


@dataclass(frozen=True, slots=True)
class _InOptions:
    prefix: str
    number_as_text: bool = True

    def wrong(self, path: str, value: object, wanted: str) -> UserError:
        return UserError(f"{self.prefix}{path}={shown(value)} is not {wanted}")

    def unlisted(self, path: str, name: str, rule: OneOf) -> UserError:
        return UnknownName(f"{self.prefix}{path}", name, rule.names, rule.hint)

    def unknown(self, path: str, name: str, known: Iterable[str]) -> UserError:
        prefix = f"{self.prefix}{path}{'.' * bool(path)}"
        return UnknownName("option", f"{prefix}{name}", [prefix + each for each in known])

    def missing(self, path: str) -> UserError:
        return UserError(f"the option {self.prefix}{path} is missing")

    def no_group(self, path: str, value: object, kind: type) -> UserError:
        name, first = f"{self.prefix}{path}", next(iter(hints_of(kind)))
        return UserError(f"{name}={shown(value)} is a group; set {name}.{first} and the like")

    def conflict(self, path: str, error: UserError) -> UserError:
        return error


def text_of(number: float) -> str:
    """As it is written. Raises `ValueError` with what is wanted for an integer of more than 4300 digits."""
    try:
        return str(number)
    except ValueError as error:
        raise ValueError("text, or a number of fewer digits") from error


def shown(value: object) -> str:
    """A value for a message: not too long."""
    try:
        text = repr(value)
    except ValueError:  # Python's own limit
        return "an integer of thousands of digits"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 4]} ..."


def _key(name: object) -> str:
    """A key for a message: on one line, not too long."""
    text = name if isinstance(name, str) and name.isprintable() else shown(name)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 4]} ..."


def read(kind: type[T], data: object, where: str) -> T:
    """A dataclass from a file's data. Raises `BadFile` naming `where`, the key's path, the value and what is wanted."""
    return typing.cast(T, _read(kind, data, "", _InFile(where)))


def read_options(kind: type[T], values: object, prefix: str = "") -> T:
    """A dataclass from options, whose names begin with `prefix`. Numbers are taken where text is wanted.

    Raises `UnknownName` for an option or a name that is not known, `UserError` for other values.
    """
    return typing.cast(T, _read(kind, values, "", _InOptions(prefix)))


def check(value: object, prefix: str = "", where: str | None = None) -> None:
    """Check a dataclass's own fields, for its `__post_init__`: numbers and limits, not the types of texts.

    Raises `UserError` as for options that begin with `prefix`; `BadFile` where `where` names a file.
    """
    faults: _Faults = _InOptions(prefix) if where is None else _InFile(where)
    kind: type = type(value)
    for name, hint in hints_of(kind).items():
        _check(hint, getattr(value, name), name, faults)


@cache
def hints_of(kind: type) -> Mapping[str, Any]:
    """The type of every field of a dataclass, with what stands in `Annotated`, in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {f.name: hints[f.name] for f in fields(kind)}


def _read(hint: Any, value: Any, path: str, faults: _Faults) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        inner, *extras = arguments
        if is_dataclass(inner) and isinstance(value, typing.cast(type, inner)):
            return value
        if isinstance(value, Mapping):
            inner = next((extra.choose(value) for extra in extras if isinstance(extra, ReadAs)), inner)
        written, spellings = value, [extra for extra in extras if isinstance(extra, Spelled)]
        for spelled in spellings:
            try:
                value = spelled.parse(value)
            except UserError as error:
                raise faults.conflict(path, error) from error
            except ValueError as error:
                raise faults.wrong(path, value, str(error)) from error
        is_ready = spellings and type(value) is inner
        result = value if is_ready else _read(inner, value, path, faults)
        _check_rules(extras, result, written, path, faults)
        return result
    if origin in (typing.Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (inner,) = (one for one in arguments if one is not NoneType)
        return _read(inner, value, path, faults)
    if origin in (tuple, frozenset):
        if not isinstance(value, list | tuple):
            raise faults.wrong(path, value, "a list")
        if origin is frozenset or arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        elif len(arguments) != len(value):
            raise faults.wrong(path, value, f"a list of {len(arguments)}")
        read_each = (_read(a, v, f"{path}[{i}]", faults) for i, (a, v) in enumerate(zip(arguments, value, strict=True)))
        return origin(read_each)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise faults.wrong(path, value, "a mapping of fields")
        of_key, of_item = arguments
        return {
            _read(of_key, key, f"a name in {path}", faults): _read(of_item, item, f"{path}.{_key(key)}", faults)
            for key, item in value.items()
        }
    if is_dataclass(hint):
        return _read_fields(typing.cast(type, hint), value, path, faults)
    return _read_leaf(hint, value, path, faults)


def _read_fields(kind: type, data: Any, path: str, faults: _Faults) -> Any:
    if not isinstance(data, Mapping):
        raise faults.no_group(path, data, kind)
    hints = hints_of(kind)
    for name in data:
        if name not in hints:
            raise faults.unknown(path, _key(name), hints)
    arguments = {}
    for field in fields(kind):
        name, hint = field.name, hints[field.name]
        inside = f"{path}.{name}" if path else name
        if name in data and (data[name] is not None or _accepts_none(hint) or isinstance(faults, _InOptions)):
            arguments[name] = _read(hint, data[name], inside, faults)
        elif name in data or REQUIRED in _extras(hint) or field.default is field.default_factory is MISSING:
            raise faults.missing(inside)
    try:
        return kind(**arguments)
    except UserError as error:
        raise faults.conflict(path, error) from error


def _read_leaf(hint: Any, value: Any, path: str, faults: _Faults) -> Any:
    plain = type(value)
    if hint is Any or (hint in (bool, int, str) and plain is hint):
        return value
    if hint is float and plain in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
        raise faults.wrong(path, value, "a finite number")
    if hint is str and faults.number_as_text and plain in (int, float):
        try:
            return text_of(value)
        except ValueError as error:
            raise faults.wrong(path, value, str(error)) from error
    if isinstance(hint, type) and issubclass(hint, Enum):
        if isinstance(value, str) and value in {member.value for member in hint}:
            return hint(value)
        raise faults.wrong(path, value, type_words(hint))
    if hint is datetime and plain is str:
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    raise faults.wrong(path, value, type_words(hint))


def _check(hint: Any, value: Any, path: str, faults: _Faults) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        _check(arguments[0], value, path, faults)
        _check_rules(arguments[1:], value, value, path, faults)
    elif origin in (typing.Union, UnionType):
        if value is not None:
            _check(arguments[0], value, path, faults)
    elif origin is tuple and isinstance(value, tuple) and arguments[-1] is Ellipsis:
        for i, item in enumerate(value):
            _check(arguments[0], item, f"{path}[{i}]", faults)
    elif (hint is int and not (isinstance(value, Integral) and not isinstance(value, bool))) or (
        hint is float and not _is_number(value)
    ):
        raise faults.wrong(path, value, "a finite number" if isinstance(value, float) else type_words(hint))


def _check_rules(extras: Iterable[Any], value: Any, written: Any, path: str, faults: _Faults) -> None:
    """`written`: the value as it is said, which a `Spelled` may have changed."""
    rules = [extra for extra in extras if isinstance(extra, Must)]
    broken = [rule for rule in rules if value is not None and not rule.holds(value)]
    if not broken:
        return
    for rule in broken:
        if isinstance(rule, OneOf) and isinstance(value, str):
            raise faults.unlisted(path, value, rule)
    said = [rule for rule in rules if isinstance(rule, Limit)] if isinstance(broken[0], Limit) else broken
    raise faults.wrong(path, written, " and ".join(rule.wanted for rule in said))


def _accepts_none(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Annotated:
        return _accepts_none(typing.get_args(hint)[0])
    return hint is Any or NoneType in typing.get_args(hint)


def _extras(hint: Any) -> list[Any]:
    """What stands in `Annotated` beside the type, the innermost first."""
    if typing.get_origin(hint) is typing.Annotated:
        inner, *extras = typing.get_args(hint)
        return [*_extras(inner), *extras]
    if typing.get_origin(hint) in (typing.Union, UnionType):
        return [extra for one in typing.get_args(hint) for extra in _extras(one)]
    return []


def type_words(hint: Any) -> str:
    """A type in the words of the messages: 'an integer', 'a number or null', 'a list of text'."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return type_words(arguments[0])
    if origin in (typing.Union, UnionType):
        return " or ".join(map(type_words, arguments))
    if origin in (tuple, frozenset):
        return f"a list of {type_words(arguments[0])}"
    if origin is not None:
        return "a mapping"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(sorted(str(member.value) for member in hint))}"
    words = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        NoneType: "null",
        datetime: "a date and time",
    }
    return words.get(hint, "a mapping of fields" if is_dataclass(hint) else "anything")


@dataclass(frozen=True, slots=True)
class Declared:
    """A field of a dataclass as documents list it: `wanted` are its limits in words, '' where it has none.

    group: the dataclass that is its type, None for a plain value.
    """

    name: str
    type_words: str
    default: Any
    wanted: str
    help: str
    group: type | None


def declared(kind: type) -> tuple[Declared, ...]:
    """The fields of a dataclass with defaults for all of them, in order."""
    found = []
    for field in fields(kind):
        hint = hints_of(kind)[field.name]
        extras = _extras(hint)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found.append(
            Declared(
                field.name,
                type_words(hint),
                default,
                " and ".join(
                    extra.wanted for extra in extras if isinstance(extra, Must) and not isinstance(extra, Plain)
                ),
                next((extra for extra in reversed(extras) if isinstance(extra, str) and extra != REQUIRED), ""),
                type(default) if is_dataclass(default) else None,
            )
        )
    return tuple(found)


def to_plain(value: Any) -> Any:
    """What YAML or JSON gives back: dicts, lists, text, numbers; the inverse of `read`.

    A value inside that has a `to_dict` is asked for it. Raises ValueError for a number that is not finite.
    """
    if is_dataclass(value) and not isinstance(value, type):
        unsaid = _unsaid(type(value))
        return {
            name: _plain_field(hint, getattr(value, name))
            for name, hint in hints_of(type(value)).items()
            if name not in unsaid or getattr(value, name) != unsaid[name]
        }
    if isinstance(value, Mapping):
        return {to_plain(key): _plain_inside(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(map(_plain_inside, value))
    if isinstance(value, tuple | list):
        return [_plain_inside(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written as JSON")
    return value


@cache
def _unsaid(kind: type) -> Mapping[str, Any]:
    """The default of every field of a dataclass that is marked `UNSAID`."""
    return {f.name: f.default for f in fields(kind) if UNSAID in _extras(hints_of(kind)[f.name])}


def _plain_inside(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else to_plain(value)


def _plain_field(hint: Any, value: Any) -> Any:
    """With `Spelled.render` where the field, or what its list or mapping holds, has one."""
    if value is None:
        return None
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        for spelled in (extra for extra in arguments[1:] if isinstance(extra, Spelled)):
            return spelled.render(value)
        return _plain_field(arguments[0], value)
    if origin in (typing.Union, UnionType):
        (inner,) = (one for one in arguments if one is not NoneType)
        return _plain_field(inner, value)
    if origin is tuple and arguments[-1] is Ellipsis:
        return [_plain_field(arguments[0], item) for item in value]
    if origin is not None and origin is not Any and isinstance(value, Mapping):
        return {to_plain(key): _plain_field(arguments[1], item) for key, item in value.items()}
    return _plain_inside(value)


def without_schema(data: object, schema: int, where: str) -> dict[str, Any]:
    """A file's fields but for `schema`. Raises `BadFile` unless they are a mapping of that schema."""
    if not isinstance(data, Mapping):
        raise BadFile(f"{where} holds {shown(data)}, not a mapping of fields")
    if data.get("schema") is None:
        raise BadFile(f"{where}: no field 'schema'")
    if data["schema"] != schema or isinstance(data["schema"], bool):
        raise BadFile(f"{where} has schema {shown(data['schema'])}; this version reads schema {schema}")
    return {name: value for name, value in data.items() if name != "schema"}


def read_text(path: Path | Traversable, name: str | None = None) -> str:
    """The text of a UTF-8 file, a byte order mark in front left out. Raises `BadFile`.

    name: what the file is usually called, for the message where a folder is given.
    """
    try:
        return decode(read_bytes(path, TEXT_BYTES), f"'{path}'")
    except FileNotFoundError as error:
        raise BadFile(f"no file '{path}'") from error
    except IsADirectoryError as error:
        raise BadFile(f"'{path}' is a folder" + (f"; name the {name} in it" if name else "")) from error
    except OSError as error:
        raise BadFile(f"cannot read '{path}': {error.strerror}") from error


def read_bytes(path: Path | Traversable, most: int) -> bytes:
    """The content of a file.

    Raises `BadFile` for one of more bytes, for a pipe or device, and where a checksum beside it is another; `OSError`.
    """
    if isinstance(path, Path):
        require_file(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BadFile(f"'{path}' has more than {most / 2**20:g} MiB, the most of such a file")
    if isinstance(path, Path):
        require_sum(path, content)
    return content


def require_file(path: Path) -> None:
    """Raise `BadFile` for what would keep its reader waiting: a pipe, a socket or a device. Raises `OSError`."""
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
        raise BadFile(f"'{path}' is neither file nor folder")


def decode(content: bytes, where: str) -> str:
    """Text of UTF-8 bytes, a byte order mark in front left out. Raises `BadFile`."""
    try:
        return content.decode("utf-8-sig")  # spreadsheets begin a file with the mark
    except UnicodeDecodeError as error:
        raise BadFile(f"{where}: not UTF-8 text at byte {error.start}") from error


def read_json(path: Path | Traversable, name: str | None = None) -> Any:
    """The value in a JSON file. Raises `BadFile` as `read_text` and `parse_json` do."""
    return parse_json(read_text(path, name), f"'{path}'")


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON text. Raises `BadFile` for what is not JSON, NaN and Infinity, and a key that is twice."""
    import json

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise BadFile(f"{where}: '{_key(next(n for n in names if names.count(n) > 1))}' stands twice in one object")
        return found

    def refuse(constant: str) -> None:
        raise BadFile(f"{where}: {constant} is not a number of JSON")

    try:
        value = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
        if _is_deep(value):
            raise BadFile(f"{where}: more than {DEEPEST} levels within each other")
        return value
    except BadFile:
        raise
    except RecursionError as error:
        raise BadFile(f"{where}: more than {DEEPEST} levels within each other") from error
    except ValueError as error:  # of json, and Python's own for integers of thousands of digits
        raise BadFile(f"{where} is not JSON: {one_line(error)}") from error


def _is_deep(value: object) -> bool:
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        level = [group for group in level if isinstance(group, dict | list)]
        if not level:
            return False
        level = [item for group in level for item in (group.values() if isinstance(group, dict) else group)]
    return True


def read_yaml(path: Path | Traversable, name: str | None = None) -> Any:
    """The value in a YAML file. Raises `BadFile` as `read_text` and `parse_yaml` do."""
    return parse_yaml(read_text(path, name), f"'{path}'")


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. Raises `BadFile` with the row of what is not YAML, or of a key that is twice."""
    import yaml

    if len(text) > YAML_BYTES:
        raise BadFile(f"{where} has more than {YAML_BYTES / 2**20:g} MiB, the most of a YAML file")
    try:
        _require_small(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), where)
        return yaml.load(text, Loader=_yaml_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" row {mark.line + 1}" if mark is not None else ""
        raise BadFile(f"{where}{at}: not YAML ({one_line(Exception(getattr(error, 'problem', error)))})") from error
    except BadFile:
        raise
    except ValueError as error:  # a date that is none, an integer of thousands of digits
        raise BadFile(f"{where}: not YAML ({one_line(error)})") from error


@dataclass
class _Node:
    """Of an open or finished collection: how many values it holds, and how many levels, aliases written out."""

    anchor: str | None = None
    values: int = 1
    levels: int = 1

    def add(self, inner: _Node) -> None:
        self.values += inner.values
        self.levels = max(self.levels, 1 + inner.levels)


def _require_small(events: Iterable[Any], where: str) -> None:
    """Raise `BadFile` for a document deeper or larger than may be read.

    libyaml composes by recursion without a limit and takes the interpreter with it; aliases of aliases are small in
    the file and without end where they are read.
    """
    import yaml

    open_ones, known = [_Node()], dict[str, _Node]()
    for event in events:
        done = None
        if isinstance(event, yaml.CollectionStartEvent):
            open_ones.append(_Node(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = open_ones.pop()
        elif isinstance(event, yaml.ScalarEvent):
            done = _Node(event.anchor, levels=0)
        elif isinstance(event, yaml.AliasEvent):
            # one that is not finished stands within itself; one that is not known is refused when it is composed
            within = any(one.anchor == event.anchor for one in open_ones)
            done = replace(known.get(str(event.anchor), _Node()), anchor=None)
            done.levels = DEEPEST + 1 if within else done.levels
        if done is not None:
            open_ones[-1].add(done)
            if done.anchor:
                known[done.anchor] = done
        row = getattr(event.start_mark, "line", 0) + 1
        if len(open_ones) - 1 + (done.levels if done else 0) > DEEPEST:
            raise BadFile(f"{where} row {row}: more than {DEEPEST} levels within each other")
        if open_ones[-1].values > YAML_NODES:
            raise BadFile(f"{where} row {row}: more than {YAML_NODES:,} values, aliases written out")


@cache
def _yaml_loader() -> Any:
    """The safe loader, of libyaml where it is there (ten times faster), that refuses a key that stands twice."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if (key.tag, key.value) in seen:
                        raise yaml.constructor.ConstructorError(
                            None, None, f"'{_key(key.value)}' stands twice in one mapping", key.start_mark
                        )
                    seen.add((key.tag, key.value))
            return dict(super().construct_mapping(node, deep=deep))

    return Loader
