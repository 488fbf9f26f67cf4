"""Search spaces by name and from YAML files: the shipped ones of `data/`, and a user's own by path.

Reading checks that the space's block family can build it. Not for the spaces themselves (`search_space.space`).
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from search_space.blocks import family_of
from search_space.errors import BadFile, UnknownName
from search_space.space import SearchSpace


def available_spaces() -> tuple[str, ...]:
    """Names of the shipped spaces."""
    files = resources.files("search_space").joinpath("data").iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def load_space(name: str, width_mult: float | None = None) -> SearchSpace:
    """A shipped space by name, or one from a YAML file by path (anything ending in .yaml).

    A file may set `width_mult`, which multiplies its widths; the argument replaces it.
    Raises `UnknownName` or `BadFile`.
    """
    import yaml

    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise BadFile(f"no space file '{name}'; shipped spaces: {', '.join(available_spaces())}")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadFile(f"space file '{name}' cannot be read as text: {error}") from error
    elif name in available_spaces():
        text = resources.files("search_space").joinpath("data", f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise UnknownName("space", name, available_spaces(), "Your own: space=path/to/space.yaml")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadFile(f"space file '{name}' is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise BadFile(f"space file '{name}' holds no fields")
    shipped = data.pop("width_mult", 1.0)
    space = SearchSpace.from_dict(data, where=f"space '{name}'")
    if isinstance(shipped, bool) or not isinstance(shipped, int | float):
        raise BadFile(f"space '{name}': width_mult={shipped!r} is not a number")
    family_of(space).check(space)
    return space.scaled(shipped if width_mult is None else width_mult)
