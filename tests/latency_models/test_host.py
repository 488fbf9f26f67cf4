"""What is timed and in which order, on simulated machines; and a run of this machine that is stopped half-way."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from device_profiles import KernelRow, available_devices, load_profile
from latency_models import fuse
from latency_models.fit.kernels import FEWEST_NETWORKS, fit_kinds
from latency_models.measure import timing
from latency_models.measure.adaptive import next_kernels, predictor_error, seed_kernels
from latency_models.measure.host import Limits, Step, next_step, run_steps
from latency_models.measure.kernel_onnx import kernel_name
from latency_models.measure.timing import ROUNDS, Record, Settings
from latency_models.measure.workload import Workload, random_network, workload_of
from latency_models.profile import main
from search_space import UserError, cost_of, load_space, lower
from tests.latency_models.simulated import alone_ms
from tests.latency_models.tiny import shorten, tiny_space

SPACE = load_space("quadranet")


@pytest.fixture(scope="module")
def workload() -> Workload:
    return Workload((SPACE,), 224, 12, Settings())


def simulated(workload: Workload, names: Sequence[str]) -> list[Record]:
    """What a machine without noise would give."""
    times = {name: alone_ms(kernel) for name, kernel in workload.kernels.items()}
    times |= {name: cost_of(segments).macs * 1e-7 for name, segments in workload.networks.items()}
    return [Record(name, round_, times[name], 10, 1.0) for name in names for round_ in range(ROUNDS)]


def run_simulated(workload: Workload, limits: Limits, said: list[str] | None = None) -> tuple[list[str], float]:
    """Items in the order in which they were taken, a second each, and the last error. said: gets the notes."""
    now, order, records = [0.0], list[str](), list[Record]()
    said = [] if said is None else said

    def measure(step: Step) -> None:
        order.extend(step.names)
        records.extend(simulated(workload, step.names))
        now[0] += len(step.names)

    return order, run_steps(workload, records, measure, limits, lambda: now[0], said.append)


def test_everything_is_timed_where_there_is_time(workload: Workload) -> None:
    order, _ = run_simulated(workload, Limits(minutes=10, error=1e-9))
    assert sorted(order) == sorted(workload.items)
    first_network = next(i for i, name in enumerate(order) if name in workload.networks)
    kinds = {workload.kernels[name].price_kind for name in order[:first_network]}
    assert kinds == {kernel.price_kind for kernel in workload.kernels.values()}
    assert any(name in workload.kernels for name in order[first_network:])  # networks between kernels, not after all


def test_kernels_are_enough_at_the_error_that_was_asked_for(workload: Workload) -> None:
    order, error = run_simulated(workload, Limits(minutes=10, error=0.1))
    assert error <= 0.1 and len(order) < len(workload.items)
    assert set(workload.networks) <= set(order)


def test_the_time_is_kept_but_for_what_a_fit_needs(workload: Workload) -> None:
    order, _ = run_simulated(workload, Limits(minutes=0.01, error=1e-9))
    networks = [name for name in order if name in workload.networks]
    assert len(networks) == FEWEST_NETWORKS
    assert set(order) - set(networks) == {kernel_name(k) for k in seed_kernels(list(workload.kernels.values()))}


def test_the_least_time_is_said_at_once_where_there_is_less(workload: Workload) -> None:
    least = len(seed_kernels(list(workload.kernels.values()))) + FEWEST_NETWORKS
    said: list[str] = []
    order, _ = run_simulated(workload, Limits(minutes=0.3, error=1e-9), said)
    assert len(order) == least > 18 * 1.1
    assert len(said) == 1 and f"about {least / 60:.1f} minutes" in said[0] and "minutes=0.3" in said[0]


@pytest.mark.parametrize("share", [1.2, 1.5])
def test_the_time_is_kept_within_a_tenth(workload: Workload, share: float) -> None:
    least = len(seed_kernels(list(workload.kernels.values()))) + FEWEST_NETWORKS
    minutes, said = share * least / 60, list[str]()
    order, _ = run_simulated(workload, Limits(minutes=minutes, error=1e-9), said)
    assert not said and least < len(order) <= 1.1 * minutes * 60


def test_networks_get_their_share_of_the_time(workload: Workload) -> None:
    seeds = simulated(workload, [kernel_name(k) for k in seed_kernels(list(workload.kernels.values()))])
    assert next_step(workload, seeds, 1e-9, 0.1, late=False).names[0] in workload.networks
    assert next_step(workload, seeds, 1e-9, 0.5, late=False).names[0] in workload.kernels


def test_every_kernel_size_is_met_before_anything_is_predicted(workload: Workload) -> None:
    """A runtime may take another path for one of them."""
    kernels = list(workload.kernels.values())
    seeds = {(kernel.price_kind, kernel.spec.kernel_size) for kernel in seed_kernels(kernels)}
    assert seeds == {(kernel.price_kind, kernel.spec.kernel_size) for kernel in kernels} and ("dwconv", 7) in seeds


def test_the_next_kernel_is_where_networks_spend_uncertain_time(workload: Workload) -> None:
    kernels = list(workload.kernels.values())
    rows = [KernelRow(k, alone_ms(k), 0.0, 10, "measured", "sim") for k in seed_kernels(kernels)]
    models = fit_kinds(rows)
    chosen = next_kernels(kernels, rows, models, workload.counts, 5)
    assert len(set(chosen)) == 5 and not {row.kernel for row in rows} & set(chosen)
    kind = chosen[0].price_kind
    never = {k: 0.0 if k.price_kind == kind else count for k, count in workload.counts.items()}
    assert next_kernels(kernels, rows, models, never, 1)[0].price_kind != kind
    everything = next_kernels(kernels, rows, models, workload.counts, 10_000)
    assert {*everything, *(row.kernel for row in rows)} == set(kernels)
    assert predictor_error([], models, workload.counts) == float("inf")


def test_counts_are_those_of_random_networks(workload: Workload) -> None:
    rng, runs = random.Random(0), 200
    paths = [SPACE.random_path(rng) for _ in range(runs)]
    networks = [lower(SPACE.architecture(path), 224, 1000) for path in paths]
    kernels = sum(len(fuse(segment.nodes, workload.rules)) for segments in networks for segment in segments)
    assert sum(workload.counts.values()) == pytest.approx(kernels / runs, rel=0.03)


def test_random_networks_repeat_and_spread_in_size(workload: Workload) -> None:
    assert random_network(SPACE, 3, 224) == random_network(SPACE, 3, 224)
    macs = [cost_of(segments).macs for segments in workload.networks.values()]
    assert max(macs) > 1.5 * min(macs) and len(set(macs)) == len(macs)


def test_a_workload_follows_from_its_facts(workload: Workload) -> None:
    again = workload_of(workload.export_facts(), workload.settings)
    assert again == workload and again.digest == workload.digest
    assert replace(workload, resolution=192).digest != workload.digest
    assert replace(workload, settings=Settings(optimization="basic")).digest != workload.digest
    assert replace(workload, settings=Settings(threads=2)).digest == workload.digest
    with pytest.raises(UserError, match="two spaces are named 'quadranet'"):
        Workload((SPACE, SPACE), 224, 5, Settings())


def test_a_stopped_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No timing is taken twice; what is half done is no device, nor is it mixed with other settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_DEVICE_PROFILES", raising=False)
    shorten(monkeypatch)
    tiny_space(tmp_path)
    arguments = ["device=mine", "space=tiny.yaml", "resolution=32", "networks=6", "busy=accept"]
    taken: list[str] = []
    stops = [KeyboardInterrupt()]
    load, cores = timing.OnnxRuntime.load, os.sched_getaffinity(0)

    def stopping(self: timing.OnnxRuntime, item: timing.Item) -> timing.Run:
        taken.append(item.name)
        if stops and len(taken) == 12:
            raise stops.pop()
        return load(self, item)

    monkeypatch.setattr(timing.OnnxRuntime, "load", stopping)
    assert main(arguments) == 130
    assert "resumes from 'device_profiles/.mine.partial.csv'" in capsys.readouterr().err
    assert not [name for name in available_devices() if "mine" in name]
    assert main([*arguments, "optimization=basic"]) == 2
    assert "delete 'device_profiles/.mine.partial.csv' to start over" in capsys.readouterr().err
    partial = Path("device_profiles/.mine.partial.csv")
    whole = partial.read_bytes()
    for damaged in (whole[:-4], b"\xff" + whole, b""):
        partial.write_bytes(damaged)
        assert main(arguments) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "delete 'device_profiles/.mine.partial.csv' to start over" in message
    partial.write_bytes(whole)
    assert not stops
    interrupted = taken[11]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "python -m nas.search" in out and not err  # no bar where nobody watches
    assert os.sched_getaffinity(0) == cores
    times = {name: taken.count(name) for name in taken if name != "reference"}
    assert all(times[name] <= ROUNDS + (name == interrupted) for name in times)
    assert len(load_profile("mine").rows) > 10
    assert [path.name for path in (tmp_path / "device_profiles").iterdir()] == ["mine"]
