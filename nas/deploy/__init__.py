"""Runtimes that a trained network is handed over to: one file each, found by name or by full dotted path.

A new one is one file beside these and one line in `TARGETS`; or a value anywhere, asked for as
`target=package.module:value`. The laws that every target keeps are in tests/contracts/test_targets.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from search_space.errors import UserError
from search_space.named import load_named

TARGETS = {
    "litert": "nas.deploy.litert:TARGET",
    "onnxruntime": "nas.deploy.onnxruntime:TARGET",
    "openvino": "nas.deploy.openvino:TARGET",
}
PRECISIONS = ("fp32", "fp16", "int8", "dynamic_int8")
STATIC = "int8"  # the precision whose ranges are measured on images
FORM = "uint8 RGB, 1 x height x width x 3"  # of the input, as files say it
ROLE = ("precisions", "packages", "extra", "convert", "open")

Files = Mapping[str, bytes]
"""What is handed over: the ending of a file, such as '.onnx', -> its content. The first is the one to open."""
Pixels = NDArray[np.uint8]
"""An RGB picture as a deployed file takes it, (1, R, R, 3)."""


class Convertible(Protocol):
    """A network at one resolution, in the forms that converters read. All take `Pixels` and give probabilities."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the files say of themselves, such as classes, resolution and how a picture is cropped."""

    def onnx(self) -> bytes:
        """An ONNX graph of fixed shape: input 'image', output 'probabilities' (1, classes)."""

    def module(self) -> Any:
        """A torch module in evaluation mode, of the same input and output."""

    def example(self) -> Pixels:
        """An input of its shape."""


@dataclass(frozen=True)
class Delegation:
    """How an accelerating delegate took a graph: in how many parts, and which operators (with counts) stayed outside.

    Every part costs a change of hands on the way.
    """

    partitions: int
    not_delegated: Mapping[str, int] = field(default_factory=dict)


class Session(Protocol):
    """A file opened in its runtime. delegation: None where the runtime does not tell."""

    delegation: Delegation | None

    def __call__(self, image: Pixels) -> NDArray[np.float32]:
        """(1, R, R, 3) -> probabilities (1, classes)."""


class Target(Protocol):
    """A runtime to deploy to.

    precisions: what it can be asked for, the default first; of 'fp32', 'fp16' (weights), 'int8' (weights and
    activations, ranges measured on images), 'dynamic_int8' (weights; activations while it runs). packages: module ->
    distribution, of what must be installed. extra: of this project that brings them, '' where none is needed.
    """

    precisions: Sequence[str]
    packages: Mapping[str, str]
    extra: str

    def convert(self, model: Convertible, precisions: Sequence[str], images: Sequence[Pixels]) -> Mapping[str, Files]:
        """Precision -> its files. images: to measure ranges on, for `STATIC`. Raises what the converter raises."""

    def open(self, files: Files, threads: int) -> Session:
        """Ready to run on the CPU of this machine with so many threads."""


def find_target(name: str) -> Target:
    """Raises `UserError` for a target that is not known, or whose packages are missing."""
    found: Target = load_named("target", name, TARGETS, ROLE)
    if missing := [module for module in found.packages if find_spec(module) is None]:
        package = found.packages[missing[0]]
        how = f"pip install torch=={version('torch').partition('+')[0]} -e '.[{found.extra}]'"
        how = how if found.extra else f"pip install {package}"
        raise UserError(f"target={name} needs the package '{package}', which is not installed: {how}")
    return found


def check_targets(names: Sequence[str], precisions: Sequence[str] = ()) -> None:
    """Raise `UserError` as `find_target` and `check_precisions` do, for all that a run is to be deployed to."""
    for name in names:
        check_precisions(name, find_target(name), precisions)


def check_precisions(name: str, target: Target, asked: Sequence[str]) -> tuple[str, ...]:
    """The precisions, each once; by default the target's first. Raises `UserError` naming those that it has."""
    if wrong := [precision for precision in asked if precision not in target.precisions]:
        raise UserError(f"precision={wrong[0]}: target={name} has {', '.join(target.precisions)}")
    return tuple(dict.fromkeys(asked)) or (target.precisions[0],)
