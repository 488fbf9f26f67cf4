"""The experiment on norms and activations: a miniature of it, its table by hand, and what int8 does to a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from experiments.norms import LAYERS, accuracy_of, architecture, main, quantized, render
from experiments.results import Provenance, Results, load_results
from search_space import Kind, lower
from search_space.to_onnx import to_onnx
from tests.search_space.compare import lively_network, run_onnx, weights_of


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    """A folder in CIFAR-10's binary format: 250 images of noise, ten classes."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = np.repeat(np.arange(10, dtype=np.uint8), 5)[:, None]
        np.hstack([labels, rng.integers(0, 256, (50, 3072), dtype=np.uint8)]).tofile(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The command sets torch's threads for its process, which here is not its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_miniature(cifar10: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "norms.json"
    layers = "batch_norm/relu6"
    assert main(["--quick", f"data={cifar10}", "images=64", f"layers={layers}", f"out={out}"]) == 0
    (row,) = load_results(out, "norms").rows
    assert row["layers"] == layers and row["seed"] == 0
    assert 0 <= float(str(row["fp32"])) <= 1 and 0 <= float(str(row["int8"])) <= 1
    measured = capsys.readouterr().out
    assert main(["show", f"out={out}"]) == 0
    assert measured.startswith(capsys.readouterr().out.rstrip("\n"))


def test_unknown_layers_are_refused_before_any_training(cifar10: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", f"data={cifar10}", "layers=batch_norm/relu6,batch_norm/relu"]) == 2
    assert "Did you mean 'relu6'" in capsys.readouterr().err


def test_the_table_by_hand() -> None:
    rows = (
        {"layers": "batch_norm/relu6", "seed": 0, "fp32": 0.50, "int8": 0.49, "loss": 1.0},
        {"layers": "batch_norm/relu6", "seed": 1, "fp32": 0.52, "int8": 0.53, "loss": 2.0},
    )
    settings = {"data": "CIFAR-10", "epochs": 3, "images": 4800, "resolution": 32}
    text = render(Results("norms", Provenance("command", "today", None, "machine", 1, None, {}), settings, rows))
    assert "| batch_norm, relu6 | 2 | 51.0 (50.0, 52.0) | 51.0 | +0.00, at worst -1.00 | 1.500 |" in text


def test_int8_folds_every_batch_norm_and_changes_logits_little(tmp_path: Path) -> None:
    segments = lower(architecture(LAYERS[1]), 32, 10)
    network = lively_network(segments, 0, 32)
    model = to_onnx(segments, weights_of(network))
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 + 0.5
    content = quantized(model, [(images, torch.zeros(64))], tmp_path)
    int8 = onnx.load_from_string(content)
    operators = {node.op_type for node in int8.graph.node}
    assert "QuantizeLinear" in operators and "BatchNormalization" not in operators
    norms = sum(node.spec.kind is Kind.BATCH_NORM for segment in segments for node in segment.nodes)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == norms > 0
    exact, coarse = run_onnx(model, images), run_onnx(int8, images)
    noise = float((coarse - exact).std() / exact.std())
    assert 0 < noise < 0.3
    labels = exact.argmax(1)
    assert accuracy_of(model.SerializeToString(), [(images, labels)]) == 1.0
