"""front.csv as a table: every digit is there, and a wrong cell is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.run.front_table import FRONT, load_front_table
from search_space.errors import BadFile
from search_space.tables import write_table

TEXT = """folder,device,budget_ms,predicted_ms,used,binds,macs,params,peak_activation_bytes,validation,test,\
architecture,confidence,calibration,largest_class,derived
cpu-20ms,cpu,20.0,19.876543210987656,0.9938271605493827,True,312000000,3400000,4816896,0.5,1.0,a | c,,measured,0.1,0.1
vpu-1e-05ms,vpu,1e-05,1e-06,0.1,False,1,2,3,0.3333333333333333,0.0,a,0.9,table3,,
"""


def test_every_digit_comes_back(tmp_path: Path) -> None:
    (tmp_path / "front.csv").write_text(TEXT)
    front = load_front_table(tmp_path)
    assert tuple(front.columns) == FRONT.names
    assert front["predicted_ms"].tolist() == [19.876543210987656, 1e-06] and front["binds"].tolist() == [True, False]
    assert front["confidence"].isna().tolist() == [True, False]
    write_table(tmp_path / "again.csv", front, FRONT)
    assert (tmp_path / "again.csv").read_text() == TEXT


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("True", "yes", "row 2: binds is 'yes', not True or False"),
        ("312000000", "3.12e8", "row 2: macs is '3.12e8'"),
        (",1.0,", ",1.1,", "row 2: test is '1.1'"),
        ("1e-06", "-1", "row 3: predicted_ms is '-1'"),
    ],
)
def test_a_wrong_cell_is_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "front.csv").write_text(TEXT.replace(old, new, 1))
    with pytest.raises(BadFile) as caught:
        load_front_table(tmp_path)
    assert said in str(caught.value) and "front.csv" in str(caught.value)
