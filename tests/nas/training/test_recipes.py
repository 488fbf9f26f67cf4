"""Recipes from Python are those of the command."""

from __future__ import annotations

import pytest

from nas.training.recipes import Recipe, available_recipes, load_recipe
from search_space import UserError
from search_space.errors import UnknownName


def test_every_shipped_recipe_loads_and_the_small_one_is_the_default() -> None:
    assert available_recipes() == ("imagenet", "small")
    assert load_recipe("small") == Recipe()
    assert load_recipe("imagenet").epochs == 300
    assert load_recipe("imagenet", epochs=2) == load_recipe("imagenet", epochs=2, lr=0.004)


def test_what_is_no_recipe_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"imagnet.*imagenet"):
        load_recipe("imagnet")
    with pytest.raises(UserError, match=r"recipe\.epochs=0"):
        load_recipe("small", epochs=0)
