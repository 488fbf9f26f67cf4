"""The few-shot experiment on devices made up for it, and on the real ones where they are here."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from experiments import few_shot
from experiments.few_shot import MIX, RIDGE, SINGLE, Times, additive_error, compare, counts, load_times, main, on_a_path
from tests import SHARED

SOURCE = SHARED / "tabular"
NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
DEVICES = ("gold_6226", "raspi4", "1080ti_1", "1080ti_32", "fpga")


def made_up() -> Times:
    """2,000 cells; the raspi4 is a mix of the Intel and NVIDIA devices with 1 % noise, the fpga a sum."""
    rng = np.random.default_rng(0)
    cells = np.array(list(product(range(5), repeat=6)))
    cells = cells[on_a_path(cells, 0).any(1)]
    cells = cells[rng.permutation(len(cells))[:2000]]
    features = counts(Times(cells, NAMES, (), np.zeros((0, 0))))
    intel, nvidia = (features @ rng.uniform(0.1, 2.0, features.shape[1]) for _ in range(2))
    noise = np.exp(0.01 * rng.normal(size=(4, len(cells))))
    measured = np.stack([intel, 0.5 * intel + 3 * nvidia, nvidia, 0.7 * nvidia]) * noise
    return Times(cells, NAMES, DEVICES, np.vstack([measured, 2 * intel + nvidia]))


def test_edges_off_every_path_are_not_used() -> None:
    """Edges 0-1, 0-2, 1-2, 0-3, 1-3, 2-3; operation 0 cuts an edge."""
    cells = np.array([[1, 1, 1, 1, 1, 1], [3, 0, 0, 1, 0, 3], [2, 0, 2, 0, 0, 2], [1, 1, 1, 0, 0, 0]])
    expected = [[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0], [1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 0]]
    assert on_a_path(cells, 0).astype(int).tolist() == expected


def test_sums_are_distinguished_from_measurements() -> None:
    times = made_up()
    errors = [additive_error(times, ms) for ms in times.latency_ms]
    assert errors[-1] < 1e-6 and min(errors[:-1]) > few_shot.SUMMED


def test_a_mix_is_found_without_its_relatives() -> None:
    times = made_up()
    rows = compare(times, draws=3, measurements=(10,))
    used = {row["device"]: row["used"] for row in rows if row["row"] == "device"}
    assert used == {device: device != "fpga" for device in DEVICES}
    (raspi4,) = (row for row in rows if row["row"] == "device score" and row["device"] == "raspi4")
    assert float(str(raspi4["spearman"])) > 0.97 and float(str(raspi4["mape"])) < 4
    methods = {(row["method"], row["left_out"]) for row in rows if row["row"] == "score"}
    assert methods == {(MIX, "family"), (MIX, "chip"), (SINGLE, "family"), (SINGLE, "chip"), (RIDGE, "")}


def test_relatives_are_not_known() -> None:
    assert few_shot.related("1080ti_1", "1080ti_32", "chip") and few_shot.related("1080ti_1", "titanx_1", "family")
    assert not few_shot.related("1080ti_1", "titanx_1", "chip")
    assert few_shot.related("pixel2", "essential_ph_1", "chip")
    assert not few_shot.related("pixel2", "gold_6240", "family")


def test_the_same_seed_gives_the_same_rows() -> None:
    times = made_up()
    assert compare(times, 1, (5,)) == compare(times, 1, (5,))


def test_the_command_writes_a_file_and_draws_the_table_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = made_up()
    np.savez(
        tmp_path / "nasbench201.npz",
        ops=times.cells.astype(np.uint8),
        op_names=np.array(NAMES),
        devices=np.array(DEVICES),
        latency_ms=times.latency_ms.T,
    )
    out = tmp_path / "found.json"
    assert main(["--quick", f"source={tmp_path}", f"out={out}"]) == 0
    measured = capsys.readouterr().out
    assert main(["show", f"out={out}"]) == 0
    shown = capsys.readouterr().out.strip()
    assert measured.startswith(shown)
    assert f"| {MIX} | other families |" in shown and "fpga (0.00 %)" in shown and "seed" not in shown
    assert main([f"source={tmp_path / 'none'}"]) == 2
    assert "no file" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not (SOURCE / "nasbench201.npz").is_file(), reason="the tables are not here (NAS_SHARED)")
def test_the_real_devices() -> None:
    rows = compare(load_times(SOURCE), draws=2, measurements=(5,))
    assert [row["device"] for row in rows if row["row"] == "device" and not row["used"]] == ["eyeriss", "fpga"]
    found = {(row["method"], row["left_out"]): float(str(row["spearman"])) for row in rows if row["row"] == "score"}
    assert found[MIX, "family"] > 0.9 and found[MIX, "chip"] > found[MIX, "family"]
    assert found[MIX, "family"] > found[SINGLE, "family"] > found[RIDGE, ""]
