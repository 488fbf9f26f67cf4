"""What is asked of a data set: the options that all of them share. A data set with further ones extends `DataSettings`.

Neither torch nor numpy here, since requests are checked before either is imported. Not for finding a data set by its
name: see `nas.data.registry`.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_space.errors import UserError


@dataclass(frozen=True)
class DataSettings:
    """Which images. The defaults here are those of digits; each data set states its own.

    name: what `data=` says. root: the folder or URL of the images, for data sets that need one. resolution: trained at,
    in pixels. validation_share: of the training images, held out for gates and re-ranking. limit: use only so many
    training images. Raises `UserError` for a value out of its range; an unknown name is refused when it is looked up.
    """

    name: str = "digits"
    root: str | None = None
    resolution: int = 64
    validation_share: float = 0.25
    limit: int | None = None

    def __post_init__(self) -> None:
        require(16 <= self.resolution <= 1024, "data.resolution", self.resolution, "between 16 and 1024 pixels")
        share = self.validation_share
        require(0.01 <= share <= 0.9, "data.validation_share", share, "between 0.01 and 0.9")
        require(self.limit is None or self.limit >= 8, "data.limit", self.limit, "8 or more")


def require(holds: bool, name: str, value: object, wanted: str) -> None:
    """Raise `UserError` naming an option, its value and what was wanted, unless it holds."""
    if not holds:
        raise UserError(f"{name}={value} is not {wanted}")
