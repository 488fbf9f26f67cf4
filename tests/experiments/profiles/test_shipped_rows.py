"""The shipped rows: every one is in use, documented, and what `collect` makes of the collected tables."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from experiments.profiles import DATA
from experiments.profiles.collect import GPUNET_FILES, LARGE, collect, main, tables
from experiments.profiles.tables import GPUNET_LAYERS, MYRIAD_SYNC, V100_OPS, read_rows
from search_space.errors import BadFile
from tests import SHARED

COLLECTED = SHARED / "latency"


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def collected_again(tmp_path: Path) -> Path:
    """The shipped rows as a folder that can be collected from: GPUNet's layers as JSON files again."""
    source = tmp_path / "source"
    shutil.copytree(DATA, source)
    for table in tables(DATA):
        if table.folder:
            (source / table.folder).mkdir(exist_ok=True)
            (source / table.name).rename(source / table.folder / table.name)
    (source / "gpunet").mkdir()
    rows = read_rows(DATA, GPUNET_LAYERS)
    for network, file in GPUNET_FILES.items():
        own = [row.fields for row in rows if row.text("network") == network]
        layers = [{name: cell for name, cell in fields.items() if cell and name != "network"} for fields in own]
        (source / "gpunet" / file).write_text(json.dumps(layers))
    return source


def test_all_shipped_rows_are_in_use(tmp_path: Path) -> None:
    """Collecting from the shipped rows leaves none out."""
    collect(collected_again(tmp_path), tmp_path / "out")
    shipped = {path.name for path in DATA.iterdir()} - {"README.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == shipped
    for name in shipped:
        assert content(tmp_path / "out" / name) == content(DATA / name), name


@pytest.mark.skipif(not COLLECTED.is_dir(), reason="the collected tables are not here (NAS_SHARED)")
def test_the_shipped_rows_are_what_the_collected_tables_give(tmp_path: Path) -> None:
    collect(COLLECTED, tmp_path)
    for path in tmp_path.iterdir():
        assert content(path) == content(DATA / path.name), path.name


def test_every_table_is_documented_with_its_rows() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for path in DATA.iterdir():
        if path.name != "README.md":
            assert f"| {path.name} | {len(content(path).splitlines()) - 1:,} |" in readme


def test_columns_are_those_in_use_and_large_tables_are_compressed() -> None:
    for table in tables(DATA):
        rows = read_rows(DATA, table.name)
        assert rows and tuple(rows[0].fields) == table.columns
    assert all(path.stat().st_size <= LARGE for path in DATA.iterdir())


def test_a_missing_and_a_damaged_table_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadFile, match=MYRIAD_SYNC):
        read_rows(tmp_path, MYRIAD_SYNC)
    (tmp_path / V100_OPS).write_bytes((DATA / V100_OPS).read_bytes()[:-100])
    with pytest.raises(BadFile, match=V100_OPS):
        read_rows(tmp_path, V100_OPS)
    assert main([f"source={tmp_path / 'none'}"]) == 2
    assert f"no folder '{tmp_path / 'none'}'" in capsys.readouterr().err
