"""Networks cut out of a trained one, the last layer of every block fitted anew: so much is right before any training.

Every block of a smaller network ends in a 1x1 convolution and a norm, which are linear: by least squares they are made
to put out what the trained network's block puts out on some images, given what the smaller network's own block sees.
Where blocks are left out, the block before them stands in for them. The images need no labels. On Imagenette
EfficientNet-Lite0 with all expansions cut from 6 to 3 goes from 17 to 84 % so, with every stage's last block left out
and expansions of 4 from 32 to 85 % (299 validation photographs, 160 pixels, fitted to 256). Not for training.

A quadratic term that starts at zero is fitted too, or it would be worth nothing: one factor a channel, by which the
term makes up for most of what the block still lacks. Linearised about zero that is a least squares problem as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nas.run.distributed import average
from nas.supernet.network import SharedSlot, Statistics, Supernet
from search_space import GatePath
from search_space.build import Network
from search_space.layer import Kind, Node
from search_space.operators.patterns import LeanNodes, Step

AFTER = frozenset({Kind.BATCH_NORM, Kind.ADD})  # what may follow the layer that is fitted
RIDGE = 0.01  # of the mean square of a channel: how strongly a fit is held to the inherited weights
CHUNK = 32  # images whose inner activations are in memory at once
ROWS = 12_000  # pixels that a fit reads at most
FEW = 16  # images that a quadratic term is fitted to at least
LEAST_FACTOR = 1e-4  # of a norm whose weights are written anew
PROBE = 0.05  # of a quadratic term's factors, to see what they do
LARGEST_TERM = 0.3  # a factor that is fitted, beside a term of unit variance: beyond it is far from linear


@dataclass(frozen=True, eq=False)
class Correction:
    """What is added to a block's output: weight (out, inner) times the activations before its last layer, and bias.

    term: (inner,) factors of the norm that a quadratic term starts by, None for a block without one.
    """

    weight: Tensor
    bias: Tensor
    term: Tensor | None = None


def quadratic_term(nodes: Sequence[Node]) -> Node | None:
    """The norm whose factors scale a block's quadratic term; None for a plain block."""
    return next((node for node in nodes if node.constant is not None), None)


def last_layer(nodes: Sequence[Node]) -> tuple[Node, Node] | None:
    """The convolution that ends a block and its norm; None where something else ends it."""
    place = max((i for i, node in enumerate(nodes) if node.spec.kind is Kind.CONV), default=None)
    if place is None or {node.spec.kind for node in nodes[place + 1 :]} - AFTER:
        return None
    norms = [node for node in nodes[place + 1 :] if node.spec.kind is Kind.BATCH_NORM]
    return (nodes[place], norms[0]) if len(norms) == 1 else None


class Cuts:
    """Networks of a supernet that has a trained network's weights and statistics, fitted to that network's blocks.

    The largest path is the trained network. Answers depend on the supernet as it was when this was made.
    """

    def __init__(self, supernet: Supernet, images: Tensor, compared: int = 0) -> None:
        """images: (N, 3, R, R); answers are compared on the last `compared`, the others are fitted to."""
        assert supernet.kept_statistics and compared < len(images)
        self.supernet, self.fitted = supernet, len(images) - compared
        self.pieces = list(supernet.children())
        space = supernet.space
        self.largest = space.path(space.largest())
        with torch.no_grad():
            self.streams = [images]  # before every segment but the head, of the trained network
            for segment, piece in zip(supernet.segments[:-1], self.pieces[:-1], strict=True):
                choice = 0 if segment.slot is None else self.largest.choices[segment.slot]
                self.streams.append(self._plain(piece, choice, self.streams[-1]))
            self.answers = self.pieces[-1](self.streams[-1][self.fitted :]).log_softmax(1)

    @torch.no_grad()
    def divergence(self, path: GatePath) -> float:
        """Of a network's answers from the trained one's: mean Kullback-Leibler divergence in nats.

        Over the images that nothing is fitted to; the same in all processes.
        """
        x, _ = self._along(path)
        return self._from_answers(self.pieces[-1](x[self.fitted :]))

    @torch.no_grad()
    def network(self, path: GatePath) -> Network:
        """The plain network of a path, fitted."""
        _, corrections = self._along(path)
        network = self.supernet.extract(path).to(self.answers.device)
        chosen = [0 if segment.slot is None else path.choices[segment.slot] for segment in self.supernet.segments]
        there = [n for n, own in enumerate(self.supernet.segments) if own.candidates[chosen[n]]]
        for number, block in zip(there, network.children(), strict=True):
            nodes = self.supernet.segments[number].candidates[chosen[number]]
            layers, term = last_layer(nodes), quadratic_term(nodes)
            if layers is not None and number in corrections:
                convolution, norm = (block.get_submodule(layer.name) for layer in layers)
                _write(convolution, norm, corrections[number])
                if term is not None and (factors := corrections[number].term) is not None:
                    block.get_parameter(f"{term.name}.weight").copy_(factors)
        return network.eval()

    @torch.no_grad()
    def damage(self, measured: Callable[[], None] = lambda: None, pointless: NDArray[np.bool_] | None = None) -> Tensor:
        """(slots, candidates): the divergence that each candidate alone, fitted, causes in the trained network.

        0 for padding and for what the trained network has. measured: called after every candidate. pointless: (slots,
        candidates), those that need not be measured, whose damage is 0 too.
        """
        slots = self.supernet.space.slots
        found = torch.zeros(len(slots), max(len(slot.candidates) for slot in slots))
        for number, segment in enumerate(self.supernet.segments):
            if segment.slot is None:
                continue
            for choice, nodes in enumerate(segment.candidates):
                skipped = pointless is not None and pointless[segment.slot, choice]
                if choice != self.largest.choices[segment.slot] and not skipped:
                    before = self.supernet.segments[number - 1].slot
                    if nodes:
                        y, _ = self._fit(number, choice, self.streams[number], self.streams[number + 1])
                    elif before is not None:  # the block before stands in
                        own = self.largest.choices[before]
                        y, _ = self._fit(number - 1, own, self.streams[number - 1], self.streams[number + 1])
                    else:
                        y = self.streams[number]
                    answers = self.supernet.finish(y[self.fitted :], number + 1, self.largest)
                    found[segment.slot, choice] = self._from_answers(answers)
                measured()
        return found

    def _from_answers(self, logits: Tensor) -> float:
        (value,) = average([F.kl_div(logits.log_softmax(1), self.answers, log_target=True, reduction="batchmean")])
        return max(0.0, float(value))

    def _plain(self, piece: nn.Module, choice: int, x: Tensor) -> Tensor:
        if isinstance(piece, SharedSlot):
            return torch.cat([piece.run(choice, part) for part in x.split(CHUNK)])
        return torch.cat([piece(part) for part in x.split(CHUNK)])

    def _along(self, path: GatePath) -> tuple[Tensor, dict[int, Correction]]:
        """What the head sees of all images, and the corrections by segment."""
        segments, same = self.supernet.segments, True  # so far as the trained network
        x, corrections = self.streams[0], {}
        for number, segment in enumerate(segments[:-1]):
            if segment.slot is None:
                x = self.streams[number + 1] if same else self._plain(self.pieces[number], 0, x)
                continue
            choice = path.choices[segment.slot]
            if not segment.candidates[choice]:
                continue
            end = number
            while (slot := segments[end + 1].slot) is not None and not segments[end + 1].candidates[path.choices[slot]]:
                end += 1
            same = same and choice == self.largest.choices[segment.slot] and end == number
            if same:
                x = self.streams[number + 1]
                continue
            x, correction = self._fit(number, choice, x, self.streams[end + 1])
            if correction is not None:
                corrections[number] = correction
        return x, corrections

    def _fit(self, number: int, choice: int, x: Tensor, wanted: Tensor) -> tuple[Tensor, Correction | None]:
        """The output of a segment's candidate, corrected towards what is wanted of the images that are fitted to."""
        piece, nodes = self.pieces[number], self.supernet.segments[number].candidates[choice]
        assert isinstance(piece, SharedSlot) and piece.statistics is not None
        layers, term = last_layer(nodes), quadratic_term(nodes)
        if layers is None:
            return self._plain(piece, choice, x), None
        changed = None if term is None else (term, self._factors(piece, choice, x, wanted))
        y, read = _run(piece, choice, x, layers[0], changed)
        output, correction = self._corrected(y, read, wanted)
        return output, correction if changed is None else replace(correction, term=changed[1])

    def _factors(self, piece: SharedSlot, choice: int, x: Tensor, wanted: Tensor) -> Tensor:
        """(inner,) of the norm that a candidate's quadratic term starts by, fitted to as many images as it takes."""
        nodes = piece.nodes[choice]
        layers, term = last_layer(nodes), quadratic_term(nodes)
        assert layers is not None and term is not None
        images = min(self.fitted, max(FEW, -(-2 * ROWS // wanted[0, 0].numel())))
        x, wanted, state = x[:images], wanted[:images], piece.state_of(choice)
        convolution, norm = (layer.name for layer in layers)
        own, factor = state[f"{term.name}.weight"], state[f"{norm}.weight"]
        y, read = _run(piece, choice, x, layers[0])
        output, correction = self._corrected(y, read, wanted)
        _, probed = _run(piece, choice, x, layers[0], (term, own + PROBE))
        factor = factor / (state[f"{norm}.running_var"] + layers[1].eps).sqrt()
        weight = state[f"{convolution}.weight"].flatten(1) * factor[:, None] + correction.weight
        found = own + _best_factors((_rows(probed) - _rows(read)) / PROBE, _rows(wanted - output), weight)
        y, read = _run(piece, choice, x, layers[0], (term, found))
        with_term, _ = self._corrected(y, read, wanted)
        return found if (wanted - with_term).square().mean() < (wanted - output).square().mean() else own

    def _corrected(self, y: Tensor, read: Tensor, wanted: Tensor) -> tuple[Tensor, Correction]:
        """A block's output, read by its last layer, brought towards what is wanted of the images that are fitted to."""
        found = _least_squares(_rows(read[: self.fitted]), _rows((wanted - y)[: self.fitted]))
        return y + F.conv2d(read, found.weight[:, :, None, None], found.bias), found


def _run(
    slot: SharedSlot, choice: int, x: Tensor, last: Node, term: tuple[Node, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """A candidate's output, and what its last layer reads; term: a norm, and the factors that it has instead."""
    assert slot.statistics is not None
    kept, inner = slot.statistics[choice], list[Tensor]()
    assert isinstance(kept, Statistics)

    def step(step: Step, *inputs: Tensor) -> Tensor:
        if not isinstance(step, LeanNodes):
            if step.name == last.name:
                inner.append(inputs[0])
            if term is not None and step == term[0]:
                bias = slot.largest.get_parameter(f"{step.name}.bias")[: step.spec.in_channels]
                return F.batch_norm(inputs[0], *kept.of(step.name), term[1], bias, training=False, eps=step.eps)
        return slot.step(step, *inputs, kept=kept)

    y = torch.cat([slot.plain[choice].run(step, part) for part in x.split(CHUNK)])
    return y, torch.cat(inner)


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (pixels, C), at most ROWS of them, evenly."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2).float()
    return rows if len(rows) <= ROWS else rows[torch.linspace(0, len(rows) - 1, ROWS, device=x.device).long()]


def _least_squares(read: Tensor, missing: Tensor) -> Correction:
    """What best makes (pixels, inner) into (pixels, out), held to nothing by a ridge."""
    mean, wanted = read.mean(0), missing.mean(0)
    centred = read - mean
    products = centred.T @ centred
    products.diagonal().add_(RIDGE * products.diagonal().mean().clamp(min=1e-12))
    weight = torch.linalg.solve(products, centred.T @ (missing - wanted)).T
    return Correction(weight, wanted - weight @ mean)


def _best_factors(effect: Tensor, lacking: Tensor, weight: Tensor) -> Tensor:
    """(inner,) factors of a quadratic term that best make up for what a block lacks, as far as it is linear in them.

    effect: (pixels, inner), what a factor of one adds before the last layer; lacking: (pixels, out); weight: (out,
    inner) of the last layer.
    """
    products = (effect.T @ effect) * (weight.T @ weight)
    products.diagonal().add_(RIDGE * products.diagonal().mean().clamp(min=1e-12))
    factors = torch.linalg.solve(products, ((effect.T @ lacking) * weight.T).sum(1))
    return factors.clamp(-LARGEST_TERM, LARGEST_TERM)


def _write(convolution: nn.Module, norm: nn.Module, correction: Correction) -> None:
    """Put a correction into a convolution and the norm after it, whose statistics stay."""
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    spread = (norm.running_var + norm.eps).sqrt()
    factor = norm.weight / spread
    safe = torch.where(factor.abs() < LEAST_FACTOR, LEAST_FACTOR, factor)
    weight = convolution.weight.flatten(1) * factor[:, None] + correction.weight
    bias = norm.bias - norm.running_mean * factor + correction.bias
    convolution.weight.copy_((weight / safe[:, None]).view_as(convolution.weight))
    norm.weight.copy_(safe * spread)
    norm.bias.copy_(bias + norm.running_mean * safe)
