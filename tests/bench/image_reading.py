"""Question: how many images a second does one core read, first and later, and how many plainly or by webdataset?

Command:  python -m tests.bench.image_reading [CASE ...]
Cost:     about 4 minutes on 2 cores
Expected: JPEG of 4000x3000 in the first epoch 10 times as many as plainly or more, at least 100 a second in later ones;
          small images not slower than plainly, which is 1 within the noise of a shared machine

`first` is the look through all files for damaged ones and the epoch after it, `later` the next epoch; both draw random
crops, resize them to 128 a side and normalise. `plain` does the same on images that Pillow decodes in full, each time;
`decode` is Pillow's full decode alone, `draft` its decode at the scale that such crops need, `digest` the digests of
whole files by which copies are found. `shards_first` and `shards_later` are epochs of the same files in a tar on this
disk (data=webdataset), `webdataset` those of the package of that name (WebDataset, shuffle, decode; left out where it
is not installed) with the same crops after it. Images per second of CPU time, of all threads together. The two take
turns in every round, on the same files; medians of the rounds, ratios of the same round. What is left of a large JPEG's
first reading is its entropy decoding, which no scale shortens: it grows with the file's bytes, not with its pixels.
Files are made from noise of every wavelength (1/f), which compress as photographs do; their size is in the result.
"""

from __future__ import annotations

import io
import json
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

RESOLUTION = 128


@dataclass(frozen=True)
class Case:
    """Images of a size and kind. count: how many there are; quality: of JPEG."""

    width: int
    height: int
    kind: str
    count: int
    quality: int = 85
    rounds: int = 5


CASES = {
    "jpeg_4000x3000_q75": Case(4000, 3000, "JPEG", 16, 75, 3),
    "jpeg_4000x3000_q85": Case(4000, 3000, "JPEG", 16, 85, 3),
    "jpeg_4000x3000_q92": Case(4000, 3000, "JPEG", 16, 92, 3),
    "jpeg_500x375": Case(500, 375, "JPEG", 200),
    "png_96x96": Case(96, 96, "PNG", 1000),
}


def photograph(height: int, width: int, seed: int) -> Any:
    """(H, W, 3) uint8: noise of every wavelength, weaker the shorter it is, and a sensor's on top."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    image = rng.normal(0, 3, (height, width, 1)).repeat(3, axis=2).astype(np.float32)
    waves = 4
    while waves < max(height, width):
        rows, columns = (max(1, side * waves // max(height, width)) for side in (height, width))
        coarse = (rng.normal(size=(rows, columns, 1)) + 0.5 * rng.normal(size=(rows, columns, 3))).astype(np.float32)
        for channel in range(3):
            grown = Image.fromarray(coarse[:, :, channel]).resize((width, height), Image.Resampling.BICUBIC)
            image[:, :, channel] += 60 * (4 / waves) ** 0.9 * np.asarray(grown)
        waves *= 2
    return (image + 128).clip(0, 255).astype(np.uint8)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Images a second of CPU time, and the ratios to plain reading."""
    import numpy as np
    from PIL import Image

    from nas.data import ArraySource, DataSet, EncodedSource, ImageSource
    from nas.data.copies import contents_of
    from nas.data.reduced import KeptImages, Purpose
    from nas.data.shards.cache import FileCache
    from nas.data.shards.index import index_shard
    from nas.data.shards.source import TarSource
    from nas.data.soundness import look_through
    from nas.data.splits import whole

    files: list[Path | bytes] = []
    for number in range(case.count):
        # of large ones the same pixels, since making them takes longest; each is still read from a file of its own
        path = folder / f"{number}.{case.kind.lower()}"
        if number < 4:
            Image.fromarray(photograph(case.height, case.width, number)).save(path, case.kind, quality=case.quality)
        else:
            path.write_bytes((folder / f"{number % 4}.{case.kind.lower()}").read_bytes())
        files.append(path)

    class Plain(ArraySource):
        """Decoded in full at every read."""

        def read(self, index: int) -> Any:
            with Image.open(files[index]) as image:
                return np.array(image.convert("RGB"))

    labels = np.arange(case.count) % 2
    purpose = Purpose(RESOLUTION, "random")

    def epoch(source: ImageSource, number: int) -> Callable[[], None]:
        def read() -> None:
            split = whole(source, labels)
            data = DataSet("bench", ("a", "b"), split, split, split, crop="random")
            for _ in data.batches(split, RESOLUTION, case.count // 4, 0, number, training=True):
                pass

        return read

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    rates: dict[str, list[float]] = {}
    tar, size = shard_of(files, folder), case.count // 4
    with tar.open("rb") as opened:
        index = index_shard(opened, str(tar), digests=True)
    by_webdataset = webdataset_epoch(tar, size) if find_spec("webdataset") else None
    for _ in range(case.rounds):
        plain = Plain(np.empty((case.count, 0), np.uint8))
        ours = EncodedSource(files, kept=KeptImages())
        decode = seconds(lambda: [plain.read(i) for i in range(case.count)])  # noqa: B023
        draft = seconds(lambda: [at_scale(file, purpose.scale(case.height, case.width)) for file in files])
        plain_epoch = seconds(epoch(plain, 1))
        looked = seconds(lambda: look_through(ours, range(case.count), purpose, True, "white"))  # noqa: B023
        first, later = (seconds(epoch(ours, number)) for number in (0, 1))
        digest = seconds(lambda: contents_of(ours, np.arange(case.count)))  # noqa: B023
        sharded = TarSource(index, FileCache(folder / "cache", 10**9), 8, kept=KeptImages())
        shards_first, shards_later = (seconds(epoch(sharded, number)) for number in (0, 1))
        spent = {
            "digest": digest,
            "decode": decode,
            "draft": draft,
            "plain_first": decode + plain_epoch,
            "plain_later": plain_epoch,
        }
        spent |= {"first": looked + first, "later": later}
        spent |= {"shards_first": shards_first, "shards_later": shards_later}
        if by_webdataset:
            spent["webdataset"] = seconds(by_webdataset)
        for name, value in spent.items():
            rates.setdefault(name, []).append(case.count / value)
    result: dict[str, Any] = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    for name in ("first", "later"):
        pairs = zip(rates[name], rates[f"plain_{name}"], strict=True)
        result[f"{name}_to_plain"] = round(statistics.median(one / other for one, other in pairs), 2)
    for name in ("shards_first", "shards_later") if by_webdataset else ():
        pairs = zip(rates[name], rates["webdataset"], strict=True)
        result[f"{name}_to_webdataset"] = round(statistics.median(one / other for one, other in pairs), 2)
    pairs = zip(rates["first"], rates["draft"], strict=True)
    result["first_to_draft"] = round(statistics.median(one / other for one, other in pairs), 2)
    pairs = zip(rates["decode"], rates["digest"], strict=True)
    result["digest_to_decode"] = round(statistics.median(one / other for one, other in pairs), 4)
    size = statistics.mean(item.stat().st_size for item in files if isinstance(item, Path))
    return {"megabytes": round(size / 1e6, 3), **result}


def at_scale(file: Path | bytes, scale: int) -> None:
    """Decode a file by Pillow alone, a JPEG at 1/scale of its size."""
    from PIL import Image

    with Image.open(file) as image:
        image.draft("RGB", (image.width // scale, image.height // scale))
        image.load()


def shard_of(files: list[Path | bytes], folder: Path) -> Path:
    """The files in one tar, as `nas.pack` writes it."""
    path = folder / "train-000000.tar"
    with tarfile.open(path, "w") as tar:
        for number, file in enumerate(files):
            assert isinstance(file, Path)
            kind = {".jpeg": "jpg", ".png": "png"}[file.suffix]
            for ending, content in ((kind, file.read_bytes()), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number:06}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def webdataset_epoch(tar: Path, size: int) -> Callable[[], None]:
    """Read a tar by webdataset's own loader; crops, sizes and batches are made as in ours."""
    import numpy as np
    import webdataset

    from nas.data import DataSet
    from nas.data.splits import whole

    class Listed:
        """Images that are decoded already."""

        def __init__(self, images: list[Any]) -> None:
            self.images = images

        def __len__(self) -> int:
            return len(self.images)

        def read(self, index: int) -> Any:
            return self.images[index]

    def read() -> None:
        samples = webdataset.WebDataset(str(tar), shardshuffle=False).shuffle(100).decode("rgb8")
        stream = iter(samples.to_tuple("jpg;png", "cls"))
        while batch := list(islice(stream, size)):
            split = whole(Listed([np.array(image) for image, _ in batch]), np.array([label for _, label in batch]))
            data = DataSet("bench", ("a", "b"), split, split, split, crop="random")
            for _ in data.batches(split, RESOLUTION, size, 0, 1, training=True):
                pass

    return read


def main() -> None:
    """Print a line of JSON for every case, the machine first."""
    import PIL
    import torch
    from PIL import features

    torch.set_num_threads(1)
    libraries = {"pillow": PIL.__version__, "libjpeg_turbo": features.version("libjpeg_turbo")}
    print(json.dumps({"machine": platform.processor() or platform.machine(), **libraries}), flush=True)
    for name in sys.argv[1:] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps({"case": name, **measure(CASES[name], Path(folder))}), flush=True)


if __name__ == "__main__":
    main()
