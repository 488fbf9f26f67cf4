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
from typing import Any

from search_space.errors import BadFile, UserError
from search_space.space import BlockChoice, SearchSpace


@dataclass(frozen=True, slots=True)
class GatePath:
    """The index of the chosen candidate for every slot of a space."""

    choices: tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """The blocks of every stage, within a space. Raises `UserError` where they do not fit it."""

    space: SearchSpace
    stages: tuple[tuple[BlockChoice, ...], ...]

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
        return {
            "space": self.space.to_dict(),
            "stages": [[str(block) for block in blocks] for blocks in self.stages],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Architecture:
        """Read `to_dict`'s form. Raises `BadFile` or `UserError`."""
        try:
            space, stages = data["space"], data["stages"]
            blocks = tuple(tuple(parse_block(text) for text in stage) for stage in stages)
        except (KeyError, TypeError) as error:
            raise BadFile(f"not an architecture: it needs 'space' and 'stages' ({error})") from error
        return cls(SearchSpace.from_dict(space), blocks)


def parse_block(text: str) -> BlockChoice:
    """'k7e6' -> kernel 7, expansion 6. Raises `UserError`."""
    match = re.fullmatch(r"k(\d+)e(\d+)", text)
    if match is None:
        raise UserError(f"'{text}' is not a block; blocks are written like k7e6")
    return BlockChoice(int(match[1]), int(match[2]))
