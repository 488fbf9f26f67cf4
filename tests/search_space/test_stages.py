"""What a stage may say for itself: laws on drawn spaces, published networks as largest ones, and what is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from search_space import (
    ZERO,
    Architecture,
    BlockChoice,
    GatePath,
    Kind,
    SearchSpace,
    Segment,
    Stage,
    UserError,
    cost_of,
    load_space,
    lower,
    lower_space,
)
from search_space.build import Network
from search_space.space import PROJECTION, divisible, parse_block
from search_space.to_onnx import to_onnx
from tests import ROOT
from tests.search_space.compare import assert_same, check_shapes, lively_network, weights_of

MACRO = load_space(str(ROOT / "experiments/spaces/nas_bench_macro.yaml"))
K3E2, K5E1 = BlockChoice(3, 2), BlockChoice(5, 1)
STAGED = SearchSpace(
    "staged",
    "mbconv",
    8,
    (
        Stage(8, 2, 2, blocks=(K3E2, K5E1, PROJECTION)),  # no candidate is the largest in all of its layers
        Stage(8, 2, min_blocks=0, expand_ratios=(1, 2, 3)),
        Stage(16, 2, 2, zero=False, kernel_sizes=(3,)),
    ),
    (3, 5),
    (2,),
    head_width=16,
    norm_eps=1e-5,
    stem_stride=1,
)
seeds = st.integers(0, 2**32 - 1)
lists = {
    "kernel_sizes": st.lists(st.sampled_from([3, 5, 7]), min_size=1, max_size=2, unique=True).map(tuple),
    "expand_ratios": st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True).map(tuple),
    "blocks": st.lists(
        st.sampled_from([K3E2, K5E1, BlockChoice(7, 3), PROJECTION]), min_size=1, max_size=3, unique=True
    ).map(tuple),
}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Of few enough paths to list them."""
    width, stages = 8, []
    for _ in range(draw(st.integers(1, 3))):
        new, stride, most = draw(st.sampled_from([8, 16])), draw(st.integers(1, 2)), draw(st.integers(1, 2))
        fields = draw(st.sampled_from([(), ("blocks",), ("kernel_sizes",), ("kernel_sizes", "expand_ratios")]))
        said: dict[str, Any] = {name: draw(lists[name]) for name in fields}
        if draw(st.booleans()):
            said["min_blocks"] = draw(st.integers(0 if (new, stride) == (width, 1) else 1, most))
        elif draw(st.booleans()):
            said["zero"] = False
        stages.append(Stage(new, most, stride, **said))
        width = new
    return SearchSpace(
        "drawn", "mbconv", 8, tuple(stages), draw(lists["kernel_sizes"]), draw(lists["expand_ratios"]), head_width=8
    )


fast = settings(max_examples=40, deadline=None)


def paths(space: SearchSpace) -> list[GatePath]:
    return [GatePath(choices) for choices in product(*(range(len(slot.candidates)) for slot in space.slots))]


@given(space=spaces())
@fast
def test_counting_equals_listing(space: SearchSpace) -> None:
    listed = paths(space)
    assert space.path_count == len(listed)
    assert space.architecture_count == len({space.architecture(path) for path in listed})


@given(space=spaces())
@fast
def test_a_space_survives_files_and_says_what_was_said(space: SearchSpace) -> None:
    written = space.to_dict()
    assert SearchSpace.from_dict(json.loads(json.dumps(written))) == space
    assert SearchSpace.from_dict(yaml.safe_load(yaml.safe_dump(written))) == space
    assert set(written) <= {"name", "family", "stem_width", "first_width", "head_width", "stages"} | {
        name for name in ("kernel_sizes", "expand_ratios") if getattr(space, name) is not None
    }
    for stage, said in zip(space.stages, written["stages"], strict=True):
        always = {"width", "max_blocks", "stride"}
        assert set(said) - always == {f for f, d in PLAIN.items() if getattr(stage, f) != d}


PLAIN = {"min_blocks": 1, "zero": True, "kernel_sizes": None, "expand_ratios": None, "blocks": None}


@given(space=spaces(), seed=seeds)
@fast
def test_draws_and_mutations_stay_in_the_space(space: SearchSpace, seed: int) -> None:
    rng = random.Random(seed)
    drawn = space.random_architecture(rng)
    path = space.random_path(rng)
    for architecture in (drawn, space.architecture(path), space.smallest(), space.largest()):
        for blocks, stage, choices in zip(architecture.stages, space.stages, space.stage_choices, strict=True):
            assert stage.least_blocks <= len(blocks) <= stage.max_blocks and set(blocks) <= set(choices)
        packed = space.path(architecture)
        space.check_path(packed)
        assert space.architecture(packed) == architecture
        back = Architecture.from_dict(json.loads(json.dumps(architecture.to_dict())))
        assert back == architecture and back.digest == architecture.digest
    mutated = space.mutate(path, rng)
    space.check_path(mutated)
    free = any(len(slot.candidates) > 1 for slot in space.slots)
    assert sum(a != b for a, b in zip(path.choices, mutated.choices, strict=True)) <= 1
    assert free or mutated == path


@given(space=spaces())
@fast
def test_zero_stands_behind_the_mandatory_blocks(space: SearchSpace) -> None:
    for slot in space.slots:
        stage = space.stages[slot.stage]
        optional = slot.index >= (stage.min_blocks if stage.zero else stage.max_blocks)
        assert slot.candidates == space.stage_choices[slot.stage] + (ZERO,) * optional


@given(space=spaces(), seed=seeds)
@settings(max_examples=15, deadline=None)
def test_a_spaces_candidates_are_its_networks_blocks(space: SearchSpace, seed: int) -> None:
    path = space.random_path(random.Random(seed))
    chosen = [
        segment.nodes if segment.slot is None else segment.candidates[path.choices[segment.slot]]
        for segment in lower_space(space, 32, 5)
    ]
    segments = lower(space.architecture(path), 32, 5)
    assert [nodes for nodes in chosen if nodes] == [segment.nodes for segment in segments]
    check_shapes(segments, 32)


@given(space=spaces())
@settings(max_examples=15, deadline=None)
def test_the_extremes_are_those_of_cost_where_candidates_are_products(space: SearchSpace) -> None:
    plain = replace(space, stages=tuple(replace(stage, blocks=None) for stage in space.stages))
    costs = [cost_of(lower(plain.architecture(path), 32, 5)) for path in paths(plain)[:500]]
    low, high = (cost_of(lower(architecture, 32, 5)) for architecture in (plain.smallest(), plain.largest()))
    assert low.macs <= min(cost.macs for cost in costs) and max(cost.macs for cost in costs) <= high.macs
    assert low.params <= min(cost.params for cost in costs) and max(cost.params for cost in costs) <= high.params


def test_every_stage_has_its_own() -> None:
    assert [list(map(str, choices)) for choices in STAGED.stage_choices] == [
        ["k3e2", "k5e1", "k1e0"], ["k3e1", "k3e2", "k3e3", "k5e1", "k5e2", "k5e3"], ["k3e2"],
    ]  # fmt: skip
    assert STAGED.kernels == (1, 3, 5) and STAGED.ratios == (0, 1, 2, 3)
    assert str(STAGED.smallest()) == "k1e0 |  | k3e2 k3e2"
    assert str(STAGED.largest()) == "k3e2 k3e2 | k5e3 k5e3 | k3e2 k3e2"
    assert STAGED.architecture_count == (3 + 9) * (1 + 6 + 36) * 1


def test_digests_are_those_of_spaces_that_said_nothing_by_stage() -> None:
    """Result files carry them: a field that is not said must not be written."""
    for name, smallest, largest in (
        ("quadranet", "d7693e820aa2", "4ab074834b95"),
        ("proxyless", "0d3a6eb9f7ee", "61a33ef25aea"),
        ("quadranet_t", "33a23073007d", "0f224bc22ccb"),
    ):
        space = load_space(name)
        assert (space.smallest().digest, space.largest().digest) == (smallest, largest)


# Published networks.

Row = tuple[int, int, int, int, int]  # repeats, kernel size, stride, expansion, width
LITE0 = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip
MOBILENET_V2 = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (3, 3, 2, 6, 32), (4, 3, 2, 6, 64), (3, 3, 1, 6, 96), (3, 3, 2, 6, 160),
    (1, 3, 1, 6, 320),
)  # fmt: skip


def scaled(rows: tuple[Row, ...], width: float, depth: float) -> tuple[Row, ...]:
    """EfficientNet-Lite's rule: widths to multiples of 8, depths rounded up, not those of the first and last stage."""
    return tuple(
        (n if place in (0, len(rows) - 1) else -int(-n * depth // 1), k, s, e, divisible(c * width))
        for place, (n, k, s, e, c) in enumerate(rows)
    )


def weight_shapes(rows: tuple[Row, ...]) -> list[tuple[int, ...]]:
    """(out, in, k, k) of every convolution and (out, in) of the classifier, in order, from a table of rows."""
    shapes: list[tuple[int, ...]] = [(32, 3, 3, 3)]
    inside = 32
    for repeats, kernel, _, expansion, width in rows:
        for _ in range(repeats):
            wide = inside * expansion
            if expansion > 1:
                shapes.append((wide, inside, 1, 1))
            shapes += [(wide, 1, kernel, kernel), (width, wide, 1, 1)]
            inside = width
    return [*shapes, (1280, inside, 1, 1), (1000, 1280)]


PUBLISHED = {
    "efficientnet_lite0": (LITE0, 224, 4.652, 385.2, 407),
    "efficientnet_lite1": (scaled(LITE0, 1.0, 1.1), 240, 5.417, 600.2, 631),
    "efficientnet_lite2": (scaled(LITE0, 1.1, 1.2), 260, 6.092, 859.7, 899),
    "mobilenet_v2": (MOBILENET_V2, 224, 3.505, 300.8, 300),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_largest_network_is_the_published_one(name: str) -> None:
    """Tensor by tensor, and by counts.

    Parameters are published as 4.7M, 5.4M, 6.1M (tensorflow/tpu, models/official/efficientnet/lite) and 3.4M or 3.5M
    (arXiv 1801.04381; torchvision). Lite's published MACs are 5 % above those of convolutions and classifier.
    """
    rows, resolution, millions, mmacs, published = PUBLISHED[name]
    segments = lower(load_space(name).largest(), resolution, 1000)
    with torch.device("meta"):
        network = Network(segments)
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network.eval()(torch.empty(1, 3, resolution, resolution))
    shapes = [tuple(p.shape) for p in network.parameters() if p.dim() > 1]
    assert shapes == weight_shapes(rows)
    cost = cost_of(segments)
    assert sum(p.numel() for p in network.parameters()) == cost.params
    assert counter.get_total_flops() == 2 * cost.macs
    assert (round(cost.params / 1e6, 3), round(cost.macs / 1e6, 1)) == (millions, mmacs)
    assert 0.99 < published / mmacs < 1.06
    strides = [node.spec.stride for s in segments for node in s.nodes if node.spec.kind is Kind.DWCONV]
    assert strides == [s if place == 0 else 1 for repeats, _, s, _, _ in rows for place in range(repeats)]
    eps = {node.eps for segment in segments for node in segment.nodes if node.spec.kind is Kind.BATCH_NORM}
    assert eps == {1e-5 if name == "mobilenet_v2" else 1e-3}


def test_mobilenet_v2_at_width_1_4() -> None:
    """6.11M parameters, 582M MACs (torchvision's rule; timm's mobilenetv2_140)."""
    cost = cost_of(lower(load_space("mobilenet_v2", 1.4).largest(), 224, 1000))
    assert (round(cost.params / 1e6, 2), round(cost.macs / 1e6)) == (6.11, 582)


@pytest.mark.parametrize("name", PUBLISHED)
def test_tight_budgets_exist(name: str) -> None:
    """Ratios go down to 1: less than a quarter of the MACs, and every stage's own kernels."""
    space = load_space(name)
    low, high = (cost_of(lower(a, 224, 1000)).macs for a in (space.smallest(), space.largest()))
    assert low < high / 4
    own = {k for _, k, _, e, _ in PUBLISHED[name][0] if e > 1}
    assert set(space.kernels) == own
    for stage, choices, (_, kernel, _, _, _) in zip(
        space.stages, space.stage_choices, PUBLISHED[name][0][1:], strict=True
    ):
        assert max(choice.kernel_size for choice in choices) == kernel and stage.least_blocks == 1


def test_nas_bench_macro() -> None:
    """3^8 paths (arXiv 2103.11922); its largest network by a table of its authors' code, train/model.py."""
    assert MACRO.path_count == 3**8
    assert MACRO.architecture_count == len({MACRO.architecture(path) for path in paths(MACRO)}) == 3**4 * 7**2
    segments = lower(MACRO.largest(), 32, 10)
    maps = [segment.nodes[-1].spec.out_height for segment in segments]
    assert maps == [32, 16, 16, 8, 8, 8, 4, 4, 4, 1]
    expected = [3 * 9 * 32 + 2 * 32]  # stem
    inside = 32
    for width, layers in ((64, 2), (128, 3), (256, 3)):
        for _ in range(layers):
            wide = 6 * inside
            expected.append((inside + 25 + width) * wide + 4 * wide + 2 * width)
            inside = width
    expected.append(256 * 1280 + 2 * 1280 + 1281 * 10)
    assert [cost_of([segment]).params for segment in segments] == expected
    identities = lower(MACRO.smallest(), 32, 10)
    assert [segment.name for segment in identities] == [
        "stem", "stage1_block1", "stage3_block1", "stage5_block1", "head",
    ]  # fmt: skip
    assert [[node.spec.kind for node in s.nodes] for s in identities[1:4]] == [[Kind.CONV, Kind.BATCH_NORM]] * 3
    assert [s.nodes[0].spec.stride for s in identities[1:4]] == [2, 2, 2]


@pytest.mark.parametrize("space", [STAGED, MACRO])
def test_onnx_equals_torch(space: SearchSpace) -> None:
    """Within 1e-4 of the largest logit: the norms' eps and the 1x1 convolution included."""
    for seed, architecture in enumerate(
        (space.smallest(), space.largest(), space.random_architecture(random.Random(1)))
    ):
        segments = lower(architecture, 32, 5)
        network = lively_network(segments, seed, 32)
        assert_same(to_onnx(segments, weights_of(network)), network, torch.randn(2, 3, 32, 32))


def test_norm_eps_reaches_every_norm() -> None:
    def norms(segments: tuple[Segment, ...]) -> set[float]:
        return {m.eps for m in Network(segments).modules() if isinstance(m, torch.nn.BatchNorm2d)}

    assert norms(lower(STAGED.largest(), 32, 5)) == {1e-5}
    assert norms(lower(replace(STAGED, norm_eps=None).largest(), 32, 5)) == {1e-3}


# What is refused.

TINY: dict[str, Any] = {
    "name": "tiny",
    "family": "mbconv",
    "stem_width": 8,
    "head_width": 8,
    "stages": [{"width": 8, "max_blocks": 2}, {"width": 16, "max_blocks": 2}],
    "kernel_sizes": [3, 5],
    "expand_ratios": [2],
}
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"min_blocks": 3}, {}, r"stages\[1\] of 'tiny': min_blocks=3 is more than max_blocks=2"),
    ({"min_blocks": -1}, {}, r"stages\[1\].min_blocks is -1, not 0 or more"),
    ({"min_blocks": 1.0}, {}, r"stages\[1\].min_blocks is 1.0"),
    ({"min_blocks": 0, "zero": False}, {}, r"min_blocks=0 stands beside zero: false"),
    ({"zero": "no"}, {}, r"stages\[1\].zero is 'no', not true or false"),
    ({"blocks": ["k3e3"], "kernel_sizes": [3]}, {}, "kernel_sizes stands beside blocks"),
    ({"blocks": ["k3e3"], "expand_ratios": [3]}, {}, "expand_ratios stands beside blocks"),
    ({"blocks": []}, {}, r"stages\[1\].blocks is \[\], not a list of one or more"),
    ({"blocks": ["k3e3", "k3e3"]}, {}, "not a list without repeats"),
    ({"blocks": ["3x3"]}, {}, r"stages\[1\].blocks\[0\]: '3x3' is not a block; blocks are written like k7e6"),
    ({"blocks": [3]}, {}, "3 is not a block"),
    ({"blocks": "k3e3"}, {}, r"stages\[1\].blocks is 'k3e3', not a list"),
    ({"blocks": ["k4e3"]}, {}, r"blocks\[0\] is 'k4e3', not a block of odd kernel"),
    ({"blocks": ["k3e0"]}, {}, "not a block of odd kernel up to 255 and expansion 1 to 64, or k1e0"),
    ({"blocks": ["k0e0"]}, {}, "not a block of odd kernel"),
    ({"kernel_sizes": [2]}, {}, r"stages\[1\].kernel_sizes\[0\] is 2, not odd"),
    ({"kernel_sizes": []}, {}, r"stages\[1\].kernel_sizes is \[\]"),
    ({"expand_ratios": [0]}, {}, r"stages\[1\].expand_ratios\[0\] is 0, not 1 or more"),
    ({"kernels": [3]}, {}, "unknown field .*'kernels'"),
    ({}, {"kernel_sizes": None}, r"stages\[0\] of 'tiny': no kernel_sizes; give them to the stage, or to the space"),
    ({}, {"expand_ratios": None}, r"stages\[0\] of 'tiny': no expand_ratios"),
    ({}, {"norm_eps": 0}, "norm_eps is 0, not above 0"),
    ({}, {"stem_stride": 0}, "stem_stride is 0, not 1 or more"),
    ({}, {"family": "quadra", "norm_eps": 1e-5}, "family quadra has no norm_eps; leave it out"),
    ({}, {"family": "quadra", "stem_stride": 2}, "family quadra has no stem_stride; leave it out"),
    ({"blocks": ["k1e0"]}, {"family": "quadra"}, "family quadra has no block k1e0"),
]


@pytest.mark.parametrize(("stage", "fields", "message"), REFUSED)
def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, stage: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    file = tmp_path / "tiny.yaml"
    first, second = TINY["stages"]
    file.write_text(yaml.safe_dump({**TINY, "stages": [first, {**second, **stage}], **fields}))
    with pytest.raises(UserError, match=message) as caught:
        load_space(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"width": 16}, {"stride": 2}])
def test_a_stage_that_changes_shape_cannot_be_left_out(change: dict[str, int]) -> None:
    stage = {"width": 8, "max_blocks": 1, "min_blocks": 0}
    space = SearchSpace.from_dict({**TINY, "stages": [TINY["stages"][0], {**stage, **change}]})
    message = r"space 'tiny': stage 2 cannot be left out \(min_blocks 0\), .*; give it min_blocks of 1 or more"
    for refused in (lambda: lower_space(space, 32, 5), lambda: lower(space.smallest(), 32, 5)):
        with pytest.raises(UserError, match=message) as caught:
            refused()
        assert "\n" not in str(caught.value)
    fits = SearchSpace.from_dict({**TINY, "stages": [TINY["stages"][0], stage]})
    assert len(lower(fits.smallest(), 32, 5)) == 3


def test_architectures_outside_their_stage() -> None:
    blocks = [["k3e2"], [], ["k3e2", "k3e2"]]
    Architecture.from_dict({"space": STAGED.to_dict(), "stages": blocks})
    for stages, message in (
        ([["k3e2"], [], ["k3e2"]], "stage 3 of 'staged' holds 2 to 2 blocks, not 1"),
        ([[], [], ["k3e2", "k3e2"]], "stage 1 of 'staged' holds 1 to 2 blocks, not 0"),
        (
            [["k3e3"], [], ["k3e2", "k3e2"]],
            "'k3e3' is not a block of 'staged' in stage 1; its blocks there: k3e2, k5e1",
        ),
    ):
        with pytest.raises(UserError, match=message) as caught:
            Architecture.from_dict({"space": STAGED.to_dict(), "stages": stages})
        assert "\n" not in str(caught.value)


def test_kernels_of_every_stage_alone_are_enough() -> None:
    data = {name: value for name, value in TINY.items() if name not in ("kernel_sizes", "expand_ratios")}
    own = [{**stage, "kernel_sizes": [3], "expand_ratios": [1, 2]} for stage in TINY["stages"]]
    space = SearchSpace.from_dict({**data, "stages": own})
    assert space.choices == (parse_block("k3e1"), parse_block("k3e2"))
    assert "kernel_sizes" not in space.to_dict() and SearchSpace.from_dict(space.to_dict()) == space
