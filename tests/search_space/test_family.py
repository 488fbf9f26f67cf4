"""The published networks are counted exactly, and every family builds, counts, is priced and exports like the first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from device_profiles import load_profile
from latency_models import fit_latency_model
from search_space import Architecture, BlockChoice, Cost, SearchSpace, Stage, UserError, cost_of, lower
from search_space.build import Network
from search_space.errors import UnknownName
from search_space.family import (
    FAMILY,
    PUBLISHED,
    TABLE1,
    TABLE5,
    counted,
    family_architecture,
    fig5_family,
    inconsistent,
    linear_twin,
    quadranet25_t,
    quadratic_ffn,
    render_family,
)
from search_space.to_onnx import to_onnx

FAMILIES = ("quadra", "quadra_fc1", "quadra_fc12", "linear_dw")
SMALL = SearchSpace("small", "quadra", 8, (Stage(8, 2), Stage(16, 1)), (3, 5), (2, 3))


def small(family: str) -> Architecture:
    space = SearchSpace("small", family, 8, SMALL.stages, SMALL.kernel_sizes, SMALL.expand_ratios)
    return Architecture(space, ((BlockChoice(3, 2), BlockChoice(5, 3)), (BlockChoice(5, 2),)))


def rounded(cost: Cost) -> tuple[float, float]:
    """Millions of parameters and billions of MACs, three digits after the point."""
    return round(cost.params / 1e6, 3), round(cost.macs / 1e9, 3)


@pytest.mark.parametrize(
    ("name", "params_m", "gmacs"),
    [
        ("quadranet25-t", 16.287, 2.900),
        ("quadranet36-t", 23.599, 4.130),
        ("quadranet36-s", 51.618, 9.027),
        ("quadranet25-b", 62.129, 11.091),
        ("quadranet36-b", 90.450, 15.812),
        ("quadranet36-t-conv1", 44.610, 7.829),
        ("quadranet36-t-conv1-conv2", 65.567, 11.528),
        ("quadranet36-b-conv1", 174.350, 30.610),
        ("quadranet36-b-conv1-conv2", 258.141, 45.407),
        ("fig5-36x64", 23.599, 4.130),
        ("fig5-36x64-linear", 22.696, 3.901),
        ("fig5-36x32", 6.393, 1.121),
        ("fig5-36x32-linear", 5.942, 1.006),
        ("fig5-36x16", 1.845, 0.324),
        ("fig5-36x16-linear", 1.620, 0.267),
        ("fig5-12x64", 9.349, 1.460),
        ("fig5-12x64-linear", 9.055, 1.367),
        ("fig5-12x32", 2.586, 0.403),
        ("fig5-12x32-linear", 2.439, 0.356),
        ("fig5-12x16", 0.771, 0.119),
        ("fig5-12x16-linear", 0.698, 0.096),
    ],
)
def test_every_member_is_counted_exactly(name: str, params_m: float, gmacs: float) -> None:
    assert rounded(counted(family_architecture(name))) == (params_m, gmacs)
    assert family_architecture(name).space.name == name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_figures_agree_unless_said_otherwise(name: str) -> None:
    """Within 1 %, or the table says that they do not."""
    assert inconsistent(name) == PUBLISHED[name].note.startswith("inconsistent")


def test_the_inconsistent_rows() -> None:
    assert [name for name in PUBLISHED if inconsistent(name)] == ["quadranet36-s", "quadranet25-b"]


def test_the_tables_name_members() -> None:
    assert {*TABLE1, *TABLE5, *fig5_family()} == set(FAMILY)
    assert set(PUBLISHED) == {*TABLE1, *TABLE5}
    assert len(fig5_family()) == 12


def test_depths_are_an_option() -> None:
    """The other reading of the 25-block networks."""
    assert rounded(counted(quadranet25_t(depths=(3, 2, 18, 2)))) == (16.178, 2.914)


@pytest.mark.parametrize("name", FAMILY)
def test_torch_counts_the_same_parameters(name: str) -> None:
    segments = lower(family_architecture(name), 32, 10)
    with torch.device("meta"):
        network = Network(segments)
    assert cost_of(segments).params == sum(p.numel() for p in network.parameters())


def test_members_keep_their_json() -> None:
    for architecture in FAMILY.values():
        assert Architecture.from_dict(architecture.to_dict()) == architecture


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_onnx_computes_what_torch_computes(family: str) -> None:
    segments = lower(small(family), 32, 5)
    torch.manual_seed(0)
    network = Network(segments, layer_scale=0.7).eval()
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    model = to_onnx(segments, {name: value.numpy() for name, value in network.state_dict().items()})
    kinds = [n.op_type for n in model.graph.node]  # a GELU is written with two products and one Erf
    assert kinds.count("Mul") == 2 * kinds.count("Erf") or family != "linear_dw", "layer scales are folded"
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 32, 32)
    np.testing.assert_allclose(
        session.run(None, {"images": images.numpy()})[0], network(images).numpy(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_all_weights_learn(family: str) -> None:
    torch.manual_seed(0)
    network = Network(lower(small(family), 32, 5), drop_path=0.1)
    network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lean_path_has_the_same_gradients(family: str) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    gradients = []
    for lean in (False, True):
        torch.manual_seed(0)
        network = Network(lower(small(family), 32, 5), layer_scale=0.7, lean=lean)
        network(images).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "gpu", "gpu_eager_fp32", "vpu"])
def test_prices_follow_the_work(device: str) -> None:
    """One depthwise convolution is faster than three, a quadratic FFN slower than a linear one."""
    model = fit_latency_model(load_profile(device))
    plain = family_architecture("quadranet36-t")
    networks = (linear_twin(plain), plain, quadratic_ffn(plain, 1), quadratic_ffn(plain, 2))
    times = [model.predict(lower(a, 224, 1000)).latency_ms for a in networks]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1]


def test_a_quadratic_ffn_has_one_or_two_layers() -> None:
    with pytest.raises(UserError, match="1 or 2 quadratic layers, not 3"):
        quadratic_ffn(family_architecture("quadranet36-t"), 3)


def test_a_family_names_itself_when_a_space_does_not_fit() -> None:
    space = SearchSpace("odd", "linear_dw", 8, (Stage(8, 1, stride=2),), (3,), (2,))
    with pytest.raises(UserError, match="stages of family linear_dw have stride 1"):
        lower(space.smallest(), 32, 10)


def test_lookup() -> None:
    assert family_architecture("QuadraNet36-T") == family_architecture("quadranet36-t")
    with pytest.raises(UnknownName, match="Did you mean 'quadranet36-t'"):
        family_architecture("quadranet36t")


def test_the_table_shows_counted_beside_published() -> None:
    table = render_family(["quadranet36-s"])
    assert "51.618 | 50.2 | 9.027 | 8.9 | inconsistent" in table
    assert len(render_family().splitlines()) == 2 + len(FAMILY)


def test_the_command_is_light_and_refuses_unknown_names() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-X", "importtime", "-m", "search_space.family"]
    done = subprocess.run([*command, "quadranet25-t"], capture_output=True, text=True, cwd=root, check=True)
    assert "16.287" in done.stdout
    assert " torch" not in done.stderr
    failed = subprocess.run([*command, "quadranet"], capture_output=True, text=True, cwd=root, check=False)
    assert failed.returncode == 2
    assert "error: unknown network 'quadranet'" in failed.stderr
