"""Whether memory and speed stay as they are while a sharded data set grows, and with several processes.

Question   How much memory and CPU time does an epoch of 10,000, 30,000 and 100,000 images take from a folder of files,
           from tar shards on this disk, and from those shards over http through a cache smaller than they are? And how
           many training steps are taken in the same time?
Data       JPEGs of 32x32 pixels in ten classes, noise on a gradient, made for it in a temporary folder.
Command    python -m experiments.streaming [images=10000,30000,100000] [workers=1,2] [read=10000] [jobs=2]
           python -m experiments.streaming show
Cost       About 5 CPU-minutes; 1 GB of disk.
Expected   From shards no more than tens of bytes an image are added to the memory of a process; CPU time as from files.

Every line is measured in processes of their own, one a worker, each with its share of an epoch, of which the first
10,000 images are read unless told otherwise: several times what window and cache hold, so that shards come and go.
Memory is the peak of resident pages as Linux counts them (VmHWM) and does not depend on what else the machine does.
Seconds are of CPU, all threads of a process together; that of the server is not in them. Ratios are taken in turns: one
process reads, or trains on, a few batches of each source after the other, round after round. The images a second by the
clock depend on the load of the machine, which stands in the last line.
"""

from __future__ import annotations

import functools
import importlib
import io
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from experiments.jobs import Work, run_jobs
from experiments.results import Results, Row, Value, markdown, shown
from latency_models.options import Options
from search_space.errors import UserError

if TYPE_CHECKING:
    from nas.data import DataSet

SOURCES = ("files", "shards", "http")
PIXELS, CLASSES, BATCH = 32, 10, 64
TRAINED = 0.8  # of a folder's images; the others are held out for the test, and packed apart
SHARD_MB, WINDOW = 1.0, 2  # small ones, so that even 10,000 images have several times what is read at once
TURN, ROUNDS = 10, 9  # batches that one source has in its turn, and how often each has one
OPTIONS = {
    "images": "how many, commas between (default: 10000,30000,100000)",
    "workers": "processes of one search, commas between; several for the largest set alone (default: 1,2)",
    "read": "images of an epoch that are read at most (default: 10000)",
}
NAMES = {"files": "folder of files", "shards": "shards on this disk", "http": "shards over http, cached"}


@dataclass(frozen=True)
class Images:
    """One set of images in its three forms. address: of the shards' server; cache_gb: as little as may be."""

    folder: str
    address: str
    cache_gb: float

    def load(self, source: str, cache: Path) -> DataSet:
        """The images as a search gets them."""
        from nas.data import load
        from nas.data.imagefolder import ImageFolderSettings
        from nas.data.webdataset import WebDatasetSettings

        if source == "files":
            return load(ImageFolderSettings("imagefolder", f"{self.folder}/files", resolution=PIXELS, crop="shift"))
        root = self.address if source == "http" else f"{self.folder}/shards"
        return load(
            WebDatasetSettings(
                "webdataset",
                root,
                resolution=PIXELS,
                crop="shift",
                cache=str(cache),
                cache_gb=self.cache_gb,
                shuffle_shards=WINDOW,
            )
        )


@dataclass(frozen=True)
class Task:
    """What one worker does."""

    place: Images
    source: str
    cache: str
    rank: int
    ranks: int
    read: int


# ------------------------------------------------------------------ images and their server


def make_images(folder: Path, count: int) -> None:
    """JPEGs in folders of their classes; all are different."""
    import numpy as np
    from PIL import Image

    draws = np.random.default_rng(0)
    slope = np.add.outer(np.arange(PIXELS), np.arange(PIXELS))[:, :, None] * 3
    for number in range(CLASSES):
        (folder / f"class{number}").mkdir(parents=True)
    for number in range(count):
        pixels = slope + draws.integers(0, 64, (PIXELS, PIXELS, 3)) + 7 * (number % CLASSES)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / f"class{number % CLASSES}" / f"{number:07}.jpg", quality=75
        )


def in_files(folder: Path) -> DataSet:
    """All images of a folder, `TRAINED` of them to train on, to be packed."""
    import numpy as np

    from nas.data import DataSet, EncodedSource, Split

    files = sorted(folder.rglob("*.jpg"))
    names = sorted(path.name for path in folder.iterdir())
    labels = np.array([names.index(path.parent.name) for path in files], np.int64)
    everything = Split(EncodedSource(files), np.arange(len(files)), labels)
    order = np.random.default_rng(1).permutation(len(files))
    train, test = (everything.take(part) for part in np.split(order, [round(TRAINED * len(order))]))
    return DataSet("made", tuple(names), train, train.take(np.arange(0)), test)


def smallest_cache(shards: Path, workers: int) -> int:
    """Bytes of what is read at the same time: `nas.data.webdataset` refuses a smaller cache."""
    sizes = sorted((path.stat().st_size for path in shards.glob("*.tar")), reverse=True)
    return sum(sizes[: 2 * (WINDOW + 2) * workers])


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, Callable[[], int]]]:
    """A folder over http on 127.0.0.1, and how many bytes of shards it has sent."""
    sent = [0]

    class Handler(SimpleHTTPRequestHandler):
        def copyfile(self, source: Any, outputfile: Any) -> None:
            content = source.read()
            sent[0] += len(content) if self.path.endswith(".tar") else 0
            super().copyfile(io.BytesIO(content), outputfile)

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}", lambda: sent[0]
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


# ------------------------------------------------------------------ measuring


def memory_mib(name: str) -> float:
    """VmRSS, resident now, or VmHWM, the most so far, of this process in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"Linux says no {name}")


def read_epoch(task: Task) -> dict[str, float]:
    """Load the images and read this worker's part of an epoch."""
    import torch

    from nas.run.distributed import Place

    for module in ("nas.data.dataset", "nas.data.imagefolder", "nas.data.shards.source", "fsspec", "aiohttp"):
        importlib.import_module(module)  # code is in `start_mib`, for every source alike
    torch.set_num_threads(1)
    os.environ["LOCAL_WORLD_SIZE"] = str(task.ranks)
    start, clock = memory_mib("VmRSS"), time.process_time()
    data = task.place.load(task.source, Path(task.cache))
    data = replace(data, place=Place(rank=task.rank, ranks=task.ranks))
    load_s, load_mib = time.process_time() - clock, memory_mib("VmHWM")
    clock, wall, images, cached = time.process_time(), time.perf_counter(), 0, 0
    for number, (_, labels) in enumerate(data.batches(data.train, PIXELS, BATCH, training=True)):
        images += len(labels)
        if images * task.ranks >= task.read:
            break
        if number % 20 == 0:
            cached = max(cached, sum(path.stat().st_size for path in Path(task.cache).glob("*.tar")))
    return {
        "images": images,
        "of": len(data.train),
        "load_s": load_s,
        "start_mib": start,
        "load_mib": load_mib,
        "peak_mib": memory_mib("VmHWM"),
        "cpu_s": time.process_time() - clock,
        "wall_s": time.perf_counter() - wall,
        "cached": cached,
    }


def measure_reading(place: Images, images: int, workers: int, read: int, sent: Callable[[], int]) -> Iterator[Row]:
    """A row for each source; several processes read from shards alone."""
    for source in SOURCES if workers == 1 else SOURCES[1:]:
        with tempfile.TemporaryDirectory() as cache:
            before = sent()
            tasks = [Task(place, source, cache, rank, workers, read) for rank in range(workers)]
            with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=1) as pool:
                done = pool.map(read_epoch, tasks, chunksize=1)
        count = sum(one["images"] for one in done)
        packed = sum(path.stat().st_size for path in Path(place.folder, "shards").glob("train-*.tar"))
        packed_an_image = packed / (images * TRAINED)
        yield {
            "what": "reading",
            "source": source,
            "images": images,
            "workers": workers,
            "read": count,
            "of": done[0]["of"],
            "start_mib": max(one["start_mib"] for one in done),
            "load_mib": max(one["load_mib"] for one in done),
            "peak_mib": max(one["peak_mib"] for one in done),
            "added_mib": max(one["peak_mib"] - one["start_mib"] for one in done),
            "load_cpu_s": max(one["load_s"] for one in done),
            "cpu_ms_an_image": 1000 * sum(one["cpu_s"] for one in done) / count,
            "images_a_second": count / max(one["wall_s"] for one in done),
            "sent_mb": (sent() - before) / 1e6 if source == "http" else None,
            "packed_mb": packed_an_image * count / 1e6,
            "cached_mb": max(one["cached"] for one in done) / 1e6 if source == "http" else None,
            "cache_mb": place.cache_gb * 1e3 if source == "http" else None,
        }


def measure_turns(place: Images, images: int, rounds: int) -> list[Row]:
    """Rows of batches that are read, and of steps that are trained, by each source in turn.

    To be called in a process of its own, apart from the server.
    """
    import torch
    from torch.nn import functional as F

    from search_space.build import Network
    from search_space.lower import lower
    from search_space.space_file import load_space

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Network(lower(load_space("quadranet_lite").smallest(), PIXELS, CLASSES))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def train(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    with tempfile.TemporaryDirectory() as cache:
        data, rows = {source: place.load(source, Path(cache)) for source in SOURCES}, list[Row]()
        for what, step in (("batches", lambda x, y: None), ("steps", train)):
            streams = {source: endless(one) for source, one in data.items()}
            seconds: dict[str, list[float]] = {source: [] for source in SOURCES}
            for _ in range(rounds):
                for source, stream in streams.items():
                    next(stream)  # what was read ahead in another's turn
                    clock = time.process_time()
                    for x, y in islice(stream, TURN):
                        step(x, y)
                    seconds[source].append((time.process_time() - clock) / TURN)
            for source in SOURCES:
                ratios = [own / other for own, other in zip(seconds[source], seconds["files"], strict=True)]
                low, _, high = quantiles(ratios, n=4, method="inclusive")
                rows.append(
                    {
                        "what": what,
                        "source": source,
                        "images": images,
                        "cpu_ms": 1000 * median(seconds[source]),
                        "to_files": median(ratios),
                        "to_files_low": low,
                        "to_files_high": high,
                    }
                )
    return rows


def endless(data: DataSet) -> Iterator[Any]:
    """Batches of one epoch after another."""
    number = 0
    while True:
        yield from data.batches(data.train, PIXELS, BATCH, epoch=number, training=True)
        number += 1


@dataclass(frozen=True)
class Job:
    """One set of images in its three forms. workers: of the lines to measure; turns: whether sources take turns too."""

    images: int
    workers: tuple[int, ...]
    turns: bool

    @property
    def name(self) -> str:
        """Unique in the experiment."""
        return f"{self.images} images"


@dataclass(frozen=True)
class Measuring:
    """Does jobs. read: images of an epoch; shard_mb: size of shards; rounds: of turns."""

    read: int
    shard_mb: float
    rounds: int

    def __call__(self, job: Job) -> list[Row]:
        """A job's rows."""
        from nas.pack import pack

        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as made:
            make_images(Path(made) / "files", job.images)
            shards = Path(made) / "shards"
            pack(in_files(Path(made) / "files"), shards, self.shard_mb)
            with serving(shards) as (address, sent):
                for number in job.workers:
                    place = Images(made, address, smallest_cache(shards, number) / 1e9)
                    for row in measure_reading(place, job.images, number, self.read, sent):
                        print(row, file=sys.stderr, flush=True)
                        rows.append(row)
                if job.turns:
                    place = Images(made, address, smallest_cache(shards, 1) / 1e9)
                    with multiprocessing.get_context("spawn").Pool(1) as pool:
                        rows += pool.apply(measure_turns, (place, job.images, self.rounds))
        return rows


def prepare(options: Options, quick: bool) -> Work[Job]:
    """`quick`: a few hundred images."""
    counts = sorted(_numbers(options, "images", (800,) if quick else (10_000, 30_000, 100_000)))
    workers = _numbers(options, "workers", (1,) if quick else (1, 2))
    measuring = Measuring(options.integer("read", 10_000), SHARD_MB / (10 if quick else 1), 3 if quick else ROUNDS)
    jobs = [Job(count, workers if count == counts[-1] else workers[:1], count == counts[0]) for count in counts]
    settings: dict[str, Value] = {
        "pixels": PIXELS,
        "batch": BATCH,
        "shard_mb": measuring.shard_mb,
        "shuffle_shards": WINDOW,
        "read": measuring.read,
        "quick": quick,
    }
    return Work(settings, jobs, measuring)


def _numbers(options: Options, name: str, default: Sequence[int]) -> tuple[int, ...]:
    given = options.names(name, [str(number) for number in default])
    if wrong := [text for text in given if not text.isdigit() or int(text) < 1]:
        raise UserError(f"{name}={','.join(given)}: '{wrong[0]}' is not a whole number of 1 or more")
    return tuple(map(int, given))


# ------------------------------------------------------------------ the tables


def render(results: Results) -> str:
    """Memory and time by images and workers, then the ratios."""
    reading = [row for row in results.rows if row["what"] == "reading"]
    header = (
        *("source", "images", "processes", "peak MiB of a process", "added by data", "before the first batch, CPU-s"),
        *("CPU-ms an image", "images/s by the clock", "bytes fetched / read", "most in the cache / allowed, MB"),
    )
    lines = []
    for row in sorted(reading, key=lambda row: (row["workers"], SOURCES.index(str(row["source"])), row["images"])):
        fetched = "" if row["sent_mb"] is None else f"{row['sent_mb'] / row['packed_mb']:.2f}"  # type: ignore[operator]
        cached = "" if row["cache_mb"] is None else f"{shown(row['cached_mb'], 1)} / {shown(row['cache_mb'], 1)}"
        figures = ((row[name], digits) for name, digits in (("peak_mib", 0), ("added_mib", 1), ("load_cpu_s", 1)))
        rates = (shown(row["cpu_ms_an_image"], 3), shown(row["images_a_second"]))
        lines.append(
            (
                *(NAMES[str(row["source"])], f"{row['images']:,}", str(row["workers"])),
                *(shown(value, digits) for value, digits in figures),
                *(*rates, fetched, cached),
            )
        )
    parts = [markdown(header, lines)]
    turns = []
    for row in (row for row in results.rows if row["what"] != "reading"):
        name = f"{'batch read' if row['what'] == 'batches' else 'training step'}, {NAMES[str(row['source'])]}"
        spread = f"{shown(row['to_files'], 2)} ({shown(row['to_files_low'], 2)}..{shown(row['to_files_high'], 2)})"
        turns.append((name, shown(row["cpu_ms"], 1), spread))
    parts.append(markdown(("in turns, one process", "CPU-ms", "times the folder's, median (quartiles)"), turns))
    said = ", ".join(f"{name} {value}" for name, value in results.settings.items() if name != "quick")
    parts.append(
        "Steps: the smallest network of `quadranet_lite`, AdamW. Images by the clock are of a machine that other work "
        "kept busy, and no result. Shards that the read part has only begun are fetched whole. "
        f"{said}.\n{results.provenance}"
    )
    return "\n\n".join(parts)


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    return run_jobs("streaming", OPTIONS, prepare, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
