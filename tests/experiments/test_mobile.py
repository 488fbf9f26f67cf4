"""Published mobile networks are exactly the published sizes."""

from __future__ import annotations

import pytest

from experiments.baselines.mobile import (
    PROXYLESS_CPU,
    PROXYLESS_GPU,
    PROXYLESS_MOBILE,
    mobilenet_v2,
    mobilenet_v3_like,
)
from search_space import Architecture, cost_of, lower


@pytest.mark.parametrize(
    ("architecture", "params", "macs"),
    [
        (PROXYLESS_GPU, 7.120, 465.26),  # the authors' logs
        (PROXYLESS_CPU, 4.362, 439.24),
        (PROXYLESS_MOBILE, 4.081, 320.43),
        (mobilenet_v2(1.0), 3.505, 300.77),  # the TensorFlow model: 3.47M / 300M; torchvision's: 3.505M
    ],
    ids=lambda value: value.space.name if isinstance(value, Architecture) else "",
)
def test_parameters_and_macs_are_those_published(architecture: Architecture, params: float, macs: float) -> None:
    cost = cost_of(lower(architecture, 224, 1000))
    assert round(cost.params / 1e6, 3) == params
    assert round(cost.macs / 1e6, 2) == macs


def test_mobilenets_grow_with_their_width() -> None:
    macs = [cost_of(lower(mobilenet_v2(width), 224, 1000)).macs for width in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)]
    assert macs == sorted(macs) and macs[0] / 1e6 == pytest.approx(59, rel=0.02)
    assert macs[-1] / 1e6 == pytest.approx(582, rel=0.02)


def test_mobilenet_v3_without_what_no_block_here_has() -> None:
    """15 blocks with their kernels; 219M MACs and 5.4M parameters are published with squeeze-and-excitation and a
    wider classifier."""
    network = mobilenet_v3_like(1.0)
    kernels = [block.kernel_size for stage in network.stages for block in stage]
    assert kernels == [3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5]  # after the first, of expansion 1
    cost = cost_of(lower(network, 224, 1000))
    assert (round(cost.macs / 1e6), round(cost.params / 1e6, 2)) == (211, 2.41)
    assert 0.93 < cost.macs / 219e6 < 1
