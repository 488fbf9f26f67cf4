"""Counting: published networks and formulas come out, torch agrees, and peak memory is what tensors need."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space import Architecture, BlockChoice, SearchSpace, Stage, available_spaces, cost_of, load_space, lower
from search_space.build import Network

SPACES = {name: load_space(name) for name in available_spaces()}
names = st.sampled_from(sorted(SPACES))
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("name", "width_mult", "low", "high"),
    [
        ("quadranet", None, 135.6, 953.5),
        ("quadranet_t", None, 406, 5979),
        ("proxyless", None, 197, 1088),
        ("proxyless", 1.0, 102.5, 606.6),
    ],
)
def test_range_of_a_space(name: str, width_mult: float | None, low: float, high: float) -> None:
    """Millions of MACs at 224 pixels, 1000 classes."""
    space = load_space(name, width_mult)
    for architecture, millions in ((space.smallest(), low), (space.largest(), high)):
        digits = 1 if isinstance(millions, float) else 0
        assert round(cost_of(lower(architecture, 224, 1000)).macs / 1e6, digits) == millions


@given(name=names, seed=seeds)
@settings(max_examples=20, deadline=None)
def test_every_member_lies_within_the_range(name: str, seed: int) -> None:
    space = SPACES[name]
    low, cost, high = (
        cost_of(lower(a, 224, 1000))
        for a in (space.smallest(), space.random_architecture(random.Random(seed)), space.largest())
    )
    assert low.macs <= cost.macs <= high.macs
    assert low.params <= cost.params <= high.params
    assert low.peak_activation_bytes <= cost.peak_activation_bytes <= high.peak_activation_bytes


@pytest.mark.parametrize(
    ("depths", "millions", "billions"), [((2, 3, 18, 2), 16.29, 2.900), ((3, 3, 27, 3), 23.599, 4.130)]
)
def test_published_quadranets(depths: tuple[int, ...], millions: float, billions: float) -> None:
    """QuadraNet25-T and 36-T (arXiv 2311.17956, Table I: 16.2M / 2.9G and 23.6M / 4.1G)."""
    architecture = Architecture(SPACES["quadranet_t"], tuple((BlockChoice(7, 4),) * depth for depth in depths))
    cost = cost_of(lower(architecture, 224, 1000))
    assert cost.params / 1e6 == pytest.approx(millions, abs=0.005 if millions < 20 else 0.0005)
    assert cost.macs / 1e9 == pytest.approx(billions, abs=0.0005)


@given(
    stage=st.integers(0, 3),
    choice=st.sampled_from(SPACES["quadranet_t"].choices),
    resolution=st.sampled_from([64, 128, 224]),
)
@settings(max_examples=20, deadline=None)
def test_block_formula(stage: int, choice: BlockChoice, resolution: int) -> None:
    """params = 6C + 3(k^2+1)C + 2eC^2 + (e+1)C, MACs = (3k^2C + 2eC^2)HW."""
    space = SPACES["quadranet_t"]
    blocks = [(choice,) if i == stage else (space.choices[0],) for i in range(4)]
    segments = {s.name: s for s in lower(Architecture(space, tuple(blocks)), resolution, 10)}
    cost = cost_of([segments[f"stage{stage + 1}_block1"]])
    c, k, e = space.stages[stage].width, choice.kernel_size, choice.expand_ratio
    pixels = (resolution // 4 // 2**stage) ** 2
    assert cost.params == 6 * c + 3 * (k * k + 1) * c + 2 * e * c * c + (e + 1) * c
    assert cost.macs == (3 * k * k * c + 2 * e * c * c) * pixels
    if choice == BlockChoice(7, 4):
        assert cost.params == 8 * c * c + 161 * c
        assert cost.macs == (147 * c + 8 * c * c) * pixels


@given(name=names, seed=seeds, classes=st.integers(2, 1000))
@settings(max_examples=12, deadline=None)
def test_params_equal_torchs_count(name: str, seed: int, classes: int) -> None:
    segments = lower(SPACES[name].random_architecture(random.Random(seed)), 64, classes)
    with torch.device("meta"):
        network = Network(segments)
    assert cost_of(segments).params == sum(p.numel() for p in network.parameters())


def test_peak_activation_by_hand() -> None:
    """One k3e6 block of 8 channels on 2x2: the GELU holds the skip (32), its input and output (192 each)."""
    space = SearchSpace("small", "quadra", 8, (Stage(8, 1),), (3,), (6,))
    segments = lower(space.smallest(), 8, 2)
    assert cost_of(segments).peak_activation_bytes == 4 * (32 + 192 + 192)
    assert cost_of(segments, bytes_per_element=2).peak_activation_bytes == 2 * (32 + 192 + 192)
    assert cost_of(segments[:1]).peak_activation_bytes == 4 * (3 * 8 * 8 + 8 * 2 * 2), "the stem: image and its output"


def test_peak_activation_of_the_quadratic_neuron() -> None:
    """At expansion 1 the three depthwise outputs, their input and the skip are the most: five tensors."""
    space = SearchSpace("small", "quadra", 8, (Stage(8, 1),), (3,), (1,))
    segments = lower(space.smallest(), 16, 2)
    block = next(s for s in segments if s.name == "stage1_block1")
    assert cost_of([block]).peak_activation_bytes == 4 * 5 * 8 * 4 * 4


@given(name=names, seed=seeds, resolution=st.integers(32, 224), larger=st.integers(1, 64))
@settings(max_examples=20, deadline=None)
def test_cost_grows_with_resolution_but_params_do_not(name: str, seed: int, resolution: int, larger: int) -> None:
    architecture = SPACES[name].random_architecture(random.Random(seed))
    small, large = (cost_of(lower(architecture, r, 10)) for r in (resolution, resolution + larger))
    assert small.peak_activation_bytes <= large.peak_activation_bytes
    assert small.macs <= large.macs
    assert small.params == large.params
    doubled = cost_of(lower(architecture, 2 * resolution, 10))
    assert doubled.peak_activation_bytes > small.peak_activation_bytes


@given(name=names, seed=seeds)
@settings(max_examples=10, deadline=None)
def test_cost_is_a_sum_over_segments_and_a_maximum_of_peaks(name: str, seed: int) -> None:
    segments = lower(SPACES[name].random_architecture(random.Random(seed)), 64, 10)
    whole, parts = cost_of(segments), [cost_of([segment]) for segment in segments]
    assert whole.macs == sum(part.macs for part in parts)
    assert whole.params == sum(part.params for part in parts)
    assert whole.peak_activation_bytes == max(part.peak_activation_bytes for part in parts)
