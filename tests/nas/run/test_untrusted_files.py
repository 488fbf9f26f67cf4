"""What other people's files hold spoils no result, and leads nowhere: broken profiles, names that are paths."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_profiles import available_devices
from nas.run.chosen import LatencyModels
from nas.run.finished import load_finished
from nas.run.result import Budget
from nas.run.settings import SearchSettings
from nas.run.targets import target_name
from search_space import load_space, lower
from search_space.errors import BadFile
from search_space.files import plain_name
from tests import ROOT

CPU = ROOT / "device_profiles" / "data" / "cpu"
HEADER = (CPU / "device.yaml").read_bytes().replace(b"device: cpu", b"device: zz_bad")
TABLE = (CPU / "kernels.csv").read_bytes()
SEGMENTS = lower(load_space("quadranet").smallest(), 224, 10)
BUDGET = Budget(device="vpu", budget_ms=1e6, predicted_ms=1, used=0, binds=False, space_min_ms=1, space_max_ms=1)


def replaced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new, 1)


def with_every_time(text: str) -> bytes:
    rows = [line.split(",") for line in TABLE.decode().splitlines()]
    place = rows[0].index("latency_ms")
    return (
        "\n".join(",".join([*row[:place], text, *row[place + 1 :]]) for row in rows[1:])
        .join([",".join(rows[0]) + "\n", "\n"])
        .encode()
    )


BROKEN = {
    "cut off": (HEADER, TABLE[:-100]),
    "a carriage return alone": (HEADER, replaced(TABLE, b"fitted", b"fit\rted")),
    "5,000 digits": (replaced(HEADER, b"kernel_rows: ", b"kernel_rows: " + b"9" * 5000), TABLE),
    "5,000 digits of base 16": (replaced(HEADER, b"kernel_rows: ", b"kernel_rows: 0x" + b"f" * 5000), TABLE),
    "deep": (b"[" * 20_000, TABLE),
    "no truth value": (HEADER + b"x: !!bool perhaps\n", TABLE),
    "no set": (HEADER + b"x: !!set [1]\n", TABLE),
    "no time": (HEADER + b"x: !!timestamp now\n", TABLE),
    "not finite in sum": (HEADER, with_every_time("1e308")),
    "no text": (bytes(range(256)), TABLE),
}


def priced_beside(header: bytes, table: bytes, folder: Path) -> str:
    """The sentence on a device with these files; the latency of the others is there."""
    bad = folder / "zz_bad"
    bad.mkdir(exist_ok=True)
    (bad / "device.yaml").write_bytes(header)
    (bad / "kernels.csv").write_bytes(table)
    priced, unpriced = MODELS.everywhere(SEGMENTS, BUDGET)
    MODELS.fitted.pop(("zz_bad", "measured", None), None)
    assert {"vpu", "cpu", "gpu"} <= priced.keys()
    json.dumps([vars(latency)["latency_ms"] for latency in priced.values()], allow_nan=False)
    (said,) = [line for line in unpriced if "zz_bad" in line] or [""]
    assert bool(said) == ("zz_bad" not in priced) and "\n" not in said and len(said) < 500
    return said


MODELS = LatencyModels()  # the shipped ones are fitted once


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("others")


@pytest.fixture(autouse=True)
def found_there(others: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_DEVICE_PROFILES", str(others))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_profile_of_another_device_is_a_note(name: str, others: Path) -> None:
    assert priced_beside(*BROKEN[name], others).startswith("No latency on 'zz_bad': ")


def test_an_unreadable_profile_of_another_device_is_a_note(others: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_bytes

    def refusing(path: Path) -> bytes:
        if "zz_bad" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    priced_beside(HEADER, TABLE, others)
    monkeypatch.setattr(Path, "read_bytes", refusing)
    _, unpriced = MODELS.everywhere(SEGMENTS, BUDGET)
    assert any("zz_bad" in line and "Permission denied" in line for line in unpriced)


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_profile_of_another_device_is_a_note_or_priced(others: Path, data: st.DataObject) -> None:
    header, table = bytearray(HEADER), bytearray(TABLE[: 40 * 100])
    for content in (header, table):
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    priced_beside(bytes(header), bytes(table), others)


def test_the_budgets_own_device_is_refused_where_it_is_broken(others: Path) -> None:
    priced_beside(HEADER, TABLE[:-100], others)
    assert "zz_bad" in available_devices()
    with pytest.raises(BadFile, match=r"zz_bad/kernels\.csv"):
        LatencyModels().model("zz_bad")


@given(st.text() | st.text(alphabet="./\\~x\0\n"))
def test_a_name_never_is_a_path(text: str) -> None:
    name = plain_name(text)
    assert Path(name).name == name and not name.startswith((".", "~")) and 0 < len(name.encode()) < 100
    assert name.isprintable() and name.isascii() and plain_name(name) == name


@pytest.mark.parametrize("text", ["quadranet", "cpu_int8", "my-space.v2", "efficientnet_lite0"])
def test_usual_names_stay(text: str) -> None:
    assert plain_name(text) == text


def test_the_folder_of_a_target_is_no_path() -> None:
    assert target_name(SearchSettings(device="../../x")) == "__.._x-30ms"


@pytest.mark.parametrize("folder", ["..", "../victim", "/etc", "a/../../b"])
def test_a_table_of_targets_leads_nowhere_else(folder: str, tmp_path: Path) -> None:
    from nas.run.front_table import FRONT, FrontRow, front_table
    from search_space.tables import write_table

    row = FrontRow(folder, "vpu", 30, 29, 0.97, True, 1, 1, 1, None, None, "x")
    write_table(tmp_path / FRONT.name, front_table([row]), FRONT)
    with pytest.raises(BadFile, match="not the name of one in the run's folder"):
        load_finished(tmp_path)
