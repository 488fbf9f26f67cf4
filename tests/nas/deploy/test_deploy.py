"""A run's network as a file for a runtime, from the command line, in onnxruntime, which needs no extra."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from latency_models.measure.kernel_onnx import network_item
from nas.api import search
from nas.data import DataSettings, load
from nas.deploy import Convertible, Delegation, Files, Pixels, work
from nas.deploy.__main__ import main
from nas.deploy.card import Card
from nas.deploy.finished import deploy_finished
from nas.deploy.onnxruntime import TARGET, OnnxSession
from nas.run.chosen import chosen_before
from nas.run.conclude import conclude
from nas.run.finished import load_finished
from nas.run.plan import plan_search
from nas.run.result import Resolution, result_of
from nas.run.settings import SearchSettings, settings_from_dict
from nas.training.loop import train_network
from nas.training.recipes import Recipe
from search_space import load_space, lower
from search_space.build import Network
from search_space.errors import UserError
from tests import ROOT
from tests.latency_models.tiny import shorten

MINIATURE = str(ROOT / "experiments/spaces/miniature.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network trained briefly on handwritten digits at 32 pixels, for 48."""
    folder = tmp_path_factory.mktemp("run")
    settings = DataSettings("digits", resolution=32, limit=600)
    data, space = load(settings), load_space(MINIATURE)
    found = replace(result_of(space.smallest(), data.num_classes), resolution=Resolution(48, 32))
    chosen = chosen_before(found, data.num_classes, 32)
    torch.manual_seed(0)
    network = Network(chosen.training_segments)
    train_network(network, data, data.train, 32, Recipe(epochs=3, batch_size=32, lr=0.005), 0)
    conclude(folder, network, chosen, data, (), {"data": asdict(settings)})
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)
    small = network_item("reference", lower(load_space(MINIATURE).smallest(), 32, 10))
    monkeypatch.setattr(work, "reference_item", lambda: small)


def command(*arguments: str | Path) -> int:
    return main([*map(str, arguments), "busy=accept"])


def card_in(folder: Path) -> Card:
    return Card.from_dict(json.loads((folder / "card.json").read_text(encoding="utf-8")), "card.json")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert command(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_file_is_measured_in_its_runtime(
    precision: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command(run, "target=onnxruntime", f"precision={precision}", f"out={out}", "calibration=20") == 0
    card = card_in(out)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"onnxruntime {precision}: ") and str(out) in last
    assert sorted(path.name for path in out.iterdir()) == ["card.json", "model.onnx"]
    about = json.loads((run / "architecture.json").read_text())
    assert card.before.accuracy == about["accuracy"]["test"] and card.test_images == about["accuracy"]["test_images"]
    assert card.before.ms and card.after.ms and card.partitions is None
    assert (card.in_fp32 is None, card.calibration_images) == ((True, 0) if precision == "fp32" else (False, 20))
    assert card.parity.real and 0 < card.parity.largest_difference < (1e-4 if precision == "fp32" else 0.2)
    # what the card says is what anybody measures with the file and the pictures alone
    data = load(DataSettings("digits", resolution=32, limit=600))
    session, right = onnxruntime.InferenceSession(out / "model.onnx"), 0
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("image", "tensor(uint8)", [1, 32, 32, 3])
    assert (given.name, given.shape) == ("probabilities", [1, 10])
    for images, labels in data.batches(data.test, 32, 64):
        for image, label in zip(work.as_pixels(images, data), labels.tolist(), strict=True):
            (found,) = session.run(None, {"image": image[None]})
            assert found.sum() == pytest.approx(1, abs=1e-5)
            right += int(found.argmax()) == label
    assert right / card.test_images == card.after.accuracy
    said = session.get_modelmeta().custom_metadata_map
    assert said["classes"].split("\n") == list(card.classes) and said["resolution"] == "32"
    assert "mean" not in said and said["crop"] == card.input["crop"] == "whole"
    operators = {node.op_type for node in onnx.load(out / "model.onnx").graph.node}
    assert ("QuantizeLinear" in operators) == (precision == "int8")


def test_several_precisions_are_converted_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets what it gets alone, and the whole file is theirs."""
    shutil.copytree(run, tmp_path / "run")
    conversions: list[Sequence[str]] = []
    convert = TARGET.convert

    def counted(model: Convertible, precisions: Sequence[str], images: Sequence[Pixels]) -> Mapping[str, Files]:
        conversions.append(precisions)
        return convert(model, precisions, images)

    monkeypatch.setattr(TARGET, "convert", counted)
    own = "nas.deploy.onnxruntime:TARGET"
    words = [f"target=onnxruntime,{own}", "precision=int8,fp32", "calibration=20"]
    assert command(tmp_path / "run", *words) == 0
    assert conversions == [["fp32", "int8"]] * 4  # of two targets, at two resolutions each
    said = capsys.readouterr().out.splitlines()
    last = [line.split(": ")[0] for line in said if " -> " in line]
    assert last == ["onnxruntime int8", "onnxruntime fp32", f"{own} int8", f"{own} fp32"]
    together = {p: tmp_path / "run/deploy" / f"onnxruntime_{p}" for p in ("fp32", "int8")}
    for precision, folder in together.items():
        alone = tmp_path / precision
        assert command(run, "target=onnxruntime", f"precision={precision}", "calibration=20", f"out={alone}") == 0
        assert (alone / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
        one, other = card_in(alone), card_in(folder)
        assert (one.parity, one.after.accuracy, one.calibration_images, one.files) == (
            other.parity,
            other.after.accuracy,
            other.calibration_images,
            other.files,
        )
        assert other.after.ms and (other.in_fp32 is None) == (precision == "fp32")


def test_nobody_is_asked_to_quantise_without_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    about = json.loads((run / "architecture.json").read_text())
    about["provenance"]["data"] = {"name": "imagefolder", "root": str(tmp_path / "gone")}
    (tmp_path / "run/architecture.json").write_text(json.dumps(about))
    line = fails(capsys, tmp_path / "run", "target=onnxruntime", "precision=int8")
    assert "training images" in line and "data.root=" in line and "gone" in line
    assert command(tmp_path / "run", "target=onnxruntime") == 0
    card = card_in(tmp_path / "run/deploy/onnxruntime_fp32")
    assert card.after.accuracy is None and not card.parity.real and "not at hand" in card.notes[0]
    assert "not measured" in capsys.readouterr().out.splitlines()[-1]


def test_mistakes_are_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "target=" in fails(capsys, run)
    assert "onnxruntime" in fails(capsys, run, "target=onnxruntme")
    assert "int8, dynamic_int8" in fails(capsys, run, "target=onnxruntime", "precision=int4")
    assert "onnxruntime" in fails(capsys, run, "target=onnxruntime,onnxruntme")
    assert "precision=int4" in fails(capsys, run, "target=onnxruntime", "precision=fp32,int4")
    one = f"out={tmp_path / 'one'}"
    assert "for one target" in fails(capsys, run, "target=onnxruntime,nas.deploy.onnxruntime:TARGET", one)
    assert "for one precision" in fails(capsys, run, "target=onnxruntime", "precision=fp32,int8", one)
    assert not (tmp_path / "one").exists()
    assert "architecture.json" in fails(capsys, tmp_path / "nowhere", "target=onnxruntime")
    assert "missing run=" in fails(capsys, "target=onnxruntime")
    (tmp_path / "taken").write_text("a file")
    assert "taken" in fails(capsys, run, "target=onnxruntime", f"out={tmp_path / 'taken'}")
    assert "/proc" in fails(capsys, run, "target=onnxruntime", "out=/proc/deployed")
    shutil.copytree(run, tmp_path / "later")
    about = json.loads((run / "architecture.json").read_text())
    (tmp_path / "later/architecture.json").write_text(json.dumps({**about, "schema": 2}))
    assert "schema" in fails(capsys, tmp_path / "later", "target=onnxruntime")


class Wrong:
    """A target of one's own, whose files give the same answer for every picture."""

    precisions: Sequence[str] = ("fp32", "int8")
    packages: Mapping[str, str] = {}
    extra = ""

    def convert(self, model: Convertible, precisions: Sequence[str], images: Sequence[Pixels]) -> Mapping[str, Files]:
        assert "int8" not in precisions or len(images) > 1
        return {precision: TARGET.convert(model, ["fp32"], [])["fp32"] for precision in precisions}

    def open(self, files: Files, threads: int) -> OnnxSession:
        session = OnnxSession(files[".onnx"], threads)
        session.delegation = Delegation(3, {"MUL": 2})

        class Same(OnnxSession):
            def __init__(self) -> None:
                self.delegation = session.delegation

            def __call__(self, image: Pixels) -> np.ndarray:
                return np.eye(10, dtype=np.float32)[:1]

        return Same()


WRONG = Wrong()


def test_a_target_of_ones_own_that_is_wrong_is_found_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = f"target={__name__}:WRONG"
    line = fails(capsys, run, own, f"out={tmp_path / 'out'}")
    assert "differs from torch" in line and "nothing was written" in line
    assert list((tmp_path / "out").iterdir()) == []
    assert command(run, own, "precision=int8", f"out={tmp_path / 'out'}") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "warning: it loses" in last and "the delegate takes it in 3 parts" in last
    assert card_in(tmp_path / "out").not_delegated == {"MUL": 2}


def test_a_busy_machine_leaves_the_file_untimed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(reference: object, waited: object) -> None:
        raise work.timing.Refused("this machine is busy")

    monkeypatch.setattr(work.timing, "check_quiet", busy)
    assert main([str(run), "target=onnxruntime", f"out={tmp_path / 'out'}"]) == 0
    card = card_in(tmp_path / "out")
    assert card.after.ms is None and card.after.accuracy is not None and "busy" in card.notes[-1]
    assert "not timed at 48 pixels" in capsys.readouterr().out.splitlines()[-1]


def test_a_finished_run_is_deployed_to_what_its_settings_name(run: Path, tmp_path: Path) -> None:
    """What fails, and why, is one line; what else was asked for is made all the same, and the run stays as it is."""
    shutil.copytree(run, tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    settings = SearchSettings(deploy=(f"{__name__}:WRONG", "onnxruntime"))
    said: list[str] = []
    failed: list[str] = []
    deploy_finished(load_finished(tmp_path / "run"), settings, said.append, failed.append)
    (line,) = failed
    assert f"deploy={__name__}:WRONG failed: " in line and "differs from torch" in line and "\n" not in line
    assert line.endswith(f"the run has finished: python -m nas.deploy {tmp_path / 'run'} target={__name__}:WRONG")
    assert said[-1].startswith("onnxruntime fp32: ") and "-> " in said[-1]
    assert card_in(tmp_path / "run/deploy/onnxruntime_fp32").target == "onnxruntime"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted([*before, "deploy"])


def test_a_deployment_that_fails_warns_where_search_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = SimpleNamespace(settings=SearchSettings(deploy=("onnxruntime",)))
    monkeypatch.setattr("nas.api.plan_targets", lambda *asked: [plan])
    monkeypatch.setattr("nas.api.carry_out", lambda *asked, **options: object())
    monkeypatch.setattr("nas.deploy.finished.deploy_finished", lambda found, settings, say, failed: failed("no luck"))
    with pytest.warns(UserWarning, match="no luck") as said:
        search()
    assert said[0].filename == __file__


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"deploy": ["onnxruntme"]}, "Did you mean 'onnxruntime'"),
        ({"deploy": "nowhere.at.all:TARGET"}, "no module 'nowhere'"),
        ({"deploy": f"{__name__}:WRONG", "deploy_precision": "fp16"}, "has fp32, int8"),
        ({"deploy": "onnxruntime", "deploy_precision": "int4"}, "unknown deploy_precision 'int4'"),
    ],
)
def test_what_cannot_be_deployed_to_is_refused_before_the_search(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        plan_search(settings_from_dict(SearchSettings, asked), num_classes=10)
    assert "\n" not in str(caught.value)
