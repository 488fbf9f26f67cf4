"""The laws that every deployment target keeps. A new shipped one needs no line here: the laws run over `TARGETS`.

What needs a package that is absent is skipped by name.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from nas.deploy import (
    STATIC,
    TARGETS,
    Convertible,
    Delegation,
    Files,
    Pixels,
    Session,
    Target,
    check_precisions,
    find_target,
)
from nas.deploy.network import Deployable
from nas.run.result import InputFormat
from search_space import load_space, lower
from search_space.build import Network
from search_space.errors import UserError
from tests import ROOT

PRECISIONS = ("fp32", "fp16", "int8", "dynamic_int8")
PIXELS, CLASSES = 32, 3
INPUTS = InputFormat((0.5, 0.4, 0.3), (0.25, 0.2, 0.3), ("a", "b", "c"))


def opened(name: str) -> Target:
    try:
        return find_target(name)
    except UserError as error:
        assert "not installed" in str(error)
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model() -> Deployable:
    """Of a small quadratic network with LayerNorm, GELU and products."""
    torch.manual_seed(0)
    space = load_space(str(ROOT / "experiments/spaces/miniature.yaml"))
    segments = lower(space.smallest(), PIXELS, CLASSES)
    return Deployable(Network(segments).eval(), segments, INPUTS, PIXELS, "a test")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    return [draws.integers(0, 256, (1, PIXELS, PIXELS, 3), dtype=np.uint8) for _ in range(8)]


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_what_it_is_without_its_packages(name: str) -> None:
    module, _, value = TARGETS[name].partition(":")
    target: Target = getattr(__import__(module, fromlist=[value]), value)
    assert target.precisions[0] == "fp32" and set(target.precisions) <= set(PRECISIONS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = project["optional-dependencies"].get(target.extra, []) if target.extra else project["dependencies"]
    for package in target.packages.values():
        assert any(line.startswith(package) for line in known), f"{package} is in no extra"
    assert check_precisions(name, target, ()) == ("fp32",)
    assert check_precisions(name, target, [*target.precisions, "fp32"]) == tuple(target.precisions)
    with pytest.raises(UserError, match=rf"precision=int3: target={name} has fp32"):
        check_precisions(name, target, ("fp32", "int3"))


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "onnxruntime"])
def test_a_missing_extra_is_one_line_that_names_it(name: str) -> None:
    module, _, value = TARGETS[name].partition(":")
    target: Target = getattr(__import__(module, fromlist=[value]), value)
    if all(find_spec(package) for package in target.packages):
        pytest.skip("all its packages are installed")
    with pytest.raises(UserError, match=rf"target={name} needs the package .*\[{target.extra}\]"):
        find_target(name)


@pytest.mark.filterwarnings("ignore", "ignore::pytest.PytestUnraisableExceptionWarning")  # of converters, not ours
@pytest.mark.parametrize("name", TARGETS)
def test_what_it_makes_computes_the_network(name: str, model: Deployable, images: list[np.ndarray]) -> None:
    target = opened(name)
    made = target.convert(model, target.precisions, images)
    assert set(made) == set(target.precisions)
    with torch.inference_mode():
        expected = np.concatenate([model.module()(torch.from_numpy(image)).numpy() for image in images])
    sizes = {}
    for precision, files in made.items():
        session = target.open(files, 1)
        found = np.concatenate([session(image).copy() for image in images])
        assert found.shape == (len(images), CLASSES) and found.dtype == np.float32
        assert np.allclose(found.sum(1), 1, atol=0.02), precision
        difference = np.abs(found - expected).max()
        assert difference < (1e-5 if precision == "fp32" else 2e-3 if precision == "fp16" else 0.1), precision
        assert precision == "fp32" or difference > 0, f"{precision} changes nothing"
        assert session.delegation is None or isinstance(session.delegation, Delegation)
        sizes[precision] = sum(map(len, files.values()))
    assert np.ptp(expected, axis=0).max() > 1e-3, "the network tells these images apart"
    again = target.convert(model, ["fp32"], [])
    if STATIC in target.precisions:
        assert set(again) == {"fp32"}


class Toy:
    """A target from outside the package: ONNX as it comes, run by the reference that ONNX has."""

    precisions = ("fp32",)
    packages: Mapping[str, str] = {"onnx": "onnx"}
    extra = ""

    def convert(self, model: Convertible, precisions: Sequence[str], images: Sequence[Pixels]) -> Mapping[str, Files]:
        return {"fp32": {".onnx": model.onnx()}}

    def open(self, files: Files, threads: int) -> Session:
        return ToySession(files[".onnx"])


class ToySession:
    delegation: Delegation | None = None

    def __init__(self, model: bytes) -> None:
        self.evaluator = ReferenceEvaluator(onnx.load_from_string(model))

    def __call__(self, image: Pixels) -> NDArray[np.float32]:
        (found,) = list(self.evaluator.run(None, {"image": image}))
        return np.asarray(found, np.float32)


TOY = Toy()


def test_a_toy_from_outside_the_package_is_found_by_its_path(model: Deployable, images: list[np.ndarray]) -> None:
    target = find_target(f"{__name__}:TOY")
    session = target.open(target.convert(model, target.precisions, images)["fp32"], 1)
    with torch.inference_mode():
        expected = model.module()(torch.from_numpy(images[0])).numpy()
    assert np.allclose(session(images[0]), expected, atol=1e-6)
    with pytest.raises(UserError, match="precision=int8"):
        check_precisions("toy", target, ("int8",))
