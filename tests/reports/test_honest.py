"""What a run says of its network is honest: beside the simplest answers, while it trains, and about what it was given.

Each test is of a complaint that users of other projects made in public; its docstring names where.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from nas.build import build
from nas.command.summary import next_step, one_network
from nas.data import ArraySource, DataSet, DataSettings, Split, load
from nas.report.answers import MOST_CLASSES
from nas.report.answers import by_class as class_bars
from nas.report.page import render_report, write_report
from nas.report.run import load_run
from nas.run import conclude as concluding
from nas.run.baseline import MOST_IMAGES, Pixels, fit_baseline
from nas.run.checkpoint import Checkpoint, Checkpoints
from nas.run.finished import load_finished
from nas.run.front_table import FRONT, load_front
from nas.run.log import TRAIN_LOG, TrainLog, load_train_log
from nas.run.progress import SearchProgress
from nas.run.result import ALONE, Accuracy, SearchResult, class_name, load_result, save_result
from nas.run.settings import TrainCommand
from nas.train import full_training
from nas.training.recipes import Recipe
from search_space import load_space
from search_space.errors import BadFile
from search_space.sums import renew_sum
from search_space.tables import read_table
from tests.commands import ENVIRONMENT
from tests.nas.report.test_report import write_sample
from tests.nas.run.test_result import sample_result

LINE = re.compile(r"(\w+) epoch (\d+)(?: of \d+)?, loss [\d.]+.*, [\d:]+ left")


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def write_images(root: Path, classes: dict[str, int], side: int = 32, tell: float = 0.0) -> Path:
    """Noise, a folder a class; `tell`: by how much every class is brighter than the one before."""
    draws = np.random.default_rng(0)
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for image in range(count):
            pixels = draws.normal(90 + tell * number, 20, (side, side, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{image}.png")
    return root


def write_architecture(path: Path) -> Path:
    """The smallest network of a space, as `Architecture.to_dict` gives it."""
    path.write_text(json.dumps(load_space("quadranet").smallest().to_dict()))
    return path


def shares_of(folder: Path, data: DataSet, pixels: int) -> tuple[float, dict[str, float]]:
    """model.onnx on the test images, counted image by image: all right answers, and those of every class."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    right: dict[str, list[bool]] = {}
    for images, labels in data.batches(data.test, pixels, 128):
        answers = session.run(None, {"images": images.contiguous().numpy()})[0].argmax(1)
        for answer, label in zip(answers.tolist(), labels.tolist(), strict=True):
            right.setdefault(data.class_names[label], []).append(answer == label)
    everything = [one for ones in right.values() for one in ones]
    return sum(everything) / len(everything), {name: sum(ones) / len(ones) for name, ones in right.items()}


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A training by the command on 190 good and 10 defect images that nothing tells apart; the folder it ran in."""
    folder = tmp_path_factory.mktemp("defects")
    write_images(folder / "my parts", {"defect": 10, "good": 190})
    write_architecture(folder / "plain.json")
    images = ["data=imagefolder", f"data.root={folder / 'my parts'}", "resolution=32"]
    done = command("nas.train", "plain.json", *images, "recipe.epochs=2", "threads=1", "out=run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_largest_class_stands_beside_the_accuracy(defects: tuple[Path, Any]) -> None:
    """chr5tphr/zennit 170: the same accuracy whatever the image, since most images are of the class always named.

    Also dotnet/machinelearning-modelbuilder 1996, which asks for the mean over the classes.
    """
    folder, done = defects
    found = load_result(folder / "run" / "architecture.json").accuracy
    assert found is not None and found.largest_class == pytest.approx(0.95)
    data = load(DataSettings("imagefolder", str(folder / "my parts"), validation_share=0.1))
    test, by_class = shares_of(folder / "run", data, 32)
    assert found.test == test and found.by_class == by_class and found.test_images == 40
    assert found.balanced == pytest.approx((by_class["defect"] + by_class["good"]) / 2)
    accuracy_line, last = done.stdout.splitlines()[-2:]
    assert f"test accuracy {found.test:.1%}" in accuracy_line and "largest class 95.0%" in accuracy_line
    assert accuracy_line.endswith("-> run") and "largest class (95.0%)" in last
    page = (folder / "run" / "report.html").read_text()
    assert "largest class 95.0 %" in page and "always naming the largest class" in page
    for name, share in by_class.items():
        assert re.search(f"<li><span>{name}</span>.*?<b>{100 * share:.1f} %</b></li>", page)


def test_the_last_line_is_a_command_with_the_runs_own_settings(defects: tuple[Path, Any]) -> None:
    """dusty-nv/jetson-inference 1546: a training ended with an accuracy near chance, and nothing said what to do."""
    folder, done = defects
    words = shlex.split(done.stdout.splitlines()[-1].partition("python -m ")[2])
    assert words[:2] == ["nas.train", "run/architecture.json"]
    assert {"data=imagefolder", f"data.root={folder / 'my parts'}", "resolution=32", "recipe.epochs=50"} <= set(words)
    shorter = ["recipe.epochs=1" if word == "recipe.epochs=50" else word for word in words]
    again = command(*shorter, "threads=1", "out=again", cwd=folder)
    assert again.returncode == 0 and (folder / "again" / "model.onnx").is_file(), again.stderr


def test_of_more_than_twenty_classes_the_worst_and_the_best_are_listed() -> None:
    """chr5tphr/zennit 170: an accuracy over all classes hides the one that is never named."""
    shares = {f"class {n}": n / 30 for n in range(30)}
    names = [bar.name for bar in class_bars(Accuracy("x", 0.5, 300, 0.5, "here", by_class=shares))]
    assert names[:10] == [f"class {n}" for n in range(10)] and names[11:] == [f"class {n}" for n in range(20, 30)]
    assert names[10] == "10 classes between them"
    few = dict(list(shares.items())[:MOST_CLASSES])
    assert [bar.name for bar in class_bars(Accuracy("x", 0.5, 300, 0.5, "here", by_class=few))] == list(few)
    assert class_bars(None) == []


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose classes differ in brightness alone, which a regression on pixels finds."""
    return write_images(tmp_path_factory.mktemp("images") / "bright", {"a": 60, "b": 60, "c": 60}, tell=40)


def trained_on(root: Path, folder: Path, **options: Any) -> tuple[SearchResult, Path]:
    """A training too short to learn anything, of a network given as an architecture alone."""
    said = options.pop("say", lambda line: None)
    source = write_architecture(folder / "plain.json")
    asked = TrainCommand(architecture=str(source), resolution=32, threads=1, out=str(folder / "run"), **options)
    images = DataSettings("imagefolder", str(root), resolution=32, validation_share=0.1)
    trained = full_training(asked, images, Recipe(epochs=1, lr=1e-6), progress=False, say=said)
    assert trained is not None
    return trained


def test_a_regression_on_pixels_that_does_better_is_said(bright: Path, tmp_path: Path) -> None:
    """dotnet/machinelearning-modelbuilder 2163: on the user's own images a low accuracy, with nothing to compare it."""
    result, folder = trained_on(bright, tmp_path)
    found = result.accuracy
    assert found is not None and found.baseline is not None and found.baseline > 0.95 > found.test
    assert found.largest_class == pytest.approx(1 / 3)
    said = next_step(result, folder)
    assert said is not None and f"below the {found.baseline:.1%} of a logistic regression on 16x16 pixels" in said
    assert f"data.root={bright}" in said and "recipe.lr=1e-06" in said
    page = (folder / "report.html").read_text()
    assert f"a logistic regression on 16x16 pixels reaches {100 * found.baseline:.1f} %" in page
    assert "below the" in page and load_result(folder / "architecture.json") == result


def test_the_last_line_of_a_search_compares_too(tmp_path: Path) -> None:
    """dotnet/machinelearning-modelbuilder 2163, for a search: what is enough is not followed by advice."""
    result = sample_result()
    settings = {"data": {"name": "imagefolder", "root": "/photos", "resolution": 128, "limit": 900}}
    good = Accuracy("photos", 0.6, 300, 0.6, "here", 0.25, {}, 0.6, 0.39)
    result = replace(result, accuracy=good, provenance={"settings": settings})
    line = one_network(result, tmp_path).splitlines()[-1]
    compared = "test accuracy 60.0% (model.onnx, 300 images; largest class 25.0%; a logistic regression on 16x16 pixels"
    assert f"{compared} reaches 39.0%" in line and line.endswith(f"-> {tmp_path}")
    assert next_step(result, tmp_path) is None
    said = next_step(replace(result, accuracy=replace(good, test=0.353)), tmp_path)
    assert said is not None
    words = shlex.split(said.partition("python -m ")[2])
    assert words[1:] == [
        str(tmp_path / "architecture.json"), "data=imagefolder", "data.root=/photos", "data.limit=900",
        "resolution=64", "recipe.epochs=50",
    ]  # fmt: skip
    own = replace(result, accuracy=replace(good, test=0.353), provenance={"settings": {"data": {"name": "digits"}}})
    assert "data=NAME data.root=PATH" in (next_step(own, tmp_path) or "")


@pytest.mark.parametrize(
    ("test", "largest", "baseline", "doubts"),
    [
        (0.97, 0.95, 0.9, 1),  # of 40 images within chance of 38
        (1.0, 0.6, 1.0, 0),
        (0.5, 0.25, 0.51, 1),
        (0.2, 0.25, 0.3, 2),
        (0.2, None, None, 0),  # of an earlier version's file
    ],
)
def test_what_is_doubted(test: float, largest: float | None, baseline: float | None, doubts: int) -> None:
    """chr5tphr/zennit 170: a share that lies above the largest class by less than the noise is no better."""
    assert len(Accuracy("x", test, 40, 0.5, "here", largest, {}, None, baseline).doubts) == doubts


def test_the_comparison_changes_neither_weights_nor_random_state(
    bright: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dotnet/machinelearning-modelbuilder 2163; a comparison that changes what it is compared with is worth nothing."""
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    result, folder = trained_on(bright, tmp_path / "with")
    monkeypatch.setattr(concluding, "fit_baseline", lambda pixels, classes: (None, "it is left out"))
    other, elsewhere = trained_on(bright, tmp_path / "without")
    assert (folder / "weights.safetensors").read_bytes() == (elsewhere / "weights.safetensors").read_bytes()
    assert other.accuracy is not None and result.accuracy == replace(
        other.accuracy, baseline=result.accuracy.baseline if result.accuracy else None
    )
    assert other.accuracy.baseline is None and "it is left out" in other.notes[-1]
    states = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    pixels = Pixels(64)
    draws = torch.Generator().manual_seed(1)
    batch = torch.randn(64, 3, 20, 20, generator=draws), torch.arange(64) % 2
    ((images, labels),) = pixels.passing([batch])
    assert images is batch[0] and labels is batch[1]
    assert fit_baseline(pixels, 2)[0] is not None
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == str(np.random.get_state())  # noqa: NPY002


def test_the_comparison_is_bounded_and_says_where_there_is_none() -> None:
    """dotnet/machinelearning-modelbuilder 2163; on 5,000 images at most, and none where it would not take seconds."""
    pixels = Pixels(MOST_IMAGES + 1000)
    for start in range(0, MOST_IMAGES + 1000, 500):
        list(pixels.passing([(torch.zeros(500, 3, 16, 16), torch.full((500,), start // 500))]))
    assert sum(map(len, pixels.labels)) == MOST_IMAGES
    assert len(np.unique(np.concatenate(pixels.labels))) == 12  # of a pack that comes class by class every one
    fitted, why = fit_baseline(pixels, 1000)
    assert fitted is None and "1000 classes" in why
    alone = Pixels(4)
    list(alone.passing([(torch.zeros(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64))]))
    assert fit_baseline(alone, 2) == (None, "its training images are all of one class")


def test_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """microsoft/nni 3171: what an earlier search exported has to be of use later."""
    record = sample_result().to_dict()
    for name in ("largest_class", "by_class", "balanced", "baseline"):
        del record["accuracy"][name]
    (tmp_path / "architecture.json").write_text(json.dumps(record))
    accuracy = load_result(tmp_path / "architecture.json").accuracy
    assert accuracy is not None and accuracy.largest_class is None and accuracy.by_class == {}
    columns = [name for name in FRONT.names if name not in ("largest_class", "derived")]
    cells = ".,vpu,30,29,0.97,True,1,2,3,0.5,0.6,a | b,,measured"
    (tmp_path / "front.csv").write_text(f"{','.join(columns)}\n{cells}\n")
    assert load_front(tmp_path)[0].largest_class is None and load_front(tmp_path)[0].test == 0.6


def test_a_training_says_an_epoch_a_line_and_leaves_its_log_and_page(defects: tuple[Path, Any]) -> None:
    """Lightning-AI/pytorch-lightning 6647: a progress bar is of no use in a log; a line an epoch is."""
    folder, done = defects
    lines = [line for line in done.stderr.splitlines() if LINE.fullmatch(line)]
    assert [line.split(",")[0] for line in lines] == ["train epoch 1 of 2", "train epoch 2 of 2"]
    assert "epoch 1" not in done.stdout
    log = load_train_log(folder / "run")
    assert tuple(log.columns) == TRAIN_LOG.names and log["epoch"].tolist() == [1, 2, 2]
    assert log["train_loss"].notna().tolist() == [True, True, False]
    result = load_result(folder / "run" / "architecture.json")
    assert result.accuracy is not None and log["val_accuracy"].iloc[-1] == pytest.approx(result.accuracy.validation)
    assert load_finished(folder / "run").log.equals(log)
    assert result.budget is None and set(result.latency) >= {"cpu", "vpu"}
    page = (folder / "run" / "report.html").read_text()
    assert "The course of the training" in page and 'href="train.csv"' in page and "Gate probabilities" not in page
    assert page == render_report(load_run(folder / "run"))


def test_a_search_says_an_epoch_a_line_where_no_terminal_is(tmp_path: Path) -> None:
    """Lightning-AI/pytorch-lightning 6647, for the search: on the error stream, so that the output stays as it is."""
    small = ["data.resolution=32", "data.limit=60", "warmup.epochs=1", "epochs=1", "finetune.epochs=2", "rerank=1"]
    done = command("nas.search", "device=vpu", "budget_ms=30", "out=run", "threads=1", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = [LINE.fullmatch(line) for line in done.stderr.splitlines()]
    assert [m and (m[1], m[2]) for m in found] == [
        ("warmup", "1"), ("search", "2"), ("finetune", "1"), ("finetune", "2"),
    ]  # fmt: skip
    assert all("/30ms" in line for line in done.stderr.splitlines())
    assert not any(LINE.fullmatch(line) for line in done.stdout.splitlines())


def test_lines_only_where_they_were_not_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning-AI/pytorch-lightning 6647: a line when an epoch ends, not one a step."""
    for enabled in (None, False):
        with SearchProgress(40, enabled) as bar:
            bar.skip(20)
            for step in range(20):
                bar.advance("search", loss=1 / (step + 1), part=f"epoch {step // 10 + 1}")
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == (2 if enabled is None else 0)
        if lines:
            assert lines[0].startswith("search epoch 1, loss 0.100, ") and lines[1].endswith(", 0:00 left")


def test_the_log_of_a_training_survives_a_stop(tmp_path: Path) -> None:
    """Lightning-AI/pytorch-lightning 6647: what was said of a training that resumes is there in the end."""
    checkpoints = Checkpoints(tmp_path)
    log = TrainLog(tmp_path, checkpoints, 100)
    for step in range(1, 151):
        log.step(step, 1 + (step - 1) // 100, 1 / step)
    checkpoints.keep("training", 150, Checkpoint, now=True)
    again = TrainLog(tmp_path, Checkpoints(tmp_path, resume=True), 100)
    assert [row.step for row in again.rows] == list(range(10, 151, 10))  # ten of an epoch
    assert again.rows == log.rows
    again.end(2, 0.5)
    assert len(read_table(tmp_path / "train.csv", TRAIN_LOG)) == 16


def test_the_page_of_a_training_shows_a_budget_where_there_is_one(tmp_path: Path) -> None:
    """microsoft/nni 3171: the network that was found and trained again is the one to be described."""
    write_sample(tmp_path)
    for name in ("search.csv", "gates.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(BadFile, match=r"search\.csv"):
        write_report(tmp_path)
    (tmp_path / "train.csv").write_text(f"{','.join(TRAIN_LOG.names)}\n5,1,2.5,,1\n10,2,2.25,,2\n10,2,,0.5,3\n")
    page = write_report(tmp_path).read_text()
    assert "ms budget on" in page and "trained in full" in page
    assert "Expected latency" not in page and "from 2.5 to 2.25" in page
    (tmp_path / "train.csv").write_text(f"{','.join(TRAIN_LOG.names)}\n5,1,nan,,1\n")
    with pytest.raises(BadFile, match=r"train\.csv row 2: train_loss"):
        write_report(tmp_path)
    result = replace(load_result(tmp_path / "architecture.json"), budget=None, latency={})
    save_result(result, tmp_path / "architecture.json")
    (tmp_path / "train.csv").write_text(f"{','.join(TRAIN_LOG.names)}\n")
    page = write_report(tmp_path).read_text()  # no device, no step
    assert "train.csv holds no steps" in page


def test_weights_of_other_classes_are_said(bright: Path, tmp_path: Path) -> None:
    """WePCf/darknet-mobilenet-v2 2: the weights' labels stood in another order, and nothing noticed."""
    for name in ("first", "same", "other"):
        (tmp_path / name).mkdir()
    _, first = trained_on(bright, tmp_path / "first")
    said: list[str] = []
    weights = str(first / "weights.safetensors")
    result, _ = trained_on(bright, tmp_path / "same", weights=weights, say=said.append)
    assert not [line for line in [*said, *result.notes] if "other classes" in line]
    before = load_result(first / "architecture.json")
    names = replace(before.input, class_names=("a", "owl", "c"))
    save_result(replace(before, input=names), first / "architecture.json")
    renew_sum(first / "architecture.json")
    result, _ = trained_on(bright, tmp_path / "other", weights=str(first), say=said.append)
    (note,) = [note for note in result.notes if "other classes" in note]
    assert "'owl'" in note and "'b'" in note and "class 1" in note and f"note: {note}" in said


def test_a_folder_stands_for_the_files_in_it(bright: Path, tmp_path: Path) -> None:
    """A run's folder is what people have at hand; what it lacks is said by name. ultralytics 9896."""
    with pytest.raises(BadFile, match=rf"no file '{tmp_path}/architecture\.json'"):
        full_training(TrainCommand(architecture=str(tmp_path)), DataSettings(), Recipe())
    with pytest.raises(BadFile, match=rf"no file '{tmp_path}/weights\.safetensors'"):
        trained_on(bright, tmp_path, weights=str(tmp_path))


def test_an_architecture_alone_is_built_and_trained(bright: Path, tmp_path: Path) -> None:
    """microsoft/nni 3171: an exported architecture is what people want to build and to train from scratch."""
    path = write_architecture(tmp_path / "plain.json")
    found, network = build(path)
    assert found.architecture == load_space("quadranet").smallest() and found.budget is None
    assert ALONE in found.notes and found.cost.params == sum(p.numel() for p in network.parameters())
    result, folder = trained_on(bright, tmp_path)
    assert result.architecture == found.architecture and ALONE in result.notes and result.num_classes == 3
    built, _ = build(path, folder / "weights.safetensors")
    assert built.num_classes == 3
    done = command("nas.build", "plain.json", "--onnx", "x.onnx", cwd=tmp_path)
    assert done.returncode == 0 and ALONE in done.stdout and "1000 classes" in done.stdout, done.stderr
    assert "not trained" in done.stdout.splitlines()[-1]
    for content, named in (
        ({"num_classes": 3}, "'schema'"),
        ({**found.architecture.to_dict(), "stages": []}, "stages"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(BadFile, match=named):
            build(path)


def test_images_from_python_are_compared_too(tmp_path: Path) -> None:
    """dotnet/machinelearning-modelbuilder 2163, with images in memory, and two classes of one name."""
    from nas.run.baseline import reduced

    images = np.zeros((8, 24, 24, 3), np.uint8)
    images[4:] = 200
    split = Split(ArraySource(images), np.arange(8), np.arange(8) // 4)
    data = DataSet("mine", ("same", "same"), split, split, split)
    (batch,) = [x for x, _ in data.batches(split, 32, 8)]
    assert reduced(batch).shape == (8, 3 * 16 * 16)
    pixels = Pixels(8)
    list(pixels.passing(data.batches(split, 32, 8)))
    baseline, why = fit_baseline(pixels, 2)
    assert baseline is not None and not why
    assert sorted(baseline(batch).tolist()) == [0] * 4 + [1] * 4
    assert [class_name(data.class_names, n) for n in (0, 1)] == ["same (0)", "same (1)"]
