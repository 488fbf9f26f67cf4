"""A whole search in a space of quadratic forms: chosen by gates, trained, exported and rebuilt."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch

from nas.api import load_finished, search

SPACE = """
name: forms_only
family: mbconv
stem_width: 8
head_width: 16
stages:
  - {width: 8, max_blocks: 1, stride: 2, blocks: [k3e2q2, k3e2q3]}
  - {width: 16, max_blocks: 1, stride: 2}
kernel_sizes: [3]
expand_ratios: [2]
quadratic: [2]
"""


def test_the_network_of_a_search_is_quadratic_in_its_files_too(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    out = tmp_path / "run"
    data = {"name": "digits", "limit": 60, "resolution": 32}
    short = {"warmup": {"epochs": 1}, "epochs": 1, "finetune": {"epochs": 1}, "rerank": 1, "progress": False}
    search(**short, space=str(tmp_path / "space.yaml"), device="cpu", budget_ms=2.5, data=data, out=str(out))
    finished = load_finished(out)
    result = finished.result
    assert str(result.architecture).split()[0] in ("k3e2q2", "k3e2q3")
    assert result.budget is not None and result.budget.predicted_ms <= 2.5
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = finished.module()(images)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)
