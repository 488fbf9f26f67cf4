"""Activations that exporters write as several operators: x * sigmoid(x), hard-swish, and GELU by erf or by tanh.

Not for what they cost (`onnx.reader`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from latency_models.onnx.file import Operator
from search_space.layer import Kind

GATES = ("Sigmoid", "HardSigmoid")
_INNER = {"Mul", "Add", "Sub", "Div", "Pow"}  # what may stand between x and its Erf or Tanh


@dataclass(frozen=True)
class Activation:
    """Operators (by position) that together make one activation of the tensor `reads`; exact: it is of that kind."""

    called: str
    kind: Kind
    reads: str
    makes: str
    operators: frozenset[int]
    exact: bool = True


def find_activations(operators: Sequence[Operator], static: frozenset[str]) -> Iterator[Activation]:
    """Every group of operators that is one activation and whose inner tensors nobody else reads."""
    graph = _Readers(operators, static)
    for position, operator in enumerate(operators):
        found = None
        if operator.op in GATES:
            found = graph.gated(position)
        elif operator.op == "Clip":
            found = graph.hard_swish(position)
        elif operator.op in ("Erf", "Tanh"):
            found = graph.gelu(position)
        if found is not None:
            yield found


class _Readers:
    """Who makes and who reads every tensor."""

    def __init__(self, operators: Sequence[Operator], static: frozenset[str]) -> None:
        self.operators, self.static = operators, static
        self.maker = {name: i for i, operator in enumerate(operators) for name in operator.outputs}
        self.readers: dict[str, list[int]] = {}
        for i, operator in enumerate(operators):
            for name in set(operator.inputs):
                self.readers.setdefault(name, []).append(i)

    def gated(self, position: int) -> Activation | None:
        """The pattern x * sigmoid(x)."""
        gate = self.operators[position]
        x, product = gate.inputs[0], self._only_reader(gate.outputs[0])
        if product is None or self.operators[product].op != "Mul" or x not in self.operators[product].inputs:
            return None
        makes = self.operators[product].outputs[0]
        hard = gate.op == "HardSigmoid"
        kind = Kind.HARD_SWISH if hard else Kind.GELU
        return Activation(f"x * {gate.op}(x)", kind, x, makes, frozenset({position, product}), exact=hard)

    def hard_swish(self, position: int) -> Activation | None:
        """The pattern x * clip(x + 3, 0, 6) / 6, divided before or after the product, or by a factor."""
        plus = self.maker.get(self.operators[position].inputs[0])
        if (
            plus is None
            or self.operators[plus].op != "Add"
            or self._only_reader(self.operators[plus].outputs[0]) is None
        ):
            return None
        x, *more = [name for name in self.operators[plus].inputs if name not in self.static] or [""]
        members, last, divided = {plus, position}, position, False
        if not x or more:
            return None
        while (reader := self._only_reader(self.operators[last].outputs[0])) is not None:
            operator = self.operators[reader]
            if operator.op == "Mul" and x in operator.inputs:
                members.add(reader)
                makes = operator.outputs[0]
                after = self._only_reader(makes)
                if not divided and after is not None and self._scales(after):
                    members.add(after)
                    makes = self.operators[after].outputs[0]
                elif not divided:
                    return None
                return Activation("HardSwish", Kind.HARD_SWISH, x, makes, frozenset(members))
            if divided or not self._scales(reader):
                return None
            members.add(reader)
            last, divided = reader, True
        return None

    def gelu(self, position: int) -> Activation | None:
        """The pattern x * (1 + f(x)) * 0.5 in any order, f from x by an Erf or a Tanh."""
        curve = self.operators[position]
        plus = self._only_reader(curve.outputs[0])
        if plus is None or self.operators[plus].op != "Add" or not self._constants(plus):
            return None
        product = self._only_reader(self.operators[plus].outputs[0])
        if product is not None and self.operators[product].op == "Mul" and self._constants(product):  # 0.5 comes first
            halved: list[int] = [product]
            product = self._only_reader(self.operators[product].outputs[0])
        else:
            halved = []
        if product is None or self.operators[product].op != "Mul":
            return None
        inner_made = self.operators[halved[0] if halved else plus].outputs[0]
        (other,) = [name for name in self.operators[product].inputs if name != inner_made] or [""]
        inner = self._between(other, position)
        if inner is None:  # x may be halved on its own way
            half = self.maker.get(other)
            if half is None or self.operators[half].op not in ("Mul", "Div") or self._only_reader(other) != product:
                return None
            halved.append(half)
            other = next((name for name in self.operators[half].inputs if name not in self.static), "")
            inner = self._between(other, position)
        if inner is None:
            return None
        members = {*inner, position, plus, product, *halved}
        makes = self.operators[product].outputs[0]
        last = self._only_reader(makes)
        if not halved and last is not None and self.operators[last].op in ("Mul", "Div") and self._constants(last):
            members.add(last)
            makes = self.operators[last].outputs[0]
        inside = {name for i in members for name in self.operators[i].outputs} - {makes}
        if any(not members.issuperset(self.readers.get(name, ())) for name in inside):
            return None
        return Activation("Gelu", Kind.GELU, other, makes, frozenset(members))

    def _between(self, x: str, position: int) -> set[int] | None:
        """The arithmetic between a tensor and an operator, or None if that operator depends on anything else."""
        found: set[int] = set()
        waiting = [self.operators[position].inputs[0]]
        while waiting:
            name = waiting.pop()
            if name == x or name in self.static:
                continue
            maker = self.maker.get(name)
            if maker is None or self.operators[maker].op not in _INNER or len(found) > 8:
                return None
            found.add(maker)
            waiting += self.operators[maker].inputs
        return found

    def _only_reader(self, tensor: str) -> int | None:
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 else None

    def _scales(self, position: int) -> bool:
        """Whether it multiplies or divides by a constant."""
        return self.operators[position].op in ("Mul", "Div") and self._constants(position)

    def _constants(self, position: int) -> bool:
        """Whether one of the two operands is constant."""
        return any(name in self.static for name in self.operators[position].inputs)
