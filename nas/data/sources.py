"""Images by index, read when asked for: from memory, from files, from encoded bytes. Files are never unpickled."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from search_space.errors import BadFile, one_line

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


class ImageSource(Protocol):
    """Images by index, at their own size."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3). Raises `BadFile` naming an image that cannot be read."""


class ArraySource:
    """Images in memory. images: (N, H, W, 3) uint8."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[np.uint8]:
        image: NDArray[np.uint8] = self.images[index]
        return image


class EncodedSource:
    """Images as files or as encoded bytes, decoded when read."""

    def __init__(self, items: Sequence[Path | bytes], where: str = "image") -> None:
        self.items = items
        self.where = where

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> NDArray[np.uint8]:
        item = self.items[index]
        try:
            with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
                return np.array(image.convert("RGB"))
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
            name = f"{self.where} {index}" if isinstance(item, bytes) else item
            raise BadFile(f"cannot read {name}: {one_line(error)}; mend or remove it") from error
