"""The timing protocol with machines whose speed is known, its file, and the models that it times."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from device_profiles import Kernel
from latency_models.fuse import fuse
from latency_models.grid import grid_kernels
from latency_models.measure import timing
from latency_models.measure.kernel_onnx import (
    kernel_name,
    kernel_nodes,
    layer_records,
    network_model,
    nodes_model,
    uniform_weights,
)
from latency_models.measure.timing import Bench, Item, Record, Refused, Settings, make_settings, measure, summarise
from latency_models.measure.workload import fusion_rules
from search_space import Kind, LayerSpec, Node, available_spaces, load_space, lower
from search_space.build import Network
from search_space.to_onnx import nodes_to_onnx, to_onnx

RULES = [
    fusion_rules(make_settings(name, optimization))
    for name, runtime in timing.RUNTIMES.items()
    for optimization in runtime.optimizations
]
BASE_MS = {"a": 1.0, "b": 3.0, "c": 20.0, "reference": 0.5}


class FakeMachine:
    """Runs items on a clock of its own; `slowness` of the clock's ms multiplies every time."""

    def __init__(self, slowness: Callable[[float], float]) -> None:
        self.now, self.slowness = 0.0, slowness
        self.loaded: list[str] = []

    def load(self, item: Item) -> timing.Run:
        self.loaded.append(item.name)

        def run() -> float:
            ms = BASE_MS[item.name] * self.slowness(self.now)
            self.now += ms
            return ms

        return run


def items(*names: str) -> list[Item]:
    return [Item(name, bytes, ()) for name in names]


def timed(machine: FakeMachine, names: Sequence[str] = "abc", accept_noise: bool = False) -> list[Record]:
    records: list[Record] = []
    reference = machine.load(items("reference")[0])
    measure(items(*names), machine.load, reference, records, lambda: None, accept_noise)
    return records


def test_drift_is_divided_out() -> None:
    """A machine that slows down by half over the run: results are in proportion, at the median speed."""
    machine = FakeMachine(lambda now: 1 + now / 4000)
    results = summarise(timed(machine, accept_noise=True))
    assert machine.slowness(machine.now) > 1.5
    assert results["b"].ms / results["a"].ms == pytest.approx(3, rel=0.05)
    assert results["c"].ms / results["a"].ms == pytest.approx(20, rel=0.05)
    assert all(result.spread_ms < 0.06 * result.ms for result in results.values())
    steady = summarise(timed(FakeMachine(lambda now: 1.0)))
    assert {name: result.ms for name, result in steady.items()} == pytest.approx({k: BASE_MS[k] for k in "abc"})
    assert all(result.spread_ms == 0 for result in steady.values())


def test_results_can_be_scaled_to_another_runs_reference() -> None:
    slow = summarise(timed(FakeMachine(lambda now: 1.25)), reference_ms=BASE_MS["reference"])
    assert slow["a"].ms == pytest.approx(BASE_MS["a"])


def test_items_are_interleaved_over_the_rounds() -> None:
    machine = FakeMachine(lambda now: 1.0)
    timed(machine)
    assert machine.loaded == ["reference", *"abc" * timing.ROUNDS]


def test_what_is_done_is_not_done_again() -> None:
    machine, records = FakeMachine(lambda now: 1.0), timed(FakeMachine(lambda now: 1.0), "ab")[:-1]
    measure(items(*"ab"), machine.load, machine.load(items("reference")[0]), records, lambda: None)
    assert machine.loaded == ["reference", "b"]
    assert sorted(r[:2] for r in records) == [(name, n) for name in "ab" for n in range(timing.ROUNDS)]


def test_a_timing_has_a_warm_up_and_enough_runs() -> None:
    calls: list[float] = []

    def run(ms: float) -> timing.Run:
        return lambda: calls.append(ms) or ms  # type: ignore[func-returns-value]

    assert len(timing.sample(run(1), 20, 150)) == 150 and len(calls) == 170  # ms set both
    calls.clear()
    assert len(timing.sample(run(40), 20, 150)) == 10 and len(calls) == 12  # counts set both
    assert len(timing.sample(run(2000), 20, 150)) == 2  # a slow item is not run ten times
    assert len(timing.sample(run(1e-4), 20, 150)) == timing.MOST_RUNS


def test_a_machine_that_scatters_is_refused_and_accepted_on_request() -> None:
    def scatter(now: float) -> float:
        return 1.0 if int(now) % 997 < 500 else 2.0

    records: list[Record] = []
    saved: list[int] = []
    machine = FakeMachine(scatter)
    reference = machine.load(items("reference")[0])
    names = [f"a{i}" for i in range(20)]
    BASE_MS.update(dict.fromkeys(names, 1.0))
    with pytest.raises(Refused, match=r"busy: the same reference took .*interquartile range .*busy=accept") as refusal:
        measure(items(*names), machine.load, reference, records, lambda: saved.append(len(records)))
    assert "\n" not in str(refusal.value)
    assert len(records) == saved[-1] == 0  # the scattered timings are taken back
    measure(items(*names), machine.load, reference, records, lambda: None, accept_noise=True)
    assert len(records) == 20 * timing.ROUNDS


def test_a_busy_start_is_refused() -> None:
    turns = iter(range(10**6))
    with pytest.raises(Refused, match=r"the same reference took .*nothing was timed"):
        timing.check_quiet(lambda: 1 + (next(turns) // 30 % 3) / 2)
    with pytest.raises(Refused, match=r"waited for a core 40% of the time .*nothing was timed"):
        timing.check_quiet(lambda: 1.0, waited=lambda: 0.4)


def test_a_quiet_start_is_not() -> None:
    timing.check_quiet(lambda: 1.0, waited=lambda: 0.05)


def test_a_process_that_waits_for_its_core_is_refused() -> None:
    """A reference of a tenth of a millisecond slips between other processes' turns; the item does not."""
    machine, records = FakeMachine(lambda now: 1.0), list[Record]()
    names = [f"w{i}" for i in range(12)]
    BASE_MS.update(dict.fromkeys(names, 1.0))
    with pytest.raises(Refused, match="waited for a core 30% of the time"):
        measure(
            items(*names), machine.load, machine.load(items("reference")[0]), records, lambda: None, waited=lambda: 0.3
        )
    assert not records


def test_waiting_is_the_share_of_time_off_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = iter([10.0, 12.0, 13.0, 14.0]), iter([1.0, 1.5, 2.5, 3.6])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(timing.time, "process_time", lambda: next(cpu))
    waited = timing.waiting()
    assert [waited(), waited(), waited()] == [0.75, 0.0, 0.0]


FACTS = {"unit": "ms", "manifest": "m", "runtime": "r", "threads": 1}
ROWS = [Record("a", 0, 1.25, 10, 0.5), Record("b", 0, 3.5, 12, 0.5), Record("a", 1, 1.5, 10, 0.25)]


def test_the_file_reads_back() -> None:
    text = timing.render(FACTS, ROWS)
    assert timing.read_facts(text, "x") == FACTS
    assert timing.parse(text, "x", {"a", "b"}) == ROWS


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("b,0,3.5", "z,0,3.5", "row 4: 'z' is no kernel or network"),
        ("b,0,3.5", "b,0,nan", "row 4: ms is nan, not a finite number above 0"),
        ("b,0,3.5", "b,0,-3.5", "row 4: ms is -3.5, not a finite number above 0"),
        ("b,0,3.5", "b,0,0", "row 4: ms is 0, not"),
        ("b,0,3.5", "b,0,fast", "row 4: ms is 'fast', not a number"),
        ("b,0,3.5", "b,9,3.5", "row 4: round is '9', not an integer from 0 to 4"),
        ("b,0,3.5", "a,0,3.5", "row 4: a round 0 is already in row 3"),
        ("12,0.5\n", "12\n", "row 4: 4 fields where 5 are needed"),
        ("12,0.5", "0,0.5", "row 4: runs is '0'"),
        ("12,0.5", "12,inf", "row 4: reference_ms is inf"),
        ("10,0.25\n", "10,0.2", "last row is cut off"),
        ("item,round,ms", "item,round,us", "row 2: columns must be"),
    ],
)
def test_a_bad_row_is_named(old: str, new: str, said: str) -> None:
    text = timing.render(FACTS, ROWS)
    assert text.count(old) == 1
    with pytest.raises(Refused, match=said) as refusal:
        timing.parse(text.replace(old, new), "x", {"a", "b"})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("text", "said"), [("item,round\n", "no facts"), ('# {"unit": "us"}\n', "unit is 'us'")])
def test_facts_are_needed_and_in_milliseconds(text: str, said: str) -> None:
    with pytest.raises(Refused, match=f"row 1: .*{said}"):
        timing.read_facts(text, "x")


def test_two_processes_write_one_file_of_timings(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    left = tmp_path / ".results.csv.1.partial"
    left.write_text("of a process that was killed")
    os.utime(left, (time.time() - 61,) * 2)
    script = f"""
from pathlib import Path
from latency_models.measure.timing import Record, write_timings
for _ in range(100):
    write_timings(Path({str(path)!r}), {FACTS!r}, [Record(*row) for row in {[tuple(row) for row in ROWS]!r}])
"""
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert timing.resume(path, FACTS, {"a", "b"}) == ROWS
    assert list(tmp_path.iterdir()) == [path]


def test_timings_of_other_settings_are_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    assert timing.resume(path, FACTS, {"a", "b"}) == []
    timing.write_timings(path, FACTS, ROWS)
    assert timing.resume(path, {**FACTS, "load_average": 2}, {"a", "b"}) == ROWS
    with pytest.raises(Refused, match=r"taken with threads=1, this run has threads=2; delete '"):
        timing.resume(path, {**FACTS, "threads": 2}, {"a", "b"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tflite",), "unknown runtime 'tflite'"),
        (("openvino", "basic"), "optimization=basic: openvino knows all"),
        (("onnxruntime", "", "fp16"), "precision=fp16: onnxruntime knows fp32"),
        (("onnxruntime", "", "", 999), "threads=999: this process may use 1 to"),
    ],
)
def test_settings_are_checked(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(Refused, match=said):
        make_settings(*arguments)
    assert make_settings("cuda") == Settings("cuda", "eager", "fp32", 1)


def test_a_missing_runtime_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(Refused, match=r"needs the package 'openvino>=2022\.3'"):
        timing.open_runtime(make_settings("openvino"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(Refused, match="finds no CUDA device"):
        timing.open_runtime(make_settings("cuda"))


def test_the_script_stands_alone() -> None:
    """Python 3.9 reads it, and it imports the standard library and numpy until a runtime is opened."""
    source = Path(timing.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {a.name for n in top if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in top if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names | {"numpy"}
    assert not any(isinstance(node, ast.Match) for node in ast.walk(tree))
    later = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and n not in top]
    lazy = {a.name for n in later if isinstance(n, ast.Import) for a in n.names}
    lazy |= {n.module or "" for n in later if isinstance(n, ast.ImportFrom)}
    packages = {name.split(".")[0] for name in lazy} - sys.stdlib_module_names
    assert packages == {"onnxruntime", "openvino", "ai_edge_litert", "torch"}


# --- the models that are timed


def shipped_kernels(rules: Any) -> tuple[Kernel, ...]:
    return grid_kernels(map(load_space, available_spaces()), rules, 64, 10)


@pytest.mark.parametrize("rules", RULES)
def test_the_layers_of_a_kernel_fuse_into_that_kernel(rules: Any) -> None:
    kernels = shipped_kernels(rules)
    assert len({kernel_name(kernel) for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        assert fuse(kernel_nodes(kernel), replace(rules, folded=frozenset())) == (kernel,)


def small_kernels() -> list[Kernel]:
    """One of every kind, set of merged layers and number of inputs, over all runtimes."""
    found = {}
    for rules in RULES:
        for kernel in shipped_kernels(rules):
            if kernel.spec.kind is not Kind.SCALE:
                found.setdefault((kernel.price_kind, kernel.fused, kernel.inputs), kernel)
    return list(found.values())


def torch_weights(nodes: Sequence[Node], prefix: str, weights: dict[str, Any]) -> Iterator[list[torch.Tensor]]:
    """As `timing.run_layers` takes them."""
    parts = {"batch_norm": ("weight", "bias", "running_mean", "running_var")}
    for node in nodes:
        names = [f"{prefix}{node.name}.{part}" for part in parts.get(node.spec.kind, ("weight", "bias"))]
        own = [torch.tensor(np.array(weights[name])) for name in names if name in weights]
        if node.spec.kind in (Kind.CONV, Kind.DWCONV) and len(own) == 1:
            own.append(torch.zeros(node.spec.out_channels))
        yield own


HARD_SWISH = Kernel(LayerSpec(Kind.HARD_SWISH, 8, 8, 7, 7), (), 1)  # of spaces that choose it


@pytest.mark.parametrize("kernel", [*small_kernels(), HARD_SWISH], ids=kernel_name)
def test_a_kernels_onnx_is_its_layers(kernel: Kernel) -> None:
    nodes = kernel_nodes(kernel)
    session = onnxruntime.InferenceSession(nodes_model(nodes), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(value.shape).astype(np.float32) for value in session.get_inputs()]
    assert len(inputs) == kernel.inputs
    (outcome,) = session.run(None, {f"x{i}": x for i, x in enumerate(inputs)})
    weights = list(torch_weights(nodes, "", dict(uniform_weights([("", nodes)]))))
    layers = layer_records([nodes])
    assert timing.input_shapes(layers) == [x.shape[1:] for x in inputs]
    expected = timing.run_layers(layers, weights, [torch.from_numpy(x) for x in inputs])
    np.testing.assert_allclose(outcome, expected.numpy(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", available_spaces())
def test_a_networks_layers_are_the_built_network(name: str) -> None:
    torch.manual_seed(0)
    space = load_space(name)
    segments = lower(space.architecture(space.random_path(random.Random(1))), 32, 10)
    network = Network(segments).eval()
    state = {key: value.detach().numpy() for key, value in network.state_dict().items()}
    weights = [w for s in segments for w in torch_weights(s.nodes, f"{s.name}.", state)]
    layers = layer_records([segment.nodes for segment in segments])
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(timing.run_layers(layers, weights, [x]), network(x), rtol=1e-4, atol=1e-5)
    assert [len(w) for w in weights] == [len(timing.random_weights(layer)) for layer in layers]


@pytest.mark.parametrize("name", ["quadranet", "proxyless"])
def test_one_value_a_tensor_leaves_the_graph_as_real_weights_do(name: str, tmp_path: Path) -> None:
    """Where two tensors shared a value, the runtime would merge equal layers and the network would be faster."""
    space = load_space(name)
    segments = lower(space.architecture(space.random_path(random.Random(1))), 64, 10)
    shapes = uniform_weights([(segment.name, segment.nodes) for segment in segments])
    rng = np.random.default_rng(0)
    drawn = {key: rng.uniform(0.5, 1.5, value.shape).astype(np.float32) for key, value in shapes.items()}
    real, small = to_onnx(segments, drawn).SerializeToString(), network_model(segments)
    assert optimized(small, tmp_path) == optimized(real, tmp_path)
    assert len(small) < len(real) / 20


def optimized(model: bytes, folder: Path) -> Counter[str]:
    """Operators of the graph that onnxruntime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(f"{node.op_type} {len(node.input)}" for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_a_small_model_is_the_same_function() -> None:
    nodes = kernel_nodes(Kernel(LayerSpec(Kind.CONV, 8, 16, 7, 7, 3, 1, 1), (Kind.BATCH_NORM, Kind.ADD), 2))
    weights = uniform_weights([("", nodes)])
    feeds = {"x0": np.ones((1, 8, 7, 7), np.float32), "x1": np.ones((1, 16, 7, 7), np.float32)}
    outcomes = []
    for compact in (True, False):
        model = nodes_to_onnx(nodes, weights, compact).SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        outcomes.append(session.run(None, feeds)[0])
    np.testing.assert_allclose(outcomes[0], outcomes[1], rtol=1e-5)


def test_a_real_kernel_is_timed_and_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "FEWEST_MS", 5.0)
    small, large = (Kernel(LayerSpec(Kind.CONV, c, c, 28, 28, 1), (Kind.RELU6,)) for c in (8, 256))
    wanted = [
        Item(kernel_name(k), lambda k=k: nodes_model(kernel_nodes(k)), layer_records([kernel_nodes(k)]))
        for k in (small, large)
    ]
    path, facts = tmp_path / "timings.csv", {"manifest": "m"}

    def bench() -> Bench:
        return Bench(make_settings("onnxruntime"), wanted[0], path, facts, [item.name for item in wanted], True)

    with timing.pinned(1):
        first = bench()
        first.measure(wanted)
        results = summarise(first.records)
        assert results[wanted[1].name].ms > 5 * results[wanted[0].name].ms > 0
        second = bench()
        second.measure(wanted)
    assert [r[:2] for r in second.records] == [r[:2] for r in first.records]
    assert second.facts["runtime_version"] == onnxruntime.__version__
