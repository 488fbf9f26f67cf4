"""The command `python -m nas.pack data=... out=FOLDER`: any data set as tar shards that can be streamed.

Files keep their bytes, images in memory become PNG. Training, validation and test images have shards of their own, so
that what belongs together stays on one side. A folder is whole or refused: while some shards are missing, a mark
says so, and packing into it again begins anew. Images are in random order, so that every shard holds all
classes. The shards are webdataset's; `index.npz` beside them spares `data=webdataset` the walk through them and holds
a digest of every image.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.command.options import print_first, run_command
from nas.data.settings import DataSettings
from nas.run.progress import SearchProgress
from nas.run.settings import PackCommand, settings_from_dict
from search_space import UserError
from search_space.files import ensure_folder, lock, write_whole

if TYPE_CHECKING:
    from nas.data import DataSet, Split
    from nas.data.shards.index import ShardIndex


def main() -> None:
    """Run the command with the arguments of this process."""
    run_command("pack", _pack)


def _pack(values: dict[str, Any]) -> None:
    values["data"].pop("epochs")
    data = settings_from_dict(DataSettings, values.pop("data"), "data.")
    command = settings_from_dict(PackCommand, values)
    assert command.out is not None
    folder = Path(command.out).expanduser()
    _require_free(folder)
    from nas.data import load

    images = load(data)
    for line in images.said:
        print_first(line)
    print_first(pack(images, folder, command.shard_mb))


def pack(data: DataSet, folder: Path, shard_mb: float = 100.0) -> str:
    """Write the images into shards in a folder, the index last; returns what was done.

    Raises `CannotWrite`, and `UserError` for a folder that holds anything but what a stopped packing left.
    """
    from nas.data.shards.index import NAME, ShardedImages, dump

    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    splits = {name: split for name, split in splits.items() if len(split)}
    with _unfinished(folder):
        with SearchProgress(sum(map(len, splits.values()))) as bar:
            written = {name: _write(split, folder, name, shard_mb, bar) for name, split in splits.items()}
        images = ShardedImages(
            data.name,
            data.class_names,
            written["train"],
            written["test"],
            written.get("validation"),
            data.mean,
            data.std,
            data.flip,
            data.crop,
        )
        data.save_found(folder)
        write_whole(folder / NAME, dump(images))
    shards = sum(len(index.addresses) for index in written.values())
    total = sum(int(index.shard_bytes.sum()) for index in written.values())
    return (
        f"{data.name}: {len(data.train)} training, {len(data.validation)} validation and {len(data.test)} test images "
        f"in {shards} shards, {total / 1e6:.4g} MB -> data=webdataset data.root={folder}"
    )


def _require_free(folder: Path) -> bool:
    """Whether it holds a packing that was not finished. Raises `UserError` for one that holds anything else."""
    from nas.data.shards.index import NAME, UNFINISHED

    inside = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    inside -= {name for name in inside if name.startswith(f".{UNFINISHED}.")}  # of one killed while it wrote the mark
    if UNFINISHED in inside:
        return True
    if NAME in inside:
        raise UserError(
            f"'{folder}' holds packed images already: use data=webdataset data.root={folder}, or name another with out="
        )
    if inside:
        raise UserError(f"the folder '{folder}' is not empty; name another with out=")
    return False


@contextmanager
def _unfinished(folder: Path) -> Iterator[None]:
    """Mark a folder as long as shards are missing; what a stopped packing left in it is removed before.

    Raises `UserError` while another process packs into it, and as `_require_free` does.
    """
    from nas.data.record import FILE as RECORD
    from nas.data.shards.index import NAME, UNFINISHED
    from nas.data.soundness import FILE as DAMAGED

    mark = ensure_folder(folder) / UNFINISHED
    if not _require_free(folder):
        write_whole(mark, "python -m nas.pack has not written all shards yet\n")
    with mark.open("r+") as held:
        try:
            lock(held, wait=False)
        except OSError as error:
            raise UserError(f"another process is packing into '{folder}'") from error
        (folder / NAME).unlink(missing_ok=True)  # first: with it, the rest would count as whole
        own = (f"{name}-{6 * '[0-9]'}.tar" for name in ("train", "validation", "test"))
        for pattern in (*own, ".*.partial", RECORD, DAMAGED):
            for left in folder.glob(pattern):
                left.unlink()
        yield
        mark.unlink()


def _write(split: Split, folder: Path, name: str, shard_mb: float, bar: SearchProgress) -> ShardIndex:
    import numpy as np

    from nas.data.shards.index import index_shard, join

    order, taken = np.random.default_rng(0).permutation(len(split)), 0
    parts: list[ShardIndex] = []
    while taken < len(order):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            while taken < len(order) and (content.tell() == 0 or content.tell() < shard_mb * 1e6):
                one = split.take(order[taken : taken + 1])
                image, ending = _encoded(one)
                for member, value in ((ending, image), ("cls", b"%d" % one.labels[0])):
                    header = tarfile.TarInfo(f"{taken:08}.{member}")
                    header.size = len(value)
                    tar.addfile(header, io.BytesIO(value))
                taken += 1
                bar.advance(name)
        path = folder / f"{name}-{len(parts):06}.tar"
        write_whole(path, content.getvalue())
        parts.append(index_shard(content, str(path), digests=True))
    return join(parts)


def _encoded(one: Split) -> tuple[bytes, str]:
    """An image's bytes and their ending; PNG, without loss, of what is not encoded yet."""
    from PIL import Image

    from nas.data.sources import Encoded

    index = int(one.indices[0])
    pixels = one.source.read(index)  # raises `BadFile` for a damaged one
    if isinstance(one.source, Encoded):
        content = one.source.encoded(index)
        with Image.open(io.BytesIO(content)) as image:
            return content, {"JPEG": "jpg"}.get(str(image.format), str(image.format).lower())
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue(), "png"


if __name__ == "__main__":
    main()
