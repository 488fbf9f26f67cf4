"""`init=RUN`: other budgets, a corrected profile, confidence, from a finished search; nothing is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

import device_profiles
import nas.data
from latency_models.calibrate import main as calibrate
from nas.api import search
from nas.data import DataSettings
from nas.run.finished import Finished
from nas.run.result import load_result
from nas.supernet.origin import CHECKPOINT, DIGEST, TRAINED_FOR, origin_of
from nas.supernet.saved import SUPERNET_FORMAT
from search_space import UserError


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "first"
    search(
        device="cpu",
        budget_ms=40,
        data={"name": "digits", "limit": 64},
        resolution=32,
        epochs=1,
        warmup={"epochs": 1},
        finetune={"epochs": 0},
        out=str(folder),
        progress=False,
    )
    return folder


def from_run(run: Path, out: Path | str, **options: Any) -> Finished:
    """A network for a budget (40 ms on the CPU unless said otherwise) from the supernet of a run, nothing trained."""
    return search(init=str(run), out=str(out), progress=False, **{"device": "cpu", "budget_ms": 40, **options})


def test_the_same_question_gives_the_same_network(run_folder: Path, tmp_path: Path) -> None:
    first = load_result(run_folder / "architecture.json")
    again = from_run(run_folder, tmp_path / "again")
    assert again.result.architecture == first.architecture
    assert again.result.accuracy is not None and first.accuracy is not None
    assert again.result.accuracy.test == pytest.approx(first.accuracy.test, abs=1e-6)
    assert (again.folder / "model.onnx").is_file()
    assert any(str(run_folder) in note and "nothing was trained" in note for note in again.result.notes)


def test_a_corrected_profile_gives_a_network_that_keeps_the_budget_on_it(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = load_result(run_folder / "architecture.json")
    assert found.budget is not None
    measured = 1.4 * found.budget.predicted_ms
    arguments = ["device=cpu", f"architecture={run_folder / 'architecture.json'}", f"measured_ms={measured}"]
    assert calibrate(arguments) == 0
    again = from_run(run_folder, "again").result
    assert again.budget is not None and 0.9 * 40 <= again.budget.predicted_ms <= 40
    assert again.cost.macs < found.cost.macs


def test_a_space_file_that_is_elsewhere_is_asked_for(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    path = tmp_path / "run" / CHECKPOINT
    tensors = load(path.read_bytes())
    said = bytes(tensors[TRAINED_FOR].tolist()).replace(b'"quadranet"', b'"spaces/mine.yaml"', 1)
    tensors[TRAINED_FOR] = torch.tensor(list(said), dtype=torch.uint8)
    del tensors[DIGEST]
    path.write_bytes(save(tensors, {"format": str(SUPERNET_FORMAT)}))
    (path.parent / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match=r"run: .* space=spaces/mine\.yaml, .* not here; .* space=PATH"):
        from_run(tmp_path / "run", tmp_path / "again")
    found = from_run(tmp_path / "run", tmp_path / "again", space="quadranet").result
    assert found.architecture == load_result(run_folder / "architecture.json").architecture
    with pytest.raises(UserError, match="give a search's folder or its checkpoint"):
        from_run(run_folder / "architecture.json", tmp_path / "third")


def test_confidence_and_another_device(run_folder: Path, tmp_path: Path) -> None:
    sure = from_run(run_folder, tmp_path / "sure", confidence=0.9).result
    assert sure.budget is not None and sure.budget.kept_ms is not None
    assert sure.latency["cpu"].high_ms == pytest.approx(sure.budget.kept_ms) and sure.budget.kept_ms <= 40
    assert sure.budget.predicted_ms < sure.budget.kept_ms
    other = from_run(run_folder, tmp_path / "other", device="vpu", budget_ms=60.0).result
    assert other.budget is not None and other.budget.device == "vpu" and other.budget.predicted_ms <= 60


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget_ms": 1}, "budget_ms=1 cannot be met"),
        ({"budget_ms": "fast"}, "budget_ms='fast'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"calibration": "mine"}, "unknown calibration .*'mine'"),
        ({"confidence": 2.0}, "confidence=2"),
    ],
)
def test_bad_questions_are_one_line(run_folder: Path, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as error:
        from_run(run_folder, tmp_path / "new", **changes)
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def cut(content: bytes) -> bytes:
    return content[:5000]


def without_number(content: bytes) -> bytes:
    return save(load(content))


def next_number(content: bytes) -> bytes:
    return save(load(content), {"format": str(SUPERNET_FORMAT + 1)})


def of_another_space(content: bytes) -> bytes:
    gates = load(content)["gates.alpha"]
    return save({"gates.alpha": gates, "supernet.other": gates.clone()}, {"format": str(SUPERNET_FORMAT)})


def foreign(content: bytes) -> bytes:
    return b"PK" + content


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut, "is not the supernet of a search"),
        (foreign, "is not the supernet of a search"),
        (
            without_number,
            f"format unnumbered, this version reads and writes {SUPERNET_FORMAT}",
        ),
        (
            next_number,
            f"format {SUPERNET_FORMAT + 1}, this version reads and writes {SUPERNET_FORMAT}",
        ),
        (of_another_space, "is not the supernet of a search"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_line(
    run_folder: Path, change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    (tmp_path / "architecture.json").write_bytes((run_folder / "architecture.json").read_bytes())
    (tmp_path / CHECKPOINT).write_bytes(change((run_folder / CHECKPOINT).read_bytes()))
    with pytest.raises(UserError, match=said) as error:
        from_run(tmp_path, tmp_path / "new")
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_images_that_the_run_did_not_see_are_refused(tmp_path: Path) -> None:
    """A run on images given from Python says digits in its settings, and `init` would load those."""
    digits = nas.data.load(DataSettings(limit=64))
    names = tuple("abcdefghij")
    own = replace(digits, class_names=names)
    options = {"epochs": 1, "warmup": {"epochs": 1}, "finetune": {"epochs": 0}, "progress": False, "data": own}
    search(device="cpu", budget_ms=40, out=str(tmp_path / "run"), **options)
    with pytest.raises(UserError, match="such as 'a'; the images named by data= have others"):
        from_run(tmp_path / "run", tmp_path / "again")


def test_images_normalised_otherwise_are_refused(run_folder: Path) -> None:
    origin = origin_of(str(run_folder))
    with pytest.raises(
        UserError, match=r"trained with data.mean=\[0.5,0.5,0.5\] .* leave out data.mean= and data.std="
    ):
        origin.check_inputs(replace(origin.inputs, mean=(0.1, 0.2, 0.3)))


def test_profiles_of_other_devices_spoil_nothing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is damaged, one timed other kinds of kernels: both are named in a note, and the rest is as ever."""
    monkeypatch.chdir(tmp_path)
    shipped = Path(device_profiles.__file__).parent / "data" / "cpu"
    for name in ("broken", "few"):
        shutil.copytree(shipped, Path("device_profiles") / name)
    Path("device_profiles/few/device.yaml").write_text("device: few\n")
    again = from_run(run_folder, "again")
    result, folder = again.result, again.folder
    assert set(result.latency) >= {"cpu", "vpu", "gpu"} and not {"broken", "few"} & set(result.latency)
    said = " ".join(result.notes)
    assert "No latency on 'broken'" in said and "No latency on 'few'" in said
    assert (folder / "architecture.json").is_file()
