"""ProxylessNAS' binary gates (arXiv 1812.00332, section 3.2) on one padded [slots, candidates] tensor.

Gates are sampled one-hot; their gradient reaches the architecture parameters through the softmax
as if the gates were the probabilities (BinaryConnect's approximation):
dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i), which is softmax' backward. Not for weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latency_models import LatencyTable
from nas.supernet.expected_latency import tilt_within
from search_space import GatePath, SearchSpace

TEMPERATURE = 0.03  # nats of damage that make a candidate less probable by a factor e


@dataclass(frozen=True)
class GateSample:
    """One draw for an architecture step.

    path: the active candidate of every slot.
    values: (slots, candidates), one-hot forward, differentiable in alpha backward.
    probabilities: (slots, candidates), softmax over the involved candidates, 0 elsewhere.
    involved: (slots, candidates), which candidates take part in this step.
    """

    path: GatePath
    values: Tensor
    probabilities: Tensor
    involved: Tensor


class Gates(nn.Module):
    """Architecture parameters alpha, (slots, candidates), padded where a slot has fewer candidates."""

    exists: Tensor

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None) -> None:
        super().__init__()
        counts = torch.tensor([len(slot.candidates) for slot in space.slots])
        exists = torch.arange(int(counts.max())) < counts[:, None]
        alpha = 1e-3 * torch.randn(exists.shape, generator=generator)  # N(0, 1e-3), the paper's start
        self.alpha = nn.Parameter(alpha.masked_fill(~exists, 0.0))
        self.register_buffer("exists", exists)

    def keep_within(self, table: LatencyTable, budget_ms: float) -> None:
        """`keep_sum_within` for the expected latency."""
        self.keep_sum_within(table.fixed_ms, table.slot_ms, budget_ms)

    @torch.no_grad()
    def keep_sum_within(self, fixed: float, values: NDArray[np.float64], most: float) -> None:
        """Tilt alpha by a cost until its expected value is at most `most`.

        fixed: what every network pays; values: (slots, candidates), NaN for padding. Of all distributions that meet
        it this one is nearest to the gates' own by Kullback-Leibler divergence (exponential tilting,
        alpha - t * value); gates that meet it stay as they are. Where no network has less, the cheapest is left alone.
        """
        alpha, values = (
            self.alpha.detach().double().masked_fill(~self.exists, -torch.inf).cpu().numpy(),
            np.nan_to_num(values),
        )
        if tilt := tilt_within(alpha, values, fixed, most):
            tilted = alpha - tilt * values
            tilted = np.where(np.isfinite(tilted), tilted - tilted.max(1, keepdims=True), 0.0)
            self.alpha.copy_(torch.from_numpy(tilted))

    @torch.no_grad()
    def prefer_harmless(self, damage: Tensor) -> None:
        """Make candidates less probable by what they cost the largest path: alpha - damage / temperature.

        damage: (slots, candidates) in nats (`nas.supernet.damage`). The most probable network within a budget is then
        the one of least damage in all.
        """
        self.alpha.sub_(damage.to(self.alpha) / TEMPERATURE * self.exists)

    def log_probabilities(self, involved: Tensor | None = None) -> Tensor:
        """(slots, candidates) log softmax over the candidates involved (default all); -inf elsewhere."""
        mask = self.exists if involved is None else involved
        return self.alpha.masked_fill(~mask, -torch.inf).log_softmax(1)

    def probabilities(self) -> Tensor:
        """(slots, candidates), rows sum to 1, padding is 0."""
        return self.log_probabilities().exp()

    def entropy(self) -> float:
        """Mean over slots of the gates' entropy as a share of its maximum; 1 uniform, 0 decided."""
        with torch.no_grad():
            p = self.probabilities()
            bits = torch.special.entr(p).sum(1)
            most = self.exists.sum(1).float().log()
            free = most > 0
            return float((bits[free] / most[free]).mean()) if free.any() else 0.0

    @torch.no_grad()
    def sample_path(self, generator: torch.Generator) -> GatePath:
        """A gate path drawn from the probabilities."""
        return GatePath(tuple(torch.multinomial(self.probabilities(), 1, generator=generator)[:, 0].tolist()))

    def sample(self, mode: str, generator: torch.Generator) -> GateSample:
        """Draw gates for an architecture step.

        'full_v2': every candidate is involved. 'two': two distinct candidates per slot, drawn from
        the probabilities without replacement, their probabilities renormalised (paper's version).
        """
        if mode == "full_v2":
            involved = self.exists
        elif mode == "two":
            with torch.no_grad():  # the two largest of log p + Gumbel noise: a draw without replacement
                noise = -torch.empty_like(self.alpha).exponential_(generator=generator).log()
                keys = (self.log_probabilities() + noise).topk(min(2, self.alpha.shape[1]), dim=1).indices
                involved = torch.zeros_like(self.exists).scatter_(1, keys, True) & self.exists
        else:
            raise ValueError(f"gate mode '{mode}' is not 'two' or 'full_v2'")
        probabilities = self.log_probabilities(involved).exp()
        active = torch.multinomial(probabilities.detach(), 1, generator=generator)
        one_hot = torch.zeros_like(probabilities).scatter_(1, active, 1.0)
        values = probabilities + (one_hot - probabilities).detach()
        return GateSample(GatePath(tuple(active[:, 0].tolist())), values, probabilities, involved)

    @torch.no_grad()
    def keep_unsampled(self, sample: GateSample, before: Tensor) -> None:
        """Shift the involved alphas so that candidates outside the sample keep their probabilities.

        before: alpha ahead of the optimizer's step, (slots, candidates). Only matters for 'two'.
        """
        old = before.masked_fill(~sample.involved, -torch.inf).logsumexp(1, keepdim=True)
        new = self.alpha.masked_fill(~sample.involved, -torch.inf).logsumexp(1, keepdim=True)
        self.alpha.sub_((new - old) * sample.involved)
