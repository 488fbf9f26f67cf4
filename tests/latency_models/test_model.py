"""Laws of predicted latency: additive, never negative, monotone in size, and never invented."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from scipy.optimize import nnls
from threadpoolctl import threadpool_limits

from device_profiles import MEASURED, Calibration, DeviceProfile, Kernel, load_profile
from experiments.profiles.assemble import tabled_spaces
from latency_models import LatencyModel, fit_latency_model, fuse, latency_table
from latency_models.features import FEATURES
from latency_models.residual import GaussianProcess
from latency_models.support import Support
from search_space import (
    GatePath,
    Kind,
    LayerSpec,
    Node,
    SearchSpace,
    Segment,
    UserError,
    available_spaces,
    load_space,
    lower,
)
from search_space.errors import BadFile, UnknownName

DEVICES = tuple(sorted(p.name for p in resources.files("device_profiles").joinpath("data").iterdir() if p.is_dir()))
RESOLUTION, CLASSES = 224, 1000


@pytest.fixture(scope="module", params=DEVICES)
def profile(request: pytest.FixtureRequest) -> DeviceProfile:
    return load_profile(request.param)


@pytest.fixture(scope="module")
def model(profile: DeviceProfile) -> LatencyModel:
    return fit_latency_model(profile)


@pytest.mark.parametrize("name", available_spaces())
def test_table_equals_the_prediction_of_the_lowered_network(name: str) -> None:
    """1,000 random networks of a space on every shipped device."""
    space = load_space(name)
    models = [fit_latency_model(load_profile(device)) for device in DEVICES]
    tables = [latency_table(model, space, RESOLUTION, CLASSES) for model in models]
    rng = random.Random(0)
    for _ in range(1000):
        path = space.random_path(rng)
        segments = lower(space.architecture(path), RESOLUTION, CLASSES)
        for model, table in zip(models, tables, strict=True):
            predicted = model.predict(segments)
            assert abs(table.path_ms(path) / predicted.latency_ms - 1) <= 1e-9
            assert abs(table.upper_end().path_ms(path) / predicted.high_ms - 1) <= 1e-9
            assert 0 < predicted.low_ms <= predicted.latency_ms <= predicted.high_ms
            assert table.minimum_ms * (1 - 1e-12) <= predicted.latency_ms <= table.maximum_ms * (1 + 1e-12)


@pytest.mark.parametrize("name", available_spaces())
def test_segments_add_up_to_the_prediction(model: LatencyModel, name: str) -> None:
    segments = lower(load_space(name).largest(), RESOLUTION, CLASSES)
    assert sum(model.segment_ms(segments).values()) == pytest.approx(model.predict(segments).latency_ms, rel=1e-12)


@pytest.mark.parametrize("name", available_spaces())
def test_table_shape_zeros_and_extremes(model: LatencyModel, name: str) -> None:
    space = load_space(name)
    table = latency_table(model, space, RESOLUTION, CLASSES)
    assert table.slot_ms.shape == (len(space.slots), max(len(s.candidates) for s in space.slots))
    assert table.slot_ms.dtype == np.float64
    for row, slot in zip(table.slot_ms, space.slots, strict=True):
        known = row[: len(slot.candidates)]
        assert np.all(known >= 0) and np.isnan(row[len(slot.candidates) :]).all()
        assert ((known == 0) == [str(c) == "zero" for c in slot.candidates]).all()
    largest = space.largest(quadratic=True)
    for architecture, extreme in ((space.smallest(), table.minimum_ms), (largest, table.maximum_ms)):
        predicted = model.predict(lower(architecture, RESOLUTION, CLASSES)).latency_ms
        # of eager GPU kernels one of twice the channels may be the quicker one, by less than this
        assert predicted == pytest.approx(
            extreme, rel=1e-4 if model.profile.header.device == "gpu_eager_fp32" else 1e-9
        )


def test_many_paths_at_once(model: LatencyModel) -> None:
    space = load_space("quadranet")
    table = latency_table(model, space, RESOLUTION, CLASSES)
    rng = random.Random(1)
    paths = [space.random_path(rng) for _ in range(50)]
    at_once = table.paths_ms(np.array([path.choices for path in paths]))
    np.testing.assert_allclose(at_once, [table.path_ms(path) for path in paths], rtol=1e-12)


def test_a_path_of_another_space_is_refused(model: LatencyModel) -> None:
    table = latency_table(model, load_space("quadranet"), RESOLUTION, CLASSES)
    with pytest.raises(UserError, match="16 slots"):
        table.path_ms(GatePath((0,)))


def test_predictions_are_additive_over_segments(model: LatencyModel) -> None:
    segments = lower(load_space("quadranet").largest(), RESOLUTION, CLASSES)
    whole = model.predict(segments).latency_ms
    for cut in range(len(segments) + 1):
        parts = model.predict(segments[:cut]).latency_ms + model.predict(segments[cut:]).latency_ms
        assert parts - model.runtime_price.ms == pytest.approx(whole, rel=1e-12)
    assert model.predict(()).latency_ms == model.profile.header.network_ms


def test_a_larger_kernel_never_takes_less(model: LatencyModel) -> None:
    """Where rows were measured, times fall as the rows do; their form never."""

    def ms(kernel: Kernel) -> float:
        return model.form_ms(kernel) if model.kind_model(kernel).residual else model.kernel_price(kernel).ms

    for row in model.profile.rows:
        spec = row.kernel.spec
        base = ms(row.kernel)
        assert base > 0
        larger = [
            replace(spec, height=2 * spec.height, width=2 * spec.width) if spec.kind is not Kind.LINEAR else spec,
            replace(spec, in_channels=2 * spec.in_channels, out_channels=2 * spec.out_channels),
        ]
        if spec.kind in (Kind.CONV, Kind.DWCONV):
            larger.append(replace(spec, kernel_size=spec.kernel_size + 2, padding=spec.padding + 1))
        if spec.kind is Kind.CONV:
            larger.append(replace(spec, out_channels=spec.out_channels + 1))
        for bigger in larger:
            kernel = replace(row.kernel, spec=bigger)
            if kernel.price_kind == row.kernel.price_kind:
                assert ms(kernel) >= base * (1 - 1e-5), str(kernel)  # rows keep six digits


def test_the_table_of_a_profile_is_what_the_model_predicts(profile: DeviceProfile, model: LatencyModel) -> None:
    """Six digits in the table, so 1e-5; rows that were not measured are what the header and the others give."""
    measured = tuple(row for row in profile.rows if row.origin == "measured")
    from_measured = fit_latency_model(replace(profile, rows=measured))
    for row in profile.rows:
        kind = model.kind_model(row.kernel)
        assert model.kernel_price(row.kernel).ms == pytest.approx(row.latency_ms * kind.in_network, rel=1e-5)
        assert row.latency_ms == pytest.approx(from_measured.kernel_alone(row.kernel)[0], rel=1e-5)
        if row.origin != "measured":
            assert row.spread_ms == pytest.approx(row.latency_ms * (kind.high_factor - kind.low_factor) / 2, rel=1e-5)
            assert row.origin == ("fitted" if kind.residual else kind.origin)
        assert row.count == kind.count(row.kernel.spec.kernel_size)


def test_refitting_the_forms_to_the_table_gives_the_header_back(profile: DeviceProfile, model: LatencyModel) -> None:
    lanes = profile.header.lanes
    for kind, kind_model in profile.header.models.items():
        rows = [row for row in profile.rows if row.kernel.price_kind == kind]
        if not rows or kind_model.residual:
            continue
        design = np.array([[FEATURES[f](r.kernel, lanes) for f in kind_model.coefficients] for r in rows])
        times = np.array([row.latency_ms for row in rows])
        solution, _ = nnls(design / times[:, None], np.ones(len(times)))
        np.testing.assert_allclose(design @ solution, times, rtol=1e-3)


@pytest.mark.parametrize("space", tabled_spaces(), ids=lambda space: space.name)
def test_every_kernel_of_a_tabled_space_has_a_row(profile: DeviceProfile, space: SearchSpace) -> None:
    from latency_models.grid import grid_kernels

    known = {row.kernel for row in profile.rows}
    assert known.issuperset(grid_kernels([space], profile.header.fusion))


def test_spaces_of_quadratic_forms_alone_are_not_tabled() -> None:
    left_out = set(available_spaces()) - {space.name for space in tabled_spaces()}
    assert left_out == {"efficientnet_lite0_quadratic"}


def test_an_unknown_kernel_kind_is_an_error_and_never_free(model: LatencyModel) -> None:
    profile = model.profile
    kinds = {kind: known for kind, known in profile.header.models.items() if kind != "relu6"}
    poorer = fit_latency_model(replace(profile, header=replace(profile.header, models=kinds)))
    node = Node("act", LayerSpec(Kind.RELU6, 8, 8, 4, 4), (-1,))
    with pytest.raises(UserError, match=r"no model of kernel kind 'relu6' .*it has .*dwconv") as caught:
        poorer.predict([Segment("lonely", ((node,),))])
    assert "\n" not in str(caught.value)


def test_an_unknown_feature_or_calibration_is_refused(profile: DeviceProfile) -> None:
    with pytest.raises(UnknownName, match="calibration of device"):
        fit_latency_model(profile, calibration="wished")
    models = dict(profile.header.models)
    models["dwconv"] = replace(models["dwconv"], coefficients={"magic": 1.0})
    with pytest.raises(BadFile, match="unknown feature 'magic'"):
        fit_latency_model(replace(profile, header=replace(profile.header, models=models)))


def test_a_calibration_factor_scales_every_time(profile: DeviceProfile) -> None:
    header = replace(profile.header, calibration={"measured": MEASURED, "twice": Calibration(2.0)})
    segments = lower(load_space("proxyless").smallest(), RESOLUTION, CLASSES)
    doubled = fit_latency_model(replace(profile, header=header), calibration="twice").predict(segments)
    plain = fit_latency_model(profile).predict(segments)
    assert doubled.latency_ms == pytest.approx(2 * plain.latency_ms)
    assert doubled.high_ms == pytest.approx(2 * plain.high_ms)


def test_shares_of_time_and_width_add_up(profile: DeviceProfile) -> None:
    """With what every network pays; and rows are those that the profile states for kind and size."""
    model = fit_latency_model(profile)
    segments = lower(load_space("quadranet").largest(), RESOLUTION, CLASSES)
    predicted, runtime, support = model.predict(segments), model.runtime_price, model.support(segments)
    rest = (
        runtime.ms / predicted.latency_ms,
        (runtime.high_ms - runtime.low_ms) / (predicted.high_ms - predicted.low_ms),
    )
    assert sum(one.share for one in support.kernels) + rest[0] == pytest.approx(1)
    assert sum(one.width for one in support.kernels) + rest[1] == pytest.approx(1)
    assert all(0 <= one.untimed <= one.share for one in support.kernels)
    for one in support.kernels:
        assert one.rows == profile.header.models[one.kind].count(one.kernel_size)
    assert 0 <= support.derived <= 1
    assert (support.derived == 0) == profile.name.startswith("cpu"), "all fitted on the A76"
    assert model.support(()) == Support(0.0, ())


def test_the_derived_share_is_of_the_whole_time() -> None:
    """Of the time that `predict` gives, so what every network pays counts as not derived."""
    vpu = load_profile("vpu")
    model = fit_latency_model(replace(vpu, header=replace(vpu.header, network_ms=3.0)))
    segments = lower(load_space("quadranet").smallest(), RESOLUTION, CLASSES)
    kernels = [kernel for segment in segments for kernel in fuse(segment.nodes, model.fusion)]
    known_ms = sum(model.kernel_price(k).ms for k in kernels if model.kind_model(k).origin != "derived")
    known_ms += model.runtime_price.ms
    assert model.runtime_price.ms == 3.0
    assert model.support(segments).derived == pytest.approx(1 - known_ms / model.predict(segments).latency_ms)


def test_derived_kinds_have_wider_intervals_than_calibrated_ones(profile: DeviceProfile) -> None:
    models = profile.header.models
    for name in ("concat",) if profile.name == "gpu_eager_fp32" else ("layer_norm", "mul"):
        assert models[name].high_factor > models["conv_1x1"].high_factor
        assert models[name].low_factor < models["conv_1x1"].low_factor


def test_a_residual_read_by_a_convolution_costs_its_bytes() -> None:
    model = fit_latency_model(load_profile("gpu"))
    spec = LayerSpec(Kind.CONV, 64, 64, 56, 56)
    alone = model.kernel_price(Kernel(spec))
    merged = model.kernel_price(Kernel(spec, (Kind.ADD,), inputs=2))
    assert merged.ms > alone.ms


def test_the_shipped_stick_makes_the_papers_budget_bind() -> None:
    """30 ms on the VPU (Table III of arXiv 2311.17956) lies inside the range of the paper's space."""
    table = latency_table(fit_latency_model(load_profile("vpu")), load_space("quadranet"), RESOLUTION, CLASSES)
    assert table.minimum_ms < 30 < table.maximum_ms


def test_the_number_of_threads_changes_no_digit_of_a_residual() -> None:
    rng = np.random.default_rng(0)
    points, targets = rng.normal(size=(300, 4)), rng.normal(size=300)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(np.array(GaussianProcess(points, targets, amplitude=0.2, noise=0.03).at(points[:7])))
    assert found[0].tobytes() == found[1].tobytes()


def test_predicting_needs_no_heavy_library() -> None:
    script = """
import sys
from device_profiles import load_profile
from latency_models import fit_latency_model, latency_table
from search_space import load_space
table = latency_table(fit_latency_model(load_profile("vpu")), load_space("quadranet_t"), 224, 1000)
assert table.minimum_ms < table.maximum_ms
heavy = {"torch", "pandas", "sklearn", "scipy", "onnx", "optuna", "hydra"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
