"""Block families: what stem, transition, block and head of a network are made of. One family a module.

A space names its family in the field `family`. Three kinds of names are known:

- a shipped family (`SHIPPED`): a module of this folder; its name always means it. To add one, write the module, put
  its name into `SHIPPED` and a valid space of it into `tests/contracts/test_block_families.py`.
- a family that an installed distribution declares under the entry point group `quadranas.blocks`, by the entry point's
  name or by what it points to. In the distribution's pyproject.toml:

      [project.entry-points."quadranas.blocks"]
      my_family = "my_package.my_family"

- in a program of your own, the full name of a module that the program has imported: `my_package.my_family`.

Space files and architecture files come from other people, and to import a module is to run it. A name in a file
therefore never imports anything by itself: whoever installs a distribution, or writes `import my_package.my_family`,
decides that its code may run, and a file can only choose among what was decided. Names that are not known are refused
with what to do. What layers a family may use, and what they cost, is said by `search_space.layer`, not here.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from search_space.blocks.graph import Graph
from search_space.errors import UnknownName, UserError
from search_space.layer import Kind
from search_space.space import BlockChoice, SearchSpace, Stage

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "quadranas.blocks"
SHIPPED = (
    "linear_dw",
    "mbconv",
    "quadra",
    "quadra_fc1",
    "quadra_fc12",
)


class BlockFamily(Protocol):
    """Four functions that append layers to a graph and return it, and a check of a space's fields.

    A module with these functions is a family. Graphs arrive empty, with the shape (C, H, W) of what comes before.
    A family may let a space choose its norm or activation: `LAYERS`, a dictionary in its module, names the kinds
    that it accepts for the fields `norm` and `activation`, its own first, and `g.norm` and `g.activation` are then
    the space's. Without it a space must leave both out. `QUADRATIC` names the `BlockChoice.branches` beside 1 that
    its blocks can be asked for; without it they are refused.
    """

    def check(self, space: SearchSpace) -> None:
        """Raise `UserError` for a space that the family cannot build."""

    def stem(self, g: Graph, space: SearchSpace) -> Graph:
        """What reads the images; its output has the shape that the first stage's first block reads."""

    def transition(self, g: Graph, stage: Stage) -> Graph:
        """What stands between stages, ahead of `stage`; it may leave the graph empty."""

    def block(self, g: Graph, choice: BlockChoice, width: int, stride: int) -> Graph:
        """One block of `width` output channels; every choice of a slot gives the same output shape."""

    def head(self, g: Graph, space: SearchSpace, num_classes: int) -> Graph:
        """From the last block to (num_classes, 1, 1)."""


CHOSEN = ("norm", "activation")  # fields of a space whose values a family's LAYERS accepts
FUNCTIONS = tuple(name for name in vars(BlockFamily) if not name.startswith("_"))


def family_of(space: SearchSpace) -> BlockFamily:
    """The block family of a space.

    Raises `UnknownName` for a family that is neither shipped nor declared nor imported, and `UserError` for one that
    lacks a function of `BlockFamily` or whose distribution cannot be imported.
    """
    name = space.family
    if name in SHIPPED:
        return _as_family(name, import_module(f"{__name__}.{name}"))
    if (declared := _declared(name)) is not None:
        return _as_family(name, declared)
    if (imported := sys.modules.get(name)) is not None:
        return _as_family(name, imported)
    raise UnknownName(
        f"block family of space '{space.name}'",
        name,
        [*SHIPPED, *(entry.name for entry in _entry_points())],
        "Your own: install a distribution that declares it as an entry point of the group "
        f"'{ENTRY_POINTS}', or import its module in your program first; a file's name alone imports no code.",
    )


def checked_family(space: SearchSpace) -> BlockFamily:
    """The block family of a space that it can build. Raises `UserError`."""
    family = family_of(space)
    for field in CHOSEN:
        asked, accepted = getattr(space, field), _accepted(family, field)
        if asked is not None and asked not in accepted:
            what = f"{field} of space '{space.name}'"
            if not accepted:
                raise UserError(f"{what} is '{asked}', but family {space.family} has no choice of it; leave it out")
            raise UnknownName(what, asked, accepted, f"These are what family {space.family} accepts.")
    forms = (1, *getattr(family, "QUADRATIC", ()))
    if unknown := [choice for choice in space.choices if choice.branches not in forms]:
        raise UserError(
            f"space '{space.name}': the blocks of family {space.family} have no quadratic form such as {unknown[0]}; "
            "leave out quadratic"
        )
    family.check(space)
    return family


def chosen_layers(space: SearchSpace, family: BlockFamily) -> dict[str, Kind | None]:
    """The kinds of a space's norm and activation, as arguments of `Graph`; None where its family has no choice."""
    chosen = {field: getattr(space, field) or next(iter(_accepted(family, field)), None) for field in CHOSEN}
    return {field: None if kind is None else Kind(kind) for field, kind in chosen.items()}


def _accepted(family: BlockFamily, field: str) -> tuple[Kind, ...]:
    return tuple(getattr(family, "LAYERS", {}).get(field, ()))


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    """What the installed distributions declare; read once, and only for names that are not shipped."""
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    return tuple(entry_points(group=ENTRY_POINTS))


def _declared(name: str) -> object | None:
    """What an entry point of this name, or of this target, points to."""
    found = {entry.value: entry for entry in _entry_points() if name in (entry.name, entry.value)}
    if len(found) > 1:
        raise UserError(
            f"block family '{name}' is declared more than once: {', '.join(sorted(found))}; "
            "name one of these in the space, or uninstall the others"
        )
    for entry in found.values():
        try:
            return cast(object, entry.load())
        except (ImportError, AttributeError) as error:
            raise UserError(
                f"block family '{name}' is declared as '{entry.value}', which cannot be imported ({error}); "
                "reinstall the distribution that declares it"
            ) from error
    return None


def _as_family(name: str, candidate: object) -> BlockFamily:
    """The object, typed as a family. Raises `UserError` naming the functions that it lacks."""
    if lacking := [function for function in FUNCTIONS if not callable(getattr(candidate, function, None))]:
        raise UserError(
            f"'{name}' is not a block family: it has no {', '.join(lacking)}; "
            f"a family has {', '.join(FUNCTIONS)}, described by search_space.blocks.BlockFamily"
        )
    return cast(BlockFamily, candidate)
