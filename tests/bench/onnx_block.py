"""Question: does onnxruntime run QuadraNet's exported block as fast as its parts, and would another graph be faster?

Command:  python -m tests.bench.onnx_block
Cost:     about a minute on one core
Expected: a block takes no more than 1.1 x the sum of its layers timed alone, at every stage's size

One block (kernel 7, expansion ratio 4) of QuadraNet36-T at 224 pixels, batch 1, FP32, one thread, all of
onnxruntime's optimisations, CPU time. All graphs take turns; medians of the rounds, and of the rounds' ratios. Layers
alone pay for their calls and for laying out their input again, which is why their sum can be the larger.

Graphs for the three depthwise convolutions: `exported` has three; `grouped` one of 3 outputs a channel, which are then
split; `tiled` one over three copies of the map. For the FFN: `matmul` keeps the channels last from the LayerNorm on
and multiplies matrices, where the exported graph turns back to 1x1 convolutions. Every graph is checked against
the exported one first.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper

from search_space import Node, lower
from search_space.build import Block
from search_space.family import quadranet
from search_space.layer import Kind
from search_space.to_onnx import Array, input_shapes, nodes_to_onnx

ROUNDS, ROUND_MS = 15, 30.0
STAGES = ((64, 56), (128, 28), (256, 14), (512, 7))
VARIANTS = ("grouped", "tiled", "matmul")
FACTORS = ("quad_a", "quad_b", "quad_c")


def block(channels: int, side: int) -> tuple[Sequence[Node], dict[str, Array]]:
    """The layers of one block and random weights, by 'layer.parameter'."""
    torch.manual_seed(0)
    nodes = lower(quadranet("one", channels, (1,)), 4 * side, 10)[1].nodes
    state = Block(nodes).state_dict()
    return nodes, {key: (value + 0.1 * torch.randn_like(value)).numpy() for key, value in state.items()}


def alone(node: Node, weights: dict[str, Array]) -> onnx.ModelProto:
    """One layer that reads its inputs from outside."""
    return nodes_to_onnx([Node(node.name, node.spec, tuple(range(-1, -1 - len(node.inputs), -1)))], weights)


def variant(name: str, exported: onnx.ModelProto) -> onnx.ModelProto:
    """The exported block with some nodes replaced."""
    model = onnx.ModelProto()
    model.CopyFrom(exported)
    graph = model.graph
    by_name = {node.name: node for node in graph.node}
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    first = by_name[FACTORS[0]]
    x, channels = first.input[0], arrays[f"{FACTORS[0]}.weight"].shape[0]
    attributes = {a.name: helper.get_attribute_value(a) for a in first.attribute}
    replaced: dict[str, list[onnx.NodeProto]] = {}
    if name == "matmul":
        turn = by_name["norm2"]  # the transposition back
        graph.initializer.extend(
            numpy_helper.from_array(np.ascontiguousarray(arrays[f"{part}.weight"][:, :, 0, 0].T), f"{part}.matrix")
            for part in ("expand", "project")
        )
        replaced["norm2"] = []
        for part, source in (("expand", turn.input[0]), ("project", by_name["project"].input[0])):
            product = helper.make_node("MatMul", [source, f"{part}.matrix"], [f"{part}.product"])
            output = part if part == "expand" else "project.last"
            replaced[part] = [product, helper.make_node("Add", [f"{part}.product", f"{part}.bias"], [output])]
        replaced["project"].append(helper.make_node("Transpose", ["project.last"], ["project"], perm=[0, 3, 1, 2]))
    else:
        axis = 1 if name == "grouped" else 0  # outputs of a channel side by side, or all of one factor
        for part in ("weight", "bias"):
            stacked = np.stack([arrays[f"{f}.{part}"] for f in FACTORS], axis)
            stacked = stacked.reshape(3 * channels, *stacked.shape[2:])
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(stacked), f"all.{part}"))
        side = exported.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        source, shape = (x, [1, channels, 3, side, side]) if axis else ("copies", [1, 3, channels, side, side])
        graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "all.shape"))
        graph.initializer.append(numpy_helper.from_array(np.array([1, channels, side, side], np.int64), "all.one"))
        nodes = [] if axis else [helper.make_node("Concat", [x] * 3, ["copies"], axis=1)]
        groups = channels if axis else 3 * channels
        inputs = [source, "all.weight", "all.bias"]
        nodes += [
            helper.make_node("Conv", inputs, ["all"], **{**attributes, "group": groups}),
            helper.make_node("Reshape", ["all", "all.shape"], ["all.parts"]),
            helper.make_node("Split", ["all.parts"], [f"{f}.part" for f in FACTORS], axis=1 + axis, num_outputs=3),
            *[helper.make_node("Reshape", [f"{f}.part", "all.one"], [f]) for f in FACTORS],
        ]
        replaced = {FACTORS[0]: nodes, FACTORS[1]: [], FACTORS[2]: []}
    kept = [new for node in graph.node for new in replaced.get(node.name, [node])]
    del graph.node[:]
    graph.node.extend(kept)
    used = {i for node in kept for i in node.input}
    initializers = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    onnx.checker.check_model(model)
    return model


def session(model: onnx.ModelProto, shapes: Sequence[tuple[int, ...]]) -> Callable[[], Array]:
    """A call that runs it on fixed random inputs (1, C, H, W)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    found = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    inputs = {f"x{i}": generator.standard_normal((1, *s), dtype=np.float32) for i, s in enumerate(shapes)}
    return lambda: found.run(None, inputs)[0]


def measure(calls: dict[str, Callable[[], Array]]) -> dict[str, list[float]]:
    """CPU ms of one run, round by round, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    repeats: dict[str, int] = {}
    for round_number in range(ROUNDS + 1):
        for name in list(calls) if round_number % 2 else list(calls)[::-1]:
            calls[name]()  # its weights and code into the cache
            count, start = repeats.get(name, 3), time.process_time()
            for _ in range(count):
                calls[name]()
            ms = (time.process_time() - start) * 1e3 / count
            if round_number:
                times[name].append(ms)
            else:
                repeats[name] = max(3, round(ROUND_MS / max(ms, 1e-3)))
    return times


def row(channels: int, side: int) -> str:
    nodes, weights = block(channels, side)
    exported = nodes_to_onnx(nodes, weights)
    shapes = input_shapes(nodes)
    calls = {"exported": session(exported, shapes)}
    for name in VARIANTS:
        calls[name] = session(variant(name, exported), shapes)
        np.testing.assert_allclose(calls[name](), calls["exported"](), rtol=1e-3, atol=1e-3)
    parts = [node for node in nodes if node.spec.kind is not Kind.SCALE]  # folded into weights
    for node in parts:
        model = alone(node, weights)
        shape = (node.spec.in_channels, node.spec.height, node.spec.width)
        calls[f"part {node.name}"] = session(model, [shape] * len(node.inputs))
    times = measure(calls)
    sums = [sum(times[f"part {node.name}"][i] for node in parts) for i in range(ROUNDS)]
    ratio = median(t / s for t, s in zip(times["exported"], sums, strict=True))
    others = " | ".join(
        f"{median(t / e for t, e in zip(times[name], times['exported'], strict=True)):.2f}" for name in VARIANTS
    )
    return f"| {channels} x {side}² | {median(times['exported']):.3f} | {median(sums):.3f} | {ratio:.2f} | {others} |"


def main() -> None:
    print(f"{platform.machine()}, 1 thread, onnxruntime {onnxruntime.__version__}, batch 1\n")
    print("| map | block, ms | sum of its parts, ms | block / sum |" + "".join(f" {v} / exported |" for v in VARIANTS))
    print("|---" * (4 + len(VARIANTS)) + "|")
    for channels, side in STAGES:
        print(row(channels, side), flush=True)


if __name__ == "__main__":
    main()
