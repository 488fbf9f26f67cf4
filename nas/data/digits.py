"""scikit-learn's 1,797 handwritten digits (8x8 pixels, UCI): real images that need no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.data.named import Epochs, NamedDataSet, Peeked
from nas.data.settings import DataSettings

if TYPE_CHECKING:
    from nas.data.dataset import DataSet

CLASSES = tuple("0123456789")


def _peek(settings: DataSettings) -> Peeked:
    return Peeked(CLASSES)


def _load(settings: DataSettings) -> DataSet:
    import numpy as np
    from sklearn.datasets import load_digits

    from nas.data.dataset import DataSet
    from nas.data.sources import ArraySource
    from nas.data.splits import assemble, whole

    bunch = load_digits()
    grey = (bunch.images * (255.0 / 16.0)).round().astype(np.uint8)
    everything = whole(ArraySource(np.repeat(grey[..., None], 3, axis=3)), bunch.target)
    data = DataSet("digits", CLASSES, everything, everything, everything, flip=False)
    return assemble(data, everything, None, settings.validation_share, settings.limit)


DATA_SET = NamedDataSet(DataSettings("digits"), Epochs(4, 5, 6), _peek, _load, rooted=False)
