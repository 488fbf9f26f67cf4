"""Profiles as data: found by name, round trips, a hash of their bytes, every corruption refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from device_profiles import DeviceProfile, available_devices, load_profile, save_profile
from device_profiles.table import KERNELS, ORIGINS, kernel_table
from search_space.errors import BadFile, UnknownName

SHIPPED = Path(__file__).parents[2] / "device_profiles" / "data"
DEVICES = ("cpu", "cpu_2420mhz", "cpu_int8", "gpu", "gpu_eager_fp32", "vpu")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory and an empty folder of own devices; returns the folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("NAS_DEVICE_PROFILES", str(folder))
    return folder


def copy_as(name: str, folder: Path, device: str = "vpu") -> Path:
    target = folder / name
    shutil.copytree(SHIPPED / device, target)
    header = target / "device.yaml"
    header.write_text(header.read_text().replace(f"device: {device}", f"device: {name}", 1))
    return target


def edit_header(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    data = yaml.safe_load((folder / "device.yaml").read_text())
    change(data)
    (folder / "device.yaml").write_text(yaml.safe_dump(data, sort_keys=False))


def edit_field(folder: Path, row: int, column: str, value: str) -> None:
    """Set one field of the table; `row` counts from 1, which is the header line."""
    lines = (folder / "kernels.csv").read_text().splitlines()
    fields = lines[row - 1].split(",")
    fields[KERNELS.names.index(column)] = value
    lines[row - 1] = ",".join(fields)
    (folder / "kernels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", DEVICES)
def test_shipped_profiles_load_and_hold_what_they_promise(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name and len(profile.digest) == 12
    assert all(text for text in (profile.title, profile.runtime, profile.precision, profile.header.measured_by))
    assert profile.header.sources and all(source.licence for source in profile.header.sources)
    assert 100 < len(profile.rows) < 4000
    for row in profile.rows:
        assert math.isfinite(row.latency_ms) and row.latency_ms > 0
        assert row.origin in ORIGINS
    assert {row.origin for row in profile.rows} <= set(profile.header.row_origins)
    assert sum(file.stat().st_size for file in (SHIPPED / name).iterdir()) < 400_000
    assert sorted(file.name for file in (SHIPPED / name).iterdir()) == ["device.yaml", "kernels.csv"]


def test_available_devices_lists_shipped_and_own_ones(home: Path) -> None:
    assert available_devices() == DEVICES
    copy_as("my_board", home)
    assert available_devices() == tuple(sorted((*DEVICES, "my_board")))


def test_own_folders_come_before_the_shipped_ones(home: Path, tmp_path: Path) -> None:
    def title(folder: Path, text: str) -> None:
        edit_header(copy_as("vpu", folder), lambda data: data.update(title=text))

    title(tmp_path / "device_profiles", "here")
    assert load_profile("vpu").title == "here"
    title(home, "named")
    assert load_profile("vpu").title == "named"


def test_an_unknown_device_names_the_nearest(home: Path) -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'vpu'.*cpu, .*gpu, .*vpu.*NAS_DEVICE_PROFILES"):
        load_profile("vpuu")


@pytest.mark.parametrize("name", ["", ".", "..", "data", "../data/cpu"])
def test_a_name_is_a_name_and_no_path(home: Path, name: str) -> None:
    with pytest.raises(UnknownName):
        load_profile(name)


@pytest.mark.parametrize("name", DEVICES)
def test_a_profile_round_trips_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    again = save_profile(tmp_path / name, profile.header, profile.rows)
    assert again == profile
    for file in ("device.yaml", "kernels.csv"):
        assert (tmp_path / name / file).read_bytes() == (SHIPPED / name / file).read_bytes()


def test_caveats_are_kept_and_are_no_part_of_the_digest(tmp_path: Path) -> None:
    """They price nothing: results of a profile stay its results when its words change."""
    known = load_profile("cpu")
    assert "2022-23" in known.header.caveats[0] and "7x7" in known.header.caveats[1]
    digests = set()
    for caveats in ((), ("short",), ("long " * 60, "with: a colon, 'quotes' and\n two lines")):
        saved = save_profile(tmp_path / "cpu", replace(known.header, caveats=caveats), known.rows)
        assert saved.header.caveats == caveats
        digests.add(saved.digest)
    assert digests == {known.digest}
    other = save_profile(tmp_path / "cpu", replace(known.header, clock="slower"), known.rows)
    assert other.digest != known.digest


def test_the_digest_changes_with_either_file(home: Path) -> None:
    digests = {load_profile("vpu").digest}
    folder = copy_as("vpu", home)
    assert load_profile("vpu").digest in digests, "a copy is the same profile"
    edit_field(folder, 2, "latency_ms", "0.5")
    digests.add(load_profile("vpu").digest)
    edit_header(folder, lambda data: data.update(title="other"))
    digests.add(load_profile("vpu").digest)
    assert len(digests) == 3


def test_a_table_that_a_spreadsheet_saved(home: Path) -> None:
    """With a byte order mark in front, and its own line ends."""
    table = copy_as("board", home) / "kernels.csv"
    rows = load_profile("board").rows
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert load_profile("board").rows == rows


def test_a_profile_as_a_table() -> None:
    """Made when it is asked for; the columns are the file's, and the rows are its rows."""
    profile = load_profile("vpu")
    assert "table" not in vars(profile)
    table = profile.table
    assert tuple(table.columns) == KERNELS.names and len(table) == len(profile.rows)
    assert table["latency_ms"].tolist() == [row.latency_ms for row in profile.rows]
    assert table["kind"].tolist() == [row.kernel.spec.kind.value for row in profile.rows]
    assert table["fused"].isna().tolist() == [not row.kernel.fused for row in profile.rows]
    assert kernel_table(profile.rows).equals(table) and profile.table is table


def load_bad(name: str) -> str:
    """The message of the refusal, which must be one line."""
    with pytest.raises(BadFile) as caught:
        load_profile(name)
    message = str(caught.value)
    assert "\n" not in message and name in message
    return message


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("latency_ms", "nan", "latency_ms is 'nan', not a finite number > 0"),
        ("latency_ms", "inf", "latency_ms is 'inf'"),
        ("latency_ms", "-0.1", "latency_ms is '-0.1'"),
        ("latency_ms", "0", "latency_ms is '0'"),
        ("latency_ms", "", "latency_ms is ''"),
        ("latency_ms", "fast", "latency_ms is 'fast'"),
        ("spread_ms", "-1", "spread_ms is '-1', not a finite number >= 0"),
        ("count", "-3", "count is '-3'"),
        ("count", "1.5", "count is '1.5'"),
        ("in_channels", "0", "in_channels is '0'"),
        ("kind", "warp", "kind is 'warp'"),
        ("fused", "relu6+warp", "fused names 'warp'"),
        ("origin", "guessed", "origin is 'guessed'"),
    ],
)
def test_a_bad_field_is_refused_with_its_row(home: Path, column: str, value: str, said: str) -> None:
    edit_field(copy_as("board", home), 7, column, value)
    message = load_bad("board")
    assert "board/kernels.csv row 7" in message and said in message


def rewrite_table(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        path = folder / "kernels.csv"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return rewrite


def drop_last_byte(folder: Path) -> None:
    path = folder / "kernels.csv"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewrite_table(lambda lines: [*lines, lines[4]]), "row 5"),
        (rewrite_table(lambda lines: lines[:-3]), "the table ends after"),
        (rewrite_table(lambda lines: lines[:1]), "no rows"),
        (rewrite_table(lambda lines: [*lines[:-1], lines[-1][:20]]), "fields where"),
        (rewrite_table(lambda lines: [lines[0].replace(",latency_ms", ""), *lines[1:]]), "row 1: no column latency_ms"),
        (rewrite_table(lambda lines: [lines[0] + ",extra", *lines[1:]]), "unknown column 'extra'"),
        (rewrite_table(lambda lines: [*lines[:9], "", *lines[9:]]), "row 10: 0 fields"),
        (drop_last_byte, "the last row is cut off"),
        (lambda folder: (folder / "kernels.csv").write_bytes(b""), "empty"),
        (lambda folder: (folder / "kernels.csv").write_bytes(b"\xff\xfe\n"), "not UTF-8"),
        (lambda folder: (folder / "kernels.csv").unlink(), "no kernels.csv"),
        (lambda folder: (folder / "device.yaml").unlink(), "no device.yaml"),
        (lambda folder: (folder / "device.yaml").write_text("a: [1,\nb: }"), "row 2: not YAML"),
        (lambda folder: (folder / "device.yaml").write_text(""), "not a mapping"),
    ],
)
def test_a_corrupt_file_is_refused(home: Path, change: Callable[[Path], None], said: str) -> None:
    change(copy_as("board", home))
    assert said in load_bad("board")


def inside(*path: str) -> Callable[[dict[str, object]], dict[str, object]]:
    def walk(data: dict[str, object]) -> dict[str, object]:
        for name in path:
            data = data[name]  # type: ignore[assignment]
        return data

    return walk


@pytest.mark.parametrize(
    ("where", "field", "value", "said"),
    [
        ((), "unit", None, "no field 'unit'"),
        ((), "unit", "s", "unit is 's'"),
        ((), "schema", 99, "schema 99"),
        ((), "batch", 8, "batch is 8"),
        ((), "title", None, "no field 'title'"),
        ((), "threads", "one", "threads is 'one'"),
        ((), "threads", True, "threads is True"),
        ((), "titel", "x", "'titel'. Did you mean 'title'"),
        ((), "network_ms", math.inf, "network_ms is inf"),
        ((), "calibration", {"table3": 2.0}, "calibration is {'table3': 2.0}"),
        (("models", "dwconv"), "widen", 0.5, "models.dwconv.widen is 0.5"),
        (("models", "dwconv", "support"), "3", 1, "models.dwconv.support is '3'"),
        (("interval",), "high_scores", "2 1", "interval.high_scores is"),
        (("interval",), "high_scores", "1", "not equally many"),
        ((), "device", "other", "device is 'other'"),
        ((), "sources", [], "sources is []"),
        ((), "models", None, "no field 'models'"),
        (("models",), "warp", {}, "models is 'warp', not one of"),
        (("models", "dwconv"), "origin", "guessed", "models.dwconv.origin is 'guessed'"),
        (("models", "dwconv"), "low_factor", 1.5, "models.dwconv.low_factor is 1.5"),
        (("models", "dwconv"), "coefficients", {"launch": 0.0}, "price every kernel at 0 ms"),
        (("models", "dwconv", "coefficients"), "launch", -1.0, "launch is -1.0"),
        (("models", "dwconv", "coefficients"), "launch", math.nan, "launch is nan"),
        (("interval",), "coverage", 1.0, "coverage is 1.0"),
        (("interval",), "low_scores", None, "no field 'interval.low_scores'"),
        (("interval",), "high_scores", "1 x", "high_scores is '1 x'"),
        (("fusion",), "folded", ["warp"], "fusion.folded[0] is 'warp'"),
        (("fusion", "into"), "warp", [], "fusion.into is 'warp'"),
        (("lanes",), "width", 0, "lanes.width is 0"),
        (("calibration",), "measured", 0, "calibration.measured is 0"),
        (("calibration",), "measured", "one", "calibration.measured is 'one'"),
        (("calibration",), "measured", {"factor": 1.0, "unpriced": ["gelu"]}, "what is measured prices them all"),
        (("calibration",), "table3", {"unpriced": ["gelu"]}, "no field 'calibration.table3.factor'"),
        (("calibration",), "table3", {"factor": 2.0, "unpriced": "gelu"}, "calibration.table3.unpriced is 'gelu'"),
        (("calibration",), "table3", {"factor": 2.0, "unpriced": ["warp"]}, "unpriced[0] is 'warp'"),
    ],
)
def test_a_bad_header_field_is_refused(
    home: Path, where: tuple[str, ...], field: str, value: object, said: str
) -> None:
    def change(data: dict[str, object]) -> None:
        inside(*where)(data)[field] = value

    edit_header(copy_as("board", home), change)
    assert said in load_bad("board")


def test_profiles_are_values() -> None:
    assert load_profile("cpu") == load_profile("cpu")
    with pytest.raises(AttributeError):
        load_profile("cpu").digest = "other"  # type: ignore[misc]
    assert isinstance(load_profile("cpu"), DeviceProfile)
