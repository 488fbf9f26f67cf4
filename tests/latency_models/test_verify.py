"""A profile checked on the machine where it was taken, and refused anywhere else."""

from __future__ import annotations

import shutil
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_profiles import load_profile
from latency_models import fit_latency_model, profile, verify
from latency_models.measure.timing import Record
from latency_models.measure.workload import Workload
from latency_models.scores import Evaluation
from latency_models.verify import VERIFICATION, main, random_networks
from search_space import load_space
from search_space.tables import read_table
from tests.latency_models.tiny import shorten, tiny_space


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny space and a profile of this machine."""
    folder = tmp_path_factory.mktemp("taken")
    arguments = ["device=mine", f"space={tiny_space(folder)}", "resolution=32", "networks=6", "busy=accept"]
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        assert profile.main([*arguments, f"out={folder / 'device_profiles'}"]) == 0
    return folder


@pytest.fixture
def here(taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder as the working directory."""
    folder = tmp_path / "here"
    shutil.copytree(taken, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NAS_DEVICE_PROFILES", raising=False)
    shorten(monkeypatch)
    return folder


VERIFY = ["device=mine", "space=tiny.yaml", "n=4", "busy=accept"]


def test_networks_are_timed_beside_their_predictions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(VERIFY) == 0
    out, err = capsys.readouterr()
    assert not err
    for said in ("4 networks from", "MAPE", "within 5 %", "within 10 %", "RMSE", "Spearman", "claimed", "inside ("):
        assert said in out
    assert "mark: MAPE below 5 %, 95 % within 10 %:" in out
    rows = verified(here)
    assert tuple(rows[0]) == VERIFICATION.names and len(rows) == 4
    networks = random_networks([load_space("tiny.yaml")], 4, 0, 32)  # at the profile's resolution
    model = fit_latency_model(load_profile("mine"))
    for row, (name, segments) in zip(rows, networks.items(), strict=True):
        predicted = model.predict(segments)
        assert row["network"] == name
        assert float(row["predicted_ms"]) == pytest.approx(predicted.latency_ms, rel=1e-5)
        assert float(row["low_ms"]) <= float(row["predicted_ms"]) <= float(row["high_ms"])
        assert float(row["measured_ms"]) > 0 and float(row["spread_ms"]) >= 0
    assert [path.name for path in (here / "verify-mine").iterdir()] == ["verify.csv"]


def test_the_networks_are_others_than_the_profiles() -> None:
    space = load_space("quadranet")
    fitted = Workload((space,), 224, 24, profile.make_settings("onnxruntime")).networks.values()
    seeds = [list(random_networks([space], 20, seed, 224).values()) for seed in (0, 1)]
    assert not [n for n in (*seeds[0], *seeds[1]) if n in fitted]
    assert seeds[0] == list(random_networks([space], 20, 0, 224).values()) != seeds[1]


def test_spaces_are_told_apart_and_the_mark_is_said() -> None:
    """Errors of 20 % in the second space."""
    spaces = [load_space(name) for name in ("quadranet", "proxyless")]
    networks = random_networks(spaces, 12, 0, 64)
    measured = np.arange(1.0, 13.0)
    off = np.array([1.2 if name.startswith("proxyless") else 1.0 for name in networks])
    evaluation = Evaluation("all", tuple(networks), measured, measured * off)
    parts = {part.name: part for part in verify._parts(evaluation, spaces)}
    assert parts["quadranet"].mape == pytest.approx(0) and parts["proxyless"].mape == pytest.approx(20)
    assert all(name.startswith("proxyless_") for name in parts["proxyless"].names) and list(parts) == [
        "quadranet",
        "proxyless",
    ]
    assert list(verify._parts(evaluation, spaces[:1])) == []
    found = verify.Verification(evaluation, evaluation, 1.0, {}, parts=tuple(parts.values()))
    said = verify.render(found, "mine")
    assert "proxyless: 6 networks, MAPE 20.00 %, 0 % within 10 %" in said and said.endswith("within 10 %: missed")
    exact = Evaluation("all", tuple(networks), measured, measured * 1.01)
    assert verify.render(verify.Verification(exact, exact, 1.0, {}), "mine").endswith("within 10 %: reached")


def rewritten(here: Path, old: str, new: str) -> None:
    path = here / "device_profiles" / "mine" / "device.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_profiles_of_other_machines_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cpu = load_profile("mine").header.runtime_options["cpu"]
    rewritten(here, f"cpu: {cpu}", "cpu: Raspberry Pi 5")
    for device, said in (("vpu", "OpenVINO"), ("mine", "was taken on 'Raspberry Pi 5', this machine is")):
        assert main([*VERIFY[1:], f"device={device}"]) == 2
        message = capsys.readouterr().err
        assert said in message and message.count("\n") == 1
        assert "python -m latency_models.profile export=" in message
    assert not (here / "verify-mine").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["device=min"], "Did you mean 'mine'"),
        (["device=mine", "n=2"], "n=2 is not an integer >= 3"),
        (["device=mine", "number=9"], "unknown option 'number'"),
        (["device=mine", "runtime=no_such_module.Toy"], "runtime=no_such_module.Toy: cannot import it"),
        (["device=mine", "out=tiny.yaml"], "cannot make the folder 'tiny.yaml': File exists"),
        (["device=mine", "space=proxyless"], "has no model of kernel kind"),
    ],
)
def test_refusals_are_one_line(here: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """proxyless has no kind that tiny lacks but its windows: the refusal names the kind."""
    if arguments[-1] == "space=proxyless":
        rewritten(here, "  dwconv:\n    coefficients", "  relu6:\n    coefficients")
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1


def test_another_version_of_the_runtime_is_noted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = load_profile("mine").header.runtime_version
    rewritten(here, f"runtime_version: {version}", "runtime_version: 0.1.0")
    assert main(VERIFY) == 0
    assert f"note: the profile was taken with onnxruntime 0.1.0, this is {version}" in capsys.readouterr().out


def test_the_reference_puts_then_and_now_on_one_scale(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile taken when the machine was twice as fast: times are scaled to that, and the ratio is said.

    The same timings both times: how fast the machine is now decides nothing.
    """
    taken: list[Record] = []

    class Replayed(verify.Bench):
        def measure(self, *arguments: Any) -> None:
            if not taken:
                super().measure(*arguments)
                taken.extend(self.records)
            self.records = list(taken)
            self.path.touch()  # as if it had timed them

    monkeypatch.setattr(verify, "Bench", Replayed)
    reference_ms = float(load_profile("mine").header.runtime_options["reference_ms"])
    assert main(VERIFY) == 0
    before = measured(here)
    rewritten(here, f"reference_ms: '{reference_ms:.6g}'", f"reference_ms: '{reference_ms / 2:.6g}'")
    assert main(VERIFY) == 0
    assert np.median(before / measured(here)) == pytest.approx(2, rel=1e-4)
    assert "the reference took" in capsys.readouterr().out


def verified(here: Path) -> list[dict[Hashable, Any]]:
    return read_table(here / "verify-mine" / "verify.csv", VERIFICATION).to_dict("records")


def measured(here: Path) -> NDArray[np.float64]:
    return np.array([float(row["measured_ms"]) for row in verified(here)])
