"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np

from nas.data.dataset import DataSet
from nas.data.sources import ArraySource
from nas.data.splits import assemble, whole


def load_digits(validation_share: float = 0.25, limit: int | None = None) -> DataSet:
    """scikit-learn's 1,797 handwritten digits (8x8, UCI): real images that need no download."""
    from sklearn.datasets import load_digits as digits

    bunch = digits()
    grey = (bunch.images * (255.0 / 16.0)).round().astype(np.uint8)
    everything = whole(ArraySource(np.repeat(grey[..., None], 3, axis=3)), bunch.target)
    names = tuple(str(n) for n in bunch.target_names)
    data = DataSet("digits", names, everything, everything, everything, flip=False)
    return assemble(data, everything, None, validation_share, limit)
