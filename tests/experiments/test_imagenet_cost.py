"""The simulated fetches are those of real reading, and hours follow from what goes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.imagenet_cost import GIVEN, Numbered, fetches, given, hours, main, packed_bytes, rates
from experiments.results import FOLDER, load_results
from nas.data import DataSettings
from nas.data import load as load_data
from nas.pack import pack
from tests.nas.data.test_streams import BATCHES, load, web


def test_simulated_fetches_are_those_of_a_server(tmp_path: Path) -> None:
    pack(load_data(DataSettings(limit=900)), tmp_path / "shards", shard_mb=0.05)
    with web(tmp_path / "shards") as (address, gets):
        data = load(address, tmp_path / "cache", cache_gb=0.4e-3)
        source = data.train.source
        room = int(0.4e6 / source.index.shard_bytes.max())  # type: ignore[attr-defined]
        counted = []
        for epoch in range(3):
            for _ in data.batches(data.train, epoch=epoch, **BATCHES):  # type: ignore[arg-type]
                pass
            counted.append(sum(times for name, times in gets.items() if name.startswith("train")))
            gets.clear()
    simulated = fetches(source, data.train.indices, 16, [0], 1, 3, room, seed=3)  # type: ignore[arg-type]
    shards = len(np.unique(source.shard_of(data.train.indices)))  # type: ignore[attr-defined]
    assert room < shards and simulated[0] == counted[0] == shards
    assert all(abs(ours - theirs) <= 1 for ours, theirs in zip(simulated, counted, strict=True))
    assert simulated[1] < shards, "some are still there from the epoch before"


def test_machines_share_an_epoch() -> None:
    source, images = Numbered(6400, 64, 2), np.arange(6400)
    alone = fetches(source, images, 16, range(1), 1, 2, 8)
    each = [fetches(source, images, 4, range(first, first + 2), 4, 2, 16) for first in (0, 2)]
    assert alone[0] == 64 and 64 <= each[0][0] + each[1][0] <= 67
    assert fetches(source, images, 16, range(1), 1, 3, 64) == [64, 0, 0]


def test_the_slowest_part_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert packed_bytes() == pytest.approx(1.5e11, rel=0.01)
    assert hours(1, 1)[0] == pytest.approx(given("images") / (given("inference") / 3) / 3600)
    assert hours(1, 2, 1.5)[0] == pytest.approx(3 * hours(1, 1)[0])
    assert rates(64)["network"] == 8 * rates(8)["network"] == 8 * rates(1)["network"]
    few = GIVEN["cores"].__class__("cores", 1, "", "assumption", "")
    monkeypatch.setitem(GIVEN, "cores", few)
    assert hours(8, 1)[1] == "cores"
    assert hours(8, 1)[0] == pytest.approx(given("images") / (8 * given("reading")) / 3600)


def test_everything_that_goes_in_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "gpus=1,16", "epochs=2"]) == 0
    said = capsys.readouterr().out
    assert "derived, not measured | 1 GPU | 16 GPUs" in said
    assert all(one.source in said and f"| {one.kind} |" in said for one in GIVEN.values())
    assert {one.kind for one in GIVEN.values()} == {"fact", "measured", "assumption"}


def test_the_kept_table_is_drawn_from_the_kept_file(capsys: pytest.CaptureFixture[str]) -> None:
    """By `python -m experiments.imagenet_cost show > experiments/results/imagenet_cost.md`, of what goes in today."""
    assert main(["show"]) == 0
    assert (FOLDER / "imagenet_cost.md").read_text(encoding="utf-8") == capsys.readouterr().out
    kept = load_results(FOLDER / "imagenet_cost.json", "imagenet_cost")
    assert [row for row in kept.rows if row["what"] == "given"] == [
        {"what": "given", **vars(one)} for one in GIVEN.values()
    ]
    assert not kept.settings["quick"] and not str(kept.provenance.commit).endswith("-dirty")
