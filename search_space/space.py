"""Search spaces as values: stages, slots and the candidates of each slot.

A space is data (one YAML in `data/`, or one given by path); what its blocks are made of is the
block family's business (`search_space.blocks`). Not for weights or latencies.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from search_space.errors import BadFile, UnknownName, UserError
from search_space.reading import NOT_EMPTY, AtLeast, Must, Spelled, check, read, read_yaml, to_plain

if TYPE_CHECKING:
    from search_space.architecture import Architecture, GatePath


Count = Annotated[int, AtLeast(1)]
Width = Annotated[int, AtLeast(0)]
Distinct = Must("a list without repeats", lambda values: len(set(values)) == len(values))
Kernel = Annotated[Count, Must("odd", lambda size: size % 2 == 1)]
Name = Annotated[str, Spelled(lambda name: str(name) if type(name) in (int, float) else name, str)]


@dataclass(frozen=True, slots=True, order=True)
class BlockChoice:
    """A candidate operation: a block's kernel size and expansion ratio."""

    kernel_size: int
    expand_ratio: int

    def __str__(self) -> str:
        return "zero" if self == ZERO else f"k{self.kernel_size}e{self.expand_ratio}"


ZERO = BlockChoice(0, 0)  # ProxylessNAS' Zero operation: the block is left out


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width; the first block of a stage is mandatory and carries the stride."""

    width: Count
    max_blocks: Count
    stride: Count = 1


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for a block: its stage and place there (from 0) and what may stand in it."""

    stage: int
    index: int
    candidates: tuple[BlockChoice, ...]


@dataclass(frozen=True)
class SearchSpace:
    """A set of networks. Equal spaces are equal values; `to_dict` round-trips through JSON.

    `stem_width`, `head_width` and `first_width` are read by the block family (a family that has
    no such layer has 0 there).
    """

    name: Name
    family: Name
    stem_width: Count
    stages: Annotated[tuple[Stage, ...], NOT_EMPTY]
    kernel_sizes: Annotated[tuple[Kernel, ...], NOT_EMPTY, Distinct]
    expand_ratios: Annotated[tuple[Count, ...], NOT_EMPTY, Distinct]
    first_width: Width = 0
    head_width: Width = 0

    def __post_init__(self) -> None:
        check(self, where=f"space '{self.name}'")

    @cached_property
    def choices(self) -> tuple[BlockChoice, ...]:
        return tuple(BlockChoice(k, e) for k, e in product(self.kernel_sizes, self.expand_ratios))

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(
            Slot(s, b, self.choices if b == 0 else (*self.choices, ZERO))
            for s, stage in enumerate(self.stages)
            for b in range(stage.max_blocks)
        )

    @property
    def path_count(self) -> int:
        """Number of gate paths: one choice per slot, Zeros where they stand."""
        return prod(len(slot.candidates) for slot in self.slots)

    @property
    def architecture_count(self) -> int:
        """Number of distinct networks: a Zero's position does not matter."""
        n = len(self.choices)
        return prod(sum(n**depth for depth in range(1, stage.max_blocks + 1)) for stage in self.stages)

    def architecture(self, path: GatePath) -> Architecture:
        """The network that a gate path stands for, Zeros packed away."""
        from search_space.architecture import Architecture

        self.check_path(path)
        stages: list[list[BlockChoice]] = [[] for _ in self.stages]
        for slot, choice in zip(self.slots, path.choices, strict=True):
            if slot.candidates[choice] != ZERO:
                stages[slot.stage].append(slot.candidates[choice])
        return Architecture(self, tuple(map(tuple, stages)))

    def path(self, architecture: Architecture) -> GatePath:
        """The gate path of an architecture whose Zeros all stand at the end of their stage."""
        from search_space.architecture import GatePath

        choices = []
        for slot in self.slots:
            blocks = architecture.stages[slot.stage]
            wanted = blocks[slot.index] if slot.index < len(blocks) else ZERO
            choices.append(slot.candidates.index(wanted))
        return GatePath(tuple(choices))

    def check_path(self, path: GatePath) -> None:
        """Raise `UserError` unless the path has one valid choice for every slot."""
        if len(path.choices) != len(self.slots):
            raise UserError(f"space '{self.name}' has {len(self.slots)} slots, the path has {len(path.choices)}")
        for i, (slot, choice) in enumerate(zip(self.slots, path.choices, strict=True)):
            if not 0 <= choice < len(slot.candidates):
                raise UserError(f"slot {i} of '{self.name}' has candidates 0..{len(slot.candidates) - 1}, not {choice}")

    def random_path(self, rng: random.Random) -> GatePath:
        """A gate path drawn uniformly, every slot on its own."""
        from search_space.architecture import GatePath

        return GatePath(tuple(rng.randrange(len(slot.candidates)) for slot in self.slots))

    def random_architecture(self, rng: random.Random) -> Architecture:
        """A network drawn with depth and choices uniform in every stage."""
        from search_space.architecture import Architecture

        return Architecture(
            self,
            tuple(
                tuple(rng.choice(self.choices) for _ in range(rng.randint(1, stage.max_blocks)))
                for stage in self.stages
            ),
        )

    def mutate(self, path: GatePath, rng: random.Random) -> GatePath:
        """The path with one slot's choice changed."""
        slot = rng.randrange(len(self.slots))
        others = [c for c in range(len(self.slots[slot].candidates)) if c != path.choices[slot]]
        if not others:
            return path
        choices = list(path.choices)
        choices[slot] = rng.choice(others)
        return replace(path, choices=tuple(choices))

    def smallest(self) -> Architecture:
        """One block of the smallest kernel and expansion in every stage."""
        from search_space.architecture import Architecture

        return Architecture(self, tuple(((min(self.choices)),) for _ in self.stages))

    def largest(self) -> Architecture:
        """Every slot filled with the largest kernel and expansion."""
        from search_space.architecture import Architecture

        return Architecture(self, tuple((max(self.choices),) * stage.max_blocks for stage in self.stages))

    def scaled(self, width_mult: float) -> SearchSpace:
        """The space with every width multiplied and rounded to a multiple of 8 (MobileNet's rule)."""
        if not 0.1 <= width_mult <= 10:
            raise UserError(f"width_mult={width_mult} is not between 0.1 and 10")
        if width_mult == 1.0:
            return self
        return replace(
            self,
            stem_width=divisible(self.stem_width * width_mult),
            first_width=divisible(self.first_width * width_mult) if self.first_width else 0,
            head_width=divisible(self.head_width * max(1.0, width_mult)) if self.head_width else 0,
            stages=tuple(replace(stage, width=divisible(stage.width * width_mult)) for stage in self.stages),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON or YAML holds it; widths stand together."""
        plain = to_plain(self)
        widths = {name: plain.pop(name) for name in ("name", "family", "stem_width", "first_width", "head_width")}
        return {**widths, **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "space") -> SearchSpace:
        """Read `to_dict`'s form. Raises `BadFile` naming `where` and the field at fault."""
        return read(cls, data, where)


@dataclass(frozen=True, slots=True)
class _Scaling:
    """What a file says beside the fields of its space."""

    width_mult: float = 1.0


def divisible(width: float) -> int:
    """The multiple of 8 nearest to a width, at most 10 % below it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


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
    from search_space.blocks import family_of

    family_of(space).check(space)
    return space.scaled(shipped if width_mult is None else width_mult)
