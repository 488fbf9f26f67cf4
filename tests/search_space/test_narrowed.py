"""Spaces with blocks taken out. Not for the options that ask for it: tests/nas/run/test_plan.py."""

from __future__ import annotations

import pytest

from search_space import BlockChoice, SearchSpace, UserError, load_space, lower
from search_space.layer import Kind
from search_space.narrowed import cut_words, narrowed
from search_space.space_file import available_spaces

QUADRANET = load_space("quadranet")


def names(space: SearchSpace, stage: int = 0) -> list[str]:
    return list(map(str, space.stage_choices[stage]))


def test_kernel_sizes_stay_alone() -> None:
    cut = narrowed(QUADRANET, [3, 5])
    assert names(cut) == ["k3e3", "k3e6", "k5e3", "k5e6"] and cut.kernels == (3, 5)
    assert cut.name == QUADRANET.name and cut.largest().digest != QUADRANET.largest().digest
    assert SearchSpace.from_dict(cut.to_dict()) == cut


def test_stages_with_quadratic_forms_of_their_own_are_cut_too() -> None:
    own = load_space("efficientnet_lite0_quadratic").to_dict()
    own["stages"][1]["quadratic"] = [2]
    cut = narrowed(SearchSpace.from_dict(own), [3], ["k3e6q2"])
    assert names(cut, 1) == [f"k3e{ratio}{form}" for ratio in (1, 2, 3, 4) for form in ("", "q2")] + ["k3e6"]


@pytest.mark.parametrize(
    ("avoid", "left"),
    [
        (["k3e6", "k7e3"], ["k3e3", "k5e3", "k5e6", "k7e6"]),
        (["dwconv7"], ["k3e3", "k3e6", "k5e3", "k5e6"]),
        (["dwconv7", "dwconv3", "k5e6"], ["k5e3"]),
    ],
)
def test_blocks_are_avoided_by_name_and_by_layer(avoid: list[str], left: list[str]) -> None:
    cut = narrowed(QUADRANET, None, avoid)
    assert all(names(cut, stage) == left for stage in range(4))
    kernels = {
        node.spec.kernel_size
        for segment in lower(cut.largest(), 224, 10)
        if segment.slot is not None
        for node in segment.nodes
        if node.spec.kind is Kind.DWCONV
    }
    assert not kernels & {int(name[-1]) for name in avoid if name.startswith("dwconv")}


def test_a_layer_that_one_stage_alone_has_is_avoided_there() -> None:
    macro = load_space("experiments/spaces/nas_bench_macro.yaml")
    cut = narrowed(macro, None, ["dwconv5"], pixels=32)
    assert all(choice.kernel_size != 5 for choice in cut.choices)
    assert BlockChoice(3, 3) in cut.choices and len(cut.slots) == len(macro.slots)


@pytest.mark.parametrize("name", available_spaces())
def test_what_takes_nothing_out_changes_nothing(name: str) -> None:
    space = load_space(name)
    assert narrowed(space) == narrowed(space, space.kernels) == space


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kernel_sizes": [3, 9]}, "kernel_sizes=[3,9] names 9: the kernel sizes of 'quadranet' are 3, 5, 7"),
        ({"avoid": ["dwcon7"]}, "unknown avoid 'dwcon7'. Did you mean 'dwconv7'?"),
        ({"avoid": ["k9e3"]}, "unknown avoid 'k9e3'."),
        ({"avoid": ["gelu"]}, "avoid=[gelu] leaves no block in stage 1 of 'quadranet', which has k3e3, k3e6,"),
        ({"kernel_sizes": [7], "avoid": ["dwconv7"]}, "kernel_sizes=[7] avoid=[dwconv7] leaves no block in stage 1"),
    ],
)
def test_what_is_not_there_and_nothing_left_are_refused_on_one_line(asked: dict[str, list], said: str) -> None:
    with pytest.raises(UserError) as caught:
        narrowed(QUADRANET, **asked)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_the_cut_in_words() -> None:
    assert cut_words([3, 5], ("gelu",)) == "kernel_sizes=[3,5] avoid=[gelu]" and cut_words(None, ()) == ""
