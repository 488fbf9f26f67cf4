"""Published mobile networks as architectures of MobileNetV2's blocks.

ProxylessNAS' three and MobileNetV2 itself, and MobileNetV3-Large as far as those blocks reach.

Sources: ProxylessNAS, arXiv 1812.00332 (its released networks); MobileNetV2, arXiv 1801.04381, table 2; MobileNetV3,
arXiv 1905.02244, table 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_space.space import Architecture, BlockChoice, SearchSpace, Stage, divisible, parse_block

STRIDES = (2, 2, 2, 1, 2, 1)
MOBILENET_V2_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # the multipliers that were published
MOBILENET_V3_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.25)


def _network(
    name: str, ends: tuple[int, int, int], widths: Sequence[int], stages: Sequence[Sequence[BlockChoice]]
) -> Architecture:
    """ends: widths of the stem, of the first block and before the classifier."""
    stem, first, head = ends
    blocks = tuple(map(tuple, stages))
    choices = [choice for stage in blocks for choice in stage]
    space = SearchSpace(
        name=name,
        family="mbconv",
        stem_width=stem,
        first_width=first,
        head_width=head,
        stages=tuple(Stage(w, len(b), s) for w, b, s in zip(widths, blocks, STRIDES[: len(blocks)], strict=True)),
        kernel_sizes=tuple(sorted({choice.kernel_size for choice in choices})),
        expand_ratios=tuple(sorted({choice.expand_ratio for choice in choices})),
    )
    return Architecture(space, blocks)


def _proxyless(name: str, ends: tuple[int, int, int], widths: Sequence[int], blocks: str) -> Architecture:
    """blocks: expansion_kernel, stages between bars, as the authors write them."""
    stages = [
        [parse_block("k{1}e{0}".format(*block.split("_"))) for block in stage.split()] for stage in blocks.split("|")
    ]
    return _network(name, ends, widths, stages)


PROXYLESS_GPU = _proxyless(
    "ProxylessNAS-GPU",
    (40, 24, 1728),
    (32, 56, 112, 128, 256, 432),
    "3_5 | 3_7 3_3 | 6_7 3_5 | 6_5 3_3 3_5 | 6_7 6_7 6_7 6_5 | 6_7",
)
PROXYLESS_CPU = _proxyless(
    "ProxylessNAS-CPU",
    (40, 24, 1432),
    (32, 48, 88, 104, 216, 360),
    "6_3 3_3 3_3 3_3 | 6_3 3_3 3_3 3_5 | 6_3 3_3 | 6_5 3_3 3_3 3_3 | 6_5 3_5 3_5 3_3 | 6_5",
)
PROXYLESS_MOBILE = _proxyless(
    "ProxylessNAS-Mobile",
    (32, 16, 1280),
    (32, 40, 80, 96, 192, 320),
    "3_5 3_3 | 3_7 3_3 3_5 3_5 | 6_7 3_5 3_5 3_5 | 6_5 3_5 3_5 3_5 | 6_7 6_7 3_7 3_7 | 6_7",
)
PROXYLESS = (PROXYLESS_GPU, PROXYLESS_CPU, PROXYLESS_MOBILE)


def mobilenet_v2(width_mult: float) -> Architecture:
    """3.50M parameters and 301M MACs at width 1."""
    block = BlockChoice(kernel_size=3, expand_ratio=6)
    widths = [divisible(width * width_mult) for width in (24, 32, 64, 96, 160, 320)]
    ends = divisible(32 * width_mult), divisible(16 * width_mult), divisible(1280 * max(1.0, width_mult))
    stages = [(block,) * depth for depth in (2, 3, 4, 3, 3, 1)]
    return _network(f"MobileNetV2 x{width_mult:g}", ends, widths, stages)


def mobilenet_v3_like(width_mult: float) -> Architecture:
    """The kernels and widths of MobileNetV3-Large with ReLU6 for h-swish and no squeeze-and-excitation.

    Expansions of 2.5 and 2.3 are 2 here, and the classifier follows the last 1x1 convolution (960) at once.

    2.41M parameters and 211M MACs at width 1; the published network has 5.4M and 219M, with what is left out here.
    """
    stages = [[parse_block(block) for block in stage.split()] for stage in (
        "k3e4 k3e3", "k5e3 k5e3 k5e3", "k3e6 k3e2 k3e2 k3e2", "k3e6 k3e6", "k5e6 k5e6 k5e6"
    )]  # fmt: skip
    widths = [divisible(width * width_mult) for width in (24, 40, 80, 112, 160)]
    ends = divisible(16 * width_mult), divisible(16 * width_mult), divisible(960 * width_mult)
    return _network(f"MobileNetV3-like x{width_mult:g}", ends, widths, stages)
