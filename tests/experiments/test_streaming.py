"""The experiment of memory and speed, with few images: what it measures is what it says."""

from __future__ import annotations

from mmap import mmap
from pathlib import Path

import pytest

from experiments.results import FOLDER, load_results
from experiments.streaming import SOURCES, main, make_images, memory_mib, smallest_cache


def test_the_kept_table_is_drawn_from_the_kept_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show"]) == 0
    assert (FOLDER / "streaming.md").read_text(encoding="utf-8") == capsys.readouterr().out


def test_images_are_all_different_and_in_classes(tmp_path: Path) -> None:
    make_images(tmp_path, 40)
    files = sorted(tmp_path.rglob("*.jpg"))
    assert len(files) == 40 == len({path.read_bytes() for path in files})
    assert len(list(tmp_path.iterdir())) == 10


def test_memory_is_in_mib() -> None:
    before, held = memory_mib("VmRSS"), mmap(-1, 64 * 2**20)  # pages that no allocator has had before
    held[::1024] = b"x" * (len(held) // 1024)
    assert 60 < memory_mib("VmRSS") - before < 80
    assert memory_mib("VmHWM") >= memory_mib("VmRSS") and held[0]


def test_the_smallest_cache_is_that_of_the_data_set(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"train-{number}.tar").write_bytes(bytes(1000 + number))
    assert smallest_cache(tmp_path, 1) == sum(1000 + number for number in range(12, 20))


@pytest.mark.slow
def test_a_quick_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "images=400", f"out={tmp_path / 'streaming.json'}"]) == 0
    rows = load_results(tmp_path / "streaming.json", "streaming").rows
    reading = {row["source"]: row for row in rows if row["what"] == "reading"}
    assert tuple(reading) == SOURCES and len(rows) == 9
    far = reading["http"]
    assert 0.9 < far["sent_mb"] / far["packed_mb"] < 1.2, "each shard once"  # type: ignore[operator]
    assert 0 < far["cached_mb"] <= far["cache_mb"]  # type: ignore[operator]
    assert all(row["peak_mib"] >= row["load_mib"] >= row["start_mib"] > 100 for row in reading.values())  # type: ignore[operator]
    said = capsys.readouterr().out
    assert main(["show", f"out={tmp_path / 'streaming.json'}"]) == 0
    assert capsys.readouterr().out.strip() in said
