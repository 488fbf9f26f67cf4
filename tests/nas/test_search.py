"""A whole search, small but real: digits, training, ONNX in onnxruntime, the files of a run."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from device_profiles import load_profile
from latency_models import fit_latency_model
from nas.api import Finished, search
from nas.build import build
from nas.data import DATA_SETS, DataSettings, Split, load
from nas.run.checkpoint import Checkpoints
from nas.run.defaults import with_defaults
from nas.run.result import load_result
from nas.run.settings import SearchSettings, TrainCommand, settings_from_dict
from nas.train import full_training
from nas.training.loop import NotFinite, checked
from nas.training.recipes import Recipe
from search_space import UserError, load_space, lower
from search_space.errors import Stopped

SMALL: dict[str, Any] = {
    "data": {"name": "digits", "resolution": 32, "limit": 120},
    "warmup": {"epochs": 1},
    "epochs": 2,
    "finetune": {"epochs": 1},
    "rerank": 2,
    "progress": False,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return search(device="vpu", budget_ms=30, out=str(tmp_path_factory.mktemp("runs") / "run"), **SMALL)


def test_the_run_leaves_all_files(finished: Finished) -> None:
    names = {p.name for p in finished.folder.iterdir()}
    assert names == {
        "architecture.json",
        "checkpoint.safetensors",
        "confusion.json",
        "front.csv",
        "gates.csv",
        "latency_224.onnx",
        "model.onnx",
        "SHA256SUMS",
        "report.html",
        "search.csv",
        "weights.safetensors",
    }


def test_the_network_keeps_its_budget_and_uses_it(finished: Finished) -> None:
    result, budget = finished.result, finished.result.budget
    assert budget is not None and budget.binds
    assert 0.97 * 30 <= budget.predicted_ms <= 30
    model = fit_latency_model(load_profile("vpu"))
    again = model.predict(lower(result.architecture, 224, result.num_classes))
    assert again.latency_ms == pytest.approx(budget.predicted_ms, rel=1e-12)
    assert set(result.latency) >= {"cpu", "vpu", "gpu"}
    for latency in result.latency.values():
        assert latency.low_ms < latency.latency_ms < latency.high_ms and 0 < latency.coverage < 1
        assert sum(latency.by_segment_ms.values()) == pytest.approx(latency.latency_ms)


def test_the_result_reads_back_equal(finished: Finished) -> None:
    assert load_result(finished.folder / "architecture.json") == finished.result


def test_rebuilt_network_equals_the_onnx_model_and_its_accuracy(finished: Finished) -> None:
    result, network = build(finished.folder / "architecture.json")
    data = load(DataSettings())
    session = onnxruntime.InferenceSession(str(finished.folder / "model.onnx"))
    right = total = 0
    for images, labels in data.batches(data.test, 32, 128):
        with torch.no_grad():
            logits = network(images).numpy()
        (exported,) = session.run(None, {"images": images.contiguous().numpy()})
        assert np.abs(logits - exported).max() <= 1e-4 * max(1.0, np.abs(logits).max())
        right += int((exported.argmax(1) == labels.numpy()).sum())
        total += len(labels)
    assert total == result.accuracy.test_images == len(data.test)
    assert right / total == result.accuracy.test


def test_timing_graph_is_the_same_network_at_deployment_resolution(finished: Finished) -> None:
    timing = onnx.load(finished.folder / "latency_224.onnx")
    model = onnx.load(finished.folder / "model.onnx")
    props = {p.key: p.value for p in timing.metadata_props}
    assert props["purpose"] == "for timing, not trained"
    assert [n.op_type for n in timing.graph.node] == [n.op_type for n in model.graph.node]
    assert timing.graph.input[0].type.tensor_type.shape.dim[2].dim_value == 224
    session = onnxruntime.InferenceSession(str(finished.folder / "latency_224.onnx"))
    assert session.run(None, {"images": np.zeros((1, 3, 224, 224), np.float32)})[0].shape == (1, 10)


def test_search_csv_reports_the_course(finished: Finished) -> None:
    with (finished.folder / "search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["phase"] for row in rows)) == ["warmup", "search", "finetune"]
    searching = [row for row in rows if row["phase"] == "search"]
    for column in ("train_loss", "gate_loss", "expected_ms", "multiplier", "gate_entropy", "seconds"):
        assert all(float(row[column]) >= 0 for row in searching), column
    assert any(row["val_accuracy"] for row in searching)
    assert float(searching[0]["expected_ms"]) == pytest.approx(30, rel=0.05)  # gates start within the budget


def test_same_seed_same_architecture_json_but_for_times(finished: Finished, tmp_path: Path) -> None:
    again = search(device="vpu", budget_ms=30, out=str(tmp_path / "again"), **SMALL)

    def timeless(folder: Path) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((folder / "architecture.json").read_text())
        for key in ("started", "wall_time_s", "search_s"):
            data["provenance"].pop(key)
        return data

    assert timeless(again.folder) == timeless(finished.folder)
    weights = [(f.folder / "weights.safetensors").read_bytes() for f in (again, finished)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("options", [{"gates": {"mode": "full_v2"}}, {"train": {"share_weights": False}}])
def test_proxyless_space_and_the_papers_modes(options: dict[str, Any], tmp_path: Path) -> None:
    run = search(device="cpu", budget_ms=40, space="proxyless", out=str(tmp_path / "run"), **SMALL, **options)
    assert run.result.budget is not None and 0.97 * 40 <= run.result.budget.predicted_ms <= 40


@pytest.mark.parametrize("form", ["add_linear", "mul_log"])
def test_the_papers_penalties_keep_the_budget_too(form: str, tmp_path: Path) -> None:
    options = {**SMALL, "warmup": {"epochs": 0}, "epochs": 1, "finetune": {"epochs": 0}}
    run = search(device="cpu", budget_ms=45, penalty={"form": form}, out=str(tmp_path / "run"), **options)
    assert run.result.budget is not None and 0.97 * 45 <= run.result.budget.predicted_ms <= 45


def test_a_budget_that_does_not_bind_is_said(tmp_path: Path) -> None:
    options = {**SMALL, "warmup": {"epochs": 0}, "epochs": 1, "finetune": {"epochs": 0}}
    run = search(device="cpu", budget_ms=300, out=str(tmp_path / "run"), **options)
    assert run.result.budget is not None and not run.result.budget.binds
    assert "does not bind" in run.result.notes[0] and "space=quadranet_t" in run.result.notes[0]


def test_limits_alone_are_kept_by_a_whole_run(tmp_path: Path) -> None:
    options = {**SMALL, "warmup": {"epochs": 0}, "epochs": 1, "finetune": {"epochs": 0}}
    run = search(device="cpu", budget_ms=None, limits={"params": 1.2e6}, out=str(tmp_path / "run"), **options)
    budget, result = run.result.budget, load_result(tmp_path / "run" / "architecture.json")
    assert budget is not None and not budget.binds and budget.limits == {"params": 1.2e6}
    assert result.cost.params <= 1.2e6 and budget.budget_ms == budget.space_max_ms
    assert "limits.params" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


class Watched:
    """A source that notes which split is read, in order."""

    def __init__(self, source: Any, split: str, order: list[str]) -> None:
        self.source, self.split, self.order = source, split, order

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> NDArray[np.uint8]:
        if not self.order or self.order[-1] != self.split:
            self.order.append(self.split)
        image: NDArray[np.uint8] = self.source.read(index)
        return image


def test_the_test_split_is_read_once_at_the_very_end(tmp_path: Path) -> None:
    data = load(DataSettings(limit=120))
    order: list[str] = []

    def watch(split: Split, name: str) -> Split:
        return Split(Watched(split.source, name, order), split.indices, split.labels)

    data = replace(
        data,
        train=watch(data.train, "train"),
        validation=watch(data.validation, "validation"),
        test=watch(data.test, "test"),
    )
    options = {key: value for key, value in SMALL.items() if key != "data"}
    search(data=data, device="vpu", budget_ms=30, out=str(tmp_path / "run"), **options)
    assert order.count("test") == 1 and order[-1] == "test"
    assert {"train", "validation"} <= set(order[:-1])
    pools = [set(split.indices.tolist()) for split in (data.train, data.validation, data.test)]
    assert not (pools[0] & pools[1] or pools[0] & pools[2] or pools[1] & pools[2])


def test_nan_loss_stops_and_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(DataSettings(limit=120))
    batches = type(data).batches

    def poisoned(self: Any, split: Split, *arguments: Any, **options: Any) -> Iterator[Any]:
        for images, labels in batches(self, split, *arguments, **options):
            training = options.get("training") and split is self.train and arguments[-1] == 1  # the second epoch
            yield (images * float("nan") if training else images), labels

    monkeypatch.setattr(type(data), "batches", poisoned)
    folder = tmp_path / "run"
    options = {key: value for key, value in SMALL.items() if key != "data"}
    with pytest.raises(NotFinite, match="the loss became nan") as caught:
        search(data=data, device="vpu", budget_ms=30, out=str(folder), checkpoint={"steps": 1}, **options)
    assert f"the state before it is in '{folder / 'checkpoints'}'" in str(caught.value)
    assert {p.name for p in folder.iterdir()} == {"checkpoints", "run.json", "search.csv", "gates.csv"}
    saved = Checkpoints(folder, resume=True).restored
    assert saved is not None and saved.facts["state"]["weights"]["step"] == 2
    assert all(value.isfinite().all() for name, value in saved.tensors.items() if "supernet" in name)


def test_existing_run_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="exists; name another with out="):
        search(device="vpu", budget_ms=30, out=str(tmp_path), **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_full_training_of_a_found_network_exports_again(finished: Finished, tmp_path: Path) -> None:
    data = DataSettings(resolution=48, limit=120)
    recipe = Recipe(
        epochs=1, batch_size=16, accumulate=2, mixup=0.2, cutmix=1.0, ema=0.9, drop_path=0.1, layer_scale=1e-6
    )
    source = str(finished.folder / "architecture.json")
    command = TrainCommand(architecture=source, resolution=48, out=str(tmp_path / "full"))
    trained = full_training(command, data, recipe, progress=False)
    assert trained is not None
    result, folder = trained
    assert load_result(folder / "architecture.json") == result == build(folder / "architecture.json")[0]
    assert result.architecture == finished.result.architecture
    assert result.budget == finished.result.budget
    assert (result.resolution.training, result.resolution.deployment) == (48, 224)
    names = {"architecture.json", "model.onnx", "latency_224.onnx", "weights.safetensors", "train.csv", "report.html"}
    names |= {"confusion.json", "SHA256SUMS"}
    assert {p.name for p in folder.iterdir()} == names


def test_options_from_python_have_the_commands_defaults() -> None:
    assert settings_from_dict(SearchSettings, with_defaults({})) == SearchSettings()
    from omegaconf import OmegaConf

    from nas.command.options import compose_options

    for name in DATA_SETS:
        values = OmegaConf.to_container(compose_options("search", [f"data={name}"]), resolve=True)
        assert isinstance(values, dict)
        values["data"].pop("epochs")
        assert values.pop("resume") is None
        composed = settings_from_dict(SearchSettings, {str(k): v for k, v in values.items()})
        assert composed == settings_from_dict(SearchSettings, with_defaults({"data": {"name": name}}))


@pytest.mark.parametrize(
    ("options", "near"),
    [
        ({"warmup": {"epoch": 2}}, "warmup.epochs"),
        ({"budgetms": 3}, "budget_ms"),
        ({"data": {"nam": "x"}}, "data.name"),
    ],
)
def test_a_typo_in_python_names_the_nearest_option(options: dict[str, Any], near: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean '{near}'"):
        search(**options)


def test_ctrl_c_keeps_what_was_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(*arguments: Any, **options: Any) -> list[float]:
        calls.append(1)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return checked(*arguments, **options)

    monkeypatch.setattr("nas.training.loop.checked", interrupted)
    with pytest.raises(Stopped, match=r"stopped; resume it with resume="):
        search(device="vpu", budget_ms=30, out=str(tmp_path / "run"), **{**SMALL, "train": {"batch_size": 8}})
    assert (tmp_path / "run" / "search.csv").is_file()


def test_a_batch_of_one_image_never_happens() -> None:
    """BatchNorm has no statistics of one image; 129 validation images are not 128 and one."""
    data = load(DataSettings(limit=518))
    assert len(data.validation) > 128
    sizes = [len(labels) for _, labels in data.batches(data.validation, 32, 128)]
    assert sum(sizes) == len(data.validation) and max(sizes) - min(sizes) <= 1 and max(sizes) <= 128


def test_budget_follows_devices_and_spaces() -> None:
    """The paper's limits in real milliseconds: vpu 30 binds in its space, cpu 300 and gpu 3 do not."""
    from latency_models import latency_table

    space = load_space("quadranet")
    ranges = {}
    for device in ("cpu", "vpu", "gpu"):
        table = latency_table(fit_latency_model(load_profile(device)), space, 224, 1000)
        ranges[device] = (table.minimum_ms, table.maximum_ms)
    assert ranges["vpu"][0] < 30 < ranges["vpu"][1]
    assert ranges["cpu"][1] < 300 and ranges["gpu"][1] < 3
