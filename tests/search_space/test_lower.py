"""The one walk: its shapes are torch's, a space's candidates are its networks' blocks, and small images are refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space import ZERO, Kind, UserError, available_spaces, load_space, lower, lower_space
from tests.search_space.compare import check_shapes

SPACES = {name: load_space(name) for name in available_spaces()}
names = st.sampled_from(sorted(SPACES))
seeds = st.integers(0, 2**32 - 1)


@given(name=names, seed=seeds, resolution=st.sampled_from([64, 65, 97, 160]))
@settings(max_examples=8, deadline=None)
def test_torch_shapes_equal_lowered_shapes(name: str, seed: int, resolution: int) -> None:
    check_shapes(lower(SPACES[name].random_architecture(random.Random(seed)), resolution, 10), resolution)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_torch_shapes_of_the_extremes(name: str) -> None:
    for architecture in (SPACES[name].smallest(), SPACES[name].largest()):
        check_shapes(lower(architecture, 64, 7), 64)


@given(name=names, seed=seeds, resolution=st.sampled_from([64, 224]), classes=st.integers(2, 1000))
@settings(max_examples=20, deadline=None)
def test_a_spaces_candidates_are_its_networks_blocks(name: str, seed: int, resolution: int, classes: int) -> None:
    space = SPACES[name]
    path = space.random_path(random.Random(seed))
    chosen = [
        segment.nodes if segment.slot is None else segment.candidates[path.choices[segment.slot]]
        for segment in lower_space(space, resolution, classes)
    ]
    expected = [segment.nodes for segment in lower(space.architecture(path), resolution, classes)]
    assert [nodes for nodes in chosen if nodes] == expected


@pytest.mark.parametrize("name", sorted(SPACES))
def test_slots_and_names(name: str) -> None:
    space = SPACES[name]
    segments = lower_space(space, 64, 10)
    assert [s.slot for s in segments if s.slot is not None] == list(range(len(space.slots)))
    assert len({s.name for s in segments}) == len(segments)
    assert (segments[0].name, segments[-1].name) == ("stem", "head")
    for segment in segments:
        if segment.slot is None:
            assert len(segment.candidates) == 1
            continue
        slot = space.slots[segment.slot]
        assert segment.name == f"stage{slot.stage + 1}_block{slot.index + 1}"
        for candidate, nodes in zip(slot.candidates, segment.candidates, strict=True):
            assert (nodes == ()) == (candidate == ZERO)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_layers_read_what_stands_before_them(name: str) -> None:
    for segment in lower(SPACES[name].largest(), 64, 10):
        assert len({node.name for node in segment.nodes}) == len(segment.nodes)
        for position, node in enumerate(segment.nodes):
            assert all(-1 <= x < position for x in node.inputs)
            assert len(node.inputs) == (2 if node.spec.kind in (Kind.ADD, Kind.MUL) else 1)


def test_a_residual_where_shapes_allow_it_and_only_there() -> None:
    segments = lower(SPACES["proxyless"].largest(), 224, 10)
    for segment in segments:
        if segment.slot is not None:
            first, last = segment.nodes[0].spec, segment.nodes[-1]
            keeps = (first.in_channels, first.height) == (last.spec.out_channels, last.spec.out_height)
            assert last.residual == keeps
    with_residual = [s.name for s in segments if s.nodes[-1].residual]
    assert len(with_residual) == 15, "all but the six first blocks, which change the width"


@pytest.mark.parametrize(("name", "smallest"), [("quadranet", 32), ("quadranet_t", 32), ("proxyless", 1)])
def test_too_small_a_resolution(name: str, smallest: int) -> None:
    space = SPACES[name]
    lower(space.largest(), smallest, 10)
    for resolution in {smallest - 1, 0, -5}:
        for too_small in (lambda r: lower(space.smallest(), r, 10), lambda r: lower_space(space, r, 10)):
            with pytest.raises(UserError, match=f"resolution {resolution} is too small for space '{name}'") as caught:
                too_small(resolution)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_too_few_classes(classes: int) -> None:
    with pytest.raises(UserError, match=f"at least 2 classes, got {classes}"):
        lower(SPACES["quadranet"].smallest(), 64, classes)
