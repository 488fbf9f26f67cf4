"""The laws of a weight source, for every one that ships and for a toy from outside the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas.api import search
from nas.supernet.origin import SOURCES, origin_of
from search_space import UserError
from search_space.named import load_named


def toy() -> Path:
    """The supernet that ships, as somebody else's."""
    path: Path = load_named("init", "pretrained", SOURCES, 0)()
    return path


def missing() -> Path:
    return Path("nowhere.safetensors")


ALL = [*SOURCES, f"{__name__}:toy"]  # a line for a source of your own


@pytest.mark.parametrize("name", ALL)
def test_it_names_a_supernet_that_says_what_it_was_trained_for(name: str) -> None:
    origin = origin_of(name)
    assert origin.path.is_file() and len(origin.inputs.class_names) >= 2
    assert origin.settings.space and origin.gates is not None


def test_finding_it_needs_no_torch() -> None:
    use = "from nas.supernet.origin import origin_of; origin_of('pretrained')"
    script = f"import sys; {use}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_search_starts_from_a_source_from_outside(tmp_path: Path) -> None:
    def network(name: str) -> str:
        out = str(tmp_path / name.replace(":", "-"))
        return str(search(init=name, device="vpu", budget_ms=35, out=out, progress=False).result.architecture)

    assert network(f"{__name__}:toy") == network("pretrained")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"{__name__}:missing", "nowhere.safetensors"),
        (f"{__name__}:other", "has no 'other'"),
        ("nowhere.to_be:found", "no module 'nowhere'"),
        ("json:dumps", "no function of 0 arguments"),
    ],
)
def test_a_source_that_leads_nowhere_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        origin_of(name)
    assert "\n" not in str(error.value)
