"""Files that are too large, too deep or without end are refused on one line, at once; others are read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_space import bounds
from search_space.errors import BadFile
from search_space.reading import parse_json, parse_yaml, read_json, read_yaml
from search_space.space import SearchSpace
from search_space.space_file import load_space
from search_space.tables import read_text

SECONDS = 5.0  # for a refusal; without bounds most of these would take hours
SPACE = {
    "name": "tiny",
    "family": "quadra",
    "stem_width": 8,
    "stages": [{"width": 8, "max_blocks": 2}, {"width": 16, "max_blocks": 2, "stride": 2}],
    "kernel_sizes": [3, 5],
    "expand_ratios": [2],
}


def refused(call: Callable[[], object]) -> str:
    begun = time.monotonic()
    with pytest.raises(BadFile) as caught:
        call()
    assert time.monotonic() - begun < SECONDS
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
@pytest.mark.parametrize("levels", [99, 100, 101, 102, 900, 5000, 100_000])
def test_depth(parse: Callable[[str, str], Any], levels: int) -> None:
    for text in ("[" * levels + "]" * levels, '{"a": ' * levels + "1" + "}" * levels):
        if levels <= bounds.DEEPEST:
            json.dumps(parse(text, "here"))
        else:
            assert f"more than {bounds.DEEPEST} levels" in refused(lambda text=text: parse(text, "here"))  # type: ignore[misc]


@given(st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_aliases_are_counted_as_they_are_read(times: int, lines: int, mapping: bool) -> None:
    def group(inner: str) -> str:
        return (
            f"[{','.join([inner] * times)}]" if not mapping else f"{{k0: {inner}, k1: [{','.join([inner] * times)}]}}"
        )

    text = "a0: &a0 [x, y]\n" + "".join(f"a{i}: &a{i} {group(f'*a{i - 1}')}\n" for i in range(1, lines))

    size, total = 3, 2 + 1 + 3  # keys are values too
    for _ in range(1, lines):
        size = 1 + times * size if not mapping else 1 + (1 + size) + (1 + 1 + times * size)
        total += 1 + size
    try:
        parse_yaml(text, "here")
        assert total <= bounds.YAML_NODES
    except BadFile as error:
        assert "values, aliases written out" in str(error) and total > bounds.YAML_NODES


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "&a [1, {b: *a}]",
        "a: &a " + "[" * 60 + "]" * 60 + "\nb: " + "[" * 60 + "*a" + "]" * 60,
        "name: 0x" + "f" * 9000,
        "stages: 0x" + "f" * 9000,
        "0x" + "f" * 9000 + ": 1",
        "[" + "1," * 3_000_000 + "1]",
    ],
)
def test_small_files_that_are_large_when_they_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    refused(lambda: load_space(str(path)))


@pytest.mark.parametrize("reader", [read_json, read_yaml, read_text])
def test_what_is_no_file_is_not_waited_for(reader: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "neither file nor folder" in refused(lambda: reader(tmp_path / "pipe.yaml"))
    assert "neither file nor folder" in refused(lambda: reader(Path("/dev/zero")))
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    assert "MiB, the most of such a file" in refused(lambda: reader(tmp_path / "large"))


PLACES: Mapping[str, tuple[tuple[str | int, ...], int]] = {
    "stem": (("stem_width",), bounds.WIDEST),
    "first": (("first_width",), bounds.WIDEST),
    "head": (("head_width",), bounds.WIDEST),
    "stem stride": (("stem_stride",), bounds.STRIDE),
    "width": (("stages", 0, "width"), bounds.WIDEST),
    "depth": (("stages", 0, "max_blocks"), bounds.BLOCKS),
    "least depth": (("stages", 0, "min_blocks"), bounds.BLOCKS),
    "stride": (("stages", 1, "stride"), bounds.STRIDE),
    "kernel": (("kernel_sizes", 1), bounds.KERNEL),
    "ratio": (("expand_ratios", 0), bounds.RATIO),
    "own kernel": (("stages", 1, "kernel_sizes"), bounds.KERNEL),
}


@given(st.sampled_from(sorted(PLACES)), st.integers(1, 30), st.booleans())
def test_numbers_of_a_space(name: str, power: int, negative: bool) -> None:
    place, most = PLACES[name]
    number = -(10**power) - 1 if negative else 10**power + 1
    data = json.loads(json.dumps(SPACE))
    at = data
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = [number] if name == "own kernel" else number
    try:
        space = SearchSpace.from_dict(data)
    except BadFile as error:
        assert "\n" not in str(error)
    else:
        assert 0 < number <= most
        assert len(space.slots) <= bounds.STAGES * bounds.BLOCKS


def test_many_stages_and_candidates() -> None:
    stage = {"width": 8, "max_blocks": 1}
    assert f"at most {bounds.STAGES}" in refused(
        lambda: SearchSpace.from_dict({**SPACE, "stages": [stage] * (bounds.STAGES + 1)})
    )
    many = {"kernel_sizes": list(range(1, 101, 2)), "expand_ratios": list(range(1, 65))}
    assert f"more than {bounds.CANDIDATES} candidates" in refused(lambda: SearchSpace.from_dict({**SPACE, **many}))
    blocks = [f"k{k}e{e}" for k in range(1, 101, 2) for e in range(1, 11)]
    own = {**SPACE, "stages": [{**stage, "blocks": blocks}]}
    assert f"at most {bounds.CANDIDATES}" in refused(lambda: SearchSpace.from_dict(own))
    assert "not a block" in refused(
        lambda: SearchSpace.from_dict({**own, "stages": [{**stage, "blocks": ["k" + "7" * 5000 + "e1"]}]})
    )
