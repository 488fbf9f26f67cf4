"""What is told of a .tflite file's delegation, from lists of operators as LiteRT gives them. No LiteRT needed."""

from __future__ import annotations

from typing import Any

from nas.deploy.litert import delegation_of


def operator(name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
    return {"op_name": name, "inputs": inputs, "outputs": outputs}


CAST, CONV, MUL, SOFTMAX = (
    operator("CAST", [0], [1]),
    operator("CONV_2D", [1, 9], [2]),
    operator("MUL", [2, 2], [3]),
    operator("SOFTMAX", [3], [4]),
)
GRAPH = [CAST, CONV, MUL, SOFTMAX]


def test_without_a_delegate_every_operator_runs() -> None:
    found = delegation_of(GRAPH, [4])
    assert (found.partitions, found.not_delegated) == (0, {"CAST": 1, "CONV_2D": 1, "MUL": 1, "SOFTMAX": 1})


def test_what_a_delegate_took_does_not_run_beside_it() -> None:
    found = delegation_of([*GRAPH, operator("DELEGATE", [1, 9], [4])], [4])
    assert (found.partitions, found.not_delegated) == (1, {"CAST": 1})


def test_two_parts_with_an_operator_between_are_two() -> None:
    parts = [operator("DELEGATE", [1, 9], [2]), operator("DELEGATE", [3], [4])]
    found = delegation_of([*GRAPH, *parts], [4])
    assert (found.partitions, found.not_delegated) == (2, {"CAST": 1, "MUL": 1})
