"""A supernet cut out of a trained network: nothing is lost in the largest path, and smaller ones are slices of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nas.supernet.damage import damage
from nas.supernet.gates import TEMPERATURE, Gates
from nas.supernet.inherit import inherit, measure_statistics, some_paths, with_sorted_channels
from nas.supernet.network import SharedSlot, Statistics, Supernet
from search_space import Architecture, BlockChoice, GatePath, SearchSpace, Stage, lower
from search_space.build import Network
from search_space.errors import BadFile
from search_space.space import ZERO

SPACE = SearchSpace("small", "mbconv", 8, (Stage(8, 2, 2), Stage(16, 3, 2)), (3, 5), (1, 2, 3), 8, 32)
PIXELS, CLASSES = 32, 5


def trained(architecture: Architecture, classes: int = CLASSES, seed: int = 0) -> Network:
    """A network with weights, factors and statistics of every size, as training leaves them."""
    torch.manual_seed(seed)
    network = Network(lower(architecture, PIXELS, classes))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 2)
    return network.eval()


def supernet_of(network: Network, architecture: Architecture) -> Supernet:
    torch.manual_seed(1)
    supernet = Supernet(SPACE, PIXELS, CLASSES, share_weights=True, kept_statistics=True)
    inherit(supernet, architecture, network.state_dict())
    return supernet


def difference(x: Tensor, y: Tensor) -> float:
    return float((x - y).detach().abs().max())


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(2))


def test_sorted_channels_compute_the_same_and_the_most_important_come_first(images: Tensor) -> None:
    segments = lower(SPACE.largest(), PIXELS, CLASSES)
    network = trained(SPACE.largest())
    with torch.no_grad():
        before = network(images)
    state = network.state_dict()
    moved = 0
    for segment in (s for s in segments if s.slot is not None):
        own = {k.removeprefix(f"{segment.name}."): v for k, v in state.items() if k.startswith(f"{segment.name}.")}
        ordered = with_sorted_channels(segment.nodes, own)
        moved += int(not torch.equal(ordered["expand.weight"], own["expand.weight"]))
        read = ordered["project.weight"].abs().sum((0, 2, 3)) * ordered["depthwise_norm.weight"].abs()
        assert bool((read.diff() <= 1e-6).all())
        state |= {f"{segment.name}.{k}": v for k, v in ordered.items()}
    assert moved == 5
    network.load_state_dict(state)
    assert difference(network(images), before) < 1e-5


def test_channels_of_a_block_s_input_and_output_stay() -> None:
    nodes = lower(SPACE.largest(), PIXELS, CLASSES)[2].nodes
    own = {"expand.weight": torch.randn(24, 8, 1, 1), "depthwise.weight": torch.randn(24, 1, 5, 5)}
    own |= {"project.weight": torch.randn(8, 24, 1, 1), "depthwise_norm.weight": torch.randn(24)}
    own |= {"expand_norm.weight": torch.randn(24), "project_norm.weight": torch.randn(8)}
    ordered = with_sorted_channels(nodes, own)
    assert torch.equal(ordered["project_norm.weight"], own["project_norm.weight"])
    assert torch.equal(ordered["expand.weight"].sum(0), own["expand.weight"][ordered_as(own, ordered)].sum(0))
    assert torch.equal(ordered["project.weight"].sort(1).values, own["project.weight"].sort(1).values)


def ordered_as(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    """The permutation that made `after`'s depthwise norms."""
    key = "depthwise_norm.weight"
    return torch.tensor([before[key].tolist().index(v) for v in after[key].tolist()])


def test_the_largest_path_is_the_trained_network(images: Tensor) -> None:
    largest = SPACE.largest()
    network = trained(largest)
    supernet, path = supernet_of(network, largest), SPACE.path(largest)
    assert difference(supernet(images, path), network(images)) < 1e-5
    assert supernet.training  # norms keep their statistics all the same
    extracted = supernet.extract(path).eval()
    assert difference(extracted(images), network(images)) < 1e-5


def test_a_trained_network_of_smaller_kernels_is_a_path_and_the_largest_computes_the_same(images: Tensor) -> None:
    own = Architecture(SPACE, ((BlockChoice(3, 3),) * 2, (BlockChoice(3, 3),) * 3))
    network = trained(own)
    supernet = supernet_of(network, own)
    for architecture in (own, SPACE.largest()):
        assert difference(supernet(images, SPACE.path(architecture)), network(images)) < 1e-5


def test_a_smaller_kernel_is_the_centre_and_fewer_channels_are_the_first() -> None:
    supernet = supernet_of(trained(SPACE.largest()), SPACE.largest())
    slot = supernet.get_submodule("stage1_block2")
    assert isinstance(slot, SharedSlot)
    whole = slot.largest.get_submodule("depthwise").weight
    candidates = SPACE.slots[1].candidates
    small = slot.state_of(candidates.index(BlockChoice(3, 2)))
    assert torch.equal(small["depthwise.weight"], whole[:16, :, 1:-1, 1:-1])
    assert slot.state_of(candidates.index(ZERO)) == {}


def test_zero_leaves_a_block_out(images: Tensor) -> None:
    largest = SPACE.largest()
    network = trained(largest)
    supernet = supernet_of(network, largest)
    choices = list(SPACE.path(largest).choices)
    choices[3] = SPACE.slots[3].candidates.index(ZERO)
    network.stage2_block2 = nn.Identity()  # slot 3
    assert difference(supernet(images, GatePath(tuple(choices))), network(images)) < 1e-5


def test_statistics_make_smaller_candidates_norms_put_out_what_the_largest_s_do(images: Tensor) -> None:
    largest = SPACE.largest()
    network = trained(largest)
    with torch.no_grad():
        network.get_submodule("stage1_block1.depthwise").weight.mul_(20)  # variances far above the norms' epsilon
    supernet, path = supernet_of(network, largest), SPACE.path(largest)
    measure_statistics(supernet, images)
    assert difference(supernet(images, path), network(images)) < 1e-5
    slot = supernet.get_submodule("stage1_block1")
    assert isinstance(slot, SharedSlot) and slot.statistics is not None
    x = network.stem(images)
    seen: dict[int, Tensor] = {}
    for candidate in (SPACE.path(SPACE.largest()).choices[0], SPACE.slots[0].candidates.index(BlockChoice(3, 3))):
        kept = slot.statistics[candidate]
        assert isinstance(kept, Statistics)

        def note(step: object, *inputs: Tensor, kept: Statistics = kept, candidate: int = candidate) -> Tensor:
            y = slot.step(step, *inputs, kept=kept)  # type: ignore[arg-type]
            if getattr(step, "name", "") == "depthwise_norm":
                seen[candidate] = y.detach().clone()  # the activation works in place
            return y

        slot.plain[candidate].run(note, x)
    whole, small = seen.values()
    assert not torch.allclose(whole, small, atol=1e-2)
    assert torch.allclose(small.mean((0, 2, 3)), whole.mean((0, 2, 3)), atol=1e-3)
    wide = whole.std((0, 2, 3)) > 0.5
    assert int(wide.sum()) >= 3
    assert torch.allclose(small.std((0, 2, 3))[wide], whole.std((0, 2, 3))[wide], rtol=0.03)


def test_damage_is_what_one_change_does_to_the_answers(images: Tensor) -> None:
    largest = SPACE.largest()
    supernet, path = supernet_of(trained(largest), largest), SPACE.path(largest)
    found = damage(supernet, images)
    assert all(found[slot, choice] == 0 for slot, choice in enumerate(path.choices))
    choices = list(path.choices)
    choices[3] = 0
    with torch.no_grad():
        answers, changed = (supernet(images, p).log_softmax(1) for p in (path, GatePath(tuple(choices))))
    divergence = F.kl_div(changed, answers, log_target=True, reduction="batchmean")
    assert float(found[3, 0]) == pytest.approx(float(divergence), rel=1e-4) and found[3, 0] > 0


def test_gates_prefer_what_does_no_harm() -> None:
    gates = Gates(SPACE, torch.Generator().manual_seed(0))
    harm = torch.zeros(gates.alpha.shape)
    harm[:, 1] = TEMPERATURE
    gates.prefer_harmless(harm)
    p = gates.probabilities()
    assert torch.allclose(p[:, 1] / p[:, 0], torch.full((5,), torch.e**-1), rtol=0.02)
    assert bool((p[~gates.exists] == 0).all())


def test_other_classes_leave_the_classifier_alone() -> None:
    torch.manual_seed(3)
    supernet = Supernet(SPACE, PIXELS, CLASSES, share_weights=True, kept_statistics=True)
    before = supernet.get_submodule("head.classifier").weight.clone()
    network = trained(SPACE.largest(), classes=9)
    inherit(supernet, SPACE.largest(), network.state_dict())
    assert torch.equal(supernet.get_submodule("head.classifier").weight, before)
    assert torch.equal(supernet.get_submodule("head.mix").weight, network.head.mix.weight)


def test_what_does_not_fit_is_one_line() -> None:
    supernet = Supernet(SPACE, PIXELS, CLASSES, share_weights=True, kept_statistics=True)
    state = trained(SPACE.largest()).state_dict()
    with pytest.raises(BadFile, match=r"no fitting tensor 'head.mix.weight'"):
        inherit(supernet, SPACE.largest(), {k: v for k, v in state.items() if k != "head.mix.weight"})
    with pytest.raises(BadFile, match="has no block for stage2_block3"):
        short = Architecture(SPACE, (SPACE.largest().stages[0], SPACE.largest().stages[1][:2]))
        inherit(supernet, short, state)
    narrow = Architecture(SPACE, ((BlockChoice(5, 2),) * 2, (BlockChoice(5, 3),) * 3))
    with pytest.raises(BadFile, match=r"'stage1_block1\.expand\.weight' is \(16, 8, 1, 1\), not \(24, 8, 1, 1\)"):
        inherit(supernet, narrow, trained(narrow).state_dict())


def test_the_paths_that_are_measured_are_of_the_space_and_of_the_seed() -> None:
    paths = some_paths(SPACE, 0)
    assert len(paths) == 5 and paths == some_paths(SPACE, 0) != some_paths(SPACE, 1)
    for path in paths.values():
        SPACE.check_path(path)
