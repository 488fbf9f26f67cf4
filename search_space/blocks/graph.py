"""A list of nodes under construction: block families append layers to it, shapes follow. Not for costs or weights."""

from __future__ import annotations

from typing import Any

from search_space.layer import BATCH_NORM_EPS, SEGMENT_INPUT, Kind, LayerSpec, Node


class Graph:
    """Layers with one input; every method appends one and returns its position.

    A method reads the last node unless `x` names another position; `Graph.INPUT` is the input.
    norm, activation: what the space asks for, of the kinds that its family accepts.
    """

    INPUT = SEGMENT_INPUT

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        norm_eps: float | None = None,
        norm: Kind | None = None,
        activation: Kind | None = None,
    ) -> None:
        """in_shape: (C, H, W) of the input; norm_eps: of BatchNorms, None for `BATCH_NORM_EPS`.

        norm, activation: the space's kinds, None for a family that asks for none.
        """
        self.in_shape = in_shape
        self.norm_eps = BATCH_NORM_EPS if norm_eps is None else norm_eps
        self._norm, self._activation = norm, activation
        self.nodes: list[Node] = []

    @property
    def norm(self) -> Kind:
        """The kind of the space's norms."""
        assert self._norm is not None, "the family accepts none"
        return self._norm

    @property
    def activation(self) -> Kind:
        """The kind of the space's activations."""
        assert self._activation is not None, "the family accepts none"
        return self._activation

    @property
    def last(self) -> int:
        """Position of the node that was appended last; `INPUT` while there is none."""
        return len(self.nodes) - 1  # SEGMENT_INPUT while empty

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """(C, H, W) after the last node."""
        return self.shape(self.last)

    def shape(self, x: int) -> tuple[int, int, int]:
        """(C, H, W) after a node."""
        if x == SEGMENT_INPUT:
            return self.in_shape
        spec = self.nodes[x].spec
        return spec.out_channels, spec.out_height, spec.out_width

    def _append(self, name: str, spec: LayerSpec, inputs: tuple[int, ...], **said: Any) -> int:
        eps = self.norm_eps if spec.kind is Kind.BATCH_NORM else BATCH_NORM_EPS
        self.nodes.append(Node(name, spec, inputs, eps=eps, **said))
        return self.last

    def conv(
        self,
        name: str,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        bias: bool,
        padding: int | None = None,
        x: int | None = None,
    ) -> int:
        """Dense convolution; padding: None for half the kernel, which keeps the map at stride 1."""
        x = self.last if x is None else x
        c, h, w = self.shape(x)
        padding = kernel_size // 2 if padding is None else padding
        return self._append(name, LayerSpec(Kind.CONV, c, out_channels, h, w, kernel_size, stride, padding, bias), (x,))

    def dwconv(
        self, name: str, kernel_size: int, stride: int = 1, *, bias: bool, x: int | None = None, like: str = ""
    ) -> int:
        """Depthwise convolution padded by half its kernel, as many channels out as in; like: as of `Node`."""
        x = self.last if x is None else x
        c, h, w = self.shape(x)
        spec = LayerSpec(Kind.DWCONV, c, c, h, w, kernel_size, stride, kernel_size // 2, bias)
        return self._append(name, spec, (x,), like=like)

    def linear(self, name: str, out_features: int) -> int:
        """Fully connected layer with bias on the last node, whose map is one pixel."""
        c, h, w = self.out_shape
        return self._append(name, LayerSpec(Kind.LINEAR, c, out_features, h, w, bias=True), (self.last,))

    def unary(self, name: str, kind: Kind, x: int | None = None, constant: float | None = None) -> int:
        """Norm, activation, scale or global pool; constant: of a BatchNorm, as of `Node`."""
        x = self.last if x is None else x
        c, h, w = self.shape(x)
        return self._append(name, LayerSpec(kind, c, c, h, w), (x,), constant=constant)

    def binary(self, name: str, kind: Kind, x: int, y: int) -> int:
        """Element-wise sum or product of two nodes of one shape."""
        c, h, w = self.shape(x)
        return self._append(name, LayerSpec(kind, c, c, h, w), (x, y))

    def residual(self, name: str, skip: int) -> int:
        """Add `skip` to the last node, closing a residual branch."""
        c, h, w = self.out_shape
        return self._append(name, LayerSpec(Kind.ADD, c, c, h, w), (skip, self.last), residual=True)
