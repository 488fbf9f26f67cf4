"""What a plan says before anything is trained. Not for budgets: those are in tests/nas/choose."""

from __future__ import annotations

from nas.data import DataSettings
from nas.run.plan import plan_search
from nas.run.settings import SearchSettings


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
