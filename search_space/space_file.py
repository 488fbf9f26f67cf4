"""Search spaces by name and from YAML files: the shipped ones of `data/`, and a user's own by path.

Reading checks that the space's block family can build it. Not for the spaces themselves (`search_space.space`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from search_space.blocks import checked_family
from search_space.errors import BadFile, UnknownName
from search_space.reading import read, read_yaml
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
    if name.endswith((".yaml", ".yml")):
        if not Path(name).is_file():
            raise BadFile(f"no space file '{name}'; shipped spaces: {', '.join(available_spaces())}")
        data = read_yaml(Path(name))
    elif name in available_spaces():
        data = read_yaml(resources.files("search_space").joinpath("data", f"{name}.yaml"))
    else:
        raise UnknownName("space", name, available_spaces(), "Your own: space=path/to/space.yaml")
    where = f"space '{name}'"
    if not isinstance(data, dict):
        raise BadFile(f"{where} holds no fields")
    shipped = read(_Scaling, {key: data.pop(key) for key in ("width_mult",) if key in data}, where).width_mult
    space = SearchSpace.from_dict(data, where)
    checked_family(space)
    return space.scaled(shipped if width_mult is None else width_mult)


@dataclass(frozen=True, slots=True)
class _Scaling:
    """What a file says beside the fields of its space."""

    width_mult: float = 1.0
