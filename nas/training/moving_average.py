"""The moving average of a model's weights over its training. Not for when the average is used: that is the loops'."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class MovingAverage:
    """An exponential average of every weight over all steps, without the bias to the first that short runs suffer.

    Under path sampling a weight off the path counts as it stands: all averages look back over the same steps, and a
    candidate that is seldom drawn is not kept at the weights of long ago. Where slots share weights nearly all
    parameters are on every path, and averaging the active ones alone would be the same.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """decay: what a step leaves of the average; 0.99 looks back over about 100 steps. One more copy of the weights.

        The model may change its tensors in place only, as optimizers do.
        """
        self.decay = decay
        self._live = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
        self._average = {name: value.clone() for name, value in self._live.items()}

    def update(self, step: int) -> None:
        """step: how many were done, this one included."""
        share = (1 - self.decay) / (1 - self.decay**step)  # as Adam corrects its moments
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), share)

    def put_in(self) -> None:
        """The model's weights become their averages."""
        for name, value in self._live.items():
            value.copy_(self._average[name])

    def state(self) -> dict[str, Tensor]:
        """The averages by the names of the model's weights; the tensors themselves, not copies."""
        return dict(self._average)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the averages of an earlier `state`."""
        for name, value in self._average.items():
            value.copy_(state[name])
