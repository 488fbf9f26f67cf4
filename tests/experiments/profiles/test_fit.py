"""Rebuilding the shipped profiles: byte for byte from the shipped rows, and clear refusals without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from device_profiles import Kernel
from experiments.profiles import DEVICES
from experiments.profiles.evaluate import main as evaluate
from experiments.profiles.fit import SHIPPED, main
from experiments.profiles.networks import convnext_tiny, mobilenet_v1, mobilenet_v2, resnet50, vgg
from experiments.profiles.regression import conformal_factors, held_out_ratios, predicted_ratios
from experiments.profiles.tables import MovedElements
from latency_models.fit.regression import Sample, fit_coefficients

BRIEF = ["cpu", "cpu_2420mhz", "cpu_int8", "vpu", "gpu"]  # a second or two each


@pytest.mark.parametrize("device", [*BRIEF, pytest.param("gpu_eager_fp32", marks=pytest.mark.slow)])
def test_the_shipped_profile_is_what_the_shipped_rows_give(device: str, tmp_path: Path) -> None:
    assert main([f"device={device}", f"out={tmp_path}"]) == 0
    for name in ("device.yaml", "kernels.csv"):
        assert (tmp_path / device / name).read_bytes() == (SHIPPED / device / name).read_bytes(), name


def test_every_shipped_device_is_rebuilt() -> None:
    assert {path.name for path in SHIPPED.iterdir() if path.is_dir()} == set(DEVICES)


@pytest.mark.parametrize("command", [main, evaluate])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["device=cpu", "source=/no/such/folder"], "no folder '/no/such/folder'"),
        (["device=cpu", "source=."], "no file 'a76_tflite_networks.csv'"),
        (["device=cpp"], "Did you mean 'cpu'"),
        (["devise=cpu"], "Did you mean 'device'"),
        (["device"], "has no value"),
        ([], "missing device="),
    ],
)
def test_refusals_are_one_line(
    command: Callable[[Sequence[str]], int],
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(arguments) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def macs(ops: list[object]) -> float:
    return sum(op.spec.macs for op in ops if isinstance(op, Kernel)) / 1e9


@pytest.mark.parametrize(
    ("name", "ops", "published_gmacs"),
    [
        ("ResNet-50 v1.5", resnet50(merged_add=True), 4.09),
        ("VGG-16", vgg(16), 15.47),
        ("VGG-19", vgg(19), 19.63),
        ("ConvNeXt-T", convnext_tiny(), 4.47),
        ("MobileNetV1", mobilenet_v1(1.0, 224), 0.569),
        ("MobileNetV2", mobilenet_v2(1.0, 224), 0.301),
    ],
)
def test_reference_networks_have_their_published_size(name: str, ops: list[object], published_gmacs: float) -> None:
    assert macs(ops) == pytest.approx(published_gmacs, rel=0.01), name


def test_a_merged_addition_is_no_kernel_of_its_own() -> None:
    apart, merged = mobilenet_v2(1.0, 224), mobilenet_v2(1.0, 224, merged_add=True)
    assert len(apart) - len(merged) == 10
    assert not any(isinstance(op, MovedElements) for op in merged)


def known_samples(count: int) -> list[Sample]:
    rng = np.random.default_rng(0)
    terms = rng.uniform(1, 10, (count, 2))
    return [Sample(f"n{i}", {"a": a, "b": b}, 2 * a + 3 * b, group=i) for i, (a, b) in enumerate(terms)]


def test_least_squares_recovers_coefficients_and_held_out_networks() -> None:
    samples = known_samples(20)
    coefficients = fit_coefficients(samples)
    assert coefficients == pytest.approx({"a": 2.0, "b": 3.0}, rel=1e-4)
    np.testing.assert_allclose(predicted_ratios(samples, coefficients), 1, rtol=1e-4)
    np.testing.assert_allclose(held_out_ratios(samples, samples), 1, rtol=1e-4)


def test_coefficients_are_never_negative() -> None:
    samples = [Sample(s.name, s.terms, 5 * s.terms["a"] / s.terms["b"]) for s in known_samples(20)]
    assert min(fit_coefficients(samples).values()) >= 0


def test_the_interval_covers_what_it_claims() -> None:
    """Exchangeable errors: the share of new networks inside is at least the claim, on average."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        ratios = np.exp(rng.normal(0, 0.2, 30))
        low, high = conformal_factors(ratios[:-1], 0.8)
        inside.append(low <= 1 / ratios[-1] <= high)
    assert np.mean(inside) >= 0.8 - 2 * (0.8 * 0.2 / 300) ** 0.5


def test_too_few_networks_cannot_claim_much() -> None:
    with pytest.raises(ValueError, match="cannot claim"):
        conformal_factors(np.array([0.9, 1.0, 1.1]), 0.9)
