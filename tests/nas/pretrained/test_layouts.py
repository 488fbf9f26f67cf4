"""Every published network is recognised by names and shapes alone, and computes what its file says."""

from __future__ import annotations

import pytest
import torch

from nas.pretrained.networks import layouts, published
from nas.pretrained.trained import trained_from
from search_space.errors import BadFile
from tests.nas.pretrained import facts
from tests.nas.pretrained.facts import Sizes, shapes_of, state_of
from tests.nas.pretrained.plain import logits

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PYTORCH = "efficientnet_lite_pytorch"
NETWORKS: dict[str, tuple[Sizes, str, bool, float, tuple[object, object], int]] = {
    # sizes, layout, whether its norms have counted batches, their epsilon, mean and deviation, tensors of its file
    "efficientnet_lite0": (facts.LITE0, PYTORCH, False, 1e-3, HALF, 296),
    "efficientnet_lite1": (facts.LITE1, PYTORCH, False, 1e-3, HALF, 386),
    "efficientnet_lite2": (facts.LITE2, PYTORCH, False, 1e-3, HALF, 386),
    "timm:tf_efficientnet_lite0": (facts.LITE0, "timm", False, 1e-3, HALF, 296),
    "timm:tf_efficientnet_lite1": (facts.LITE1, "timm", False, 1e-3, HALF, 386),
    "timm:tf_efficientnet_lite2": (facts.LITE2, "timm", False, 1e-3, HALF, 386),
    "timm:efficientnet_lite0": (facts.LITE0, "timm", True, 1e-5, IMAGENET, 296),
    "timm:efficientnet_lite1": (facts.LITE1, "timm", True, 1e-5, IMAGENET, 386),
    "timm:efficientnet_lite2": (facts.LITE2, "timm", True, 1e-5, IMAGENET, 386),
    "timm:mobilenetv2_100": (facts.V2, "timm", True, 1e-5, IMAGENET, 314),
    "timm:mobilenetv2_110d": (facts.V2_110D, "timm", True, 1e-5, IMAGENET, 404),
    "timm:mobilenetv2_120d": (facts.V2_120D, "timm", True, 1e-5, IMAGENET, 476),
    "timm:mobilenetv2_140": (facts.V2_140, "timm", True, 1e-5, IMAGENET, 314),
    "torchvision:mobilenet_v2": (facts.V2, "torchvision", True, 1e-5, IMAGENET, 314),
    "once_for_all:proxyless_w1.3": (facts.PROXYLESS, "once_for_all", True, 1e-3, IMAGENET, 446),
}
PARAMETERS = {  # as published: counts of timm 1.0.31 and of the files themselves
    "efficientnet_lite0": 4_652_008,
    "efficientnet_lite1": 5_416_680,
    "efficientnet_lite2": 6_092_072,
    "timm:mobilenetv2_100": 3_504_872,
    "timm:mobilenetv2_110d": 4_516_520,
    "timm:mobilenetv2_120d": 5_831_144,
    "timm:mobilenetv2_140": 6_108_776,
    "once_for_all:proxyless_w1.3": 7_956_882,
}


def test_every_published_network_is_held() -> None:
    assert NETWORKS.keys() == published().keys()
    assert {network.layout for network in published().values()} == layouts().keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_recognised_and_computes_what_its_file_says(name: str) -> None:
    sizes, layout, counted, eps, (mean, std), tensors = NETWORKS[name]
    state = state_of(sizes, layout, classes=11, counted=7 * counted)
    assert len(state) == tensors
    trained = trained_from(state, "the file")
    assert trained.name == name
    assert (trained.classes, trained.mean, trained.std, trained.source) == (11, mean, std, "the file")
    assert trained.architecture == published()[name].load_space().largest()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = logits(state, sizes, layout, eps, images)
    with torch.no_grad():
        found = trained.network()(images)
    assert float(expected.std()) > 0.05, "logits that do not depend on the network compare nothing"
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_sizes_written_down_are_those_published(name: str) -> None:
    shapes = shapes_of(NETWORKS[name][0], NETWORKS[name][1])
    learned = [shape for key, shape in shapes.items() if not key.rsplit(".", 1)[-1].startswith(("running", "num"))]
    assert sum(torch.Size(shape).numel() for shape in learned) == PARAMETERS[name]


def test_old_files_without_counts_of_batches_are_read() -> None:
    state = state_of(facts.V2, "torchvision")
    trained = trained_from({key: value for key, value in state.items() if "num_batches" not in key}, "the file")
    assert trained.name == "torchvision:mobilenet_v2"
    assert int(trained.state["stem.norm.num_batches_tracked"]) == 0


def test_halves_become_float32() -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in state_of(facts.V2, "timm", counted=1).items()}
    trained = trained_from(state, "the file")
    assert {value.dtype for value in trained.state.values()} == {torch.float32, torch.int64}


def test_matrices_make_the_smaller_kernels_of_a_supernet() -> None:
    """By the definition: each pixel of the smaller kernel is a row of the matrix over the larger kernel's centre."""
    state = state_of(facts.PROXYLESS, "once_for_all", counted=1)
    trained = trained_from(state, "the file")
    assert len(trained.kernels) == 21 and not trained_from(state_of(facts.V2, "timm"), "the file").kernels
    kernels = trained.kernels["stage2_block1.depthwise.weight"]  # blocks.0 is the stem's, blocks.1 to 4 are stage 1
    whole = state["blocks.5.conv.depth_conv.conv.conv.weight"]
    to5, to3 = (state[f"blocks.5.conv.depth_conv.conv.{step}_matrix"] for step in ("7to5", "5to3"))
    for channel in (0, 100):
        five = [sum(to5[i, j] * whole[channel, 0, 1 + j // 5, 1 + j % 5] for j in range(25)) for i in range(25)]
        assert kernels[5][channel].flatten().tolist() == pytest.approx([float(v) for v in five], abs=1e-5)
        three = [sum(to3[i, j] * five[6 + j // 3 * 5 + j % 3] for j in range(9)) for i in range(9)]
        assert kernels[3][channel].flatten().tolist() == pytest.approx([float(v) for v in three], abs=1e-5)
    assert {k: tuple(v.shape[-2:]) for k, v in kernels.items()} == {5: (5, 5), 3: (3, 3)}


def test_earlier_names_of_once_for_all_are_read() -> None:
    state = state_of(facts.PROXYLESS, "once_for_all", counted=1)
    earlier = {
        key.replace(".conv.", ".mobile_inverted_conv.", 1) if key.startswith("blocks.") else key: value
        for key, value in state.items()
    }
    assert earlier.keys() != state.keys()
    found, wanted = trained_from(earlier, "the file"), trained_from(state, "the file")
    assert all(torch.equal(found.state[key], value) for key, value in wanted.state.items())


CHANGES = {
    "a lacking tensor": lambda s: s.pop("blocks.3.1.conv_dw.weight"),
    "another shape": lambda s: s.update({"blocks.3.1.conv_dw.weight": torch.zeros(384, 1, 5, 5)}),
    "one too many": lambda s: s.update({"blocks.3.1.se.conv_reduce.weight": torch.zeros(8, 384, 1, 1)}),
    "not finite": lambda s: s["blocks.3.1.conv_dw.weight"][5].fill_(float("nan")),
    "integers": lambda s: s.update({"blocks.3.1.conv_dw.weight": torch.zeros(384, 1, 3, 3, dtype=torch.int32)}),
    "variance below 0": lambda s: s["blocks.3.1.bn2.running_var"][5].fill_(-1.0),
}
SAID = {
    "a lacking tensor": "lacks 'blocks.3.1.conv_dw.weight'",
    "another shape": "has 'blocks.3.1.conv_dw.weight' of (384, 1, 5, 5) instead of (384, 1, 3, 3)",
    "one too many": "has 'blocks.3.1.se.conv_reduce.weight' besides",
    "not finite": "'blocks.3.1.conv_dw.weight' holds values that are not finite",
    "integers": "'blocks.3.1.conv_dw.weight' holds int32, not weights",
    "variance below 0": "'blocks.3.1.bn2.running_var' holds variances below 0",
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_first_tensor_that_does_not_fit_is_named(change: str) -> None:
    state = state_of(facts.V2, "timm", counted=1)
    CHANGES[change](state)
    with pytest.raises(BadFile) as caught:
        trained_from(state, "'some.pth'")
    message = str(caught.value)
    assert SAID[change] in message and message.startswith("'some.pth'") and "\n" not in message
    if change in ("a lacking tensor", "another shape", "one too many"):
        assert "the nearest is timm:mobilenetv2_100" in message


def test_names_of_no_layout_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadFile, match=r"beginning with 'layer1.0.conv1.weight'; known: .*timm.*once_for_all"):
        trained_from({"layer1.0.conv1.weight": torch.zeros(3)}, "'some.pth'")
