"""The layers that the A76's lists leave out, put back by what a network's name says of its structure.

Additions that close residual branches, gating products of squeeze-and-excite, norms with their ReLU that follow no
convolution, hard swish, and the padding ahead of dense convolutions that the listed sizes show. Activations and norms
that merge into a convolution or an addition cost nothing and are not counted. HRNet's sums and resizing between
resolutions are not put back: the lists do not say which tensors meet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from device_profiles import Kernel
from experiments.profiles.tables import MovedElements, Row, a76_spec, square
from search_space.layer import Kind

INVERTED = re.compile(r"mobilenetv[23]|mnasnet|proxylessnas|fbnet|efficientnet_edge")
BASIC = re.compile(r"(se)?(pre)?resnet\d+(_w\w+)?$")
BOTTLENECK = re.compile(r"(se)?(pre)?resnetbc|resnext|regnet|bagnet|dla")
PRE_ACTIVATED = re.compile(r"(se)?preresnet")
RELU_BLOCKS = {"mobilenetv3_large": 6, "mobilenetv3_small": 3}  # the first ones; hard swish from there on


def unlisted_layers(model: str, rows: Sequence[Row]) -> Iterator[Kernel | MovedElements]:
    """The layers that are missing in the list of a network, one kind after the other. Raises `BadFile`."""
    convs = [row for row in rows if "CONV_2D" in row.text("op")]
    images = [row for row in convs if row.integer("out_hw") > 1]
    yield from _paddings(rows)
    yield from _gates(rows)
    if INVERTED.match(model):
        yield from _inverted(images)
    elif BASIC.match(model):
        yield from _additions(_windowed(images[1:])[1::2])
    elif model.startswith("dla"):
        yield from _additions(after for row, after in pairwise(images[3:]) if row.integer("kernel") > 1)
    elif BOTTLENECK.match(model):
        yield from _additions(block[2] for block in _bottlenecks(images))
    elif model.startswith("squeezeresnet"):
        yield from _bypasses(rows)
    if PRE_ACTIVATED.match(model):
        first = [block[0] for block in _bottlenecks(images)] if "bc" in model else _windowed(images[1:])[::2]
        yield from _norms([*first, *_last_mean(rows)])
    elif model.startswith("densenet"):
        yield from _norms([*(row for row in images if row.integer("kernel") == 1), *_last_mean(rows)])
    for name, relu_blocks in RELU_BLOCKS.items():
        if model.startswith(name):
            yield from _hard_swishes(convs, relu_blocks)


def _paddings(rows: Sequence[Row]) -> Iterator[MovedElements]:
    """Of dense convolutions; a depthwise one's is part of its price, as all of them are padded."""
    for row in rows:
        if row.text("op") == "CONV_2D" and row.integer("in_hw") > a76_spec(row, Kind.CONV).height:
            yield MovedElements("pad", row.integer("in_c") * row.integer("in_hw") ** 2)


def _gates(rows: Sequence[Row]) -> Iterator[Kernel]:
    """A pooled tensor is multiplied by what is made of its means; the mean before the classifier keeps no pixel."""
    for row in rows:
        if row.text("op") == "MEAN" and row.integer("kernel") == 1:
            yield _over(Kind.MUL, row.integer("in_c"), row.integer("in_hw"))


def _inverted(images: Sequence[Row]) -> Iterator[Kernel]:
    """Inverted bottlenecks: an addition where the projection has the size and width of the block's input."""
    entered: Row | None = images[0]
    for before, row in pairwise(images):
        if row.integer("kernel") != 1 or before.integer("kernel") == 1 or before is images[0]:
            continue
        assert entered is not None
        if all(row.integer(size) == entered.integer(size) for size in ("out_c", "out_hw")):
            yield from _additions([row])
        entered = row


def _windowed(images: Iterable[Row]) -> list[Row]:
    return [row for row in images if row.integer("kernel") > 1]


def _bottlenecks(images: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The three convolutions of every block; a shortcut does not read what the last of them made."""
    main = list(images[2 if images[0].integer("kernel") == 1 else 1 :])
    while main:
        block, main = main[:3], main[3:]
        yield block
        if main and main[0].integer("in_c") != block[2].integer("out_c"):
            del main[0]


def _additions(closing: Iterable[Row]) -> Iterator[Kernel]:
    return (_over(Kind.ADD, row.integer("out_c"), row.integer("out_hw")) for row in closing)


def _bypasses(rows: Sequence[Row]) -> Iterator[Kernel]:
    """Fire modules as wide as their input, which the squeezing convolution reads."""
    entered = 0
    for row in rows:
        if row.text("op") == "CONV_2D" and row.integer("out_c") < row.integer("in_c"):
            entered = row.integer("in_c")
        elif row.text("op") == "CONCATENATION" and row.integer("out_c") == entered:
            yield from _additions([row])


def _norms(readers: Iterable[Row]) -> Iterator[Kernel]:
    """A norm with its ReLU over what these read."""
    for row in readers:
        size = row.integer("in_hw") if row.text("op") == "MEAN" else a76_spec(row, Kind.CONV).height
        yield _over(Kind.BATCH_NORM, row.integer("in_c"), size)


def _last_mean(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.text("op") == "MEAN"][-1:]


def _hard_swishes(convs: Sequence[Row], relu_blocks: int) -> Iterator[Kernel]:
    """After the stem, the widening and filtering convolutions of later blocks, and the last two of the network."""
    swishing = [convs[0]]
    blocks = 0
    images = [row for row in convs if row.integer("out_hw") > 1]
    for before, row in pairwise(images):
        if row.text("op") == "DEPTHWISE_CONV_2D":
            blocks += 1
            if blocks > relu_blocks:
                swishing += [before, row]
    for row in (*swishing, images[-1], convs[-2]):
        yield _over(Kind.HARD_SWISH, row.integer("out_c"), row.integer("out_hw"))


def _over(kind: Kind, channels: int, size: int) -> Kernel:
    return square(kind, channels, channels, size, inputs=2 if kind is Kind.ADD else 1)
