"""Fusion rules: what merges, what does not, and that nothing is lost or crosses a block."""

from __future__ import annotations

from dataclasses import replace

import pytest

from device_profiles import FusionRules, load_profile
from latency_models import fuse
from search_space import Kind, Node, available_spaces, load_space, lower_space
from search_space.blocks.graph import Graph

DEVICES = ("cpu", "gpu", "vpu")
NOTHING = FusionRules(frozenset(), {})


def quadratic_block() -> list[Node]:
    space = load_space("quadranet")
    return next(list(s.candidates[0]) for s in lower_space(space, 224, 1000) if s.slot is not None)


def kinds(nodes: list[Node], rules: FusionRules) -> list[str]:
    return ["+".join((k.spec.kind, *k.fused)) for k in fuse(nodes, rules)]


def test_without_rules_every_layer_is_a_kernel() -> None:
    """A bias rides along and is no part of a kernel's key."""
    nodes = quadratic_block()
    assert [k.spec for k in fuse(nodes, NOTHING)] == [replace(node.spec, bias=False) for node in nodes]


def test_gpu_merges_the_product_chain_and_the_feed_forward_network() -> None:
    """TensorRT: product, sum and residual addition are one pointwise kernel; GELU and the second
    residual ride in the convolutions; layer scale costs nothing."""
    rules = load_profile("gpu").header.fusion
    nodes = quadratic_block()
    assert kinds(nodes, rules) == [
        "layer_norm",
        "dwconv",
        "dwconv",
        "dwconv",
        "mul+add+add",
        "layer_norm",
        "conv+gelu",
        "conv+add",
    ]
    kernels = fuse(nodes, rules)
    assert kernels[4].inputs == 4, "a, b, c and the block's input"
    assert kernels[7].inputs == 2, "the expanded tensor and the skip"


@pytest.mark.parametrize("device", ("cpu", "vpu"))
def test_phone_and_stick_keep_element_wise_layers_apart(device: str) -> None:
    rules = load_profile(device).header.fusion
    assert kinds(quadratic_block(), rules) == [
        "layer_norm",
        *["dwconv"] * 3,
        "mul",
        "add",
        "add",
        "layer_norm",
        "conv",
        "gelu",
        "conv",
        "add",
    ]


@pytest.mark.parametrize("device", DEVICES)
def test_norm_and_activation_merge_into_convolutions(device: str) -> None:
    graph = Graph((16, 8, 8))
    graph.conv("conv", 32, bias=False)
    graph.unary("norm", Kind.BATCH_NORM)
    graph.unary("act", Kind.RELU6)
    assert kinds(graph.nodes, load_profile(device).header.fusion) == ["conv+batch_norm+relu6"]


@pytest.mark.parametrize("device", DEVICES)
def test_norms_and_activations_of_quadranet_lite_cost_nothing(device: str) -> None:
    """Where BatchNorm and ReLU6 merge into convolutions, products and additions alone are left."""
    space = load_space("quadranet_lite")
    found = {
        kernel.spec.kind for segment in lower_space(space, 64, 10) for nodes in segment.candidates
        for kernel in fuse(nodes, load_profile(device).header.fusion)
    }  # fmt: skip
    assert found <= {Kind.CONV, Kind.DWCONV, Kind.MUL, Kind.ADD, Kind.GLOBAL_POOL, Kind.LINEAR}


def test_a_layer_read_twice_does_not_take_in_its_reader() -> None:
    graph = Graph((16, 8, 8))
    conv = graph.conv("conv", 16, bias=False)
    act = graph.unary("act", Kind.RELU6)
    graph.binary("product", Kind.MUL, conv, act)
    rules = FusionRules(frozenset(), {Kind.CONV: frozenset({Kind.RELU6, Kind.MUL})})
    assert kinds(graph.nodes, rules) == ["conv", "relu6", "mul"]


def test_a_folded_layer_passes_its_input_on() -> None:
    graph = Graph((16, 8, 8))
    graph.conv("conv", 16, bias=False)
    graph.unary("scale", Kind.SCALE)
    graph.unary("act", Kind.RELU6)
    rules = FusionRules(frozenset({Kind.SCALE}), {Kind.CONV: frozenset({Kind.RELU6})})
    assert kinds(graph.nodes, rules) == ["conv+relu6"]


def test_an_empty_block_has_no_kernels() -> None:
    assert fuse((), load_profile("gpu").header.fusion) == ()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", available_spaces())
def test_no_layer_is_lost_or_counted_twice(device: str, name: str) -> None:
    rules = load_profile(device).header.fusion
    for segment in lower_space(load_space(name), 224, 1000):
        for nodes in segment.candidates:
            priced = sorted(node.spec.kind for node in nodes if node.spec.kind not in rules.folded)
            merged = sorted(kind for k in fuse(nodes, rules) for kind in (k.spec.kind, *k.fused))
            assert priced == merged
