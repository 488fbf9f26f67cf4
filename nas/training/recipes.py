"""Training recipes: by name, as `recipe=NAME` of `python -m nas.train`, and that of a search's fine-tuning."""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any

from search_space.errors import UnknownName

if TYPE_CHECKING:
    from nas.run.settings import SearchSettings
    from nas.training.loop import Recipe

FOLDER = resources.files("nas.conf").joinpath("recipe")


def available_recipes() -> tuple[str, ...]:
    return tuple(sorted(f.name.removesuffix(".yaml") for f in FOLDER.iterdir() if f.name.endswith(".yaml")))


def load_recipe(name: str, **changes: Any) -> Recipe:
    """A recipe of `nas/conf/recipe`, some of its fields changed. Raises `UnknownName`, or `UserError` for values."""
    import yaml

    from nas.run.settings import settings_from_dict
    from nas.training.loop import Recipe

    if name not in available_recipes():
        raise UnknownName("recipe", name, available_recipes())
    values = yaml.safe_load(FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return settings_from_dict(Recipe, {**values, **changes}, "recipe.")


def finetune_recipe(settings: SearchSettings) -> Recipe:
    """The supernet's training, with what `finetune` says instead. Raises `UserError` for `finetune.epochs=0`."""
    from nas.training.loop import Recipe

    of_supernet = asdict(settings.train)
    del of_supernet["share_weights"]
    own = {name: value for name, value in asdict(settings.finetune).items() if value is not None}
    return Recipe(**{"warmup_epochs": 0.5, **of_supernet, **own})
