"""Whether a slot's candidates share weights, where nobody said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nas.data import DataSettings, load
from nas.run.plan import plan_search
from nas.run.settings import SearchSettings, TrainSettings
from nas.strategies.untrained import OWN_STEPS, decided, new_supernet, weight_steps
from nas.supernet.network import SeparateSlot, SharedSlot


@pytest.mark.parametrize("epochs", [2, 200])
def test_a_long_training_gives_candidates_weights_of_their_own(epochs: int) -> None:
    data = load(DataSettings(limit=400))
    plan = plan_search(SearchSettings(epochs=epochs))
    steps, candidates = weight_steps(plan, data), max(len(slot.candidates) for slot in plan.space.slots)
    share = decided(plan, data).settings.train.share_weights
    assert share is (steps / candidates < OWN_STEPS) and share is (epochs == 2)
    slots = [piece for piece in new_supernet(plan, data).children() if isinstance(piece, SharedSlot | SeparateSlot)]
    assert slots and all(isinstance(slot, SharedSlot if share else SeparateSlot) for slot in slots)


@pytest.mark.parametrize("said", [True, False])
def test_what_is_said_holds(said: bool) -> None:
    plan = plan_search(SearchSettings(train=TrainSettings(share_weights=said)))
    assert decided(plan, load(DataSettings(limit=400))) is plan
    longer = replace(plan, settings=replace(plan.settings, epochs=1000))
    assert decided(longer, load(DataSettings(limit=400))).settings.train.share_weights is said
