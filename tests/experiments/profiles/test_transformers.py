"""The layer lists of vision transformers: as many MACs as were published, and the layers their papers name."""

from __future__ import annotations

from collections import Counter

import pytest

from device_profiles import Kernel
from experiments.profiles import DATA
from experiments.profiles.tables import A76_TRANSFORMERS, AttentionOp, Gated, GroupedConv, MatrixProduct, read_rows
from experiments.profiles.transformers import TRANSFORMERS, macs, transformer
from search_space.errors import UnknownName

MEASURED = {row.text("model"): row.number("flops") / 2 for row in read_rows(DATA, A76_TRANSFORMERS)}


@pytest.mark.parametrize("name", MEASURED)
def test_macs_are_those_of_the_measured_graph(name: str) -> None:
    assert macs(transformer(name)) == pytest.approx(MEASURED[name], rel=0.005)


@pytest.mark.parametrize(
    ("name", "published_gmacs"),
    [
        ("deit-small-distilled-patch16-224", 4.6),  # arXiv 2012.12877, table 5
        ("efficientformer-l3-300", 3.9),  # arXiv 2206.01191, table 1
        ("mobilevit-x-small", 1.0),  # the authors' figure for 0.99 G of 2.3 M parameters
        ("swin-small-patch4-window7-224", 8.7),  # arXiv 2103.14030, table 1
    ],
)
def test_networks_of_these_families_that_were_not_measured(name: str, published_gmacs: float) -> None:
    assert macs(transformer(name)) / 1e9 == pytest.approx(published_gmacs, rel=0.03)


def kinds(name: str) -> Counter[str]:
    def kind(op: AttentionOp) -> str:
        return op.price_kind if isinstance(op, Kernel) else type(op).__name__

    return Counter(map(kind, transformer(name)))


def test_a_vit_has_the_layers_of_its_paper() -> None:
    found = kinds("vit-base-patch16-224-in21k")
    assert found["layer_norm"] == 25 and found["gelu"] == found["softmax"] == 12
    assert found["MatrixProduct"] == 24 and found["add"] == 1 + 24
    assert found["conv_image"] == 1 and found["conv_1x1"] == 12 * 6
    kernels = [op for op in transformer("vit-base-patch16-224-in21k") if isinstance(op, Kernel)]
    assert sum(op.spec.out_elements for op in kernels if op.price_kind == "gelu") == 12 * 197 * 3072


def test_attention_within_windows_grows_with_the_image_and_not_its_square() -> None:
    def products(name: str) -> int:
        return sum(op.macs for op in transformer(name) if isinstance(op, MatrixProduct))

    small, large = "swin-base-patch4-window7-224", "swin-base-patch4-window12-384"
    assert products(large) / products(small) == pytest.approx((384 / 224) ** 2 * (12 / 7) ** 2, rel=0.01)
    square = products("vit-base-patch16-384") / products("vit-base-patch16-224-in21k")
    assert square == pytest.approx((577 / 197) ** 2, rel=1e-6)


def test_families_differ_in_what_their_papers_say() -> None:
    assert kinds("mobilevit-small")["gelu"] == 0 and kinds("mobilevit-small")["Gated"] > 0
    assert kinds("mit-b0")["GroupedConv"] == 8 and kinds("swin-tiny-patch4-window7-224")["GroupedConv"] == 0
    assert kinds("efficientformer-l1-300")["softmax"] == 1 and kinds("efficientformer-l7-300")["softmax"] == 8
    assert all(
        op.groups > 1 for name in ("mit-b0", "cvt-13") for op in transformer(name) if isinstance(op, GroupedConv)
    )
    assert not any(isinstance(op, Gated) for op in transformer("deit-base-distilled-patch16-224"))


def test_an_unknown_network_names_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'swin-tiny-patch4-window7-224'"):
        transformer("swin-tiny-patch4-window7-22")
    assert set(MEASURED) < set(TRANSFORMERS)
