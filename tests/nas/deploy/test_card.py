"""What a card says, and above all what its last line warns of. Nothing is deployed here."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nas.deploy.card import Card, Measured, Parity

GOOD = Card(
    network="k3e1 | k3e1",
    target="litert",
    precision="int8",
    files=("model.tflite",),
    training_resolution=64,
    deployment_resolution=224,
    input={"crop": "whole"},
    classes=("cat", "dog"),
    before=Measured("model.onnx in onnxruntime, fp32", 0.9, 4.0, 0.1, 4_000_000),
    in_fp32=Measured("litert fp32", 0.9, 5.0, 0.1, 4_000_000),
    after=Measured("litert int8", 0.895, 2.5, 0.1, 1_000_000),
    test_images=200,
    parity=Parity(32, 0.02, 1.0, True),
    calibration_images=100,
    partitions=1,
    not_delegated={"CAST": 1},
    threads=1,
    machine="a board",
    versions={"ai-edge-litert": "2.3.0"},
    date="2026-11-27",
)


def test_a_card_is_read_back_as_it_was_written() -> None:
    assert Card.from_dict(json.loads(GOOD.to_json()), "card.json") == GOOD


def test_the_last_line_of_a_good_file_warns_of_nothing() -> None:
    assert GOOD.warnings == ()
    assert GOOD.lines("out")[-1] == "litert int8: 89.5% of 200 test images, 2.5 ms at 224 pixels -> out"
    assert "delegate partitions: 1; not delegated: 1 CAST" in GOOD.lines("out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"after": replace(GOOD.after, accuracy=0.8899)}, "it loses 1.0 points of test accuracy"),
        ({"after": replace(GOOD.after, accuracy=0.5)}, "it loses 40.0 points of test accuracy"),
        ({"partitions": 58}, "the delegate takes it in 58 parts"),
        ({"partitions": 0}, "the delegate takes it in 0 parts"),
        ({"after": replace(GOOD.after, ms=12.0)}, "it is 2.40 times as slow as fp32 there"),
    ],
)
def test_the_last_line_says_what_a_reader_must_not_miss(change: dict[str, object], words: str) -> None:
    card = replace(GOOD, **change)  # type: ignore[arg-type]
    assert card.lines("out")[-1].endswith(f"-> out; warning: {words}")


def test_what_was_not_measured_is_not_made_up() -> None:
    nothing = replace(GOOD.after, accuracy=None, ms=None, ms_spread=None)
    card = replace(GOOD, after=nothing, partitions=None, not_delegated={}, test_images=0, notes=("not timed: busy",))
    assert card.warnings == ()
    assert card.lines("out")[-1] == "litert int8: not measured of 0 test images, not timed at 224 pixels -> out"
    assert "note: not timed: busy" in card.lines("out") and not any("partitions" in line for line in card.lines("out"))
