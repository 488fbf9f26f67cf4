"""Which images of a source cannot be decoded: found before a run begins, all at once. Not for decoding them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from search_space.errors import BadFile
from search_space.files import write_whole

if TYPE_CHECKING:
    from nas.data.dataset import DataSet, Split
    from nas.data.reduced import Purpose
    from nas.data.sources import FileSource, Seen

FULLY_UP_TO = 20_000  # images; of more, those whose ends look whole are not decoded in advance
NAMED = 8  # files in one message
FILE = "damaged.txt"  # in a run's folder


@dataclass(frozen=True)
class Damaged:
    """An image that cannot be decoded. position: in its source; name: without the folder that holds all."""

    position: int
    name: str
    reason: str


@dataclass(frozen=True)
class Findings:
    """What looking at images found. images: how many; transparent: how many of them have transparent parts.

    ground: what those are laid on. frames: how many hold more than one frame. sketches: by position, small greys of
    the images that were decoded, see `nas.data.sources.Seen`.
    """

    images: int = 0
    damaged: tuple[Damaged, ...] = ()
    transparent: int = 0
    ground: str = "white"
    frames: int = 0
    sketches: Mapping[int, bytes] = field(default_factory=dict)

    def __add__(self, other: Findings) -> Findings:
        """Both together; positions are then of several sources, unless both are of one."""
        return Findings(
            self.images + other.images,
            self.damaged + other.damaged,
            self.transparent + other.transparent,
            self.ground,
            self.frames + other.frames,
            {**self.sketches, **other.sketches},
        )

    def require_few(self, share: float) -> None:
        """Raise `BadFile` on one line if more than a share of the images is damaged."""
        count = len(self.damaged)
        if count <= share * self.images + 1e-9:  # 0.29 x 100 is a little less than 29
            return
        first, *others = self.damaged
        listed = ", ".join(one.name for one in others[: NAMED - 1]) + ", ..." * (count > NAMED)
        needed = math.ceil(100 * count / self.images) / 100
        remedy = f", or leave {'them' if others else 'it'} out with data.damaged={needed:g}" if needed <= 0.5 else ""
        raise BadFile(
            f"{count} of {self.images} images cannot be decoded, data.damaged={share:g} is the share that may be: "
            f"cannot read {first.name}: {first.reason}{f', nor {listed}' * bool(others)}; "
            f"repair or remove {'them' if others else 'it'}{remedy}"
        )

    def sentences(self) -> tuple[str, ...]:
        """What a reader of the result must know."""
        said, count = [], len(self.damaged)
        if self.damaged:
            listed = ", ".join(one.name for one in self.damaged[:NAMED]) + ", ..." * (count > NAMED)
            said.append(f"{count} of {self.images} images are damaged and left out, see {FILE}: {listed}")
        if self.transparent:
            said.append(f"{self.transparent} images have transparent parts; they are laid on data.ground={self.ground}")
        if self.frames:
            said.append(f"{self.frames} files hold several frames; the first one is used")
        return tuple(said)

    def facts(self) -> tuple[str, ...]:
        """What changes the images that are used, for their digest; nothing where all are sound and opaque."""
        ground = (f"on {self.ground}",) if self.transparent else ()
        return (*(f"without {one.name}" for one in self.damaged), *ground)

    def save(self, folder: Path) -> None:
        """Write the names of the damaged images and why, a line each, if there are any. Raises `CannotWrite`."""
        if self.damaged:
            lines = [f"{one.name}: {one.reason}\n" for one in self.damaged]
            write_whole(folder / FILE, "".join(lines).encode())


def look_through(
    source: FileSource, positions: Sequence[int], purpose: Purpose | None, fully: bool, ground: str
) -> Findings:
    """Look at images of a source: decode them, or, unless `fully`, decode those whose ends do not look whole."""
    from nas.data.sources import CannotDecode

    def look(position: int) -> Damaged | Seen:
        try:
            return source.look(position, purpose, fully)
        except CannotDecode as error:
            return Damaged(position, error.name, error.reason)

    with ThreadPoolExecutor() as pool:
        seen = list(pool.map(look, positions))
    damaged = tuple(one for one in seen if isinstance(one, Damaged))
    whole = {position: one for position, one in zip(positions, seen, strict=True) if not isinstance(one, Damaged)}
    sketches = {position: one.sketch for position, one in whole.items() if one.sketch}
    transparent, frames = (sum(getattr(one, name) for one in whole.values()) for name in ("transparent", "several"))
    return Findings(len(positions), damaged, transparent, ground, frames, sketches)


def without(split: Split, findings: Findings) -> Split:
    """The split's images but for the damaged ones of its source."""
    import numpy as np

    out = [one.position for one in findings.damaged]
    return split.take(np.flatnonzero(~np.isin(split.indices, out))) if out else split


def sound(
    parts: Sequence[Split | None],
    share: float,
    look: Callable[[Split, bool], Findings],
    assembled: Callable[[Sequence[Split | None]], DataSet],
) -> DataSet:
    """The data set of the images that can be decoded. Raises `BadFile` if more than a share of them cannot.

    parts: the training images and those of held-out splits, None where there are none; the test images come last.
    look: what is damaged in a split, given whether all of it must be decoded. Held-out images always are, so that a
    damaged one is not met when everything else is done; training images up to a number.
    """
    from dataclasses import replace

    fully = sum(len(part) for part in parts if part is not None) <= FULLY_UP_TO
    found = [Findings() if part is None else look(part, fully or number > 0) for number, part in enumerate(parts)]
    total = sum(found[1:], found[0])
    total.require_few(share)
    data = assembled([part and without(part, its) for part, its in zip(parts, found, strict=True)])
    if parts[-1] is None and not fully:  # the test images were held out of the training images
        held = look(data.test, True)
        data = replace(data, test=without(data.test, held))
        total = replace(total, damaged=total.damaged + held.damaged)
        total.require_few(share)
    return replace(data, findings=total, found=(*data.found, *total.sentences()))
