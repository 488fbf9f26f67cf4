"""What is asked of a data set: the options that all of them share. A data set with further ones extends `DataSettings`.

Neither torch nor numpy here, since requests are checked before either is imported. Not for finding a data set by its
name: see `nas.data.registry`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from nas.data.addresses import hidden_in
from search_space.reading import PATH, Between, Must, OneOf, check

Pixels = Annotated[int, Between(16, 1024, "pixels")]
Colour = tuple[float, float, float]

CROPS = ("shift", "random", "centre", "whole")  # what each is: `nas.data.DataSet`
EARLIER_CROPS = {"resized": "random", "none": "whole"}  # as options and shards' index files may call them


@dataclass(frozen=True)
class DataSettings:
    """Which images. The defaults here are those of digits; each data set states its own.

    An unknown name is refused when it is looked up. Secrets in addresses are kept aside, see `nas.data.addresses`.
    Raises `UserError` for a value out of its range.
    """

    name: Annotated[str, "the data set, chosen by data=NAME"] = "digits"
    root: Annotated[str | None, PATH, "the images' folder, of webdataset also a URL"] = None
    resolution: Annotated[Pixels, "pixels a side that images are trained at; each data set has its own default"] = 64
    validation_share: Annotated[
        float, Between(0.01, 0.9), "of the training images, held out for validation; each data set has its own default"
    ] = 0.25
    limit: Annotated[int | None, Between(8, 10**9), "use only so many training images (null: all)"] = None
    flip: Annotated[
        bool | None,
        "mirror half of the training images left to right; false for letters, arrows, sides of a body "
        "(null: as the data set does)",
    ] = None
    crop: Annotated[
        str | None,
        OneOf((*CROPS, *EARLIER_CROPS)),
        "whole: the whole picture squeezed to a square; centre: its middle square, 0.875 of the shorter side; random: "
        "a random part in training and centre afterwards; shift: moved by up to 1/8 in training and whole afterwards; "
        "none and resized are earlier names of whole and random (null: as the data set does)",
    ] = None
    mean: Annotated[
        Colour | None,
        Must("three numbers between 0 and 1", lambda colour: len(colour) == 3 and all(0 <= c <= 1 for c in colour)),
        "of red, green and blue: a network is shown (image / 255 - mean) / std; with trained weights what they were "
        "trained with (null: as the data set does)",
    ] = None
    std: Annotated[
        Colour | None,
        Must(
            "three numbers between 0.001 and 1000", lambda std: len(std) == 3 and all(0.001 <= c <= 1000 for c in std)
        ),
        "of red, green and blue, see mean",
    ] = None

    def __post_init__(self) -> None:
        for name, value in hidden_in(vars(self)).items():
            object.__setattr__(self, name, value)
        check(self, "data.")


@dataclass(frozen=True)
class ImageFileSettings(DataSettings):
    """Of data sets whose images are files, which may be damaged or have transparent parts."""

    damaged: Annotated[
        float,
        Between(0, 0.5),
        "share of the images that may be damaged: so many are left out and listed in damaged.txt, more are refused",
    ] = 0.01
    ground: Annotated[
        str, OneOf(("white", "black", "grey")), "what transparent parts of images are laid on: white, black or grey"
    ] = "white"
