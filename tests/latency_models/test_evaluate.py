"""The figures of an evaluation, and the command on a device of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from device_profiles import save_profile
from latency_models.evaluate import main
from latency_models.fit.kernels import fit_device
from latency_models.grid import grid_kernels
from latency_models.intervals import binomial_interval, largest_coverage, rank_quantiles, tolerance_limits
from latency_models.scores import Evaluation
from search_space import UserError
from tests.latency_models.simulated import FACTS, RULES, SPACE, networks, rows_of


def test_figures_of_a_small_set_by_hand() -> None:
    measured, predicted = np.array([10.0, 20.0, 40.0, 80.0]), np.array([10.4, 18.2, 40.0, 100.0])
    s = Evaluation("s", list("abcd"), measured, predicted, 0.9 * predicted, 1.05 * predicted, 0.5)
    assert s.mape == pytest.approx((4 + 9 + 0 + 25) / 4)
    assert (s.within(0.05), s.within(0.1)) == (50, 75)
    assert s.rmse_ms == pytest.approx(np.sqrt((0.4**2 + 1.8**2 + 20**2) / 4))
    assert s.spearman == pytest.approx(1)
    assert s.inside == 2 and s.coverage_holds  # 20 ms lies above 1.05 x 18.2, 80 below 0.9 x 100
    assert s.coverage_text().startswith("50% claimed, 2 of 4 inside")


def test_a_false_claim_is_seen() -> None:
    times = np.linspace(1, 2, 100)
    s = Evaluation("s", [""] * 100, times, times * 1.2, times * 1.1, times * 1.3, 0.9)
    assert s.inside == 0 and s.coverage_holds is False


def test_rank_quantiles_hold_their_coverage() -> None:
    """Split conformal: on new draws the share inside is at least the claim, whatever the distribution."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(400):
        scores = sorted(rng.lognormal(0, 0.3, 24))
        low, high = rank_quantiles(scores, scores, 0.8)
        inside.append(np.mean([low <= x <= high for x in rng.lognormal(0, 0.3, 50)]))
    assert 0.8 <= np.mean(inside) <= 0.87


def test_tolerance_limits_hold_their_coverage_in_19_draws_of_20() -> None:
    """Not on the average only, as rank quantiles do."""
    rng, held = np.random.default_rng(0), []
    for _ in range(1000):
        low, high = tolerance_limits(rng.uniform(size=300).tolist(), 0.9) or (0.0, 0.0)
        held.append(high - low >= 0.9)  # of uniform numbers, the share between the ends
    assert 0.93 <= np.mean(held) <= 0.98


def test_fewest_factors_with_tolerance_limits() -> None:
    factors = np.linspace(0.9, 1.1, 46).tolist()
    assert tolerance_limits(factors[:45], 0.9) is None and tolerance_limits(factors, 0.9) == (0.9, 1.1)


def test_few_networks_claim_little() -> None:
    assert largest_coverage(6) == pytest.approx(5 / 7)
    with pytest.raises(UserError, match=r"6 held-out networks cannot claim a coverage of 0\.9"):
        rank_quantiles([1.0] * 6, [1.0] * 6, 0.9)


def test_binomial_interval_against_known_values() -> None:
    assert binomial_interval(0, 10) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert binomial_interval(9, 10) == pytest.approx((0.5550, 0.9975), abs=1e-4)


def test_the_command_on_a_device_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(list(grid_kernels([SPACE], RULES)), noise=0.02)
    save_profile(tmp_path / "device_profiles" / "mine", fit_device(FACTS, RULES, rows, networks(8, seed=1)), rows)
    monkeypatch.chdir(tmp_path)
    assert main(["device=mine"]) == 0
    table = capsys.readouterr().out
    assert "conv_1x1: leave-one-kernel-out" in table and "dwconv" in table
    folder = tmp_path / "evaluation-mine"
    assert (folder / "points.csv").read_text().startswith("set,name,measured_ms,predicted_ms,low_ms,high_ms\n")
    assert (folder / "evaluation.md").is_file()
    assert main(["device=mine", "out=evaluation-mine/points.csv"]) == 2
    assert "cannot make the folder 'evaluation-mine/points.csv': File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["device=nothing"], "unknown device 'nothing'"),
        (["device=cpu"], "experiments.profiles.evaluate device=cpu"),
        (["device=cpu", "source=/no/such"], "unknown option 'source'"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
