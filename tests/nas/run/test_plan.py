"""What a plan says before anything is trained. Not for budgets: those are in tests/nas/choose."""

from __future__ import annotations

import pytest

from nas.data import DataSettings
from nas.run.plan import plan_search, plan_targets
from nas.run.settings import SearchSettings
from nas.run.targets import options_of, settings_of, target_name
from search_space.errors import UserError


def blind(space: str) -> str:
    """The note on kernels wider than the map at 32 pixels."""
    data = DataSettings(resolution=32)
    plan = plan_search(SearchSettings(space=space, device="cpu", budget_ms=30.0, data=data), num_classes=10)
    (note,) = (note for note in plan.notes if "cannot tell what wide kernels are worth" in note)
    return note.split("only latency does: ")[1]


def test_wide_kernels_are_named_in_the_stages_that_offer_them() -> None:
    assert blind("quadranet") == (
        "5x5 and 7x7 in stage 2 (4x4 maps); 3x3 and 5x5 and 7x7 in stage 3 (2x2 maps); "
        "3x3 and 5x5 and 7x7 in stage 4 (1x1 maps)"
    )
    assert blind("efficientnet_lite0") == (
        "5x5 in stage 2 (4x4 maps); 3x3 in stage 3 (2x2 maps); 3x3 and 5x5 in stage 4 (2x2 maps); "
        "3x3 and 5x5 in stage 5 (1x1 maps); 3x3 in stage 6 (1x1 maps)"
    )


def test_a_stage_that_may_be_left_out_has_its_note_too() -> None:
    assert "5x5 in stage 6 (4x4 maps)" in blind("experiments/spaces/nas_bench_macro.yaml")


def test_a_cut_space_is_what_is_planned_priced_and_written() -> None:
    whole, cut = (
        plan_search(SearchSettings(device="cpu", budget_ms=40.0, kernel_sizes=sizes), num_classes=10)
        for sizes in (None, (3, 5))
    )
    assert cut.space.kernels == (3, 5) and cut.table.space == cut.space
    assert cut.table.minimum_ms == whole.table.minimum_ms and cut.table.maximum_ms < whole.table.maximum_ms
    assert "The space is 'quadranet' cut by kernel_sizes=[3,5]" in cut.notes
    assert not [note for note in whole.notes if "cut by" in note]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"init": "pretrained"},
            "as a whole, not cut by avoid=[dwconv7]; leave",
        ),
        ({"init": "efficientnet_lite0", "space": "efficientnet_lite0", "avoid": ("k5e6",)}, "with avoid=[k5e6]; leave"),
        ({"avoid": ("dwconv9",)}, "Did you mean 'dwconv"),
    ],
)
def test_a_cut_that_cannot_be_is_refused(asked: dict, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.supernet.origin.package_of", lambda name: name)
    settings = SearchSettings(**{"device": "cpu", "budget_ms": 40.0, "avoid": ("dwconv7",), **asked})
    with pytest.raises(UserError) as caught:
        plan_search(settings, num_classes=10)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "vpu"])
def test_what_a_profile_stands_for_is_said(device: str) -> None:
    plan = plan_search(SearchSettings(device=device, budget_ms=40.0), num_classes=10)
    said = [note for note in plan.notes if "three years old or more" in note or "avoid=[dwconv7]" in note]
    assert [note.partition(":")[0] for note in said] == (["cpu", "cpu"] if device == "cpu" else [])


def test_derived_prices_are_told_from_the_least_to_the_most_whichever_network_has_them() -> None:
    plan = plan_search(SearchSettings(device="vpu", space="quadranet_t", budget_ms=40.0), num_classes=10)
    (said,) = (note for note in plan.notes if "derived prices" in note)
    assert "(41 to 55 %)" in said


def test_limits_alone_are_a_plan_whose_budget_is_the_slowest_networks_time() -> None:
    options = {"device": ["cpu", "vpu"], "budget_ms": [None, [30, None]], "limits": {"macs": 3e8}}
    plans = plan_targets(settings_of(options), num_classes=10)
    assert [plan.binds for plan in plans] == [False, True, False]
    assert plans[0].settings.budget_ms == plans[0].table.maximum_ms and plans[0].limits.most == {"macs": 3e8}
    said = ["Latency is not limited: limits alone are kept" in plan.notes[0] for plan in plans]
    assert said == [True, False, True] and not any("does not bind" in note for plan in plans for note in plan.notes)
    kept = options_of([plan.asked for plan in plans])
    assert kept["budget_ms"] == [[None], [30, None]] and settings_of(kept) == settings_of(options)
    again = plan_targets(settings_of(kept), num_classes=10)
    assert [(plan.settings, plan.notes) for plan in again] == [(plan.settings, plan.notes) for plan in plans]
    assert target_name(plans[2].settings) == "vpu-87.3187ms"


def test_without_a_budget_limits_must_still_be_possible() -> None:
    (plan,) = plan_targets(settings_of({"budget_ms": None}), num_classes=10)
    assert plan.notes[0].startswith(
        "Latency is not limited: the search is for accuracy alone. The budget named is what"
    )
    with pytest.raises(UserError, match=r"limits.macs=1e\+06 cannot be met: networks of 'quadranet' have"):
        plan_targets(settings_of({"budget_ms": None, "limits": {"macs": 1e6}}), num_classes=10)
    with pytest.raises(UserError, match="asked for twice"):
        settings_of({"budget_ms": [None, None], "device": ["cpu", "cpu"], "limits": {"macs": 3e8}})
