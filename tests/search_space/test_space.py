"""Spaces, gate paths and architectures as values: counting, round trips, mutation, and what is refused."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space import (
    ZERO,
    Architecture,
    BlockChoice,
    GatePath,
    Kind,
    SearchSpace,
    Stage,
    UserError,
    available_spaces,
    cost_of,
    load_space,
    lower,
    lower_space,
)
from search_space.errors import BadFile, UnknownName
from search_space.space import divisible, parse_block

NAMES = (
    "efficientnet_lite0",
    "efficientnet_lite0_quadratic",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "mobilenet_v2",
    "mobilenet_v2_110d",
    "mobilenet_v2_120d",
    "proxyless",
    "quadranet",
    "quadranet_lite",
    "quadranet_t",
)
SPACES = {name: load_space(name) for name in NAMES}
names = st.sampled_from(NAMES)
seeds = st.integers(0, 2**32 - 1)
fast = settings(max_examples=25, deadline=None)

TINY = {
    "name": "tiny",
    "family": "quadra",
    "stem_width": 8,
    "stages": [{"width": 8, "max_blocks": 2}, {"width": 16, "max_blocks": 1}],
    "kernel_sizes": [3, 5],
    "expand_ratios": [2],
}


def one_line(error: BaseException) -> bool:
    return str(error) != "" and "\n" not in str(error)


def test_the_shipped_spaces() -> None:
    assert available_spaces() == NAMES


def test_quadranet_counts() -> None:
    space = SPACES["quadranet"]
    assert space.path_count == (6 * 7**3) ** 4
    assert space.architecture_count == (6 + 36 + 216 + 1296) ** 4
    assert f"{space.path_count:.3e}" == "1.794e+13"
    assert f"{space.architecture_count:.3e}" == "5.832e+12"
    assert len(space.slots) == 16


def test_proxyless_counts_and_widths() -> None:
    space = SPACES["proxyless"]
    assert space.path_count == 6**6 * 7**15
    assert space.architecture_count == (6 + 36 + 216 + 1296) ** 5 * 6
    assert (space.stem_width, space.first_width, space.head_width) == (48, 24, 1792)
    assert [stage.width for stage in space.stages] == [32, 56, 112, 136, 272, 448]
    assert [stage.stride for stage in space.stages] == [2, 2, 2, 1, 2, 1]


def test_proxyless_at_width_one() -> None:
    space = load_space("proxyless", 1.0)
    assert (space.stem_width, space.first_width, space.head_width) == (32, 16, 1280)
    assert [stage.width for stage in space.stages] == [24, 40, 80, 96, 192, 320]
    assert space.path_count == SPACES["proxyless"].path_count


def test_counting_equals_listing() -> None:
    space = SearchSpace.from_dict(TINY)
    paths = [GatePath((i, j, k)) for i in range(2) for j in range(3) for k in range(2)]
    for path in paths:
        space.check_path(path)
    assert space.path_count == len(paths)
    assert space.architecture_count == len({space.architecture(path) for path in paths})


@given(width=st.floats(0.5, 5000))
@fast
def test_divisible_rounds_to_eights_and_loses_at_most_a_tenth(width: float) -> None:
    rounded = divisible(width)
    assert rounded % 8 == 0 and rounded >= 8
    assert rounded >= 0.9 * width
    assert abs(rounded - width) <= 8


def test_the_first_block_of_a_stage_is_mandatory_and_only_it() -> None:
    for space in SPACES.values():
        for slot in space.slots:
            assert (ZERO in slot.candidates) == (slot.index > 0)
            assert slot.candidates == space.stage_choices[slot.stage] + (ZERO,) * (slot.index > 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_space_survives_json(name: str) -> None:
    for space in (SPACES[name], SPACES[name].scaled(0.5)):
        back = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
        assert back == space and hash(back) == hash(space)


@given(name=names, seed=seeds)
@fast
def test_an_architecture_survives_json(name: str, seed: int) -> None:
    architecture = SPACES[name].random_architecture(random.Random(seed))
    back = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
    assert back == architecture and hash(back) == hash(architecture)
    assert back.digest == architecture.digest and str(back) == str(architecture)


@given(name=names, seed=seeds)
@fast
def test_random_architectures_are_members_and_seeds_decide(name: str, seed: int) -> None:
    space = SPACES[name]
    architecture = space.random_architecture(random.Random(seed))
    assert architecture == space.random_architecture(random.Random(seed))
    for blocks, stage in zip(architecture.stages, space.stages, strict=True):
        assert 1 <= len(blocks) <= stage.max_blocks
    assert all(set(blocks) <= set(space.stage_choices[s]) for s, blocks in enumerate(architecture.stages))
    assert space.architecture(space.path(architecture)) == architecture


def test_random_draws_reach_every_depth_and_candidate() -> None:
    space, rng = SPACES["quadranet"], random.Random(0)
    paths = [space.random_path(rng) for _ in range(300)]
    for i, slot in enumerate(space.slots):
        assert {path.choices[i] for path in paths} == set(range(len(slot.candidates)))
    architectures = [space.random_architecture(rng) for _ in range(300)]
    for s, stage in enumerate(space.stages):
        assert {len(a.stages[s]) for a in architectures} == set(range(1, stage.max_blocks + 1))


def test_digests_are_pinned() -> None:
    """Result files carry digests: a change here breaks those written before."""
    pinned = {
        "quadranet": ("d7693e820aa2", "4ab074834b95"),
        "proxyless": ("0d3a6eb9f7ee", "61a33ef25aea"),
        "quadranet_t": ("33a23073007d", "0f224bc22ccb"),
        "quadranet_lite": ("5937d44d968c", "7ab4048178cf"),
    }
    for name, digests in pinned.items():
        assert (SPACES[name].smallest().digest, SPACES[name].largest().digest) == digests


def test_a_norm_and_an_activation_are_written_only_where_they_are_chosen() -> None:
    own, lite = SPACES["quadranet"], SPACES["quadranet_lite"]
    assert not {"norm", "activation"} & own.to_dict().keys()
    assert lite.to_dict()["norm"] == "batch_norm"
    plain = replace(lite, name="quadranet", norm=None, activation=None)
    assert plain == own and plain.smallest().digest == own.smallest().digest


def test_quadranet_lite_is_quadranet_with_other_layers() -> None:
    own, lite = SPACES["quadranet"], SPACES["quadranet_lite"]
    assert replace(own, name=lite.name, norm=lite.norm, activation=lite.activation) == lite
    for member in ("smallest", "largest"):
        one, other = (cost_of(lower(getattr(space, member)(), 224, 1000)) for space in (own, lite))
        assert one.macs == other.macs


def test_every_norm_of_quadranet_lite_folds_into_a_convolution_before_it() -> None:
    for segment in lower_space(SPACES["quadranet_lite"], 64, 10):
        for nodes in segment.candidates:
            readers = Counter(x for node in nodes for x in node.inputs)
            for node in (n for n in nodes if n.spec.kind is Kind.BATCH_NORM):
                assert nodes[node.inputs[0]].spec.kind in (Kind.CONV, Kind.DWCONV)
                assert readers[node.inputs[0]] == 1
            assert {n.spec.kind for n in nodes}.isdisjoint({Kind.LAYER_NORM, Kind.GELU, Kind.SCALE})


@given(name=names, seed=seeds)
@fast
def test_digests_distinguish_architectures(name: str, seed: int) -> None:
    rng = random.Random(seed)
    one, other = (SPACES[name].random_architecture(rng) for _ in range(2))
    assert (one.digest == other.digest) == (one == other)
    widened = SPACES[name].scaled(2.0)
    assert Architecture(widened, one.stages).digest != one.digest


@given(name=names, seed=seeds)
@fast
def test_zeros_are_packed_and_packing_twice_changes_nothing(name: str, seed: int) -> None:
    space = SPACES[name]
    path = space.random_path(random.Random(seed))
    architecture = space.architecture(path)
    packed = space.path(architecture)
    space.check_path(packed)
    assert space.architecture(packed) == architecture
    assert space.path(space.architecture(packed)) == packed
    chosen = [slot.candidates[c] for slot, c in zip(space.slots, path.choices, strict=True)]
    assert [block for blocks in architecture.stages for block in blocks] == [c for c in chosen if c != ZERO]


def test_the_place_of_a_zero_does_not_matter() -> None:
    space = SPACES["quadranet"]
    zero, block = 6, 2
    early = GatePath((0, zero, block, zero, *[0] * 12))
    late = GatePath((0, block, zero, zero, *[0] * 12))
    assert early != late
    assert space.architecture(early) == space.architecture(late)
    assert space.path(space.architecture(early)) == late


@given(name=names, seed=seeds)
@fast
def test_mutation_changes_one_slot_and_stays_in_the_space(name: str, seed: int) -> None:
    space, rng = SPACES[name], random.Random(seed)
    path = space.random_path(rng)
    for _ in range(5):
        mutated = space.mutate(path, rng)
        space.check_path(mutated)
        assert sum(a != b for a, b in zip(path.choices, mutated.choices, strict=True)) == 1
        path = mutated


def test_smallest_and_largest() -> None:
    assert str(SPACES["quadranet"].smallest()) == "k3e3 | k3e3 | k3e3 | k3e3"
    largest = SPACES["quadranet"].largest()
    assert {block for blocks in largest.stages for block in blocks} == {BlockChoice(7, 6)}
    assert [len(blocks) for blocks in largest.stages] == [4, 4, 4, 4]


@pytest.mark.parametrize("text", ["", "k7", "e6", "k7e6 ", "K7E6", "k-7e6", "zero", "k7e6\n", "k7.0e6"])
def test_what_is_not_a_block(text: str) -> None:
    with pytest.raises(UserError, match="blocks are written like k7e6"):
        parse_block(text)


@given(kernel=st.integers(0, 99), expand=st.integers(0, 99))
@fast
def test_blocks_read_back(kernel: int, expand: int) -> None:
    assert parse_block(f"k{kernel}e{expand}") == BlockChoice(kernel, expand)


SMALL = BlockChoice(3, 3)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (((SMALL,),) * 3, "has 4 stages, the architecture 3"),
        (((), (SMALL,), (SMALL,), (SMALL,)), "stage 1 of 'quadranet' holds 1 to 4 blocks, not 0"),
        (((SMALL,), (SMALL,) * 5, (SMALL,), (SMALL,)), "stage 2 of 'quadranet' holds 1 to 4 blocks, not 5"),
        (((SMALL,), (SMALL,), (BlockChoice(9, 3),), (SMALL,)), "'k9e3' is not a block of 'quadranet'.*k7e6"),
        (((SMALL,), (SMALL,), (SMALL, ZERO), (SMALL,)), "'zero' is not a block of 'quadranet'"),
    ],
)
def test_architectures_outside_the_space(stages: tuple[tuple[BlockChoice, ...], ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Architecture(SPACES["quadranet"], stages)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    "choices", [(), (0,), (0,) * 15, (0,) * 17, (6, *[0] * 15), (-1, *[0] * 15), (0, 7, *[0] * 14)]
)
def test_paths_outside_the_space(choices: tuple[int, ...]) -> None:
    space = SPACES["quadranet"]
    with pytest.raises(UserError, match="slot"):
        space.check_path(GatePath(choices))
    with pytest.raises(UserError, match="slot"):
        space.architecture(GatePath(choices))


@pytest.mark.parametrize(
    "data", [{}, {"space": None, "stages": []}, {"space": TINY, "stages": [[3], [3]]}, {"stages": []}]
)
def test_what_is_not_an_architecture(data: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        Architecture.from_dict(data)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    ("asked", "near"), [("quadrant", "quadranet"), ("proxyles", "proxyless"), ("quadranet-t", "quadranet_t")]
)
def test_an_unknown_space_names_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(UnknownName, match=f"unknown space '{asked}'. Did you mean '{near}'.*path/to/space.yaml"):
        load_space(asked)


def test_an_unknown_space_far_from_all_lists_them() -> None:
    with pytest.raises(UnknownName, match=f"Known: {', '.join(NAMES)}") as caught:
        load_space("zzzzzz")
    assert "Did you mean" not in str(caught.value)


def test_a_space_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    space = load_space(str(file))
    assert space == SearchSpace.from_dict(TINY)
    assert space.stages == (Stage(8, 2), Stage(16, 1)) and space.choices == (BlockChoice(3, 2), BlockChoice(5, 2))
    file.write_text(yaml.safe_dump({**TINY, "width_mult": 2.0}))
    assert [stage.width for stage in load_space(str(file)).stages] == [16, 32]
    assert load_space(str(file), 1.0) == space, "the argument replaces the file's width_mult"


def with_stage(**changes: object) -> dict[str, object]:
    first, second = TINY["stages"]
    return {**TINY, "stages": [first, {**second, **changes}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [tiny", "not YAML"),
        (b"", "holds no fields"),
        (b"- 1\n- 2\n", "holds no fields"),
        (b"just words", "holds no fields"),
        (b"\xff\xfe\x00\x01name: tiny", "tiny.yaml"),
        ({**TINY, "kernel_size": [3]}, "unknown field .*'kernel_size'. Did you mean 'kernel_sizes'"),
        (with_stage(strid=2), "strid"),
        ({**TINY, "family": "quadro"}, "unknown block family of space 'tiny' 'quadro'. Did you mean 'quadra'"),
        ({**TINY, "kernel_sizes": [3, 4]}, r"kernel_sizes\[1\] is 4, not odd"),
        ({**TINY, "kernel_sizes": []}, r"kernel_sizes is \[\]"),
        ({**TINY, "kernel_sizes": 3}, "tiny.yaml"),
        ({**TINY, "kernel_sizes": [3.0]}, r"kernel_sizes\[0\] is 3.0"),
        ({**TINY, "kernel_sizes": ["3"]}, r"kernel_sizes\[0\] is '3'"),
        ({**TINY, "expand_ratios": [True]}, r"expand_ratios\[0\] is True"),
        ({**TINY, "expand_ratios": [0]}, r"expand_ratios\[0\] is 0, not 1 or more"),
        ({**TINY, "stem_width": -8}, "stem_width is -8"),
        ({**TINY, "stages": []}, r"stages is \[\]"),
        ({**TINY, "stages": None}, "tiny.yaml"),
        ({**TINY, "stages": [8, 16]}, "tiny.yaml"),
        (with_stage(max_blocks=0), r"stages\[1\].max_blocks is 0"),
        (with_stage(width="wide"), r"stages\[1\].width is 'wide'"),
        ({k: v for k, v in TINY.items() if k != "stem_width"}, "no field 'stem_width'"),
        ({**TINY, "stages": [{"width": 8}]}, r"no field 'stages\[0\].max_blocks'"),
        ({**TINY, "width_mult": 0.01}, "width_mult=0.01 is not between 0.1 and 10"),
        ({**TINY, "width_mult": "wide"}, "width_mult"),
    ],
)
def test_bad_space_files_are_described_in_one_line(
    tmp_path: Path, content: bytes | dict[str, object], message: str
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
    with pytest.raises(UserError, match=message) as caught:
        load_space(str(file))
    assert one_line(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem_width": 16}, "stem_width"),  # residual blocks keep the stem's channels
        ({"kernel_sizes": [3, 3]}, "twice|repeat|distinct|duplicate"),
        ({"first_width": -1}, "first_width is -1"),
        ({"head_width": "wide"}, "head_width is 'wide'"),
        ({"family": "mbconv", "first_width": 8}, "head_width"),
        ({"norm": "batchnorm"}, "unknown norm of space 'tiny' 'batchnorm'. Did you mean 'batch_norm'.*layer_norm"),
        ({"activation": "relu"}, "unknown activation of space 'tiny' 'relu'. Did you mean 'relu6'.*gelu, hard_swish"),
        ({"activation": 6}, "activation is 6"),
        ({"norm": "conv"}, "unknown norm of space 'tiny' 'conv'"),
        ({"norm": ""}, "unknown norm of space 'tiny' ''"),
        (
            {"family": "mbconv", "first_width": 8, "head_width": 8, "norm": "layer_norm"},
            "'layer_norm'.*Known: batch_norm. These are what family mbconv accepts",
        ),
    ],
)
def test_spaces_that_no_network_fits_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY, **change}))
    with pytest.raises(UserError, match=message) as caught:
        load_space(str(file))
    assert one_line(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=f"no space file .*shipped spaces: {', '.join(NAMES)}"):
        load_space(str(tmp_path / "nowhere.yaml"))
