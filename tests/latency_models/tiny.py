"""A space of a dozen small kernels, and timings short enough for tests. Not for accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

from latency_models.measure import timing

SPACE = """
name: tiny
family: quadra
stem_width: 8
stages:
  - {width: 8, max_blocks: 2}
kernel_sizes: [3, 5]
expand_ratios: [2]
"""
SHORT = {"WARM_MS": 1.0, "FEWEST_MS": 2.0, "REFERENCE_WARM_MS": 0.2, "REFERENCE_MS": 1.0}


def tiny_space(folder: Path) -> Path:
    """The space's file."""
    path = folder / "tiny.yaml"
    path.write_text(SPACE, encoding="utf-8")
    return path


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of a few milliseconds in this process."""
    for name, value in SHORT.items():
        monkeypatch.setattr(timing, name, value)


def shorten_script(script: Path) -> None:
    """The same in a copied measure.py, whose constants are set after their definition."""
    text = script.read_text(encoding="utf-8")
    values = "".join(f"{name} = {value}\n" for name, value in SHORT.items())
    before, mark, after = text.partition("COLUMNS = ")
    assert mark and all(name in before for name in SHORT)
    script.write_text(f"{before}{values}{mark}{after}", encoding="utf-8")
