"""What every block family keeps: torch, the counts and the ONNX graph are all of the layers that it appends.

A new family is one line in `CASES`; norms and activations that it accepts are cases of their own. Families from outside
the package are found by entry point or by import, and a file's name alone runs no code.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from search_space import Architecture, Kind, SearchSpace, Stage, UserError, cost_of, load_space, lower, lower_space
from search_space import blocks as families
from search_space.blocks import SHIPPED, checked_family, family_of
from search_space.build import Network
from search_space.errors import UnknownName
from search_space.space import PROJECTION
from search_space.to_onnx import to_onnx
from tests import ROOT
from tests.contracts import toy_family
from tests.search_space.compare import assert_same, check_shapes, lively_network, weights_of

HALVING, STRIDING = (Stage(8, 2), Stage(16, 1)), (Stage(8, 2, 2), Stage(16, 2, 1))
TOY = toy_family.__name__


@dataclass(frozen=True)
class Case:
    """A valid space of a family by what differs from `space`'s defaults, and changes that its check refuses."""

    stages: tuple[Stage, ...]
    fields: dict[str, Any]
    refused: tuple[dict[str, Any], ...]


LIKE_QUADRA = Case(
    HALVING,
    {},
    (
        {"stem_width": 16},
        {"stages": STRIDING},
        {"norm_eps": 1e-5},
        {"stem_stride": 2},
        {"stages": (Stage(8, 2), Stage(16, 1, blocks=(PROJECTION,)))},
    ),
)
CASES = {
    "linear_dw": LIKE_QUADRA,
    "mbconv": Case(STRIDING, {"first_width": 8, "head_width": 24}, ({"head_width": 0},)),
    "quadra": LIKE_QUADRA,
    "quadra_fc1": LIKE_QUADRA,
    "quadra_fc12": LIKE_QUADRA,
    TOY: Case(STRIDING, {}, ({"head_width": 8},)),
}
OTHER_LAYERS = {  # "family norm activation"
    **{f"{family} {norm} {activation}": CASES[family] for family in ("mbconv", "quadra")
       for norm, activation in product(*import_module(f"search_space.blocks.{family}").LAYERS.values())},
    **{f"{family} batch_norm hard_swish": CASES[family] for family in ("linear_dw", "quadra_fc1", "quadra_fc12")},
}  # fmt: skip
every_family = pytest.mark.parametrize("family", [*CASES, *OTHER_LAYERS])


def space(family: str) -> SearchSpace:
    case = (CASES | OTHER_LAYERS)[family]
    name, norm, activation = [*family.split(), "", ""][:3]
    fields = {**case.fields, "norm": norm, "activation": activation}
    return SearchSpace("small", name, 8, case.stages, (3, 5), (1, 2), **fields)


def networks(family: str) -> Iterator[Architecture]:
    """The smallest, the largest and a few between."""
    yield space(family).smallest()
    yield space(family).largest()
    for seed in range(3):
        yield space(family).random_architecture(random.Random(seed))


def test_every_shipped_family_has_its_line() -> None:
    assert set(CASES) == {*SHIPPED, TOY}
    modules = {path.stem for path in Path(families.__file__).parent.glob("*.py")} - {"__init__", "graph"}
    assert set(SHIPPED) == modules


@every_family
def test_torch_shapes_equal_lowered_shapes(family: str) -> None:
    for architecture in networks(family):
        for resolution in (32, 45):
            check_shapes(lower(architecture, resolution, 7), resolution)


@every_family
def test_params_and_macs_equal_torchs_count(family: str) -> None:
    """Torch counts two operations a multiply-accumulate, those of convolutions and linear layers alone."""
    for architecture in networks(family):
        segments = lower(architecture, 32, 7)
        network = Network(segments).eval()
        cost = cost_of(segments)
        assert cost.params == sum(p.numel() for p in network.parameters())
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            network(torch.zeros(1, 3, 32, 32))
        assert 2 * cost.macs == counter.get_total_flops() > 0


@every_family
def test_onnx_equals_torch(family: str) -> None:
    """Within 1e-4 of the largest logit."""
    for seed, architecture in enumerate(networks(family)):
        segments = lower(architecture, 64, 5)
        network = lively_network(segments, seed, 64)
        assert_same(to_onnx(segments, weights_of(network)), network, torch.randn(2, 3, 64, 64))


@every_family
def test_gradients_reach_every_parameter(family: str) -> None:
    network = lively_network(lower(space(family).largest(), 64, 5), 0, 64).train()
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@every_family
def test_candidates_of_a_slot_agree_in_shape_and_the_largest_costs_most(family: str) -> None:
    for segment in lower_space(space(family), 32, 7):
        ends = {(n[-1].spec.out_channels, n[-1].spec.out_height, n[-1].spec.out_width) for n in segment.candidates if n}
        assert len(ends) == 1
        assert len({node.name for node in segment.candidates[0]}) == len(segment.candidates[0])
    smallest, *_ = costs = [cost_of(lower(architecture, 32, 7)).macs for architecture in networks(family)]
    assert smallest == min(costs) and costs[1] == max(costs)


@every_family
def test_check_accepts_its_spaces_and_refuses_nonsense(family: str) -> None:
    checked_family(space(family))
    nonsense = ({"norm": "relu6"}, {"activation": "batch_norm"}, {"norm": "zzz"})
    for change in (*(CASES | OTHER_LAYERS)[family].refused, *nonsense):
        wrong = replace(space(family), **change)
        with pytest.raises(UserError, match="'small'") as caught:
            checked_family(wrong)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError):
            lower(wrong.smallest(), 32, 7)


@every_family
def test_too_small_an_image_is_refused(family: str) -> None:
    with pytest.raises(UserError, match="resolution 0 is too small"):
        lower(space(family).smallest(), 0, 7)


@every_family
def test_a_space_file_names_the_family_and_json_keeps_it(family: str, tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(space(family).to_dict()))
    assert load_space(str(file)) == space(family)
    for architecture in networks(family):
        assert Architecture.from_dict(json.loads(json.dumps(architecture.to_dict()))) == architecture


def test_a_family_without_a_choice_says_so() -> None:
    with pytest.raises(UserError, match=r"norm of space 'small' is 'batch_norm', but family .*toy_family has no"):
        lower(replace(space(TOY), norm="batch_norm").smallest(), 32, 7)


@pytest.mark.parametrize("family", OTHER_LAYERS)
def test_a_space_has_the_norm_and_the_activation_that_it_names(family: str) -> None:
    _, norm, activation = family.split()
    kinds = {node.spec.kind for segment in lower(space(family).largest(), 32, 7) for node in segment.nodes}
    others = {Kind.LAYER_NORM, Kind.BATCH_NORM, Kind.GELU, Kind.HARD_SWISH, Kind.RELU6} - {norm, activation}
    assert {norm, activation} <= kinds and not others & kinds


OUTSIDE = Path(toy_family.__file__).read_text(encoding="utf-8")
MARKED = "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\n"


@pytest.fixture
def no_entry_points_known() -> Iterator[None]:
    """Entry points are read once a process: read again for what a test installs, and afterwards."""
    families._entry_points.cache_clear()
    yield
    families._entry_points.cache_clear()


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_entry_points_known: None
) -> Callable[[str, str, str, str], None]:
    """install(distribution, entry point, target, source): as pip would, into a folder on the path."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(distribution: str, name: str, target: str, source: str) -> None:
        module = target.partition(":")[0]
        tmp_path.joinpath(f"{module}.py").write_text(source)
        monkeypatch.delitem(sys.modules, module, raising=False)
        info = tmp_path / f"{distribution}-1.0.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        info.joinpath("entry_points.txt").write_text(f"[{families.ENTRY_POINTS}]\n{name} = {target}\n")
        families._entry_points.cache_clear()

    return write


def named(family: str) -> SearchSpace:
    return replace(space(TOY), family=family)


def test_an_installed_family_is_found_by_name_and_by_target(install: Callable[[str, str, str, str], None]) -> None:
    install("toyblocks", "toy", "toyblocks_family", OUTSIDE)
    for name in ("toy", "toyblocks_family"):
        assert len(lower(named(name).largest(), 32, 7)) == len(lower(space(TOY).largest(), 32, 7))
    with pytest.raises(UnknownName, match=r"unknown block family of space 'small' 'toyy'. Did you mean 'toy'"):
        family_of(named("toyy"))


def test_a_shipped_name_stays_the_shipped_family(install: Callable[[str, str, str, str], None]) -> None:
    install("impostor", "quadra", "impostor_family", OUTSIDE + MARKED)
    assert family_of(space("quadra")).__name__ == "search_space.blocks.quadra"
    assert "impostor_family" not in sys.modules


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("import no_such_module_anywhere", "broken_family", "'broken'.*broken_family.*no_such_module_anywhere"),
        ("x = 1", "broken_family:missing", "'broken'.*broken_family:missing.*missing"),
        ("def check(space): ...\ndef stem(g, space): ...", "broken_family", "'broken'.*no transition, block, head"),
    ],
)
def test_an_installed_family_that_cannot_be_used(
    install: Callable[[str, str, str, str], None], source: str, target: str, message: str
) -> None:
    install("brokenblocks", "broken", target, source)
    with pytest.raises(UserError, match=message) as caught:
        family_of(named("broken"))
    assert "\n" not in str(caught.value)


def test_two_distributions_with_one_name_are_refused(install: Callable[[str, str, str, str], None]) -> None:
    install("one", "toy", "one_family", OUTSIDE)
    install("other", "toy", "other_family", OUTSIDE)
    with pytest.raises(UserError, match="'toy' is declared more than once: one_family, other_family"):
        family_of(named("toy"))
    assert family_of(named("one_family")).__name__ == "one_family"


@pytest.mark.parametrize("kind", ["space", "architecture"])
def test_a_file_runs_no_code_that_nobody_asked_for(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_entry_points_known: None
) -> None:
    """The module can be imported, and a file names it: it is refused until the program imports it itself."""
    monkeypatch.syspath_prepend(tmp_path)
    tmp_path.joinpath("planted_family.py").write_text(OUTSIDE + MARKED)
    file = tmp_path / "given.yaml"
    file.write_text(yaml.safe_dump(named("planted_family").to_dict()))
    data = {"space": named("planted_family").to_dict(), "stages": [["k3e1"], ["k3e1"]]}

    def use() -> None:
        if kind == "space":
            load_space(str(file))
        else:
            lower(Architecture.from_dict(data), 32, 7)

    with pytest.raises(UnknownName, match=r"'planted_family'.*quadranas\.blocks.*import") as caught:
        use()
    assert "\n" not in str(caught.value)
    assert not tmp_path.joinpath("planted_family.ran").exists()
    try:
        import_module("planted_family")
        assert tmp_path.joinpath("planted_family.ran").exists(), "the program's own import does run it"
        use()
    finally:
        sys.modules.pop("planted_family", None)


def test_a_module_that_is_no_family_is_refused() -> None:
    with pytest.raises(UserError, match="'json' is not a block family: it has no check, stem, transition, block, head"):
        family_of(named("json"))


def test_a_command_uses_an_installed_family(install: Callable[[str, str, str, str], None], tmp_path: Path) -> None:
    """In a process of its own that imports nothing but the project."""
    install("toyblocks", "toy", "toyblocks_family", OUTSIDE)
    tmp_path.joinpath("mine.yaml").write_text(yaml.safe_dump(named("toy").to_dict()))
    script = "from search_space import *; print(cost_of(lower(load_space('mine.yaml').smallest(), 32, 7)).macs)"
    paths = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]; "
    done = subprocess.run([sys.executable, "-c", paths + script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == cost_of(lower(space(TOY).smallest(), 32, 7)).macs


def test_an_unknown_family_in_a_file_names_what_exists(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(named("zzz").to_dict()))
    with pytest.raises(UnknownName, match=r"'zzz'.*Known:.*linear_dw, mbconv, quadra, quadra_fc1, quadra_fc12"):
        load_space(str(file))
