"""What a network is shown of a picture: mirrored or not, which part, and whether that stands where a deployer looks.

The pictures are made here; each test names the public report whose kind of fault it holds off.
"""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from nas.api import Finished, search
from nas.build import main as build
from nas.data import ArraySource, DataSet, DataSettings, Split, load
from nas.data.dataset import CENTRE_SHARE
from nas.data.settings import ImageFileSettings
from nas.data.splits import no_images
from nas.deploy import find_target
from nas.deploy.card import Card
from nas.deploy.opened import open_network
from nas.deploy.work import Asked, as_pixels, deploy
from nas.pack import pack
from nas.predict import Predictor, main
from nas.report.page import write_report
from nas.run.export import onnx_predictor
from nas.run.result import RESIZE, InputFormat, Preprocessing, load_result
from nas.run.settings import TrainCommand, settings_from_dict
from nas.supernet.origin import Origin, origin_of
from nas.train import full_training
from nas.training.recipes import Recipe
from search_space.errors import BadFile, UnknownName, UserError
from tests import ROOT
from tests.latency_models.tiny import shorten

Pixels = NDArray[np.uint8]
SIDE = 16  # pixels of the network's input where nothing is searched


def write_folder(folder: Path, pictures: dict[str, list[Pixels]]) -> str:
    """A folder of PNG files for every class."""
    for name, images in pictures.items():
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number:02}.png")
    return str(folder)


def arrows() -> dict[str, list[Pixels]]:
    """Grey of rising brightness with an arrow's head at the left or at the right; each is the mirror of the other."""
    found: dict[str, list[Pixels]] = {"left": [], "right": []}
    for number in range(20):
        image = np.full((SIDE, SIDE, 3), 5 * number, np.uint8)
        image[4:12, :4] = 255
        found["left"].append(image)
        found["right"].append(image[:, ::-1].copy())
    return found


def wide() -> dict[str, list[Pixels]]:
    """72x24 pixels, equal but for a mark near an end that only one class has."""
    found: dict[str, list[Pixels]] = {"marked": [], "plain": []}
    for number in range(20):
        image = np.full((24, 72, 3), 5 * number, np.uint8)
        found["plain"].append(image.copy())
        image[8:16, 2:10] = 255
        found["marked"].append(image)
    return found


def shown(data: DataSet, split: Split, training: bool, epochs: int = 1) -> dict[int, set[bytes]]:
    """What a network sees, by class, at `SIDE` pixels."""
    seen: dict[int, set[bytes]] = {}
    for epoch in range(epochs):
        for images, labels in data.batches(split, SIDE, 4, seed=1, epoch=epoch, training=training):
            for image, label in zip(images, labels, strict=True):
                seen.setdefault(int(label), set()).add(image.contiguous().numpy().tobytes())
    return seen


# Which pictures are shown.


def test_arrows_are_not_mirrored_where_the_option_says_so(tmp_path: Path) -> None:
    """AlexeyAB/darknet 674: pictures were always mirrored in training, so classes such as letters were mixed up."""
    settings = DataSettings("imagefolder", write_folder(tmp_path / "arrows", arrows()), crop="whole", flip=False)
    left, right = shown(data := load(settings), data.train, training=True, epochs=4).values()
    assert left.isdisjoint(right) and len(left) + len(right) <= len(data.train)
    mirrored = load(replace(settings, flip=None))  # the default of photos
    left, right = shown(mirrored, mirrored.train, training=True, epochs=4).values()
    assert left & right, "half of the pictures of either class look like the other's"


@pytest.mark.parametrize(("name", "flip", "crop"), [("digits", False, "shift"), ("imagefolder", True, "random")])
def test_options_that_are_not_given_change_nothing(name: str, flip: bool, crop: str, tmp_path: Path) -> None:
    """AlexeyAB/darknet 674 asked for a switch whose default leaves trainings as they were."""
    root = write_folder(tmp_path / "arrows", arrows()) if name == "imagefolder" else None
    settings = DataSettings(name, root)
    data, same = load(settings), load(replace(settings, flip=flip, crop=crop))
    assert (data.flip, data.crop) == (flip, crop)
    for training in (True, False):
        assert shown(data, data.test, training) == shown(same, same.test, training)
    other = load(replace(settings, flip=not flip))
    assert shown(data, data.test, True) != shown(other, other.test, True)
    assert shown(data, data.test, False) == shown(other, other.test, False), "the test is never mirrored"


def test_shards_keep_how_their_pictures_are_shown(tmp_path: Path) -> None:
    """AlexeyAB/darknet 674, of pictures that were packed: the switch is not lost on the way."""
    settings = DataSettings("imagefolder", write_folder(tmp_path / "arrows", arrows()), flip=False, crop="centre")
    pack(load(settings), tmp_path / "shards")
    again = DataSettings("webdataset", str(tmp_path / "shards"))
    assert (load(again).flip, load(again).crop) == (False, "centre")
    other = load(replace(again, flip=True, crop="whole"))
    assert (other.flip, other.crop) == (True, "whole")


def test_a_mark_near_the_end_of_a_wide_picture_is_seen(tmp_path: Path) -> None:
    """ultralytics/ultralytics 9896 and huggingface/pytorch-image-models 2463: the middle square cuts the class away."""
    settings = DataSettings("imagefolder", write_folder(tmp_path / "wide", wide()))
    blind = load(settings)
    everything = Split(blind.train.source, np.arange(40), np.repeat([0, 1], 20))
    marked, plain = shown(blind, everything, training=False).values()
    assert marked == plain, "the middle square has no mark: the default of photos, which the files must state"
    seeing = load(replace(settings, crop="whole"))
    for training in (True, False):
        marked, plain = shown(seeing, everything, training).values()
        assert marked.isdisjoint(plain) and len(marked) == 20


def test_crops_are_what_they_are_called() -> None:
    """huggingface/pytorch-image-models 2463: whether the middle or all of a picture is shown must be a choice."""
    draws = np.random.default_rng(0)
    images = draws.integers(0, 256, (8, SIDE, 3 * SIDE, 3), dtype=np.uint8)
    split = Split(ArraySource(images), np.arange(8), np.arange(8) % 2)
    data = DataSet("noise", ("a", "b"), split, split, split, flip=False)
    side = round(CENTRE_SHARE * SIDE)
    top, left = (SIDE - side) // 2, (3 * SIDE - side) // 2
    middle = Split(ArraySource(images[:, top : top + side, left : left + side]), split.indices, split.labels)
    everything, square = shown(data, split, training=False), shown(data, middle, training=False)
    assert everything != square
    for crop, expected in (("whole", everything), ("shift", everything), ("centre", square), ("random", square)):
        assert shown(data.varied(None, crop), split, training=False) == expected, crop
    for crop, expected in (("whole", everything), ("centre", square)):
        assert shown(data.varied(None, crop), split, training=True) == expected, crop
    for crop in ("shift", "random"):
        assert shown(data.varied(None, crop), split, training=True) not in (everything, square), crop
    for earlier, crop in (("none", "whole"), ("resized", "random")):
        assert data.varied(None, earlier).crop == crop


def test_a_crop_that_is_none_is_refused() -> None:
    """ultralytics/ultralytics 9896, of a reader who misspells the remedy."""
    with pytest.raises(UnknownName, match=r"data\.crop 'center'.*'centre'"):
        settings_from_dict(DataSettings, {"name": "digits", "crop": "center"}, "data.")
    with pytest.raises(UserError, match=r"data\.flip.*true or false"):
        settings_from_dict(DataSettings, {"name": "digits", "flip": "up"}, "data.")
    with pytest.raises(UnknownName, match="crop 'middle'"):
        load(DataSettings("digits")).varied(None, "middle")


# Where it stands.

SIZES = ((72, 24), (24, 72), (20, 20), (90, 70), (33, 60), (32, 32), (200, 31), (640, 480))  # width, height
PHOTOS = 10  # of each size and class; those of the last size are JPEGs, every third of the second size is transparent


@pytest.fixture(scope="module", params=[None, "whole"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, DataSet]]:
    """A finished search on photos of many sizes, some of them lying on their side by EXIF, with its images."""
    folder, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for label, name in enumerate(("dull", "noisy", "striped")):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(len(SIZES) * PHOTOS):
            width, height = SIZES[number % len(SIZES)]
            image = draws.integers(0, 40 + 100 * label, (height, width, 3), dtype=np.uint8)
            if label == 2:
                image[:, ::4] = 255
            path = folder / "photos" / name / (f"{number}.jpg" if width == 640 else f"{number}.png")
            if number % len(SIZES) == 1 and number % 3 == 0:
                image = np.dstack([image, draws.integers(0, 256, (height, width, 1), dtype=np.uint8)])
            Image.fromarray(image).save(path, exif=turned if number % 3 == 0 else Image.Exif())
    settings = ImageFileSettings(
        "imagefolder", str(folder / "photos"), resolution=32, flip=False, crop=request.param, ground="black"
    )
    finished = search(
        device="cpu",
        budget_ms=30,
        space=str(ROOT / "experiments/spaces/miniature.yaml"),
        data={**asdict(settings), "name": "imagefolder"},
        warmup={"epochs": 0},
        epochs=1,
        finetune={"epochs": 2},
        train={"batch_size": 16},
        threads=1,
        accelerator="cpu",
        out=str(folder / "run"),
        progress=False,
    )
    assert isinstance(finished, Finished)
    yield finished.folder, load(settings)


def evaluated(data: DataSet) -> list[tuple[Path, NDArray[np.float32]]]:
    """Every test image's file, and what the network is shown of it in evaluation, (1, 3, 32, 32)."""
    found = []
    for position in range(len(data.test)):
        one = data.test.take(np.array([position]))
        ((images, _),) = data.batches(one, 32, 1)
        found.append((data.test.source.items[int(one.indices[0])], images.numpy()))  # type: ignore[attr-defined]
    return found


def metadata_of(path: Path) -> dict[str, str]:
    said: dict[str, str] = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    return said


def test_the_files_say_what_the_network_expects(
    run: tuple[Path, DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface/pytorch-image-models 2463: a crop that no file mentions cannot be repeated where it is deployed."""
    folder, data = run
    crop = "centre" if data.crop == "random" else "whole"
    share = 0.875 if crop == "centre" else 1.0
    expected = Preprocessing(crop, share, data.crop, False, RESIZE, "RGB", "black")
    result = load_result(folder / "architecture.json")
    assert result.input == data.inputs and result.input.preprocessing == expected
    words = {
        "crop": crop,
        "crop_share": str(share),
        "training_crop": data.crop,
        "training_flip": "false",
        "resize": RESIZE,
        "colours": "RGB",
        "ground": "black",
        "classes": "dull\nnoisy\nstriped",
    }
    monkeypatch.setattr(
        sys, "argv", ["build", str(folder / "architecture.json"), "--onnx", str(tmp_path / "again.onnx")]
    )
    build()
    for path in (folder / "model.onnx", folder / "latency_224.onnx", tmp_path / "again.onnx"):
        assert words.items() <= metadata_of(path).items(), path
    page = (folder / "report.html").read_text(encoding="utf-8")
    (row,) = re.findall(r"<tr>(?:(?!</tr>).)*?<t[dh][^>]*>input</t[dh]>.*?</tr>", page, re.DOTALL)
    part = "the middle square, 0.875 of the shorter side" if crop == "centre" else "all of it"
    assert f"{part}, resized to 32 × 32 ({RESIZE}), RGB, transparent parts on black" in row
    assert f"training crop {data.crop} and not mirrored" in row and "0.485 0.456 0.406" in row


def test_files_of_earlier_versions_are_read(run: tuple[Path, DataSet], tmp_path: Path) -> None:
    """huggingface/pytorch-image-models 2463, of networks trained before the files spoke of it: that is not made up."""
    folder, _ = run
    shutil.copytree(folder, tmp_path / "run")
    about = json.loads((folder / "architecture.json").read_text())
    del about["input"]["preprocessing"]
    (tmp_path / "run/architecture.json").write_text(json.dumps(about))
    (tmp_path / "run/SHA256SUMS").unlink()
    assert load_result(tmp_path / "run/architecture.json").input.preprocessing is None
    assert "crop not recorded" in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_a_supernet_is_asked_about_pictures_shown_as_in_its_training() -> None:
    """AlexeyAB/darknet 674: a supernet trained on mirrored letters is no start for a search that must not mirror."""
    shipped = origin_of("pretrained")
    assert shipped.inputs.preprocessing is None, "its file is of an earlier version"
    own = shipped.inputs
    for crop in ("shift", "whole"):
        shipped.check_inputs(no_images("cifar10", own).varied(None, crop).inputs)
    stated = no_images("cifar10", own).inputs
    origin: Origin = replace(shipped, inputs=stated)
    origin.check_inputs(stated)
    origin.check_inputs(own)
    assert no_images("cifar10", replace(shipped, inputs=stated).inputs).inputs == stated
    with pytest.raises(UserError, match=r"data\.flip=true data\.crop=shift, not with data\.flip=false"):
        origin.check_inputs(no_images("cifar10", own).varied(False, None).inputs)
    with pytest.raises(UserError, match="10 classes such as 'airplane'"):
        origin.check_inputs(InputFormat(own.mean, own.std, ("a", "b"), stated.preprocessing))


def test_a_search_hands_its_preprocessing_on_to_those_from_it(run: tuple[Path, DataSet], tmp_path: Path) -> None:
    """huggingface/pytorch-image-models 2463, of a network chosen again from a finished run."""
    folder, data = run
    common = {"device": "cpu", "budget_ms": 30, "init": str(folder), "threads": 1, "progress": False}
    chosen = search(**common, out=str(tmp_path / "chosen"))
    assert isinstance(chosen, Finished) and chosen.result.input == data.inputs
    with pytest.raises(UserError, match=r"data\.flip=true .*leave out data\.flip="):
        search(**common, data={"flip": True}, out=str(tmp_path / "other"))


def test_a_full_training_shows_pictures_as_the_search_did(run: tuple[Path, DataSet], tmp_path: Path) -> None:
    """AlexeyAB/darknet 674, of letters: a switch that was given to the search is not forgotten by the next command."""
    folder, data = run
    command = TrainCommand(
        str(folder / "architecture.json"), resolution=32, threads=1, accelerator="cpu", out=str(tmp_path / "trained")
    )
    images = ImageFileSettings("imagefolder", str(folder.parent / "photos"), resolution=32, ground="black")
    trained = full_training(command, images, Recipe(epochs=1, lr=1e-6, batch_size=16), progress=False)
    assert trained is not None and trained[0].input == data.inputs
    (tmp_path / "few").mkdir()
    for name in ("dull", "noisy"):
        shutil.copytree(folder.parent / "photos" / name, tmp_path / "few" / name)
    command, images = replace(command, out=str(tmp_path / "others")), replace(images, root=str(tmp_path / "few"))
    trained = full_training(command, images, Recipe(epochs=1, lr=1e-6, batch_size=16), progress=False)
    assert trained is not None and trained[0].input.preprocessing is not None
    assert trained[0].input.preprocessing.training_flip, "other classes: the default of photos"


# Whether it can be repeated.


def script_of_the_docs() -> str:
    """The block that needs nothing of this project."""
    text = (ROOT / "docs/photos.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "photo.jpg" in b]
    return str(block)


def test_the_script_of_the_docs_sees_what_the_evaluation_sees(
    run: tuple[Path, DataSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ultralytics/ultralytics 9896 and huggingface/pytorch-image-models 2463: as evaluated, so deployed."""
    folder, data = run
    script = script_of_the_docs()
    assert not re.search(r"\b(nas|search_space|torch)\b", script)
    shutil.copytree(folder, tmp_path / "runs/RUN")
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    network, sizes, scales = onnx_predictor(folder / "model.onnx"), set(), set()
    for path, images in evaluated(data):
        shutil.copy(path, "photo.jpg")  # Pillow reads it as what it is
        here = runpy.run_path("script.py")
        expected = network.session.run(None, {"images": images})[0]
        assert np.abs(here["logits"] - expected).max() < 1e-4, path
        assert capsys.readouterr().out == f"{data.class_names[expected[0].argmax()]}\n"
        sizes.add(here["image"].shape)
        scales.add(here["scale"])
    assert len(sizes) > 5, "tall, wide, small and large ones were among them"
    assert len(scales) > 1, "some were decoded at a smaller scale"


def test_the_command_says_what_the_evaluation_says(
    run: tuple[Path, DataSet], capsys: pytest.CaptureFixture[str]
) -> None:
    """huggingface/pytorch-image-models 2463: what was evaluated is what is deployed."""
    folder, data = run
    predictor, network = Predictor.load(folder), onnx_predictor(folder / "model.onnx")
    files = []
    for path, images in evaluated(data):
        image = predictor.read(path)
        assert np.abs(predictor.shown(image) - images).max() < 1e-4
        expected = network.session.run(None, {"images": images})[0][0]
        assert np.abs(predictor.logits(image) - expected).max() < 1e-4, path
        powers = np.exp(expected - expected.max())
        assert predictor.probabilities(image) == pytest.approx(powers / powers.sum(), abs=1e-4)
        best = int(expected.argmax())
        files.append((path, f"{path}: {data.class_names[best]} {(powers / powers.sum())[best]:.1%}"))
    main([*(str(path) for path, _ in files), f"model={folder}"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(files)
    for line, (path, wanted) in zip(lines, files, strict=True):
        said, to = (re.fullmatch(rf"{re.escape(str(path))}: (\w+) ([\d.]+)%.*", text) for text in (line, wanted))
        assert said and to and said[1] == to[1] and abs(float(said[2]) - float(to[2])) < 0.11


@pytest.fixture(
    scope="module",
    params=[("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("litert", "fp32"), ("openvino", "fp32")],
    ids="-".join,
)
def deployed(request: pytest.FixtureRequest, run: tuple[Path, DataSet]) -> tuple[Path, Card]:
    """The folder of a deployment and its card; skipped where the runtime is not installed."""
    target, precision = request.param
    try:
        find_target(target)
    except UserError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        ((card, out),) = deploy(Asked(run[0], target, (precision,), calibration=20, accept_noise=True))
    return out, card


def script_of_deployments() -> str:
    """The block of docs/deploy.md, which needs nothing of this project."""
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "photo.jpg" in b]
    assert not re.search(r"\b(nas|search_space|torch)\b", block.replace("runs/RUN/deploy", ""))
    return str(block).replace("runs/RUN/deploy/onnxruntime_int8/model.onnx", "model.onnx")


def test_a_deployed_file_is_asked_as_it_was_evaluated(
    run: tuple[Path, DataSet],
    deployed: tuple[Path, Card],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """huggingface/pytorch-image-models 2463: evaluation, nas.predict and a plain script agree to the last image."""
    (_, data), (out, card) = run, deployed
    network, script = open_network(out), ""
    if network.path.suffix == ".onnx":
        script = script_of_deployments()
        shutil.copy(network.path, tmp_path / "model.onnx")
        (tmp_path / "script.py").write_text(script, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    predictor, labels = Predictor.load(out), data.test.labels.tolist()
    right, names = 0, predictor.class_names
    for (path, images), label in zip(evaluated(data), labels, strict=True):
        picture = as_pixels(torch.from_numpy(images), data)
        shown = predictor.shown(predictor.read(path))
        assert shown.dtype == np.uint8 and np.abs(shown.astype(int) - picture.astype(int)).max() <= 1
        expected = network.ask(picture)
        assert predictor.probabilities(predictor.read(path)) == pytest.approx(expected, abs=0.02)
        (answer, _), *_ = predictor.by_name(path).items()
        assert answer == names[expected.argmax()], path
        right += names.index(answer) == label
        if script:
            shutil.copy(path, "photo.jpg")
            runpy.run_path("script.py")
            assert capsys.readouterr().out == f"{answer}\n", path
    assert right / len(labels) == card.after.accuracy


def test_the_command_says_mistakes_on_one_line(run: tuple[Path, DataSet], tmp_path: Path) -> None:
    """huggingface/pytorch-image-models 2463, of files that do not say how a picture is shown: no guess is made."""
    folder, _ = run
    (tmp_path / "text.png").write_text("no picture")
    whole = next(Path(str(path)) for path in (folder.parent / "photos").rglob("*.png"))
    for arguments, said in (
        (["model=" + str(folder), "nowhere.png"], "nowhere.png"),
        (["model=" + str(folder), str(tmp_path / "text.png")], "text.png"),
        (["model=" + str(tmp_path), str(whole)], "no file .*model.onnx"),
        (["model=" + str(tmp_path / "text.png"), str(whole)], "onnxruntime cannot load .*text.png"),
        (["model=" + str(folder / "latency_224.onnx"), str(whole)], "latency_224.onnx' is for timing"),
        ([str(folder), str(whole)], "model=RUN"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "nas.predict", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        assert re.search(said, done.stderr), done.stderr
    import onnx

    model = onnx.load(folder / "model.onnx")
    for entry in list(model.metadata_props):
        if entry.key == "crop":
            model.metadata_props.remove(entry)
    onnx.save(model, tmp_path / "earlier.onnx")
    with pytest.raises(BadFile, match=r"earlier\.onnx' does not say 'crop'"):
        Predictor.load(tmp_path / "earlier.onnx")
