"""Images by index, read when asked for: from memory, from files, from encoded bytes. Files are never unpickled."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from search_space.errors import BadFile, one_line

TURN = Image.Transpose
TURNS = {  # by EXIF's orientation
    2: TURN.FLIP_LEFT_RIGHT,
    3: TURN.ROTATE_180,
    4: TURN.FLIP_TOP_BOTTOM,
    5: TURN.TRANSPOSE,
    6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE,
    8: TURN.ROTATE_90,
}
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"}


class ImageSource(Protocol):
    """Images by index, at their own size."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3). Raises `BadFile` naming an image that cannot be read."""


@runtime_checkable
class Encoded(ImageSource, Protocol):
    """Images that are kept as encoded bytes."""

    def encoded(self, index: int) -> bytes:
        """As they are. Raises `BadFile`."""


@runtime_checkable
class ShardedSource(ImageSource, Protocol):
    """Images in shards, to be read one shard after another. window: images are mixed within so many shards."""

    window: int

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """The number of each image's shard, (n,)."""

    def prepare(self, shard: int) -> None:
        """It is read soon."""


class ArraySource:
    """Images in memory. images: (N, H, W, 3) uint8."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        image: NDArray[np.uint8] = self.images[index]
        return image


class EncodedSource:
    """Images as files or as encoded bytes, decoded when read."""

    def __init__(self, items: Sequence[Path | bytes], where: str = "image") -> None:
        self.items = items
        self.where = where

    def __len__(self) -> int:
        return len(self.items)

    def encoded(self, index: int) -> bytes:
        """The file's bytes as they are."""
        item = self.items[index]
        return item if isinstance(item, bytes) else item.read_bytes()

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8. Raises `BadFile` naming the file, or the image by its number."""
        item = self.items[index]
        return decode(item, lambda: f"{self.where} {index}" if isinstance(item, bytes) else str(item))


def decode(item: Path | bytes, name: Callable[[], str]) -> NDArray[np.uint8]:
    """(H, W, 3) of a file or of encoded bytes, turned as its EXIF says. Raises `BadFile` with the name."""
    try:
        with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
            image.load()
            turn = _turn(image)
            upright = image if turn is None else image.transpose(turn)
            if image.mode == "F" or image.mode.startswith("I"):  # `convert` would cut it off at 255
                return np.repeat(_eight_bits(upright)[:, :, None], 3, axis=2)
            return np.array(upright.convert("RGB"))
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise BadFile(f"cannot read {name()}: {one_line(error)}; repair or remove it") from error


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # of damaged EXIF Pillow raises many kinds; the image is sound
        return None


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W) of grey in 16 bits. Raises `ValueError` where the grey's range is not known."""
    grey = np.asarray(image)
    if image.mode == "F":
        raise ValueError("its grey is in floating point, of no known range")
    if grey.size and (grey.min() < 0 or grey.max() > 65535):
        raise ValueError(f"its grey, {grey.min()} to {grey.max()}, is outside 16 bits")
    return ((grey.astype(np.uint32) + 128) // 257).astype(np.uint8)
