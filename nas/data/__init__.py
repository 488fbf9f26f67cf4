"""Labelled images: the data sets that can be named, and what they are made of.

Importing this loads neither torch nor Pillow: `peek` answers before them. What needs them is loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.registry import DATA_SETS, find, load, peek
from nas.data.settings import DataSettings

if TYPE_CHECKING:
    from nas.data.dataset import DataSet, Split
    from nas.data.sources import ArraySource, EncodedSource, ImageSource
    from nas.data.splits import no_images, split_by_class
else:
    _HEAVY = {
        "ArraySource": "nas.data.sources",
        "DataSet": "nas.data.dataset",
        "EncodedSource": "nas.data.sources",
        "ImageSource": "nas.data.sources",
        "Split": "nas.data.dataset",
        "no_images": "nas.data.splits",
        "split_by_class": "nas.data.splits",
    }

    def __getattr__(name: str) -> object:
        if name in _HEAVY:
            return getattr(import_module(_HEAVY[name]), name)
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = [
    "DATA_SETS",
    "ArraySource",
    "DataSet",
    "DataSettings",
    "EncodedSource",
    "Epochs",
    "ImageSource",
    "NamedDataSet",
    "Peeked",
    "Split",
    "find",
    "load",
    "no_images",
    "peek",
    "split_by_class",
]
