"""Search spaces and the networks in them, as values. Not for weights, latencies or files of spaces (`space_file`).

A `SearchSpace` is stages, slots and the candidates of each slot; what its blocks are made of is its block family's
business (`search_space.blocks`). A network of a space has two types on purpose: a `GatePath` is a choice per slot of a
supernet and so knows which weights it means; an `Architecture` is the network that it stands for, Zeros packed away.
A space makes networks and a network names its space, so they stand in one module, which imports no block family.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod
from typing import Annotated, Any

from search_space.errors import UserError
from search_space.reading import NOT_EMPTY, AtLeast, Must, Spelled, check, read, to_plain

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


@dataclass(frozen=True, slots=True)
class GatePath:
    """The index of the chosen candidate for every slot of a space."""

    choices: tuple[int, ...]


@dataclass(frozen=True)
class SearchSpace:
    """A set of networks. Equal spaces are equal values; `to_dict` round-trips through JSON.

    `stem_width`, `head_width` and `first_width` are read by the block family (a family that has
    no such layer has 0 there). `norm` and `activation` are kinds of layers that it accepts; empty
    for the family's own.
    """

    name: Name
    family: Name
    stem_width: Count
    stages: Annotated[tuple[Stage, ...], NOT_EMPTY]
    kernel_sizes: Annotated[tuple[Kernel, ...], NOT_EMPTY, Distinct]
    expand_ratios: Annotated[tuple[Count, ...], NOT_EMPTY, Distinct]
    first_width: Width = 0
    head_width: Width = 0
    norm: str = ""
    activation: str = ""

    def __post_init__(self) -> None:
        check(self, where=f"space '{self.name}'")

    @cached_property
    def choices(self) -> tuple[BlockChoice, ...]:
        """Every block of the space, Zero left out: kernel sizes in their order, expansion ratios within each."""
        return tuple(BlockChoice(k, e) for k, e in product(self.kernel_sizes, self.expand_ratios))

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The places for blocks, stage by stage; Zero is the last candidate of all but a stage's first."""
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
        self.check_path(path)
        stages: list[list[BlockChoice]] = [[] for _ in self.stages]
        for slot, choice in zip(self.slots, path.choices, strict=True):
            if slot.candidates[choice] != ZERO:
                stages[slot.stage].append(slot.candidates[choice])
        return Architecture(self, tuple(map(tuple, stages)))

    def path(self, architecture: Architecture) -> GatePath:
        """The gate path of an architecture whose Zeros all stand at the end of their stage."""
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
        return GatePath(tuple(rng.randrange(len(slot.candidates)) for slot in self.slots))

    def random_architecture(self, rng: random.Random) -> Architecture:
        """A network drawn with depth and choices uniform in every stage."""
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
        return Architecture(self, tuple(((min(self.choices)),) for _ in self.stages))

    def largest(self) -> Architecture:
        """Every slot filled with the largest kernel and expansion."""
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
        """As JSON or YAML holds it; widths stand together, and what is empty is left out."""
        plain = to_plain(self)
        for name in ("norm", "activation"):
            if not plain[name]:
                del plain[name]
        widths = {name: plain.pop(name) for name in ("name", "family", "stem_width", "first_width", "head_width")}
        return {**widths, **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "space") -> SearchSpace:
        """Read `to_dict`'s form. Raises `BadFile` naming `where` and the field at fault."""
        return read(cls, data, where)


def parse_block(text: object) -> BlockChoice:
    """'k7e6' -> kernel 7, expansion 6. Raises `UserError`."""
    match = re.fullmatch(r"k(\d+)e(\d+)", text) if isinstance(text, str) else None
    if match is None:
        raise UserError(f"{text!r} is not a block; blocks are written like k7e6")
    return BlockChoice(int(match[1]), int(match[2]))


Block = Annotated[BlockChoice, Spelled(parse_block, str)]


@dataclass(frozen=True)
class Architecture:
    """The blocks of every stage, within a space. Raises `UserError` where they do not fit it."""

    space: SearchSpace
    stages: tuple[tuple[Block, ...], ...]

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.space.stages):
            raise UserError(
                f"space '{self.space.name}' has {len(self.space.stages)} stages, the architecture {len(self.stages)}"
            )
        for number, (blocks, stage) in enumerate(zip(self.stages, self.space.stages, strict=True), start=1):
            if not 1 <= len(blocks) <= stage.max_blocks:
                raise UserError(
                    f"stage {number} of '{self.space.name}' holds 1 to {stage.max_blocks} blocks, not {len(blocks)}"
                )
            for block in blocks:
                if block not in self.space.choices:
                    known = ", ".join(map(str, self.space.choices))
                    raise UserError(f"'{block}' is not a block of '{self.space.name}'; its blocks: {known}")

    def __str__(self) -> str:
        return " | ".join(" ".join(map(str, blocks)) for blocks in self.stages)

    @property
    def digest(self) -> str:
        """A short stable hash: equal for equal architectures, on any machine."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the space, and every stage's blocks in text, such as 'k7e6'."""
        return dict(to_plain(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "architecture") -> Architecture:
        """Read `to_dict`'s form. Raises `BadFile` naming `where` and the field at fault."""
        return read(cls, data, where)


def divisible(width: float) -> int:
    """The multiple of 8 nearest to a width, at most 10 % below it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
