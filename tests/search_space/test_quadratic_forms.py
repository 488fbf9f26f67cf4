"""Quadratic forms of a depthwise convolution: how they are written, that they start as the plain block, and learn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from device_profiles import available_devices, load_profile
from latency_models import fit_latency_model
from search_space import Architecture, BlockChoice, SearchSpace, Stage, UserError, cost_of, load_space, lower
from search_space.build import Network
from search_space.space import parse_block
from tests import ROOT

SPACE = SearchSpace(
    "forms", "mbconv", 8, (Stage(8, 2, 2), Stage(16, 2, 2, quadratic=())), (3, 5), (2,), head_width=16,
    quadratic=(2, 3),
)  # fmt: skip
PIXELS, CLASSES = 32, 5
NARROW = str(ROOT / "experiments/spaces/efficientnet_lite0_narrow_quadratic.yaml")


def whole(branches: int) -> Architecture:
    """The largest network, its first stage in one form."""
    first, second = SPACE.largest().stages
    return Architecture(SPACE, (tuple(replace(block, branches=branches) for block in first), second))


def network_of(branches: int, seed: int = 0) -> Network:
    """As it starts; forms of one seed share the weights that the plain network has."""
    torch.manual_seed(seed)
    plain = Network(lower(whole(1), PIXELS, CLASSES), paper_init=True)
    network = Network(lower(whole(branches), PIXELS, CLASSES), paper_init=True)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and bool(missing) == (branches > 1)
    return network


def test_a_form_is_written_behind_the_block_it_is_a_form_of() -> None:
    assert parse_block("k5e3q2") == BlockChoice(5, 3, 2) and str(BlockChoice(5, 3, 3)) == "k5e3q3"
    assert parse_block("k5e3") == BlockChoice(5, 3, 1)
    assert [list(map(str, choices)) for choices in SPACE.stage_choices] == [
        ["k3e2", "k3e2q2", "k3e2q3", "k5e2", "k5e2q2", "k5e2q3"], ["k3e2", "k5e2"],
    ]  # fmt: skip
    assert (str(SPACE.smallest()), str(SPACE.largest())) == ("k3e2 | k3e2", "k5e2 k5e2 | k5e2 k5e2")
    assert str(SPACE.largest(quadratic=True)) == "k5e2q3 k5e2q3 | k5e2 k5e2"


def test_files_say_forms_and_those_without_say_nothing() -> None:
    assert SearchSpace.from_dict(yaml.safe_load(yaml.safe_dump(SPACE.to_dict()))) == SPACE
    found = Architecture.from_dict(json.loads(json.dumps(whole(3).to_dict())))
    assert found == whole(3) and found.digest != whole(2).digest
    assert "quadratic" not in json.dumps(load_space("efficientnet_lite0").to_dict())


def test_spaces_with_forms_have_the_published_network_as_their_largest() -> None:
    published = load_space("efficientnet_lite0").largest()
    for name in ("efficientnet_lite0_quadratic", NARROW):
        space = load_space(name)
        assert space.largest().stages == published.stages
        assert any(choice.branches > 1 for choice in space.choices)
    narrow = load_space(NARROW).stage_choices[2:]
    assert all(choice.branches > 1 or choice.expand_ratio == 6 for choices in narrow for choice in choices)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quadratic": [4]}, r"quadratic\[0\] is 4, not 2 or 3, a number of depthwise convolutions"),
        ({"quadratic": [2, 2]}, "not a list without repeats"),
        ({"quadratic": 2}, "quadratic is 2, not a list"),
        ({"family": "quadra", "quadratic": [2]}, "family quadra have no quadratic form such as k3e2q2; leave out"),
        ({"stages": [{"width": 8, "max_blocks": 1, "blocks": ["k3e2q1"]}]}, "'k3e2q1' is not a block"),
        (
            {"stages": [{"width": 8, "max_blocks": 1, "blocks": ["k3e2q2"], "quadratic": [3]}]},
            "quadratic stands beside blocks",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    plain = {"name": "tiny", "family": "mbconv", "stem_width": 8, "head_width": 8, "kernel_sizes": [3],
             "expand_ratios": [2], "stages": [{"width": 8, "max_blocks": 1}]}  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**plain, **fields}))
    with pytest.raises(UserError, match=message) as caught:
        load_space(str(tmp_path / "tiny.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("branches", [2, 3])
def test_a_form_starts_as_the_plain_block(branches: int) -> None:
    images = torch.randn(4, 3, PIXELS, PIXELS)
    for training in (False, True):
        plain, form = (network_of(number).train(training) for number in (1, branches))
        with torch.no_grad():
            torch.testing.assert_close(form(images), plain(images), atol=1e-5, rtol=0)


def factors_of(network: Network) -> list[nn.Parameter]:
    """Of the norms that scale the quadratic terms."""
    return [p for name, p in network.named_parameters() if name.endswith(("gate_norm.weight", "quad_a_norm.weight"))]


@pytest.mark.parametrize("branches", [2, 3])
def test_its_factor_has_a_gradient_from_the_first_step_and_all_its_layers_after_it(branches: int) -> None:
    network = network_of(branches)
    images, labels = torch.randn(8, 3, PIXELS, PIXELS), torch.arange(8) % CLASSES
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    term = {n: p for n, p in network.named_parameters() if ".quad_" in n or ".gate" in n}
    for step in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        moving = {name for name, p in term.items() if p.grad is not None and bool(p.grad.abs().max() > 0)}
        assert all(bool((factor.grad != 0).any()) for factor in factors_of(network) if factor.grad is not None)
        if step == 0:
            assert moving < set(term)  # the convolution behind a factor of zero waits
        optimizer.step()
    assert moving == set(term)


def test_two_factors_of_zero_would_never_learn() -> None:
    """Why only one of them starts so."""
    network = network_of(3)
    for name, parameter in network.named_parameters():
        if ".quad_b_norm." in name:
            nn.init.zeros_(parameter)
    images, labels = torch.randn(8, 3, PIXELS, PIXELS), torch.arange(8) % CLASSES
    nn.functional.cross_entropy(network(images), labels).backward()
    for name, parameter in network.named_parameters():
        if ".quad_" in name:
            assert parameter.grad is not None and not bool(parameter.grad.any())


def test_every_profile_prices_forms_above_the_plain_block() -> None:
    for device in available_devices():
        model = fit_latency_model(load_profile(device))
        plain, two, three = (model.predict(lower(whole(n), 64, CLASSES)).latency_ms for n in (1, 2, 3))
        assert plain < two < three, device
    macs = [cost_of(lower(whole(n), 64, CLASSES)).macs for n in (1, 2, 3)]
    convolution = sum(
        node.spec.macs for segment in lower(whole(1), 64, CLASSES) for node in segment.nodes
        if node.name == "depthwise" and segment.name.startswith("stage1")
    )  # fmt: skip
    assert macs[1] - macs[0] == macs[2] - macs[1] == convolution > 0
