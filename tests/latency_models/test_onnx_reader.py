"""Laws of reading foreign networks: our own come back exactly, nothing unknown is free, no file breaks the reader."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device_profiles import DeviceProfile, KindModel, load_profile, save_profile
from latency_models import fit_latency_model
from latency_models.onnx.reader import read_onnx
from latency_models.predict import kernel_times, main
from search_space import Kind, LayerSpec, Node, Segment, UserError, available_spaces, load_space, lower
from search_space.build import Network, build_layer
from search_space.errors import BadFile
from search_space.layer import SEGMENT_INPUT
from search_space.to_onnx import to_onnx

DEVICES = ("cpu", "gpu", "gpu_eager_fp32", "vpu")


def own_model(segments: Sequence[Segment]) -> onnx.ModelProto:
    return to_onnx(segments, {name: value.numpy() for name, value in Network(segments).state_dict().items()})


def save(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


class Sketch:
    """A graph under construction; every method appends an operator and returns its output's name."""

    def __init__(self, shape: Sequence[int | str] = ("N", 3, 32, 32)) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.image = helper.make_tensor_value_info("images", TensorProto.FLOAT, list(shape))

    def constant(self, shape: Sequence[int], value: float = 0.5) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.full(shape, value, np.float32), name))
        return name

    def integers(self, *values: int) -> str:
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def integer(self, value: int) -> str:
        """Without an axis."""
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, np.int64), name))
        return name

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, x: str, c: int, out: int, k: int = 1, stride: int = 1, groups: int = 1, **attributes: Any) -> str:
        given = {"pads": [k // 2] * 4} | attributes
        weight = self.constant([out, c // groups, k, k])
        return self.op("Conv", x, weight, group=groups, strides=[stride] * 2, **given)

    def model(self, output: str) -> onnx.ModelProto:
        out = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "sketch", [self.image], [out], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def kinds(segments: Sequence[Segment]) -> Counter[Kind]:
    return Counter(node.spec.kind for segment in segments for node in segment.nodes)


def specs(segments: Sequence[Segment]) -> list[LayerSpec]:
    return [node.spec for segment in segments for node in segment.nodes]


def with_kinds(profile: DeviceProfile, *names: str) -> DeviceProfile:
    """The profile with models of more kinds, one millisecond per million outputs."""
    model = KindModel({"output_elements": 1.0}, "measured", "planted", {}, 1.0, 1.0)
    models = {**profile.header.models, **dict.fromkeys(names, model)}
    return replace(profile, header=replace(profile.header, models=models))


@pytest.mark.parametrize("space_name", available_spaces())
def test_an_exported_network_is_priced_as_the_lowered_one(space_name: str, tmp_path: Path) -> None:
    space, rng = load_space(space_name), random.Random(0)
    models = [fit_latency_model(load_profile(device)) for device in DEVICES]
    for resolution, classes in ((224, 1000), (64, 10)):
        segments = lower(space.random_architecture(rng), resolution, classes)
        read = read_onnx(save(own_model(segments), tmp_path))
        assert [s.name for s in read.segments] == [s.name for s in segments if s.nodes]
        for model in models:
            predicted, expected = model.predict(read.segments), model.predict(segments)
            assert predicted.latency_ms == pytest.approx(expected.latency_ms, rel=1e-9)
            assert predicted.high_ms == pytest.approx(expected.high_ms, rel=1e-9)
            times = kernel_times(model, read.segments)
            total = sum(time.ms for time in times) + model.runtime_price.ms
            assert total == pytest.approx(expected.latency_ms, rel=1e-9)


@pytest.mark.parametrize("space_name", available_spaces())
def test_blocks_of_the_shipped_spaces_end_where_fusion_ends_anyway(space_name: str, tmp_path: Path) -> None:
    """With other names the same file is one segment; the shipped devices merge nothing across its blocks."""
    segments = lower(load_space(space_name).random_architecture(random.Random(1)), 64, 10)
    exported = own_model(segments)
    for node in exported.graph.node:
        node.name = f"/{node.name}"
    read = read_onnx(save(exported, tmp_path))
    assert [segment.name for segment in read.segments] == ["network"]
    for device in DEVICES:
        model = fit_latency_model(load_profile(device))
        expected = model.predict(segments).latency_ms
        assert model.predict(read.segments).latency_ms == pytest.approx(expected, rel=1e-9)


def residual_network() -> onnx.ModelProto:
    """A ResNet in small: image convolution, pooling, one residual block, classifier."""
    g = Sketch(("batch", 3, 64, 64))
    x = g.op("Relu", g.conv("images", 3, 16, 7, 2))
    x = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    y = g.op("Relu", g.conv(x, 16, 16, 3))
    x = g.op("Relu", g.op("Add", g.conv(y, 16, 16, 3), x))
    x = g.op("Flatten", g.op("GlobalAveragePool", x))
    return g.model(g.op("Softmax", g.op("Gemm", x, g.constant([10, 16]), g.constant([10]), transB=1)))


def test_a_residual_network(tmp_path: Path) -> None:
    read = read_onnx(save(residual_network(), tmp_path))
    assert specs(read.segments) == [
        LayerSpec(Kind.CONV, 3, 16, 64, 64, 7, 2, 3),
        LayerSpec(Kind.RELU6, 16, 16, 32, 32),
        LayerSpec(Kind.POOL, 16, 16, 32, 32, 3, 2, 1),
        LayerSpec(Kind.CONV, 16, 16, 16, 16, 3, 1, 1),
        LayerSpec(Kind.RELU6, 16, 16, 16, 16),
        LayerSpec(Kind.CONV, 16, 16, 16, 16, 3, 1, 1),
        LayerSpec(Kind.ADD, 16, 16, 16, 16),
        LayerSpec(Kind.RELU6, 16, 16, 16, 16),
        LayerSpec(Kind.GLOBAL_POOL, 16, 16, 16, 16),
        LayerSpec(Kind.LINEAR, 16, 10, 1, 1, bias=True),
    ]
    assert read.notes == ("Softmax (1): counted as free",)
    model = fit_latency_model(with_kinds(load_profile("cpu"), "pool"))
    merged = {time.kernel.price_kind: time.kernel.fused for time in kernel_times(model, read.segments)}
    assert merged["add"] == (Kind.RELU6,) and merged["pool"] == ()


def test_a_mobile_network(tmp_path: Path) -> None:
    """Depthwise convolutions, a squeeze-and-excitation gate, and activations that are priced as another."""
    g = Sketch()
    x = g.op("HardSwish", g.conv("images", 3, 16, 3, 2))
    x = g.op("Clip", g.conv(x, 16, 16, 5, groups=16), g.constant([], 0), g.constant([], 6))
    gate = g.op("GlobalAveragePool", x)
    gate = g.op("HardSigmoid", g.conv(g.op("Relu", g.conv(gate, 16, 4)), 4, 16))
    x = g.conv(g.op("Mul", x, gate), 16, 24)
    x = g.op("Mul", x, g.op("Sigmoid", x))
    x = g.op("ReduceMean", x, g.integers(2, 3), keepdims=0)
    read = read_onnx(save(g.model(g.op("MatMul", x, g.constant([24, 10]))), tmp_path))
    found = kinds(read.segments)
    assert (found[Kind.CONV], found[Kind.DWCONV], found[Kind.HARD_SWISH], found[Kind.GELU]) == (4, 1, 1, 1)
    assert found[Kind.MUL] == 2  # the gate, and the HardSigmoid that makes it
    assert read.notes == (
        "HardSigmoid (1): priced as mul",
        "x * Sigmoid(x) (1): priced as gelu",
        "1 products or sums of unequal sizes: priced as of two full tensors",
    )


@pytest.mark.parametrize("curve", ["erf", "tanh", "operator"])
@pytest.mark.parametrize("half_first", [False, True])
def test_channels_last_layers_and_gelu_in_pieces(curve: str, half_first: bool, tmp_path: Path) -> None:
    """A ConvNeXt block as exporters write it: MatMul and bias over (N, H, W, C), layer scale, two transposes."""
    g = Sketch()
    x = g.conv("images", 3, 8, 4, 4, pads=[0] * 4)
    y = g.op("Transpose", g.conv(x, 8, 8, 7, groups=8), perm=[0, 2, 3, 1])
    y = g.op("LayerNormalization", y, g.constant([8]), g.constant([8]), axis=-1)
    y = g.op("Add", g.constant([32]), g.op("MatMul", y, g.constant([8, 32])))
    if curve == "operator":
        y = g.op("Gelu", y)
    else:
        inner = g.op("Div", y, g.constant([]))
        if curve == "tanh":
            cube = g.op("Mul", g.op("Pow", y, g.constant([])), g.constant([]))
            inner = g.op("Mul", g.op("Add", y, cube), g.constant([]))
        one = g.op("Add", g.op({"erf": "Erf", "tanh": "Tanh"}[curve], inner), g.constant([]))
        if half_first:
            y = g.op("Mul", g.op("Mul", y, g.constant([])), one)
        else:
            y = g.op("Mul", g.op("Mul", y, one), g.constant([]))
    y = g.op("Add", g.op("MatMul", y, g.constant([32, 8])), g.constant([8]))
    y = g.op("Mul", y, g.constant([8]))
    x = g.op("Add", x, g.op("Transpose", y, perm=[0, 3, 1, 2]))
    x = g.op("ReduceMean", x, g.integers(-1, -2), keepdims=1)
    x = g.op("Reshape", x, g.integers(0, -1))
    read = read_onnx(save(g.model(g.op("Gemm", x, g.constant([8, 10]))), tmp_path))
    layers = [spec for spec in specs(read.segments) if spec.kind is not Kind.SCALE]
    assert layers == [
        LayerSpec(Kind.CONV, 3, 8, 32, 32, 4, 4),
        LayerSpec(Kind.DWCONV, 8, 8, 8, 8, 7, 1, 3),
        LayerSpec(Kind.LAYER_NORM, 8, 8, 8, 8),
        LayerSpec(Kind.CONV, 8, 32, 8, 8),
        LayerSpec(Kind.GELU, 32, 32, 8, 8),
        LayerSpec(Kind.CONV, 32, 8, 8, 8),
        LayerSpec(Kind.ADD, 8, 8, 8, 8),
        LayerSpec(Kind.GLOBAL_POOL, 8, 8, 8, 8),
        LayerSpec(Kind.LINEAR, 8, 10, 1, 1),
    ]
    assert kinds(read.segments)[Kind.SCALE] == 3  # two biases and the layer scale, folded by every shipped device


def test_a_constant_that_cannot_be_folded_is_a_pass_of_its_own(tmp_path: Path) -> None:
    g = Sketch()
    x = g.op("Mul", g.op("Gelu", g.conv("images", 3, 8, 3)), g.constant([1, 8, 1, 1]))  # behind a bend
    x = g.op("Sub", x, g.constant([1, 8, 32, 32]))  # another number at every pixel
    read = read_onnx(save(g.model(g.op("GlobalAveragePool", x)), tmp_path))
    assert [spec.kind for spec in specs(read.segments)] == [Kind.CONV, Kind.GELU, Kind.MUL, Kind.ADD, Kind.GLOBAL_POOL]
    assert [len(node.inputs) for node in read.segments[0].nodes] == [1, 1, 1, 2, 1]
    model = fit_latency_model(load_profile("cpu"))
    assert all(time.ms > 0 for time in kernel_times(model, read.segments))


def test_shapes_worked_out_on_the_way_are_free(tmp_path: Path) -> None:
    """The Shape, Gather, Concat, Reshape chains of older exporters, and branches joined along channels."""
    g = Sketch()
    x = g.op("Concat", g.conv("images", 3, 8, 3), g.conv("images", 3, 4), axis=1)
    x = g.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    batch = g.op("Gather", g.op("Shape", x), g.integers(0), axis=0)
    x = g.op("Reshape", x, g.op("Concat", batch, g.integers(-1), axis=0))
    read = read_onnx(save(g.model(g.op("Gemm", x, g.constant([12 * 16 * 16, 10]))), tmp_path))
    assert specs(read.segments)[2:] == [
        LayerSpec(Kind.CONCAT, 12, 12, 32, 32),
        LayerSpec(Kind.POOL, 12, 12, 32, 32, 3, 2, 1),
        LayerSpec(Kind.LINEAR, 12 * 16 * 16, 10, 1, 1),
    ]
    assert read.notes == ("1 windows with uneven padding: priced with even padding, same output",)


def refused_graph(what: str) -> onnx.ModelProto:
    g = Sketch(("N", 16, 32, 32) if what == "groups" else ("N", 3, 32, 32))
    x = "images"
    match what:
        case "groups":
            x = g.conv(x, 16, 32, 3, groups=4)
        case "dilations":
            x = g.conv(x, 3, 8, 3, pads=[2] * 4, dilations=[2, 2])
        case "window":
            x = g.op("Conv", x, g.constant([8, 3, 3, 1]), pads=[1, 0, 1, 0])
        case "operator":
            x = g.op("Elu", g.op("Elu", g.conv(x, 3, 8)))
        case "attention":
            y = g.op("Flatten", g.conv(x, 3, 8))
            x = g.op("Gemm", y, y, transB=1)
        case "softmax":
            x = g.op("Relu", g.op("LogSoftmax", g.conv(x, 3, 8)))
        case "channels":
            x = g.op("ReduceMean", x, g.integers(1), keepdims=1)
        case "other_domain":
            x = g.conv(x, 3, 8)
            g.nodes.append(helper.make_node("Gelu", [x], ["out"], name="fast", domain="com.microsoft"))
            x = "out"
        case "pieces":
            x = g.op("Sqrt", g.op("Erf", g.conv(x, 3, 8)))
    return g.model(x)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("groups", "Conv with 4 groups for 16 to 32 channels (1 of them, first 'conv0')"),
        ("dilations", "Conv with dilations 2x2"),
        ("window", "Conv with a window of 3x1"),
        ("operator", "Elu (2 of them, first 'elu1')"),
        ("attention", "Gemm of two computed tensors"),
        ("softmax", "LogSoftmax inside the network"),
        ("channels", "ReduceMean over axes other than all pixels"),
        ("other_domain", "com.microsoft.Gelu (1 of them, first 'fast')"),
        ("pieces", "export with opset"),
    ],
)
def test_what_no_kind_stands_for_is_refused_by_name(
    what: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(refused_graph(what), tmp_path)
    assert main(["device=cpu", f"model={path}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_kind_without_a_model_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = load_profile("cpu")
    models = {kind: model for kind, model in profile.header.models.items() if kind != "batch_norm"}
    save_profile(tmp_path / "cpu", replace(profile.header, models=models), profile.rows)
    monkeypatch.setenv("NAS_DEVICE_PROFILES", str(tmp_path))
    g = Sketch()
    path = save(
        g.model(g.op("BatchNormalization", g.op("Gelu", g.conv("images", 3, 8)), *([g.constant([8])] * 4))), tmp_path
    )
    assert main(["device=cpu", f"model={path}"]) == 2
    assert "no model of kernel kind 'batch_norm'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [Kind.POOL, Kind.CONCAT])
def test_kinds_of_foreign_networks_are_priced_only(kind: Kind) -> None:
    node = Node("other", LayerSpec(kind, 8, 8, 4, 4), (SEGMENT_INPUT,))
    with pytest.raises(UserError, match=f"no space builds a layer of kind '{kind}'"):
        build_layer(node, 1.0, 0.0, False)
    with pytest.raises(UserError, match=f"no space exports a layer of kind '{kind}'"):
        to_onnx((Segment("stem", ((node,),)),), {})


def test_free_height_and_width_need_a_resolution(tmp_path: Path) -> None:
    g = Sketch(("N", 3, "H", "W"))
    path = save(g.model(g.conv("images", 3, 8, 3, 2)), tmp_path)
    with pytest.raises(UserError, match="say resolution=224"):
        read_onnx(path)
    assert specs(read_onnx(path, 96).segments)[0].height == 96
    fixed = save(residual_network(), tmp_path)
    assert read_onnx(fixed, 64) == read_onnx(fixed)
    with pytest.raises(UserError, match="fixed to 64x64 pixels"):
        read_onnx(fixed, 96)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    whole = residual_network().SerializeToString()
    path = tmp_path / "model.onnx"
    for content in (b"", b"\x80\x04K\x01.", b"a,b\n1,2\n", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(BadFile, match="not an ONNX"):
            read_onnx(path)
    for missing, said in ((tmp_path / "none.onnx", "no file"), (tmp_path, "is a folder")):
        with pytest.raises(BadFile, match=said):
            read_onnx(missing)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "", "C:\\weights"])
def test_weights_outside_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    model = residual_network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(BadFile, match="outside the model's folder"):
        read_onnx(save(model, tmp_path))
    tensor.external_data[0].value = "weights.bin"  # beside the model: its sizes are known without reading it
    assert len(specs(read_onnx(save(model, tmp_path)).segments)) == 10


def test_sizes_that_do_not_fit_together(tmp_path: Path) -> None:
    g = Sketch()
    with pytest.raises(BadFile, match="weights for 16 channels where its input has 8"):
        read_onnx(save(g.model(g.conv(g.conv("images", 3, 8), 16, 8)), tmp_path))
    g = Sketch()
    with pytest.raises(BadFile, match="sizes do not fit together"):
        read_onnx(save(g.model(g.op("MatMul", "images", g.constant([16, 8]))), tmp_path))


def test_no_damaged_file_breaks_the_reader(tmp_path: Path) -> None:
    """Bytes changed at random: either it is still a network, or the refusal is one of the two that users see."""
    whole, rng = residual_network().SerializeToString(), random.Random(0)
    path, read = tmp_path / "model.onnx", 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 4, 16))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            segments = read_onnx(path).segments
        except UserError as error:
            assert "\n" not in str(error)
        else:
            read += all(spec.out_elements > 0 for spec in specs(segments))
    assert read > 0


def test_the_command_prints_kernels_total_and_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segments = lower(load_space("quadranet").smallest(), 224, 1000)
    path = save(own_model(segments), tmp_path)
    assert main(["device=cpu", f"model={path}", "confidence=0.9"]) == 0
    said = capsys.readouterr().out
    expected = fit_latency_model(load_profile("cpu"), confidence=0.9).predict(segments)
    assert f"total {expected.latency_ms:.4g} ms, {expected.low_ms:.4g}..{expected.high_ms:.4g} ms" in said
    assert "Transpose" in said and "derived prices" in said and "dwconv" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=x.onnx"], "missing device="),
        (["device=cpu"], "missing model="),
        (["device=cpp", "model=x.onnx"], "Did you mean 'cpu'"),
        (["device=cpu", "model=x.onnx"], "no file 'x.onnx'"),
        (["device=cpu", "model=x.onnx", "confidence=1"], "confidence=1"),
        (["device=cpu", "model=x.onnx", "resolution=0"], "resolution=0"),
        (["device=cpu", "modle=x.onnx"], "Did you mean 'model'"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
