"""Images by index, read when asked for: from memory, from files, from encoded bytes. Files are never unpickled."""

from __future__ import annotations

import io
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from nas.data.decoders import image_endings
from nas.data.reduced import KeptImages, Purpose
from search_space.errors import BadFile, one_line
from search_space.reading import require_file

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
SKETCH = 16  # pixels a side

GROUNDS = {"white": 255, "grey": 128, "black": 0}  # levels of what transparent parts are laid on
END_BYTES = 64  # of a file, that hold the mark of its end
PADDING = b"\0\r\n"  # what may follow that mark
OF_DECODING = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)


image_endings()  # makes decoders ready


class CannotDecode(BadFile):
    """An image that cannot be read, and why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"cannot read {name}: {reason}; repair or remove it")
        self.name, self.reason = name, reason


@dataclass(frozen=True)
class Seen:
    """What looking at an image found.

    transparent: whether it has transparent parts; several: whether its file holds several frames; sketch: the picture
    in `SKETCH` x `SKETCH` greys of a byte, None where it was not decoded.
    """

    transparent: bool = False
    several: bool = False
    sketch: bytes | None = None


class ImageSource(Protocol):
    """Images by index, at their own size."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3). Raises `BadFile` naming an image that cannot be read."""


@runtime_checkable
class FileSource(ImageSource, Protocol):
    """Images that are decoded when they are read, large ones at the scale that is needed."""

    def read_for(self, index: int, purpose: Purpose | None) -> NDArray[np.uint8]:
        """(H, W, 3), no smaller than the purpose needs; without one at its own size. Raises `CannotDecode`."""

    def look(self, index: int, purpose: Purpose | None, fully: bool) -> Seen:
        """What it is. Raises `CannotDecode`; unless `fully`, only if its end looks wrong."""


@runtime_checkable
class Encoded(ImageSource, Protocol):
    """Images that are kept as encoded bytes."""

    def encoded(self, index: int) -> bytes:
        """As they are. Raises `BadFile`."""


@runtime_checkable
class NamedSource(ImageSource, Protocol):
    """Images that people know by names."""

    def name(self, index: int) -> str:
        """Of one of them."""


@runtime_checkable
class Fingerprinted(Protocol):
    """A source that knows where its images lie."""

    @property
    def fingerprint(self) -> str:
        """A hash that is another where the files are."""


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
    """Images as files or as encoded bytes, decoded when read.

    ground: see `GROUNDS`; kept: where images of this source that are decoded at a smaller scale are kept; names: of
    the images, as people know them.
    """

    def __init__(
        self,
        items: Sequence[Path | bytes],
        where: str = "image",
        ground: str = "white",
        kept: KeptImages | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.items = items
        self.where = where
        self.decoder = Decoder(ground, kept)
        self.names = names

    def __len__(self) -> int:
        return len(self.items)

    def encoded(self, index: int) -> bytes:
        """The file's bytes as they are."""
        item = self.items[index]
        if isinstance(item, bytes):
            return item
        require_file(item)
        return item.read_bytes()

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8. Raises `BadFile` naming the file, or the image by its number."""
        return self.read_for(index, None)

    def read_for(self, index: int, purpose: Purpose | None) -> NDArray[np.uint8]:
        """(H, W, 3) uint8, no smaller than the purpose needs. Raises as `read` does."""
        return self.decoder.decode(self.items[index], lambda: self.name(index), purpose, index)

    def look(self, index: int, purpose: Purpose | None, fully: bool) -> Seen:
        """What it is. Raises as `read` does."""
        return self.decoder.look(self.items[index], lambda: self.name(index), purpose, index, fully)

    def name(self, index: int) -> str:
        """How people know the image."""
        if self.names is not None:
            return self.names[index]
        item = self.items[index]
        return f"{self.where} {index}" if isinstance(item, bytes) else str(item)


class Decoder:
    """From a file or encoded bytes to pixels. ground, kept: see `EncodedSource`."""

    def __init__(self, ground: str = "white", kept: KeptImages | None = None) -> None:
        self.ground, self.kept = ground, kept

    def decode(
        self, item: Path | bytes, name: Callable[[], str], purpose: Purpose | None = None, key: Hashable = None
    ) -> NDArray[np.uint8]:
        """(H, W, 3), turned as its EXIF says. key: under which it is kept. Raises `CannotDecode` with the name."""
        if self.kept is not None and purpose and (kept := self.kept.get(key, purpose)) is not None:
            return kept
        return self._decoded(item, name, purpose, key)[0]

    def look(
        self, item: Path | bytes, name: Callable[[], str], purpose: Purpose | None, key: Hashable, fully: bool
    ) -> Seen:
        """What it is. Raises as `decode` does; unless `fully`, only if its end looks wrong."""
        if not fully:
            try:
                with _opened(item) as file:
                    if _ends_well(file):
                        return Seen()
            except OSError as error:
                raise CannotDecode(name(), error.strerror or one_line(error)) from error
        pixels, seen = self._decoded(item, name, purpose, key)
        return replace(seen, sketch=_sketch(pixels))

    def _decoded(
        self, item: Path | bytes, name: Callable[[], str], purpose: Purpose | None, key: Hashable
    ) -> tuple[NDArray[np.uint8], Seen]:
        try:
            with _opened(item) as file, Image.open(file) as image:
                width, height = size = image.size
                # a phone's JPEG may hold a preview besides
                several = image.format != "MPO" and bool(getattr(image, "is_animated", False))
                scale = purpose.scale(height, width) if purpose else 1
                if scale > 1:  # of other formats than JPEG it changes nothing
                    image.draft(None, (width // scale, height // scale))
                image.load()
                pixels, transparent = upright(image, GROUNDS[self.ground])
                if self.kept is not None and purpose and image.size != size:
                    self.kept.add(key, purpose, pixels)
                return pixels, Seen(transparent, several)
        except OF_DECODING as error:
            unknown = isinstance(error, UnidentifiedImageError)  # its message names an object in memory
            raise CannotDecode(name(), "no image of a known kind" if unknown else one_line(error)) from error


def _opened(item: Path | bytes) -> BinaryIO:
    """Raises `OSError`, also for what would keep its reader waiting."""
    if isinstance(item, bytes):
        return io.BytesIO(item)
    try:
        require_file(item)
    except BadFile as error:
        raise OSError("it is a pipe or a device, no file") from error
    return item.open("rb")


def _sketch(pixels: NDArray[np.uint8]) -> bytes | None:
    """See `Seen`. pixels: (H, W, 3)."""
    if not pixels.size:
        return None
    small = Image.fromarray(pixels).resize((SKETCH, SKETCH), Image.Resampling.BOX, reducing_gap=2.0)
    return small.convert("L").tobytes()


def upright(image: Image.Image, ground: int) -> tuple[NDArray[np.uint8], bool]:
    """(H, W, 3), and whether parts of it are transparent."""
    turn = _turn(image)
    upright = image if turn is None else image.transpose(turn)
    if image.mode == "F" or image.mode.startswith("I"):  # `convert` would cut it off at 255
        return np.repeat(_eight_bits(upright)[:, :, None], 3, axis=2), False
    if image.has_transparency_data:
        layers = np.array(upright.convert("RGBA"))
        alpha = layers[:, :, 3:].astype(np.uint32)
        if alpha.size and alpha.min() < 255:
            laid = layers[:, :, :3] * alpha + ground * (255 - alpha)
            return ((laid + 127) // 255).astype(np.uint8), True
    return np.array(upright.convert("RGB")), False


def _ends_well(file: BinaryIO) -> bool:
    """Whether an opaque image's file has a header and the mark of its end; False where that cannot be said."""
    start = file.read(16)
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - END_BYTES))
    end = file.read()
    if start.startswith(b"\xff\xd8"):
        return end.rstrip(PADDING).endswith(b"\xff\xd9")
    if start.startswith(b"\x89PNG"):
        file.seek(0)
        try:
            with Image.open(file) as image:
                return b"IEND" in end and not image.has_transparency_data
        except OF_DECODING:
            return False
    if start[:4] == b"RIFF" and start[8:] == b"WEBPVP8 ":  # the kind that has no transparent parts
        return int.from_bytes(start[4:8], "little") + 8 <= size
    return False


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
