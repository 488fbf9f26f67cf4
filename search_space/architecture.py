"""One network of a space, as a value. It holds no weights and is never a network itself.

Two types on purpose: a `GatePath` is a choice per slot of a supernet and so knows which weights
it means; an `Architecture` is the network it stands for, Zeros packed away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from search_space.errors import UserError
from search_space.reading import Spelled, read, to_plain
from search_space.space import BlockChoice, SearchSpace


@dataclass(frozen=True, slots=True)
class GatePath:
    """The index of the chosen candidate for every slot of a space."""

    choices: tuple[int, ...]


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
