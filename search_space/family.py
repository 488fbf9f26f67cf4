"""The published QuadraNets and their relatives as architectures (arXiv 2311.17956, Tables I and V, Fig. 5).

`python -m search_space.family [NAME]` prints counted figures beside the published ones. Not for weights: those
of the released code load through `search_space.released_weights`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from search_space.cost import Cost, cost_of
from search_space.errors import UnknownName, UserError
from search_space.last_words import status_of
from search_space.lower import lower
from search_space.space import Architecture, BlockChoice, SearchSpace, Stage

RESOLUTION, NUM_CLASSES = 224, 1000  # of every published figure
DEPTHS_25 = (2, 3, 18, 2)  # HorNet's; (3, 2, 18, 2) is as near to the published figures (16.18M / 2.91G)
DEPTHS_36 = (3, 3, 27, 3)
DEPTHS_24 = (2, 2, 18, 2)  # of Table II: derived here, not stated there; the released code has these networks
DEPTHS_12 = (2, 2, 6, 2)
INCONSISTENT = 0.01  # relative distance from which a published figure is called inconsistent with the counted one


def quadranet(name: str, width: int, depths: Sequence[int], family: str = "quadra") -> Architecture:
    """Widths C, 2C, 4C, 8C, kernel 7, FFN ratio 4; its space holds this network and shallower ones alone."""
    stages = tuple(Stage(width * 2**i, depth) for i, depth in enumerate(depths))
    choice = BlockChoice(kernel_size=7, expand_ratio=4)
    space = SearchSpace(name, family, width, stages, (choice.kernel_size,), (choice.expand_ratio,))
    return Architecture(space, tuple((choice,) * depth for depth in depths))


def quadranet25_t(depths: Sequence[int] = DEPTHS_25) -> Architecture:
    """16.29M parameters, 2.90G MACs."""
    return quadranet("quadranet25-t", 64, depths)


def quadranet36_t(depths: Sequence[int] = DEPTHS_36) -> Architecture:
    """23.60M parameters, 4.13G MACs."""
    return quadranet("quadranet36-t", 64, depths)


def quadranet36_s(depths: Sequence[int] = DEPTHS_36) -> Architecture:
    """51.62M parameters, 9.03G MACs."""
    return quadranet("quadranet36-s", 96, depths)


def quadranet25_b(depths: Sequence[int] = DEPTHS_25) -> Architecture:
    """62.13M parameters, 11.09G MACs."""
    return quadranet("quadranet25-b", 128, depths)


def quadranet36_b(depths: Sequence[int] = DEPTHS_36) -> Architecture:
    """90.45M parameters, 15.81G MACs."""
    return quadranet("quadranet36-b", 128, depths)


def quadratic_ffn(architecture: Architecture, layers: int) -> Architecture:
    """The network with its FFN's first layer quadratic, or both (`layers` 1 or 2; Table V)."""
    if layers not in (1, 2):
        raise UserError(f"an FFN has 1 or 2 quadratic layers, not {layers}")
    suffix, family = {1: ("conv1", "quadra_fc1"), 2: ("conv1-conv2", "quadra_fc12")}[layers]
    return _relative(architecture, suffix, family)


def linear_twin(architecture: Architecture) -> Architecture:
    """The network with one depthwise convolution in place of three (Fig. 5)."""
    return _relative(architecture, "linear", "linear_dw")


def _relative(architecture: Architecture, suffix: str, family: str) -> Architecture:
    space = architecture.space
    return replace(architecture, space=replace(space, name=f"{space.name}-{suffix}", family=family))


def fig5_family() -> dict[str, Architecture]:
    """Fig. 5's twelve sizes: quadratic and linear, 12 and 36 blocks, C = 16, 32, 64."""
    quadratic = [
        quadranet(f"fig5-{blocks}x{width}", width, depths)
        for blocks, depths in ((12, DEPTHS_12), (36, DEPTHS_36))
        for width in (16, 32, 64)
    ]
    return {a.space.name: a for pair in quadratic for a in (pair, linear_twin(pair))}


@dataclass(frozen=True, slots=True)
class Published:
    """A row of Table I or V. `images_per_second`: on the paper's GPU (an A100), None where no table has it."""

    params_m: float
    gmacs: float
    top1: float
    images_per_second: int | None = None
    note: str = ""


PUBLISHED: dict[str, Published] = {
    "quadranet25-t": Published(16.2, 2.9, 81.2, 2433),
    "quadranet36-t": Published(23.6, 4.1, 82.2, 1971),
    "quadranet36-s": Published(50.2, 8.9, 83.8, 1117, "inconsistent: 50.2M is ConvNeXt-S (one depthwise conv)"),
    "quadranet25-b": Published(61.2, 11.1, 83.6, 1138, "inconsistent: 61.2M; 62.1M with its digits swapped"),
    "quadranet36-b": Published(90.4, 15.8, 84.1, 892),
    "quadranet36-t-conv1": Published(44.6, 7.8, 82.3),
    "quadranet36-t-conv1-conv2": Published(65.6, 11.5, 82.7),
    "quadranet36-b-conv1": Published(174.3, 30.6, 83.9),
    "quadranet36-b-conv1-conv2": Published(258.2, 45.4, 84.2),
}
TABLE1 = ("quadranet25-t", "quadranet36-t", "quadranet36-s", "quadranet25-b", "quadranet36-b")
TABLE5 = tuple(f"quadranet36-{size}{suffix}" for size in "tb" for suffix in ("", "-conv1", "-conv1-conv2"))

_PLAIN = (quadranet25_t(), quadranet36_t(), quadranet36_s(), quadranet25_b(), quadranet36_b())
_CHANNEL_WISE = (quadratic_ffn(a, layers) for a in (quadranet36_t(), quadranet36_b()) for layers in (1, 2))
FAMILY = {a.space.name: a for a in (*_PLAIN, *_CHANNEL_WISE)} | fig5_family()


def family_architecture(name: str) -> Architecture:
    """A member by name, upper case or lower ('QuadraNet36-T'). Raises `UnknownName` with the nearest name."""
    if name.lower() not in FAMILY:
        raise UnknownName("network", name.lower(), FAMILY, "All: python -m search_space.family")
    return FAMILY[name.lower()]


def counted(architecture: Architecture) -> Cost:
    """Its cost at the resolution and number of classes of the published figures."""
    return cost_of(lower(architecture, RESOLUTION, NUM_CLASSES))


def inconsistent(name: str) -> bool:
    """Whether a published figure of a member lies more than 1 % from the counted one."""
    cost, published = counted(family_architecture(name)), PUBLISHED[name]
    ratios = cost.params / 1e6 / published.params_m, cost.macs / 1e9 / published.gmacs
    return any(abs(ratio - 1) > INCONSISTENT for ratio in ratios)


def render_family(names: Sequence[str] = tuple(FAMILY)) -> str:
    """A Markdown table: counted and published parameters and MACs of members."""
    lines = [
        "| network | blocks by stage | C | params M | published | GMACs | published | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        architecture = family_architecture(name)
        cost, published = counted(architecture), PUBLISHED.get(name)
        depths = ",".join(str(len(blocks)) for blocks in architecture.stages)
        params_m, gmacs, note = (published.params_m, published.gmacs, published.note) if published else ("-", "-", "")
        lines.append(
            f"| {name} | {depths} | {architecture.space.stem_width} | {cost.params / 1e6:.3f} | {params_m} "
            f"| {cost.macs / 1e9:.3f} | {gmacs} | {note} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the table of the named members, or of all; the exit status, 2 for an unknown name."""

    def render() -> None:
        print(render_family([family_architecture(name).space.name for name in arguments] or tuple(FAMILY)))

    return status_of(render)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
