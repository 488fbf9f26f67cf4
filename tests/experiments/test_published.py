"""The published figures in the code are those of Tables I, II and V of arXiv 2311.17956, as a file of facts outside
this repository copies them (skipped where it is not)."""

from __future__ import annotations

import re

import pytest

from experiments.table1 import LINES
from experiments.table2 import PUBLISHED_MB
from search_space.family import PUBLISHED, TABLE5
from tests import SHARED

COPY = SHARED / "paper.md"
pytestmark = pytest.mark.skipif(not COPY.is_file(), reason="no copy of the paper's tables here (NAS_SHARED)")
BLOCKS = {
    "SkipBlock": "skip",
    "ConvBlock": "conv",
    "SwinBlock": "swin",
    "HorBlock": "hor",
    "QuadraBlock": "quad",
    "QuadraBlock*": "quad, X only",
}


def section(first: str, last: str) -> str:
    """The copy's text from one heading to the next."""
    return COPY.read_text(encoding="utf-8").split(f"\n## {first} ")[1].split(f"\n## {last} ")[0]


def test_table1() -> None:
    """Parameters, FLOPs, blocks, top-1 and images per second, 18 networks."""
    rows = re.findall(r"([A-Z][\w-]*) ([\d.]+)/([\d.]+)/(\d+)/([\d.]+)/(\d+)", section("1.5", "1.6"))
    found = {name.lower(): tuple(map(float, figures)) for name, *figures in rows}
    assert found == {
        name: (line.params_m, line.gmacs, line.blocks, line.top1, line.images_per_second)
        for name, line in LINES.items()
    }


def test_table2() -> None:
    rows = re.findall(r"\| (\w+\*?) [^|]*\| (?:no|yes) \| (\d+) \| (\d+) \|", section("1.7", "1.8"))
    assert {BLOCKS[name]: {64: int(small), 128: int(large)} for name, small, large in rows} == PUBLISHED_MB


def test_table5() -> None:
    line = next(line for line in section("1.8", "2.1").splitlines() if line.startswith("Table V [S]"))
    found = [tuple(map(float, figures)) for figures in re.findall(r"([\d.]+)M?/([\d.]+)G?/([\d.]+)", line)]
    assert found == [(PUBLISHED[name].params_m, PUBLISHED[name].gmacs, PUBLISHED[name].top1) for name in TABLE5]
