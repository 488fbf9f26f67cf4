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
from typing import TYPE_CHECKING, Any

from search_space.errors import BadFile, UnknownName, UserError

if TYPE_CHECKING:
    from search_space.architecture import Architecture, GatePath


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

    width: int
    max_blocks: int
    stride: int = 1


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

    name: str
    family: str
    stem_width: int
    stages: tuple[Stage, ...]
    kernel_sizes: tuple[int, ...]
    expand_ratios: tuple[int, ...]
    first_width: int = 0
    head_width: int = 0

    def __post_init__(self) -> None:
        numbers = [self.stem_width, *self.kernel_sizes, *self.expand_ratios]
        for stage in self.stages:
            numbers += [stage.width, stage.max_blocks, stage.stride]
        if not (self.stages and self.kernel_sizes and self.expand_ratios):
            raise UserError(f"space '{self.name}' needs stages, kernel_sizes and expand_ratios")
        if any(type(n) is not int or n < 1 for n in numbers):
            raise UserError(f"space '{self.name}': widths, blocks, strides, kernels and ratios must be integers >= 1")
        if any(type(n) is not int or n < 0 for n in (self.first_width, self.head_width)):
            raise UserError(f"space '{self.name}': first_width and head_width must be integers >= 0")
        for field, values in (("kernel_sizes", self.kernel_sizes), ("expand_ratios", self.expand_ratios)):
            if len(set(values)) < len(values):
                raise UserError(f"space '{self.name}': {field} lists a value twice: {list(values)}")
        if any(k % 2 == 0 for k in self.kernel_sizes):
            raise UserError(f"space '{self.name}': kernel sizes must be odd, got {list(self.kernel_sizes)}")

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
        return {
            "name": self.name,
            "family": self.family,
            "stem_width": self.stem_width,
            "first_width": self.first_width,
            "head_width": self.head_width,
            "stages": [{"width": s.width, "max_blocks": s.max_blocks, "stride": s.stride} for s in self.stages],
            "kernel_sizes": list(self.kernel_sizes),
            "expand_ratios": list(self.expand_ratios),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "space") -> SearchSpace:
        """Read `to_dict`'s form. Raises `BadFile` naming `where` and the field at fault."""
        known = {"name", "family", "stem_width", "first_width", "head_width", "stages", "kernel_sizes", "expand_ratios"}
        try:
            if unknown := set(data) - known:
                raise UnknownName(f"field in {where}", sorted(unknown)[0], known)
            stage_fields = ("width", "max_blocks", "stride")
            if unknown := {str(key) for stage in data["stages"] for key in stage} - {*stage_fields}:
                raise UnknownName(f"field of a stage in {where}", sorted(unknown)[0], stage_fields)
            return cls(
                name=str(data["name"]),
                family=str(data["family"]),
                stem_width=data["stem_width"],
                first_width=data.get("first_width", 0),
                head_width=data.get("head_width", 0),
                stages=tuple(Stage(s["width"], s["max_blocks"], s.get("stride", 1)) for s in data["stages"]),
                kernel_sizes=tuple(data["kernel_sizes"]),
                expand_ratios=tuple(data["expand_ratios"]),
            )
        except KeyError as error:
            raise BadFile(f"{where} has no field {error}; it needs {', '.join(sorted(known))}") from error
        except (TypeError, AttributeError) as error:
            raise BadFile(f"{where} is not a search space: {error}") from error


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
    from search_space.blocks import family_of

    family_of(space).check(space)
    return space.scaled(shipped if width_mult is None else width_mult)
