"""Latency in the loss of an architecture step: one form a file, found by name or by full dotted path.

A new form is one file beside these and one line in `FORMS`; or a file anywhere, asked for as
`penalty.form=package.module:value`. The laws that every form keeps are in tests/contracts/test_penalties.py.
Not for the final choice: `nas.choose` keeps the budget whatever these did. Nothing here imports torch.
"""

from typing import cast

from nas.penalties.base import Penalty, PenaltyForm
from search_space.named import load_named

FORMS = {
    "add_linear": "nas.penalties.add_linear:add_linear",
    "hard": "nas.penalties.hard:hard",
    "mul_log": "nas.penalties.mul_log:mul_log",
    "multiplier": "nas.penalties.multiplier:multiplier",
}


def penalty_form(name: str) -> PenaltyForm:
    """The form of that name. Raises `UserError`."""
    return cast(PenaltyForm, load_named("penalty.form", name, FORMS, 3))


__all__ = ["FORMS", "Penalty", "PenaltyForm", "penalty_form"]
