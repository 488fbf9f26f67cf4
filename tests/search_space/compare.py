"""Holds lowered layers, torch modules and ONNX graphs of one network against each other. Not for making networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_space import Kind, Segment
from search_space.build import Network, Scale

Weights = dict[str, NDArray[np.float32]]


def layer_shapes(network: Network, resolution: int) -> dict[str, tuple[list[tuple[int, ...]], tuple[int, ...]]]:
    """Layer name -> shapes of its inputs and of its output, as torch computes them (batch left out)."""
    shapes = {}

    def watch(name: str) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            shapes[name] = ([tuple(x.shape[1:]) for x in inputs], tuple(output.shape[1:]))

        network.get_submodule(name).register_forward_hook(hook)

    for segment_name, block in network.named_children():
        for layer_name, _ in block.named_children():
            watch(f"{segment_name}.{layer_name}")
    network(torch.empty(2, 3, resolution, resolution, device="meta"))
    return shapes


def check_shapes(segments: tuple[Segment, ...], resolution: int) -> None:
    with torch.device("meta"):
        network = Network(segments)
    shapes = layer_shapes(network, resolution)
    assert list(shapes) == [f"{s.name}.{node.name}" for s in segments for node in s.nodes]
    for segment in segments:
        for node in segment.nodes:
            spec = node.spec
            inputs, output = shapes[f"{segment.name}.{node.name}"]
            assert inputs == [(spec.in_channels, spec.height, spec.width)] * len(node.inputs), node.name
            expected = (spec.out_channels, spec.out_height, spec.out_width)
            assert output == (expected[:1] if spec.kind is Kind.LINEAR else expected), node.name


@torch.no_grad()
def lively_network(segments: Sequence[Segment], seed: int, resolution: int) -> Network:
    """Nothing is at its start: biases and norms drawn, layer scales from U(0.5, 1.5), BatchNorm has seen images."""
    torch.manual_seed(seed)
    network = Network(segments)
    for module in network.modules():
        if isinstance(module, Scale):
            module.weight.uniform_(0.5, 1.5)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.2)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.normal_(std=0.2)
            if isinstance(module, nn.Linear):
                module.weight.normal_(std=0.2)
    network.train()
    for _ in range(3):
        network(torch.randn(4, 3, resolution, resolution) * 2 + 0.5)
    return network.eval()


def weights_of(network: nn.Module) -> Weights:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def run_onnx(model: onnx.ModelProto, images: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@torch.no_grad()
def assert_same(model: onnx.ModelProto, network: Network, images: Tensor) -> Tensor:
    expected = network(images)
    assert float(expected.std()) > 0.02, "logits too alike to compare"
    difference = float((run_onnx(model, images) - expected).abs().max())
    assert difference <= 1e-4 * max(1.0, float(expected.abs().max()))
    return expected
