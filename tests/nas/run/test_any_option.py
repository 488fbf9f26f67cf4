"""Any value of any option is taken or refused in one line: never a traceback, a crash or a wait."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from nas.command.options import check_overrides
from nas.data import find
from nas.data.settings import DataSettings
from nas.run.plan import plan_targets
from nas.run.settings import PackCommand, SearchSettings, TrainCommand, settings_from_dict
from nas.run.targets import settings_of
from nas.training.recipes import Recipe
from search_space.errors import UserError
from search_space.named import load_named
from search_space.reading import declared

NEEDED: dict[type, dict[str, Any]] = {
    SearchSettings: {},
    TrainCommand: {"architecture": "x.json"},
    PackCommand: {"out": "x"},
    Recipe: {},
    DataSettings: {},
}
NEVER: tuple[Any, ...] = (math.nan, math.inf, -math.inf, 1e308, -1e308, "many", [1, [2]], {"a": 1}, True)
LARGE: tuple[Any, ...] = (2**31, 2**63, -1, 0, 1e-320, None)
TAKES_MORE = {"seed": 2**32, "params": 1e18, "macs": 1e18, "peak_activation": 1e18}  # than 2**31


def numbers(kind: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The options of a dataclass, and of those within, that are numbers."""
    for one in declared(kind):
        if one.group is not None:
            yield from numbers(one.group, (*path, one.name))
        elif "number" in one.type_words or "integer" in one.type_words:
            yield (*path, one.name)


OPTIONS = [(kind, path) for kind in NEEDED for path in numbers(kind)]


def given(kind: type, path: tuple[str, ...], value: Any) -> Any:
    """The settings with that value, or the sentence that refuses it."""
    for name in reversed(path):
        value = {name: value}
    try:
        return settings_from_dict(kind, {**NEEDED[kind], **value})
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 400 and path[-1] in str(error)
        return str(error)


def test_all_numbers_are_found() -> None:
    assert len(OPTIONS) > 60 and (SearchSettings, ("gates", "lr")) in OPTIONS


@pytest.mark.parametrize(("kind", "path"), OPTIONS, ids=lambda x: ".".join(x) if isinstance(x, tuple) else x.__name__)
def test_any_value_is_taken_or_refused_in_one_line(kind: type, path: tuple[str, ...]) -> None:
    for value in NEVER:
        assert isinstance(given(kind, path, value), str), value
    for value in LARGE:
        taken = given(kind, path, value)
        own_limit = TAKES_MORE.get(path[-1], 2**31 - 1)
        if isinstance(value, int) and value > own_limit and kind is not DataSettings and path[0] != "data":
            assert isinstance(taken, str), value


@pytest.mark.parametrize("name", ["budget_ms", "confidence", "space_width", "use_at_least", "deployment_resolution"])
def test_what_is_taken_can_be_planned_or_is_refused(name: str) -> None:
    for value in (1e-320, 0.1, 0.5 + 1e-12, 1 - 1e-12, 10, 32, 4096, 1e9):
        try:
            for settings in settings_of({name: int(value) if name == "deployment_resolution" else value}):
                plan_targets([settings])
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("out", ["x" * 300, "a/" + "é" * 150, "a\0b", ["a"], {"a": "b"}])
@pytest.mark.parametrize("kind", [SearchSettings, TrainCommand, PackCommand])
def test_a_folder_that_cannot_be_is_refused(kind: type, out: Any) -> None:
    assert isinstance(given(kind, ("out",), out), str)


def test_an_integer_of_thousands_of_digits_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"^cannot read 'train\.lr=9+': .*") as caught:
        check_overrides("search", [f"train.lr={'9' * 5000}"])
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize(("option", "role"), [("data", 1), ("logger", 1)])
def test_an_address_in_place_of_a_name_keeps_its_password(option: str, role: int) -> None:
    with pytest.raises(UserError) as caught:
        load_named(option, "json://me:hunter2@host/x", {}, role)
    with pytest.raises(UserError) as of_data:
        find("json://me:hunter2@host/x")
    assert not any("hunter2" in str(error.value).split(": ", 1)[1] for error in (caught, of_data))
