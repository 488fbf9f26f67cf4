"""Options stand once: what is declared, composed by hydra, printed by --help and listed in documents is the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from nas.command.options import COMMANDS, Option, _help, compose_options, describe
from nas.data import DATA_SETS
from nas.penalties import FORMS
from nas.run.settings import GATE_MODES, SearchSettings, settings_from_dict
from nas.strategies import STRATEGIES
from nas.training.recipes import Recipe, available_recipes, load_recipe
from search_space.errors import UserError


def leaves(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def composed(command: str, *overrides: str) -> dict[str, Any]:
    values = OmegaConf.to_container(compose_options(command, overrides), resolve=True)
    assert isinstance(values, dict)
    values["data"].pop("epochs")
    return dict(leaves(values))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_all_options_are_described_with_the_values_that_hydra_composes(command: str) -> None:
    options = {option.name: option for option in describe(command)}
    values = composed(command)
    assert values.pop("data.name") == options.pop("data").default == "digits"
    if command == "train":
        assert options.pop("recipe").default == "small"
    assert set(values) <= set(options)
    assert all(name.startswith("data.") for name in set(options) - set(values)), "what digits has no need of"
    for name, value in values.items():
        shown = options[name].default
        read = yaml.safe_load if isinstance(value, list) else json.loads
        assert (shown == value) if isinstance(value, str) else read(shown) == value, name


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_is_explained(command: str) -> None:
    options = describe(command)
    assert len({option.name for option in options}) == len(options)
    for option in options:
        assert option.help and option.type and option.default, option


def test_an_option_in_words() -> None:
    options = {option.name: option for option in describe("search")}
    assert [f.name for f in fields(Option)] == ["name", "type", "default", "wanted", "help"]
    budget = options["budget_ms"]
    assert (budget.type, budget.default, budget.wanted) == ("a number", "30", "above 0 and at most 1000000000")
    assert options["confidence"].wanted == "above 0.5 and below 1" and options["confidence"].default == "null"
    assert (options["epochs"].default, options["warmup.epochs"].default) == ("5", "4"), "as data=digits has them"
    for name, known in (("gates.mode", GATE_MODES), ("strategy", STRATEGIES), ("penalty.form", FORMS)):
        assert options[name].wanted == f"one of {', '.join(sorted(known))}"
    assert options["data"].wanted == f"one of {', '.join(DATA_SETS)}"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_shows_every_option_its_value_and_its_explanation(command: str) -> None:
    text = _help(command, ["data=webdataset"])
    assert max(map(len, text.splitlines())) <= 120 and "$CONFIG" not in text
    words = " ".join(re.sub(r"\n +# +", " ", text).split())
    shown = composed(command, "data=webdataset")
    for option in describe(command):
        if option.name in shown:
            assert f"{option.name.rpartition('.')[2]}: " in text
            assert option.help in words and option.wanted in words, option
    assert "resolution: 128 " in text


def test_help_refuses_what_cannot_be_composed() -> None:
    with pytest.raises(UserError, match="cannot be composed"):
        _help("search", ["hydra/launcher=warp"])


def test_recipes_of_the_command_are_those_of_python() -> None:
    for name in available_recipes():
        values = {k.removeprefix("recipe."): v for k, v in composed("train", f"recipe={name}").items() if "recipe" in k}
        assert settings_from_dict(Recipe, values, "recipe.") == load_recipe(name)


@pytest.mark.parametrize(
    "option", [option for option in describe("search") if option.wanted and option.name not in ("data", "out")]
)
def test_what_is_outside_the_limits_is_refused_by_name(option: Option) -> None:
    """Each limit that documents list is one that is kept."""
    outside = "warp" if option.wanted.startswith("one of") else -1e9 if "number" in option.type else -(10**9)
    values: Any = outside
    for name in reversed(option.name.split(".")):
        values = {name: values}
    with pytest.raises(UserError) as caught:
        settings_from_dict(SearchSettings, values)
    assert option.name in str(caught.value) and str(outside) in str(caught.value)
