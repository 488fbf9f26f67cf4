"""The written graph is the network: onnxruntime equals torch, scales are folded, and bytes repeat."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_space import Kind, Segment, available_spaces, load_space, lower
from search_space.blocks.graph import Graph
from search_space.build import Network
from search_space.to_onnx import to_onnx
from tests.search_space.compare import assert_same, lively_network, run_onnx, weights_of

SPACES = {name: load_space(name) for name in available_spaces()}


@pytest.mark.parametrize("name", sorted(SPACES))
@given(seed=st.integers(0, 2**31))
@settings(max_examples=2, deadline=None)
def test_onnxruntime_equals_torch_at_two_resolutions_from_the_same_weights(name: str, seed: int) -> None:
    architecture = SPACES[name].random_architecture(random.Random(seed))
    network = lively_network(lower(architecture, 64, 10), seed, 64)
    weights = weights_of(network)
    for resolution in (64, 96):
        model = to_onnx(lower(architecture, resolution, 10), weights)
        assert_same(model, network, torch.randn(3, 3, resolution, resolution))


@pytest.fixture(scope="module")
def quadranet() -> tuple[tuple[Segment, ...], Network]:
    segments = lower(SPACES["quadranet"].random_architecture(random.Random(1)), 64, 5)
    return segments, lively_network(segments, 0, 64)


def test_the_layer_scales_matter_to_the_comparison(quadranet: tuple[tuple[Segment, ...], Network]) -> None:
    """With other scales the logits differ by far more than the tolerance, so that folding is really tested."""
    segments, network = quadranet
    weights = weights_of(network)
    images = torch.randn(2, 3, 64, 64)
    changed = {k: v * 1.05 if ".scale" in k else v for k, v in weights.items()}
    difference = run_onnx(to_onnx(segments, weights), images) - run_onnx(to_onnx(segments, changed), images)
    assert float(difference.abs().max()) > 1e-2


def test_layer_scales_are_folded(quadranet: tuple[tuple[Segment, ...], Network]) -> None:
    segments, network = quadranet
    model = to_onnx(segments, weights_of(network))
    products = sum(node.spec.kind is Kind.MUL for segment in segments for node in segment.nodes)
    ops = Counter(node.op_type for node in model.graph.node)
    assert ops["Mul"] == products + 2 * ops["Erf"] > 0  # a GELU has two
    assert not any(".scale" in tensor.name for tensor in model.graph.initializer)


def test_the_same_weights_give_the_same_bytes(quadranet: tuple[tuple[Segment, ...], Network]) -> None:
    segments, network = quadranet
    one, other = (
        to_onnx(segments, weights_of(network), {"b": "2", "a": "1"}).SerializeToString(deterministic=True)
        for _ in range(2)
    )
    assert one == other
    changed = {name: value + 1e-3 for name, value in weights_of(network).items()}
    assert to_onnx(segments, changed).SerializeToString(deterministic=True) != one


def test_weights_are_not_changed_by_writing(quadranet: tuple[tuple[Segment, ...], Network]) -> None:
    segments, network = quadranet
    before = {name: value.copy() for name, value in weights_of(network).items()}
    to_onnx(segments, weights_of(network))
    for name, value in weights_of(network).items():
        np.testing.assert_array_equal(value, before[name])


def test_metadata_is_kept(quadranet: tuple[tuple[Segment, ...], Network]) -> None:
    segments, network = quadranet
    metadata = {"purpose": "for timing, not trained", "classes": "a\nb", "space": "quadranet"}
    model = onnx.load_from_string(to_onnx(segments, weights_of(network), metadata).SerializeToString())
    assert {p.key: p.value for p in model.metadata_props} == metadata
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == metadata


def test_any_batch_size(quadranet: tuple[tuple[Segment, ...], Network]) -> None:
    segments, network = quadranet
    model = to_onnx(segments, weights_of(network))
    images = torch.randn(5, 3, 64, 64)
    together = assert_same(model, network, images)
    assert together.shape == (5, 5)
    assert_same(model, network, images[:1])
    torch.testing.assert_close(run_onnx(model, images[2:4]), together[2:4], rtol=1e-4, atol=1e-4)
    (graph_input,), (graph_output,) = model.graph.input, model.graph.output
    assert [d.dim_param or d.dim_value for d in graph_input.type.tensor_type.shape.dim] == ["N", 3, 64, 64]
    assert [d.dim_param or d.dim_value for d in graph_output.type.tensor_type.shape.dim] == ["N", 5]


def test_a_missing_weight_is_an_error(quadranet: tuple[tuple[Segment, ...], Network]) -> None:
    segments, network = quadranet
    weights = weights_of(network)
    del weights["head.classifier.bias"]
    with pytest.raises(KeyError, match=r"head\.classifier\.bias"):
        to_onnx(segments, weights)


def _after_a_norm(g: Graph) -> None:
    g.conv("conv", 6, bias=True)
    g.unary("norm", Kind.LAYER_NORM)
    g.unary("scale", Kind.SCALE)


def _conv_read_twice(g: Graph) -> None:
    conv = g.conv("conv", 6, bias=True)
    scale = g.unary("scale", Kind.SCALE)
    g.binary("add", Kind.ADD, conv, scale)


def _conv_squared(g: Graph) -> None:
    conv = g.conv("conv", 6, bias=True)
    g.binary("square", Kind.MUL, conv, conv)
    g.unary("scale", Kind.SCALE)


def _of_the_input(g: Graph) -> None:
    g.unary("scale", Kind.SCALE)
    g.conv("conv", 6, bias=True)


def _twice(g: Graph) -> None:
    g.conv("conv", 6, bias=False)
    g.unary("scale", Kind.SCALE)
    g.unary("scale_again", Kind.SCALE)


def _sum_with_the_input(g: Graph) -> None:
    conv = g.conv("conv", 3, bias=True)
    g.binary("add", Kind.ADD, conv, g.INPUT)
    g.unary("scale", Kind.SCALE)


def _product_and_one_factor(g: Graph) -> None:
    a = g.conv("a", 6, bias=True, x=g.INPUT)
    b = g.conv("b", 6, bias=True, x=g.INPUT)
    ab = g.binary("product", Kind.MUL, a, b)
    g.binary("sum", Kind.ADD, ab, a)
    g.unary("scale", Kind.SCALE)


@pytest.mark.parametrize(
    "piece",
    [
        _after_a_norm,
        _conv_read_twice,
        _conv_squared,
        _of_the_input,
        _twice,
        _sum_with_the_input,
        _product_and_one_factor,
    ],
)
def test_a_scale_is_folded_only_where_that_is_right(piece: Callable[[Graph], None]) -> None:
    body = Graph((3, 8, 8))
    piece(body)
    head = Graph(body.out_shape)
    head.unary("pool", Kind.GLOBAL_POOL)
    head.linear("classifier", 4)
    segments = (Segment("body", (tuple(body.nodes),)), Segment("head", (tuple(head.nodes),)))
    network = lively_network(segments, 0, 8)
    assert_same(to_onnx(segments, weights_of(network)), network, torch.randn(6, 3, 8, 8) * 3)
