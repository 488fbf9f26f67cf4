"""What the operators of foreign networks are read as: moved elements, attention, activations, precisions, batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from device_profiles import DeviceProfile, load_profile, save_profile
from latency_models import fit_latency_model
from latency_models.model import STAND_IN_FACTOR
from latency_models.onnx.fold import fold_sizes
from latency_models.onnx.reader import read_onnx
from latency_models.predict import kernel_times, main
from search_space import Kind, LayerSpec, UserError
from tests.latency_models.test_onnx_reader import Sketch, kinds, save, specs, with_kinds


def classifier(g: Sketch, x: str, channels: int) -> onnx.ModelProto:
    pooled = g.op("Flatten", g.op("GlobalAveragePool", x))
    return g.model(g.op("Gemm", pooled, g.constant([10, channels]), g.constant([10]), transB=1))


def resnet18(norms: bool) -> onnx.ModelProto:
    """arXiv 1512.03385, table 1; with norms as operators, or folded into biased convolutions as exporters do."""
    g = Sketch(("N", 3, 224, 224))

    def conv(x: str, c: int, out: int, k: int, stride: int = 1) -> str:
        pads = [k // 2] * 4
        if norms:
            x = g.conv(x, c, out, k, stride, pads=pads)
            return g.op("BatchNormalization", x, *(g.constant([out]) for _ in range(4)))
        return g.op("Conv", x, g.constant([out, c, k, k]), g.constant([out]), strides=[stride] * 2, pads=pads)

    x = g.op("Relu", conv("images", 3, 64, 7, 2))
    x, c = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            y = conv(g.op("Relu", conv(x, c, width, 3, stride)), width, width, 3)
            skip = conv(x, c, width, 1, stride) if c != width else x
            x, c = g.op("Relu", g.op("Add", y, skip)), width
    return classifier(g, x, 512)


@pytest.mark.parametrize("device", ["cpu", "cpu_int8", "vpu"])
@pytest.mark.parametrize("norms", [True, False])
def test_a_resnet_has_the_kernels_that_its_rules_leave(device: str, norms: bool, tmp_path: Path) -> None:
    """20 convolutions that take norm and ReLU along, 8 additions that take theirs; nothing else but pools and head."""
    read = read_onnx(save(resnet18(norms), tmp_path))
    model = fit_latency_model(load_profile(device))
    times = kernel_times(model, read.segments)
    counts: Counter[tuple[str, tuple[Kind, ...]]] = Counter()
    for time in times:
        counts[time.kernel.price_kind, tuple(k for k in time.kernel.fused if k is not Kind.BATCH_NORM)] += time.count
        assert (Kind.BATCH_NORM in time.kernel.fused) == (norms and time.kernel.spec.kind is Kind.CONV)
    assert counts == {
        ("conv_image", (Kind.RELU6,)): 1,
        ("pool", ()): 1,
        ("conv_kxk", (Kind.RELU6,)): 8,
        ("conv_kxk", ()): 8,
        ("conv_1x1", ()): 3,
        ("add", (Kind.RELU6,)): 8,
        ("global_pool", ()): 1,
        ("linear", ()): 1,
    }
    macs = sum(spec.macs for spec in specs(read.segments))
    assert macs == pytest.approx(1.814e9, rel=1e-3)  # 1.8 G in the paper


def test_norms_that_exporters_fold_change_no_price(tmp_path: Path) -> None:
    both = [read_onnx(save(resnet18(norms), tmp_path)).segments for norms in (True, False)]
    for device in ("cpu", "cpu_int8", "gpu", "vpu"):
        model = fit_latency_model(load_profile(device))
        with_norms, folded = (model.predict(segments).latency_ms for segments in both)
        assert with_norms == pytest.approx(folded, rel=1e-9)


def without(profile: DeviceProfile, kind: str) -> DeviceProfile:
    """The profile without a price of a kind."""
    models = {name: model for name, model in profile.header.models.items() if name != kind}
    return replace(profile, header=replace(profile.header, models=models))


def shuffled(groups: int = 4) -> onnx.ModelProto:
    """Reshape, Transpose, Reshape between two convolutions, as in ShuffleNet (arXiv 1707.01083)."""
    g = Sketch(("N", 3, 32, 32))
    x = g.op("Reshape", g.conv("images", 3, 16, 3), g.integers(-1, groups, 16 // groups, 32, 32))
    x = g.op("Reshape", g.op("Transpose", x, perm=[0, 2, 1, 3, 4]), g.integers(-1, 16, 32, 32))
    return classifier(g, g.conv(x, 16, 24), 24)


def test_a_channel_shuffle_moves_every_element_once(tmp_path: Path) -> None:
    read = read_onnx(save(shuffled(), tmp_path))
    assert specs(read.segments)[1:3] == [
        LayerSpec(Kind.TRANSPOSE, 16, 16, 32, 32),
        LayerSpec(Kind.CONV, 16, 24, 32, 32),
    ]
    assert read.notes == ()
    bare_profile = without(load_profile("cpu"), "transpose")
    model = fit_latency_model(bare_profile)  # without a price of its own: that of a concatenation, as derived
    moved = next(time for time in kernel_times(model, read.segments) if time.kernel.price_kind == "transpose")
    joined = model.kernel_price(replace(moved.kernel, spec=replace(moved.kernel.spec, kind=Kind.CONCAT)))
    assert moved.ms == joined.ms > 0 and moved.origin == "derived" and moved.rows == 0
    assert model.kernel_price(moved.kernel).high_ms == pytest.approx(STAND_IN_FACTOR * joined.high_ms)
    assert any(kernel.kind == "transpose" and kernel.derived for kernel in model.support(read.segments).kernels)
    own = fit_latency_model(with_kinds(bare_profile, "transpose"))
    assert own.kernel_price(moved.kernel).ms == pytest.approx(16 * 32 * 32 / 1e6)
    neither = fit_latency_model(without(bare_profile, "concat"))
    with pytest.raises(UserError, match="no model of kernel kind 'transpose'"):
        neither.predict(read.segments)


@pytest.mark.parametrize("perm", [[0, 2, 3, 1], [0, 3, 1, 2]])
def test_a_change_of_layout_is_free_and_noted(perm: list[int], tmp_path: Path) -> None:
    """Channels that pass all pixels go where the runtime has them anyway; H and W that change places do not."""
    g = Sketch(("N", 3, 32, 32) if perm[-1] == 1 else ("N", 32, 32, 3))
    read = read_onnx(save(g.model(g.op("Relu", g.op("Transpose", "images", perm=perm))), tmp_path))
    assert kinds(read.segments) == {Kind.RELU6: 1}
    assert read.notes == ("Transpose (1): a change of layout, counted as free",)
    g = Sketch()
    read = read_onnx(save(g.model(g.op("Relu", g.op("Transpose", "images", perm=[0, 1, 3, 2]))), tmp_path))
    assert kinds(read.segments) == {Kind.TRANSPOSE: 1, Kind.RELU6: 1} and read.notes == ()


def attention() -> onnx.ModelProto:
    """Two heads of 8 over 64 tokens of 16 channels, as torch exports them."""
    g = Sketch(("N", 3, 32, 32))
    x = g.op("Reshape", g.conv("images", 3, 16, 4, 4, pads=[0] * 4), g.integers(-1, 16, 64))
    x = g.op("Transpose", x, perm=[0, 2, 1])
    qkv = g.op("Reshape", g.op("MatMul", x, g.constant([16, 48])), g.integers(-1, 64, 3, 2, 8))
    qkv = g.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
    q, k, v = (g.op("Gather", qkv, g.integer(i), axis=0) for i in range(3))
    scores = g.op("Softmax", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = g.op("Transpose", g.op("MatMul", scores, v), perm=[0, 2, 1, 3])
    x = g.op("Add", x, g.op("MatMul", g.op("Reshape", y, g.integers(-1, 64, 16)), g.constant([16, 16])))
    x = g.op("ReduceMean", x, g.integers(1), keepdims=0)
    return g.model(g.op("Gemm", x, g.constant([16, 10])))


def test_attention_is_read_layer_by_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(attention(), tmp_path)
    read = read_onnx(path)
    assert specs(read.segments) == [
        LayerSpec(Kind.CONV, 3, 16, 32, 32, 4, 4),
        LayerSpec(Kind.CONV, 16, 48, 8, 8),
        LayerSpec(Kind.TRANSPOSE, 3 * 64, 3 * 64, 2, 8),
        *[LayerSpec(Kind.CONCAT, 8, 8, 2, 64)] * 3,  # queries, keys and values
        LayerSpec(Kind.CONV, 8, 64, 2 * 64, 1),
        LayerSpec(Kind.SOFTMAX, 64, 64, 2, 64),
        LayerSpec(Kind.CONV, 64, 8, 2 * 64, 1),
        LayerSpec(Kind.TRANSPOSE, 8, 8, 2, 64),
        LayerSpec(Kind.CONV, 16, 16, 8, 8),
        LayerSpec(Kind.ADD, 16, 16, 8, 8),
        LayerSpec(Kind.GLOBAL_POOL, 16, 16, 8, 8),
        LayerSpec(Kind.LINEAR, 16, 10, 1, 1),
    ]
    products = [node for node in read.segments[0].nodes if len(node.inputs) == 2 and node.spec.kind is Kind.CONV]
    assert sum(node.spec.macs for node in products) == 2 * (2 * 64 * 64 * 8)
    assert "2 products of two computed tensors: priced as 1x1 convolutions" in read.notes
    model = fit_latency_model(with_kinds(load_profile("cpu"), "softmax"))
    assert all(time.ms > 0 for time in kernel_times(model, read.segments))
    bare = without(load_profile("cpu"), "softmax")
    save_profile(tmp_path / "cpu", bare.header, bare.rows)
    monkeypatch.setenv("NAS_DEVICE_PROFILES", str(tmp_path))
    assert main(["device=cpu", f"model={path}"]) == 2
    error = capsys.readouterr().err
    assert "no model of kernel kind 'softmax'" in error and error.count("\n") == 1


@pytest.mark.parametrize("form", ["operator", "gate", "divided_last", "divided_first", "factor"])
def test_hard_swish_in_every_form_is_one_layer(form: str, tmp_path: Path) -> None:
    g = Sketch()
    x = g.conv("images", 3, 16, 3)
    if form == "operator":
        y = g.op("HardSwish", x)
    elif form == "gate":
        y = g.op("Mul", x, g.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    else:
        y = g.op("Clip", g.op("Add", x, g.constant([], 3)), g.constant([], 0), g.constant([], 6))
        if form == "divided_last":
            y = g.op("Div", g.op("Mul", x, y), g.constant([], 6))
        elif form == "divided_first":
            y = g.op("Mul", g.op("Div", y, g.constant([], 6)), x)
        else:
            y = g.op("Mul", g.op("Mul", x, y), g.constant([], 1 / 6))
    read = read_onnx(save(classifier(g, g.conv(y, 16, 8), 8), tmp_path))
    assert specs(read.segments)[1] == LayerSpec(Kind.HARD_SWISH, 16, 16, 32, 32)
    assert kinds(read.segments) == {
        Kind.CONV: 2, Kind.HARD_SWISH: 1, Kind.GLOBAL_POOL: 1, Kind.LINEAR: 1
    }  # fmt: skip
    assert not any("hard" in note.lower() for note in read.notes)


def test_what_only_looks_like_hard_swish_is_not(tmp_path: Path) -> None:
    """The clipped sum times another tensor, and one that is never divided."""
    g = Sketch()
    x, other = g.conv("images", 3, 16, 3), g.conv("images", 3, 16)
    clipped = g.op("Clip", g.op("Add", x, g.constant([], 3)), g.constant([], 0), g.constant([], 6))
    y = g.op("Div", g.op("Mul", other, clipped), g.constant([], 6))
    again = g.op("Clip", g.op("Add", y, g.constant([], 3)), g.constant([], 0), g.constant([], 6))
    read = read_onnx(save(classifier(g, g.op("Relu", g.op("Mul", y, again)), 16), tmp_path))
    found = kinds(read.segments)
    assert found[Kind.HARD_SWISH] == 0 and found[Kind.RELU6] == 3 and found[Kind.MUL] >= 2


def test_splits_and_slices_are_moved_elements_and_leaky_relus_a_pass(tmp_path: Path) -> None:
    """Half of the channels go by, as in ShuffleNetV2 (arXiv 1807.11164)."""
    g = Sketch()
    x = g.op("LeakyRelu", g.conv("images", 3, 16, 3))
    g.nodes.append(helper.make_node("Split", [x], ["left", "right"], name="split", axis=1, num_outputs=2))
    right = g.op("PRelu", g.conv("right", 8, 8), g.constant([8, 1, 1]))
    x = g.op("Concat", "left", right, axis=1)
    x = g.op("Slice", x, g.integers(0), g.integers(12), g.integers(1))
    read = read_onnx(save(classifier(g, x, 12), tmp_path))
    assert specs(read.segments)[1:6] == [
        LayerSpec(Kind.MUL, 16, 16, 32, 32),
        LayerSpec(Kind.CONCAT, 16, 16, 32, 32),
        LayerSpec(Kind.CONV, 8, 8, 32, 32),
        LayerSpec(Kind.MUL, 8, 8, 32, 32),
        LayerSpec(Kind.CONCAT, 16, 16, 32, 32),
    ]
    assert specs(read.segments)[6] == LayerSpec(Kind.CONCAT, 12, 12, 32, 32)
    assert read.notes == ("LeakyRelu (1), PRelu (1): priced as mul", "Slice (1), Split (1): priced as concat")
    times = {time.kernel: time for time in kernel_times(fit_latency_model(load_profile("cpu")), read.segments)}
    activation = next(kernel for kernel in times if kernel.spec == LayerSpec(Kind.MUL, 16, 16, 32, 32))
    assert activation.inputs == 1 and times[activation].ms > 0  # no convolution takes it along


def test_sizes_that_are_computed_on_the_way_are_worked_out(tmp_path: Path) -> None:
    """Half of the channels as older exporters write a chunk; and a tensor expanded to a size that Where chooses."""
    g = Sketch()
    x = g.conv("images", 3, 16, 3)
    count = g.op("Gather", g.op("Shape", x), g.integer(1), axis=0)
    half = g.op("Div", g.op("Add", g.op("Unsqueeze", count, g.integers(0)), g.integers(1)), g.integers(2))
    ends = [g.op("Mul", half, g.integers(i)) for i in range(3)]
    left, right = (g.op("Slice", x, ends[i], ends[i + 1], g.integers(1)) for i in range(2))
    given = g.integers(1, -1, 32, 32)
    ones = g.op("ConstantOfShape", g.integers(4), value=numpy_helper.from_array(np.ones(1, np.int64)))
    sizes = g.op("Where", g.op("Equal", given, g.op("Mul", ones, g.integers(-1))), g.integers(1, 8, 32, 32), given)
    x = g.op("Concat", left, g.op("Add", right, g.op("Expand", g.constant([1, 8, 1, 1]), sizes)), axis=1)
    read = read_onnx(save(classifier(g, x, 16), tmp_path))
    assert specs(read.segments)[1:5] == [
        *[LayerSpec(Kind.CONCAT, 8, 8, 32, 32)] * 2,
        LayerSpec(Kind.ADD, 8, 8, 32, 32),
        LayerSpec(Kind.CONCAT, 16, 16, 32, 32),
    ]


A, B = np.array([7, -3, 12]), np.array([2, 2, 5])
FOLDED_OPERATORS = [
    ("Add", [A, B], {}), ("Sub", [A, B], {}), ("Mul", [A, B], {}), ("Div", [A, B], {}), ("Identity", [A], {}),
    ("Gather", [A, np.array(2)], {"axis": 0}), ("Gather", [A.reshape(1, 3), np.array([0, -1])], {"axis": 1}),
    ("Concat", [A, B], {"axis": 0}), ("Unsqueeze", [np.array(4), np.array([0])], {}),
    ("Squeeze", [A.reshape(1, 3), np.array([0])], {}), ("Squeeze", [A.reshape(1, 3)], {}),
    ("Cast", [A], {"to": TensorProto.INT32}), ("Equal", [A, np.array([7, 3, 12])], {}),
    ("Where", [np.array([True, False, True]), A, B], {}), ("ConstantOfShape", [np.array([2, 3])],
    {"value": numpy_helper.from_array(np.array([5]))}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "values", "attributes"), FOLDED_OPERATORS)
def test_integers_are_worked_out_as_onnx_does(op: str, values: list[Any], attributes: dict[str, Any]) -> None:
    names = [f"v{i}" for i in range(len(values))]
    node = helper.make_node(op, names, ["out"], **attributes)
    constants = [numpy_helper.from_array(value, name) for value, name in zip(values, names, strict=True)]
    last = helper.make_node("Identity", ["out"], ["end"])
    end = helper.make_tensor_value_info("end", TensorProto.INT64, None)
    graph = helper.make_graph([node, last], "one", [], [end], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    expected: Any
    (expected,) = ReferenceEvaluator(model).run(None, {})
    assert fold_sizes(model.graph, {}) and [n.op_type for n in model.graph.node] == ["Identity"]
    made = next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == "out")
    assert made.dtype == expected.dtype and made.tolist() == expected.tolist()


def test_what_is_no_small_integer_or_not_sound_is_left() -> None:
    many = np.array([2000])
    unsound: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("ConstantOfShape", [many], {}),  # floats by default
        ("ConstantOfShape", [many], {"value": numpy_helper.from_array(np.array([1]))}),
        ("Gather", [A, np.array(9)], {}),
        ("Div", [A, np.array([0, 0, 0])], {}),
        ("Cast", [A], {"to": TensorProto.FLOAT}),
        ("Concat", [A, B], {}),
    ]
    for op, values, attributes in unsound:
        names = [f"v{i}" for i in range(len(values))]
        constants = [numpy_helper.from_array(value, name) for value, name in zip(values, names, strict=True)]
        end = helper.make_tensor_value_info("end", TensorProto.INT64, None)
        nodes = [helper.make_node(op, names, ["out"], **attributes), helper.make_node("Identity", ["out"], ["end"])]
        graph = helper.make_graph(nodes, "one", [], [end], constants)
        assert not fold_sizes(graph, {})


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with fp16 weights and activations, the image cast on its way in."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "images":
                node.input[i] = "half"
    model.graph.node.insert(0, helper.make_node("Cast", ["images"], ["half"], name="cast", to=TensorProto.FLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


def test_weights_of_another_precision_than_the_times_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = read_onnx(save(resnet18(False), tmp_path))
    path = save(half(resnet18(False)), tmp_path)
    read = read_onnx(path)
    assert (plain.precision, read.precision) == ("fp32", "fp16") and read.segments == plain.segments
    assert main(["device=cpu", f"model={path}"]) == 0
    said = capsys.readouterr().out
    assert "note: the file's weights are fp16; the times of cpu are of fp32" in said
    assert "note: Cast (1): counted as free" in said
    assert main(["device=vpu", f"model={path}"]) == 0
    assert "the file's weights" not in capsys.readouterr().out
    assert plain.notes_on("cpu_int8", "int8") == plain.notes  # a float model is what an int8 profile prices


@pytest.mark.parametrize("op", ["QuantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"])
def test_a_quantised_model_is_refused_with_what_to_do(
    op: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    g = Sketch()
    x = g.conv("images", 3, 8, 3)
    g.nodes.append(helper.make_node(op, [x, g.constant([]), g.constant([])], ["quantised"], name="q"))
    path = save(g.model("quantised"), tmp_path)
    for device in ("cpu", "cpu_int8"):
        assert main([f"device={device}", f"model={path}"]) == 2
        error = capsys.readouterr().err
        assert f"is a quantised model ({op}); give the float model" in error and "device=cpu_int8" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("batch", ["N", 1, 8])
@pytest.mark.parametrize("windows", [False, True])
def test_a_batch_written_into_reshapes_is_that_of_one_image(batch: str | int, windows: bool, tmp_path: Path) -> None:
    images = batch if isinstance(batch, int) else 1
    g = Sketch((batch, 3, 32, 32))
    x = g.conv("images", 3, 16, 3)
    if windows:  # 16 windows of 8x8 pixels, as in Swin (arXiv 2103.14030)
        x = g.op("Reshape", x, g.integers(images, 16, 4, 8, 4, 8))
        x = g.op("Reshape", g.op("Transpose", x, perm=[0, 2, 4, 3, 5, 1]), g.integers(16 * images, 64, 16))
        x = g.op("ReduceMean", g.op("Reshape", x, g.integers(images, 1024, 16)), g.integers(1), keepdims=0)
    else:
        x = g.op("Reshape", g.op("GlobalAveragePool", x), g.integers(images, 16))
    read = read_onnx(save(g.model(g.op("Gemm", x, g.constant([16, 10]))), tmp_path))
    assert specs(read.segments)[-1] == LayerSpec(Kind.LINEAR, 16, 10, 1, 1)
    assert kinds(read.segments)[Kind.TRANSPOSE] == windows


def test_a_batch_that_cannot_be_taken_out_is_no_bad_file(tmp_path: Path) -> None:
    g = Sketch((6, 3, 32, 32))
    x = g.op("Reshape", g.op("GlobalAveragePool", g.conv("images", 3, 16, 3)), g.integers(4, 24))
    with pytest.raises(UserError, match=r"makes 4x24 of 1x16x1x1: .*; export it for one image") as caught:
        read_onnx(save(g.model(g.op("Gemm", x, g.constant([24, 10]))), tmp_path))
    assert type(caught.value) is UserError and "\n" not in str(caught.value)


def test_a_structure_without_weights_is_priced(tmp_path: Path) -> None:
    """Weights beside the file that are not there, weights emptied, and weights that are inputs with a size alone."""
    whole = read_onnx(save(resnet18(True), tmp_path))
    beside, emptied, inputs = resnet18(True), resnet18(True), resnet18(True)
    for tensor in beside.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
    for tensor in emptied.graph.initializer:
        tensor.ClearField("raw_data")
    for tensor in inputs.graph.initializer:
        inputs.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims)))
    del inputs.graph.initializer[:]
    for model in (beside, emptied, inputs):
        read = read_onnx(save(model, tmp_path))
        assert read.segments == whole.segments and read.precision == "fp32"
    assert not (tmp_path / "weights.bin").exists()
