"""At which scale an image is decoded, and what is kept of large ones. Not for decoding: that is `nas.data.sources`.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size in a fraction of the time (libjpeg's scaled inverse DCT).
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

SCALES = (8, 4, 2)  # libjpeg's, the smallest image first
SMALLEST_AREA = 0.08  # of an image, that a random resized crop takes
WIDEST = 4 / 3  # such a crop's sides
CENTRE_SHARE = 0.875  # side of the middle square, of the picture's shorter side
KEPT_BYTES = 1_000_000_000  # of images that were decoded at a smaller scale, on this machine


@dataclass(frozen=True)
class Purpose:
    """What an image is read for. resolution: pixels a side that it is resized to; crop: see `nas.data.DataSet`."""

    resolution: int
    crop: str

    def scale(self, height: int, width: int) -> int:
        """1, 2, 4 or 8: by how much an image may be smaller and its smallest crop still be `resolution` a side."""
        shorter = min(height, width)
        if self.crop in ("centre", "random"):
            shorter = int(CENTRE_SHARE * shorter)
        if self.crop == "random":
            shorter = int(min(shorter, (SMALLEST_AREA * height * width / WIDEST) ** 0.5))
        return next((scale for scale in SCALES if shorter // scale >= self.resolution), 1)


class KeptImages:
    """Decoded images of one purpose, kept in memory until its limit is reached; later ones are decoded at every read.

    None is dropped for another: epochs come in orders of their own, so none is known to be needed later than the rest.
    Those of the purpose before are dropped.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit = limit_bytes if limit_bytes is not None else KEPT_BYTES // _processes()
        self._purpose: Purpose | None = None
        self._images: dict[Hashable, NDArray[np.uint8]] = {}
        self._bytes = 0
        self._lock = Lock()

    def get(self, key: Hashable, purpose: Purpose) -> NDArray[np.uint8] | None:
        """(H, W, 3) of what was added under the key for this purpose, or None."""
        with self._lock:
            return self._images.get(key) if purpose == self._purpose else None

    def add(self, key: Hashable, purpose: Purpose, image: NDArray[np.uint8]) -> None:
        """Keep an image, (H, W, 3), if there is room."""
        with self._lock:
            if purpose != self._purpose:
                self._purpose, self._images, self._bytes = purpose, {}, 0
            if key not in self._images and self._bytes + image.nbytes <= self.limit:
                self._images[key] = image
                self._bytes += image.nbytes


def _processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
