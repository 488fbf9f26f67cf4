"""What ImageNet would cost on 1, 8 and 64 GPUs: machine hours, bytes over the network, cache. Derived, not measured.

Question   How long do one search and one full training take from shards in object storage, what limits them, and how
           many bytes does each machine fetch with the smallest cache and with one that holds all?
Method     Hours are the images of all epochs over the slowest of three rates: what the GPUs train, what the cores read,
           what the network brings. Bytes are counted by simulation: `nas.data.order` orders 1.28 million images in
           shards of 100 MB as it does in a run, and a cache that drops what was read longest ago is walked through.
Command    python -m experiments.imagenet_cost [gpus=1,8,64] [epochs=3]
           python -m experiments.imagenet_cost show
Cost       A minute of one core.
Expected   With a small cache all machines together fetch the images once an epoch, and a little more where two of them
           meet in a shard. With 16 cores for each GPU the GPUs are the limit, not reading and not the network.

Every number that goes in is a row of the results, with its kind: a fact of others with its source, a measurement of
this project with its command, or an assumption. No GPU was measured; the rate of training is an assumption.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.command import run_experiment
from experiments.results import Results, Row, markdown, shown, take_provenance
from experiments.table1 import LINES
from latency_models.options import Options
from nas.data.sources import ShardedSource

OPTIONS = {
    "gpus": "how many, commas between (default: 1,8,64)",
    "epochs": "that are simulated (default: 3)",
}
WINDOW = 8  # data.shuffle_shards, its default
MEMBER = 1536  # bytes of a tar beside an image: two headers and the label's block


@dataclass(frozen=True)
class Given:
    """A number that goes in. kind: fact, measured or assumption; source: where it is from, or why it is taken."""

    name: str
    value: float
    unit: str
    kind: str
    source: str


GIVEN = {
    one.name: one
    for one in (
        Given("images", 1_281_167, "training images", "fact", "ILSVRC 2012"),
        Given("tar", 147_897_477_120, "bytes of the training images", "fact", "size of ILSVRC2012_img_train.tar"),
        Given("shard", 100e6, "bytes of a shard", "fact", "the default of nas.pack"),
        Given(
            "inference",
            LINES["quadranet36-t"].images_per_second,
            "images/s of inference, one A100",
            "fact",
            "QuadraNet36-T in Table I of arXiv 2311.17956; TF32, channels_last",
        ),
        Given(
            "backward", 3, "times inference that a training step costs", "assumption", "MACs: forward once, back twice"
        ),
        Given(
            "search",
            1.04 + 0.77,
            "plain steps that a step of a search costs",
            "measured",
            "docs/how.md, weight and `two` step, CPU",
        ),
        Given(
            "reading", 383, "images/s that one busy core reads", "measured", "docs/cluster.md, 500x375 to 128 pixels"
        ),
        Given("cores", 16, "cores for each GPU, all as fast as that one", "assumption", "16 threads read for a GPU"),
        Given("network", 1.25e9, "bytes/s into each machine", "assumption", "10 Gbit/s"),
        Given("machine", 8, "GPUs in a machine", "assumption", "usual"),
        Given("within", 0.95, "efficiency over GPUs of a machine", "assumption", "not measured"),
        Given("between", 0.9, "efficiency over machines", "assumption", "not measured"),
        Given("searching", 4, "epochs of a search with gates", "fact", "the defaults of data=webdataset"),
        Given("others", 6, "epochs of its warm-up and fine-tuning", "fact", "the defaults of data=webdataset"),
        Given("training", 300, "epochs of a full training", "fact", "recipe=imagenet"),
        Given("batch", 128, "images of a batch on one GPU", "fact", "recipe=imagenet"),
    )
}


def given(name: str) -> float:
    """What goes in under a name."""
    return GIVEN[name].value


# ------------------------------------------------------------------ bytes, by simulation


class Numbered:
    """So many images in shards of equally many, without content."""

    def __init__(self, images: int, shards: int, window: int) -> None:
        self.images, self.shards, self.window = images, shards, window

    def __len__(self) -> int:
        return self.images

    def read(self, index: int) -> NDArray[np.uint8]:
        """Never asked for."""
        raise NotImplementedError

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int32]:
        """The number of each image's shard, (n,)."""
        return (indices * self.shards // self.images).astype(np.int32)

    def prepare(self, shard: int) -> None:
        """Nothing is fetched."""


def fetches(
    source: ShardedSource,
    indices: NDArray[np.int64],
    batch: int,
    ranks: Sequence[int],
    of: int,
    epochs: int,
    room: int,
    seed: int = 0,
) -> list[int]:
    """Shards that a machine fetches in each epoch of training on these images.

    ranks: its processes, of so many in all, which keep step; batch: images of each; room: shards that its cache holds.
    """
    from nas.data.order import batches_of
    from nas.run.distributed import Place

    cache: OrderedDict[int, None] = OrderedDict()
    counts = []
    for epoch in range(epochs):
        count = 0
        parts = [
            batches_of(source, indices, indices, batch * of, (seed, epoch), Place(rank=rank, ranks=of))
            for rank in ranks
        ]
        for together in zip(*parts, strict=True):
            for own in together:
                for shard in dict.fromkeys(source.shard_of(indices[own]).tolist()):
                    if shard not in cache:
                        count += 1
                        if len(cache) >= room:
                            cache.popitem(last=False)
                    cache[shard] = None
                    cache.move_to_end(shard)
        counts.append(count)
    return counts


# ------------------------------------------------------------------ hours


def rates(gpus: int) -> dict[str, float]:
    """Images a second of a full training that each part allows, on all machines together."""
    machines = -(-gpus // int(given("machine")))
    within = 1.0 if gpus == 1 else given("within")
    between = 1.0 if machines == 1 else given("between")
    return {
        "GPUs": gpus * within * between * given("inference") / given("backward"),
        "cores": gpus * given("cores") * given("reading"),
        "network": machines * given("network") / packed_bytes() * given("images"),
    }


def packed_bytes() -> float:
    """Of the training images as shards: each padded to whole blocks of 512 bytes, half of one on average."""
    return given("tar") + given("images") * (MEMBER + 256)


def hours(gpus: int, epochs: float, steps: float = 1.0) -> tuple[float, str]:
    """Of all machines at the same time, and what limits them. steps: that the GPUs take for each image."""
    allowed = rates(gpus)
    allowed["GPUs"] /= steps
    limit = min(allowed, key=allowed.__getitem__)
    return epochs * given("images") / allowed[limit] / 3600, limit


def measure(options: Options, quick: bool, command: str) -> Results:
    """`quick`: a hundredth of the images."""
    provenance = take_provenance(command, "cpu")
    share, epochs = 100 if quick else 1, options.integer("epochs", 3, least=2)
    images, shards = round(given("images") / share), round(packed_bytes() / given("shard") / share)
    source = Numbered(images, shards, WINDOW)
    rows: list[Row] = [{"what": "given", **vars(one)} for one in GIVEN.values()]
    for text in options.names("gpus", ("1", "8", "64")):
        rows.append({"what": "derived", **_row(int(text), source, epochs)})
        print(rows[-1], file=sys.stderr, flush=True)
    settings = {"images": images, "shards": shards, "shuffle_shards": WINDOW, "epochs": epochs, "quick": quick}
    return Results("imagenet_cost", provenance, settings, tuple(rows))


def _row(gpus: int, source: Numbered, epochs: int) -> Row:
    machine = int(given("machine"))
    machines, own = -(-gpus // machine), min(gpus, machine)
    room = 2 * (WINDOW + 2) * own  # as `nas.data.webdataset` requires
    images, batch = np.arange(len(source)), int(given("batch"))
    small = fetches(source, images, batch, range(own), gpus, epochs, room)
    large = fetches(source, images, batch, range(own), gpus, epochs, source.shards)
    bytes_each = packed_bytes() / source.shards
    search_h, search_limit = hours(gpus, given("searching"), given("search"))
    rest_h, _ = hours(gpus, given("others"))
    train_h, train_limit = hours(gpus, given("training"))
    steady = small[-1] * bytes_each * machines
    return {
        "gpus": gpus,
        "machines": machines,
        "search_h": search_h + rest_h,
        "search_limit": search_limit,
        "train_h": train_h,
        "train_limit": train_limit,
        "small_cache_gb": room * given("shard") / 1e9,
        "first_tb": small[0] * bytes_each * machines / 1e12,
        "later_tb": steady / 1e12,
        "train_tb": (small[0] * bytes_each * machines + (given("training") - 1) * steady) / 1e12,
        "large_first_tb": large[0] * bytes_each * machines / 1e12,
        "large_later_tb": large[-1] * bytes_each * machines / 1e12,
        "large_most_tb": packed_bytes() * machines / 1e12,
        "mb_a_second": steady / machines / (train_h / given("training") * 3600) / 1e6,
    }


# ------------------------------------------------------------------ the tables


def render(results: Results) -> str:
    """What is derived, then what it is derived from."""
    derived = [row for row in results.rows if row["what"] == "derived"]
    header = ("derived, not measured", *(f"{row['gpus']} GPU" + "s" * (row["gpus"] != 1) for row in derived))
    lines = [
        ("machines", *(shown(row["machines"]) for row in derived)),
        ("one search, hours", *(shown(row["search_h"], 1) for row in derived)),
        ("... in machine hours", *(_of_machines(row, "search_h") for row in derived)),
        ("... limited by", *(str(row["search_limit"]) for row in derived)),
        ("one full training, hours", *(shown(row["train_h"], 1) for row in derived)),
        ("... in machine hours", *(_of_machines(row, "train_h") for row in derived)),
        ("... limited by", *(str(row["train_limit"]) for row in derived)),
        ("smallest cache, GB a machine", *(shown(row["small_cache_gb"]) for row in derived)),
        ("... first epoch, TB over the network", *(shown(row["first_tb"], 3) for row in derived)),
        ("... each later epoch, TB", *(shown(row["later_tb"], 3) for row in derived)),
        ("... the full training, TB", *(shown(row["train_tb"], 1) for row in derived)),
        ("... MB/s into each machine", *(shown(row["mb_a_second"]) for row in derived)),
        ("cache for all, GB a machine", *(shown(packed_bytes() / 1e9) for _ in derived)),
        ("... first epoch, TB over the network", *(shown(row["large_first_tb"], 3) for row in derived)),
        (f"... epoch {results.settings['epochs']}, TB", *(shown(row["large_later_tb"], 3) for row in derived)),
        ("... a training of any length, TB at most", *(shown(row["large_most_tb"], 2) for row in derived)),
    ]
    used = [row for row in results.rows if row["what"] == "given"]
    sources = [(f"{_plain(row['value'])} {row['unit']}", str(row["kind"]), str(row["source"])) for row in used]
    said = ", ".join(f"{name} {value}" for name, value in results.settings.items() if name != "quick")
    parts = [markdown(header, lines), markdown(("what goes in", "kind", "from"), sources)]
    parts.append(
        "Left out: a search's validation images, checkpoints, the test. A search trains at 128 pixels unless asked, "
        "the rate is of 224. Reading is assumed to scale over the threads of a process. One machine of those that are "
        f"alike is simulated: {said}.\n{results.provenance}"
    )
    return "\n\n".join(parts)


def _of_machines(row: Row, name: str) -> str:
    return shown(row[name] * row["machines"], 1)  # type: ignore[operator]


def _plain(value: object) -> str:
    assert isinstance(value, int | float)
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def main(arguments: Sequence[str]) -> int:
    """The exit status."""
    return run_experiment("imagenet_cost", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
