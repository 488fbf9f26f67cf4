"""What a data set states of itself to be found by `data=NAME`. Nothing heavy here: plans are made before torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.data.settings import DataSettings

if TYPE_CHECKING:
    from nas.data.dataset import DataSet


@dataclass(frozen=True)
class Epochs:
    """The default length of a search: epochs of weights alone, of weights and gates in turn, of fine-tuning."""

    warmup: int
    search: int
    finetune: int


@dataclass(frozen=True)
class Peeked:
    """What can be said of a data set before its images are read."""

    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


@dataclass(frozen=True)
class NamedDataSet:
    """A data set that options can name; the module that describes it holds one of these as `DATA_SET`.

    defaults: every option with its default. Options beyond those of `DataSettings` are the fields of a subclass, whose
        docstring explains them; they are written `data.OPTION=`.
    epochs: of a search on it.
    peek: finds the classes within a moment and without torch, given settings of the class of `defaults`. Raises
        `UserError` (`BadFile`) where it is clear already that the images are missing.
    load: reads the images, given the same; its classes are those that `peek` found. Heavy libraries are imported in it.
        Raises `UserError` or `BadFile`.
    rooted: whether `data.root` says where the images are.
    """

    defaults: DataSettings
    epochs: Epochs
    peek: Callable[[Any], Peeked]
    load: Callable[[Any], DataSet]
    rooted: bool = True
