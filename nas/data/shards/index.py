"""Where every image of a set of tar shards lies, so that any of them is one read away.

The shards are webdataset's: `KEY.jpg` (or another image) and `KEY.cls`, its class as a number, side by side in a
plain tar. Their index is written by `nas.pack`, or made once by walking through every shard. It knows a digest of every
image where all bytes were at hand when it was made, so that other bytes are never taken for those.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from nas.data.addresses import file_name, is_remote, joined
from nas.data.settings import EARLIER_CROPS
from nas.data.shards.cache import FileCache, read_whole
from search_space import bounds
from search_space.errors import BadFile, UserError, one_line
from search_space.files import ensure_folder, write_whole

NAME = "index.npz"  # beside the shards that nas.pack wrote
UNFINISHED = "packing-not-finished"  # beside them as long as some are missing
IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif", "avif", "heic", "heif"}
ABOUT = ("name", "class_names", "mean", "std", "flip", "crop")
WALK = 6  # a new number when a walk finds something else
BLOCK = 512  # bytes; a tar's unit
DIGEST = 16  # bytes of an image's SHA-256 that are kept


@dataclass(frozen=True)
class ShardIndex:
    """addresses: of S shards; shard_bytes: (S,) int64, their sizes; others: (S,) int64, other files in them.

    Of n images: shard (n,) int32, its number; offset (n,) int64 and size (n,) int64 in bytes; label (n,) int64; digest
    (n, `DIGEST`) uint8, of its bytes, zeros where it is not known.
    """

    addresses: tuple[str, ...]
    shard_bytes: NDArray[np.int64]
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int64]
    digest: NDArray[np.uint8]
    others: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def sealed(self) -> bool:
        """Whether the digest of every image is known."""
        return bool(self.digest.any(axis=1).all())

    def holds(self, index: int, content: bytes) -> bool:
        """Whether these are an image's bytes, as far as the index can say."""
        known = self.digest[index].tobytes()
        return len(content) == self.size[index] and (not any(known) or known == digest_of(content))

    def require_whole(self, shard: int, file: BinaryIO) -> None:
        """Compare all images of a shard with their digests. Raises `BadFile` for the first that is another."""
        for index in np.flatnonzero(self.shard == shard).tolist():
            file.seek(int(self.offset[index]))
            if not self.holds(index, file.read(int(self.size[index]))):
                raise self.wrong_bytes(index, file)

    def wrong_bytes(self, index: int, file: BinaryIO) -> BadFile:
        """What to raise for an image whose bytes are others."""
        address, offset = self.addresses[self.shard[index]], int(self.offset[index])
        return BadFile(
            f"shard '{address}' does not hold what was indexed: '{member_name(file, offset)}' has other bytes; "
            "copy it again, or pack the data again"
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The fields as arrays, shards by their names alone."""
        names = np.array([file_name(address) for address in self.addresses])
        return {**vars(self), "addresses": names}


def join(parts: Sequence[ShardIndex]) -> ShardIndex:
    """One index of the shards of several, in their order."""
    first = np.cumsum([0, *(len(part.addresses) for part in parts)])
    return ShardIndex(
        tuple(address for part in parts for address in part.addresses),
        np.concatenate([part.shard_bytes for part in parts]),
        np.concatenate([part.shard + number for part, number in zip(parts, first, strict=False)]).astype(np.int32),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate([part.label for part in parts]),
        np.concatenate([part.digest for part in parts]),
        np.concatenate([part.others for part in parts]),
    )


def digest_of(content: bytes) -> bytes:
    """Of an image's bytes, (`DIGEST` bytes)."""
    return hashlib.sha256(content).digest()[:DIGEST]


@dataclass(frozen=True)
class ShardedImages:
    """What a set of shards says of itself; a split that it does not have is None. The rest: see `nas.data.DataSet`."""

    name: str
    class_names: tuple[str, ...]
    train: ShardIndex
    test: ShardIndex | None
    validation: ShardIndex | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet's
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    flip: bool = True
    crop: str = "random"
    packed: bool = False  # by `nas.pack`, which decodes every image

    @property
    def splits(self) -> dict[str, ShardIndex]:
        """Those that there are, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: index for name, index in named.items() if index is not None}


def find_shards(root: str | None, train: str | None, test: str | None, cache: FileCache) -> ShardedImages:
    """The shards that a root, or else patterns for training and testing, name. Raises `BadFile` or `UserError`."""
    if root and not train:
        folder = root.rstrip("/") if is_remote(root) else str(Path(root).expanduser())
        if is_remote(folder) or (Path(folder) / NAME).is_file():
            images = _load(joined(folder, NAME))
            for index in () if is_remote(folder) else images.splits.values():
                _check_sizes(index)
            return images
        trained = _listed(Path(folder), "train*.tar") or _listed(Path(folder), "*.tar")
        tested, validated = (_listed(Path(folder), pattern) for pattern in ("test*.tar", "val*.tar"))
        if not tested:
            tested, validated = validated, []
        if not trained:
            raise BadFile(f"'{folder}' holds neither {NAME} nor a .tar; python -m nas.pack writes both")
        trained = [address for address in trained if address not in (*tested, *validated)]
    elif train:
        trained, tested, validated = expand(train), expand(test or ""), []
    else:
        raise UserError(
            "data=webdataset needs data.root=FOLDER or URL that nas.pack wrote, or patterns: "
            "'data.train=URL/train-{000..999}.tar'"
        )
    found = _walk(trained, cache)
    held, apart = (_walk(addresses, cache) if addresses else None for addresses in (tested, validated))
    count = 1 + int(max(index.label.max() for index in (found, held, apart) if index is not None))
    return ShardedImages(PurePosixPath(trained[0]).parent.name, tuple(map(str, range(count))), found, held, apart)


def _check_sizes(index: ShardIndex) -> None:
    """Of local shards: a cut one is reported now rather than after the search. Raises `BadFile`."""
    for address, expected in zip(index.addresses, index.shard_bytes, strict=True):
        try:
            found = Path(address).stat().st_size
        except OSError as error:
            raise BadFile(f"cannot read '{address}': {error.strerror}") from error
        if found != expected:
            raise wrong_size(address, found, int(expected))


def wrong_size(address: str, found: int, expected: int, cache: FileCache | None = None) -> BadFile:
    """What to raise for a shard that is not as long as its index says. cache: where a remote one was fetched to."""
    remedy = f"pack it again, or empty data.cache={cache.folder}" if cache else "copy it again, or pack the data again"
    return BadFile(f"shard '{address}' has {found} bytes, its index says {expected}: it is cut or changed; {remedy}")


def expand(pattern: str) -> list[str]:
    """`shard-{008..010}.tar` as three addresses; several patterns are joined by '::'.

    Raises `UserError` for more than `bounds.SHARDS`.
    """
    addresses: list[str] = []
    for part in filter(None, pattern.split("::")):
        text, *spans = re.split(r"\{(\d+)\.\.(\d+)\}", part)
        pairs, names = list(zip(spans[::3], spans[1::3], strict=True)), [text]
        if any(max(map(len, pair)) > 18 for pair in pairs) or _count(pairs) > bounds.SHARDS - len(addresses):
            raise UserError(f"'{part[:80]}' names more than {bounds.SHARDS:,} shards, the most of one data set")
        for (first, last), after in zip(pairs, spans[2::3], strict=True):
            if int(last) < int(first):
                raise UserError(f"'{part}' names no shard: {first} is above {last}")
            numbers = range(int(first), int(last) + 1)
            names = [f"{name}{number:0{len(first)}d}{after}" for name in names for number in numbers]
        addresses += [name if is_remote(name) else str(Path(name).expanduser()) for name in names]
    return addresses


def _count(spans: Sequence[tuple[str, str]]) -> int:
    """How many names there are, those of a span that is upside down as one."""
    return prod(max(1, int(last) - int(first) + 1) for first, last in spans)


def _listed(folder: Path, pattern: str) -> list[str]:
    return sorted(map(str, folder.glob(pattern)))


def dump(images: ShardedImages) -> bytes:
    """The file that stands beside the shards."""
    fields = {f"{split}_{k}": v for split, index in images.splits.items() for k, v in index.arrays().items()}
    about = {name: getattr(images, name) for name in ABOUT}
    earlier = {new: name for name, new in EARLIER_CROPS.items()}
    about["crop"] = earlier.get(images.crop, images.crop)  # versions that know no other name would not cut at all
    return _npz(about=np.array(json.dumps(about)), **fields)


def _load(address: str) -> ShardedImages:
    content = read_whole(address)
    try:
        fields = _unpacked(content)
        train, test = (_part(fields, split, address) for split in ("train", "test"))
        apart = _part(fields, "validation", address) if "validation_label" in fields else None
        about = {name: _tuple(value) for name, value in json.loads(str(fields["about"])).items() if name in ABOUT}
        names = about["class_names"]
        images = ShardedImages(train=train, test=test, validation=apart, packed=True, **about)
        if max(index.label.max() for index in images.splits.values()) >= len(names):
            raise BadFile(f"'{address}' has a label outside 0..{len(names) - 1}, its classes")
        return images
    except BadFile:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
        raise BadFile(f"'{address}' is not the index of a set of shards: {one_line(error)}") from error


def _unpacked(content: bytes) -> dict[str, NDArray[Any]]:
    """Raises `ValueError` for arrays of more than `bounds.UNPACKED_BYTES`, and what numpy and zipfile raise."""
    with ZipFile(io.BytesIO(content)) as packed:
        if sum(member.file_size for member in packed.infolist()) > bounds.UNPACKED_BYTES:
            raise ValueError(f"its arrays have more than {bounds.UNPACKED_BYTES / 2**30:g} GiB")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _part(fields: Mapping[str, NDArray[Any]], split: str, where: str) -> ShardIndex:
    """One split of an index file, its shards beside that file."""
    shards, images = len(fields[f"{split}_shard_bytes"]), len(fields[f"{split}_label"])
    fields = {  # earlier versions did not say these
        f"{split}_others": np.zeros(shards, np.int64),
        f"{split}_digest": np.zeros((images, DIGEST), np.uint8),
        **fields,
    }
    own = {name: fields[f"{split}_{name}"] for name in ShardIndex.__dataclass_fields__}
    place, mark, query = where.partition("?") if is_remote(where) else (where, "", "")
    folder = f"{place.rsplit('/', 1)[0]}{mark}{query}"
    index = ShardIndex(tuple(joined(folder, str(name)) for name in own.pop("addresses")), **own)
    if not _fits(index):
        raise BadFile(f"'{where}' is not the index of a set of shards: its arrays do not fit together")
    return index


def _fits(index: ShardIndex) -> bool:
    """Whether the arrays belong together, and every image lies within its shard."""
    n, shards = len(index), len(index.addresses)
    if any(len(values) != n for values in (index.shard, index.offset, index.size)) or not n:
        return False
    if index.digest.shape != (n, DIGEST) or index.digest.dtype != np.uint8:
        return False
    if len(index.shard_bytes) != shards or len(index.others) != shards:
        return False
    if index.label.min() < 0 or index.shard.min() < 0 or index.shard.max() >= shards:
        return False
    within = index.shard_bytes[index.shard]  # less, not more, so that no sum overflows
    return bool(((index.offset >= BLOCK) & (index.size >= 0) & (index.size <= within - index.offset)).all())


def _npz(**arrays: NDArray[np.generic]) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    return content.getvalue()


def _walk(addresses: Sequence[str], cache: FileCache) -> ShardIndex:
    """The index of shards that have none, each kept in the cache's folder as soon as it is known."""
    for folder in {Path(address).parent for address in addresses if not is_remote(address)}:
        if (folder / UNFINISHED).exists() and not (folder / NAME).exists():
            raise BadFile(
                f"'{folder}' holds only a part of the images: python -m nas.pack was stopped before it had written all "
                "shards; run it again"
            )
    with ThreadPoolExecutor(4) as pool:
        return join(list(pool.map(lambda address: _index_kept(address, cache), addresses)))


def _index_kept(address: str, cache: FileCache) -> ShardIndex:
    def identity() -> str:
        if is_remote(address):
            return f"{WALK} {address}"  # its size is compared at every read
        stat = Path(address).stat()
        return f"{WALK} {Path(address).resolve()} {stat.st_size} {stat.st_mtime_ns}"

    try:
        name = hashlib.sha256(identity().encode()).hexdigest()[:32]
    except OSError as error:
        raise BadFile(f"cannot read '{address}': {error.strerror}") from error
    kept = cache.folder / "index" / f"{name}.npz"
    if kept.is_file():
        try:
            fields = _unpacked(read_whole(str(kept)))
            return ShardIndex((address,), **{k: v for k, v in fields.items() if k != "addresses"})
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged archive
            raise BadFile(f"'{kept}', the index of '{address}', is damaged: {one_line(error)}; remove it") from error
    far = is_remote(address)  # all bytes came for it, and may come again; of local ones only headers are read
    found: list[ShardIndex] = []
    with cache.open(address, lambda file: found.append(index_shard(file, address, digests=far))) as file:
        index = found[-1] if found else index_shard(file, address, digests=far)
    ensure_folder(kept.parent)
    write_whole(kept, _npz(**index.arrays()))
    return index


def index_shard(file: BinaryIO, address: str, digests: bool = False) -> ShardIndex:
    """Walk through one tar. Raises `BadFile` naming the shard, and the member, that is damaged or lacks a label.

    digests: of all images too, for which all bytes are read.

    A name's key ends at its first dot, as webdataset has it, so that x.seg.png is another picture of x. A name with
    dots of its own, cam1.2024.05.jpg, is an image too where a label of the same name, cam1.2024.05.cls, is beside it.
    """
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    dotted: dict[str, tuple[str, int, int]] = {}
    of_dotted: dict[str, int] = {}
    linked: list[str] = []
    end, last, files = 0, "its beginning", 0
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // BLOCK) * BLOCK
                last = f"'{member.name}'"
                folder, name = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
                stem, _, ending = name.partition(".")
                key = str(folder / stem)
                if not member.isfile():
                    if member.issym() or member.islnk():
                        linked.append(member.name)
                    continue
                files += 1
                if ending.lower() in IMAGES:
                    if key in images:
                        raise BadFile(f"shard '{address}': '{member.name}' is the second image of its label")
                    images[key] = (member.name, member.offset_data, member.size)
                elif ending == "cls" or ending.endswith(".cls"):
                    content = tar.extractfile(member)
                    whole = str(folder / name.removesuffix(".cls"))
                    own, its = (labels, key) if ending == "cls" else (of_dotted, whole)
                    if its in own:
                        raise BadFile(f"shard '{address}': '{member.name}' is the second label of its image")
                    own[its] = _label(content.read(bounds.LABEL_BYTES + 1) if content else b"", address, member.name)
                elif (kind := ending.rpartition(".")[2].lower()) in IMAGES:
                    dotted[str(folder / name[: -len(kind) - 1])] = (member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(f"shard '{address}' is not a plain tar, or damaged after {last}: {one_line(error)}") from error
    file.seek(end)  # tarfile takes a cut or damaged rest for the end
    if file.read(2 * BLOCK) != bytes(2 * BLOCK):
        raise BadFile(f"shard '{address}' is cut or damaged after {last}; fetch or pack it again")
    named = {key: image for key, image in dotted.items() if key in of_dotted}
    images, labels = {**images, **named}, {**labels, **{key: of_dotted[key] for key in named}}
    if linked:
        raise BadFile(
            f"shard '{address}': '{linked[0]}' is a link{f', and {len(linked) - 1} others' * (len(linked) > 1)}; "
            "write the files themselves: tar --dereference --hard-dereference"
        )
    if not images:
        reason = f"; the names of {len(dotted)} have dots in them and no label of the same name" if dotted else ""
        raise BadFile(f"shard '{address}' holds no image ({', '.join(sorted(IMAGES))}){reason}")
    for key, (name, _, _) in images.items():
        if key not in labels:
            raise BadFile(f"shard '{address}': '{name}' has no label ('{key}.cls')")
    order = list(images)
    digest = np.zeros((len(order), DIGEST), np.uint8)
    for number, (_, offset, size) in enumerate(images[key] for key in order if digests):
        file.seek(offset)
        digest[number] = np.frombuffer(digest_of(file.read(size)), np.uint8)
    return ShardIndex(
        (address,),
        np.array([file.seek(0, os.SEEK_END)]),
        np.zeros(len(order), np.int32),
        np.array([images[key][1] for key in order]),
        np.array([images[key][2] for key in order]),
        np.array([labels[key] for key in order]),
        digest,
        np.array([files - 2 * len(order)]),
    )


def _label(content: bytes, address: str, name: str) -> int:
    try:
        label = int(content.decode("ascii"))
    except ValueError:
        label = -1
    if not 0 <= label < 1_000_000:
        raise BadFile(f"shard '{address}': '{name}' holds no class number, 0 or more")
    return label


def member_name(file: BinaryIO, offset: int) -> str:
    """Of the member whose content begins at `offset`, by the header before it."""
    file.seek(offset - BLOCK)
    try:
        return tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "replace").name
    except tarfile.TarError:
        return f"the member at byte {offset}"
