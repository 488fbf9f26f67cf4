"""What a plan says before anything is trained. Not for budgets: those are in tests/nas/choose."""

from __future__ import annotations

import pytest

from nas.data import DataSettings
from nas.run.plan import plan_search
from nas.run.settings import SearchSettings
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
