"""The bench of runtimes in miniature: one network, one turn, what is installed."""

from __future__ import annotations

import pytest

from tests.bench import runtimes


def test_twins_have_equal_macs_and_stand_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"NETWORKS": 1, "ROUNDS": 1, "WARM_MS": 0.0, "ROUND_MS": 1.0, "KERNELS": ((3, 5),)}.items():
        monkeypatch.setattr(runtimes, name, value)
    runtimes.main()
    said = capsys.readouterr().out
    assert "| 3x5 | onnxruntime fp32 " in said and "MACs of quadranet_lite over quadranet: 1.000" in said
