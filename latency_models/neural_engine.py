"""How the Myriad X's neural engine runs a convolution: its modes, and the stripes a large input is cut into.

Constants and rules are those of OpenVINO's graph compiler for this chip (`hwConvTiling` in its public source,
2019-2020), simplified: its tables for single shapes are left out. Only counts are here; what one costs is fitted
(`experiments.profiles.vpu`). A larger convolution may have fewer stripes than a smaller one, as on the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

BANK_BYTES = 128 * 1024  # the engine's memory for its input
BLOCK_COEFFICIENTS = 256  # weights a block holds for one output channel
LINE_PIXELS = 8  # a line of the input starts at a multiple of 16 bytes
FP16_BYTES = 2
NEAR_BYTES = 4 * 128 * 1024  # a larger input lies in DDR (four slices of the near memory, CMX)
MAX_STRIPES = 15  # where more would be needed, the compiler splits channels or columns instead
# A mode takes 1, 2, 4, 8 or 16 input channels at once and 256, 128, 64, 32 or 16 output channels; its overhead in
# cycles a pixel.
MODES = ((1, 0), (2, 5), (4, 11), (8, 19), (16, 31))
MULTIPLIERS = 256
LARGEST_POOL = 15  # pixels a side of a pooling window; larger ones run on the vector cores


@dataclass(frozen=True, slots=True)
class EngineConv:
    """The sizes of a dense convolution. Sizes in pixels, `rows` x `columns` the window."""

    in_channels: int
    out_channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    rows: int
    columns: int
    stride: int = 1

    @property
    def weights(self) -> int:
        """Weights of the convolution, biases left out."""
        return self.rows * self.columns * self.in_channels * self.out_channels

    @property
    def cycles(self) -> int:
        """Clock cycles of one pass over all output pixels in the cheapest mode."""
        parts, _ = self._split
        return parts * self._mode(parts)[0] * self.out_height * self.out_width

    @property
    def stripes(self) -> int:
        """Horizontal stripes that are run one after another since the input's lines do not fit the engine's memory."""
        return self._split[1]

    @property
    def striped_elements(self) -> int:
        """What stripes read from DDR besides one reading of the weights.

        The weights again for every further stripe, and an input that lies there once for every group of output
        channels. 0 without stripes.
        """
        parts, stripes = self._split
        if stripes == 1:
            return 0
        stored = self.in_channels * self.height * self._line
        reads = self._mode(parts)[1] if stored * FP16_BYTES > NEAR_BYTES else 0
        return (stripes - 1) * self.weights + reads * stored

    @property
    def _line(self) -> int:
        return ceil(self.width / LINE_PIXELS) * LINE_PIXELS

    @property
    def _split(self) -> tuple[int, int]:
        """How the input channels are split: (parts of them, stripes).

        The fewest parts whose weights fit a block and whose lines need few enough stripes.
        """
        wanted = min(self.rows + self.stride + 2 + (self.width <= LINE_PIXELS), self.height)
        fewest = ceil(self.in_channels * self.rows * self.columns / (MODES[-1][0] * BLOCK_COEFFICIENTS))
        for parts in range(fewest, self.in_channels + 1):
            held = BANK_BYTES // (ceil(self.in_channels / parts) * self._line * FP16_BYTES)
            if held >= wanted:
                return parts, 1
            if held >= self.rows and ceil(self.height / held) <= MAX_STRIPES:
                return parts, ceil(self.out_height / ((held - self.rows) // self.stride + 1))
        return fewest, 1

    def _mode(self, parts: int) -> tuple[int, int]:
        """(cycles a pixel, groups of output channels) of one part of the input channels."""
        channels, window = ceil(self.in_channels / parts), self.rows * self.columns
        found = []
        for at_once, overhead in MODES:
            block = ceil(channels / at_once) * window
            if block <= BLOCK_COEFFICIENTS or at_once == MODES[-1][0]:
                groups = ceil(self.out_channels * at_once / MULTIPLIERS)
                found.append((groups * (block + overhead), groups))
        return min(found)
