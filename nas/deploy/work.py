"""From a run's folder to a file that a runtime reads: converted, compared with torch, measured and timed there.

What is written has been opened by the runtime and has answered the run's own test images. Not for what a runtime needs:
see the targets.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latency_models.measure import timing
from latency_models.measure.kernel_onnx import reference_item
from nas.data import DataSet, Split, load, no_images
from nas.data.record import Record
from nas.data.registry import settings_from_file
from nas.data.settings import DataSettings
from nas.deploy import FORM, STATIC, Delegation, Files, Pixels, Session, check_precisions, find_target
from nas.deploy.card import FILE, Card, Measured, Parity
from nas.deploy.network import Deployable, Handed
from nas.run.export import TOLERANCE, OnnxPredictor, ParityError, load_network, onnx_predictor
from nas.run.finished import load_finished
from nas.run.provenance import versions
from nas.run.result import FOR_TIMING, SearchResult
from nas.training.loop import recalibrate
from search_space import UserError, lower
from search_space.build import Network
from search_space.errors import BadFile, CannotWrite, one_line
from search_space.files import ensure_folder, write_whole

FOLDER = "deploy"  # of a run, with a folder for every target and precision
STEM = "model"
COMPARED = 32  # images that torch is asked about as well
FOR_RANGES_TIMED = 8  # images that ranges are measured on for the file that is only timed
BATCH = 64  # images read at a time


@dataclass(frozen=True)
class Asked:
    """What to make of a run. precisions: none for the target's first. root: where the run's images are now.

    out: where the files go, for one precision. calibration: training images for ranges. accept_noise: time a busy
    machine as it is.
    """

    run: Path
    target: str
    precisions: Sequence[str] = ()
    out: Path | None = None
    root: str | None = None
    calibration: int = 100
    threads: int = 1
    accept_noise: bool = False


def deploy(asked: Asked, say: Callable[[str], None] = lambda line: None) -> list[tuple[Card, Path]]:
    """Write the files and card.json into a folder for every precision; cards and folders. say: is told what is done.

    The network is converted once, and all precisions are compared, measured and timed beside each other. Raises
    `UserError` for what cannot be done, `ParityError` for an fp32 file that computes something else, `BadFile`.
    """
    target = find_target(asked.target)
    precisions = check_precisions(asked.target, target, asked.precisions)
    if asked.out and len(precisions) > 1:
        raise UserError(f"out='{asked.out}' is one folder, for one precision; leave out= away for {len(precisions)}")
    settings = timing.make_settings("onnxruntime", threads=asked.threads)
    finished = load_finished(asked.run).only
    result = finished.result
    network = load_network(result, finished.folder / "weights.safetensors")
    folders = {p: _writable(asked.out or finished.folder / FOLDER / f"{asked.target}_{p}") for p in precisions}
    data, notes = _images(result, finished.folder, asked.root)
    static = STATIC in precisions
    if static and not data.at_hand:
        raise UserError(
            f"precision={STATIC} measures ranges on training images, and there are none: {notes[0]}; name them by "
            "data.root=FOLDER, or take a precision that needs none"
        )
    trained, deployed = result.resolution.training, result.resolution.deployment
    wanted = list(dict.fromkeys(("fp32", *precisions)))
    named = ",".join(precisions)

    def made(pixels: int, purpose: str, images: int) -> Mapping[str, Files]:
        segments = lower(result.architecture, pixels, result.num_classes)
        own = _adjusted(network, data, pixels) if static and pixels != trained else network
        model = Deployable(own, segments, data.inputs, pixels, purpose)
        shown = list(_calibration(data, pixels, images)) if static else []
        say(f"converting at {pixels} pixels for {asked.target} ({', '.join(wanted)})")
        try:
            return target.convert(model, wanted, shown)
        except UserError:
            raise
        except Exception as error:  # of any converter
            raise UserError(
                f"target={asked.target} precision={named} cannot be made at {pixels} pixels: {one_line(error)}"
            ) from error

    def opened(own: Files, name: str) -> Session:
        try:
            return target.open(own, asked.threads)
        except Exception as error:  # of any runtime
            raise UserError(
                f"{asked.target} does not open the file that it was given in {name}: {one_line(error)}"
            ) from error

    files = made(trained, "trained and accurate at this resolution", asked.calibration)
    of_time = files if deployed == trained else made(deployed, FOR_TIMING, FOR_RANGES_TIMED)
    sessions = {name: opened(own, name) for name, own in files.items()}
    say("asking all forms about the test images")
    answers = _asked_all(data, trained, Handed(network, data.inputs).eval(), sessions, finished.folder)
    off = answers.parity["fp32"].largest_difference
    if "fp32" in precisions and not off <= TOLERANCE:
        raise ParityError(
            f"the file for {asked.target} differs from torch by {off:.2e} in a probability, more than "
            f"{TOLERANCE:.0e}; nothing was written"
        )
    say(f"timing at {deployed} pixels")
    times, delegations, busy = _timed(
        finished.folder / f"latency_{deployed}.onnx",
        {name: partial(opened, own, name) for name, own in of_time.items()},
        deployed,
        settings,
        asked.accept_noise,
    )

    def measured(name: str, shown: str, size: int) -> Measured:
        ms = times.get(name)
        return Measured(shown, answers.accuracy.get(name), ms and ms.ms, ms and ms.spread_ms, size)

    own_packages = {name: version(name) for name in target.packages.values()}

    def card_of(precision: str) -> Card:
        quantised, delegation = precision != "fp32", delegations[precision]
        return Card(
            network=str(result.architecture),
            target=asked.target,
            precision=precision,
            files=tuple(f"{STEM}{ending}" for ending in files[precision]),
            training_resolution=trained,
            deployment_resolution=deployed,
            input={**(data.inputs.preprocessing.words() if data.inputs.preprocessing else {}), "form": FORM},
            classes=data.inputs.class_names,
            before=measured("before", "model.onnx in onnxruntime, fp32", _size(finished.folder / "model.onnx")),
            in_fp32=measured("fp32", f"{asked.target} fp32", _bytes(files["fp32"])) if quantised else None,
            after=measured(precision, f"{asked.target} {precision}", _bytes(files[precision])),
            test_images=answers.images,
            parity=answers.parity[precision],
            calibration_images=min(asked.calibration, len(data.train)) if precision == STATIC else 0,
            partitions=delegation.partitions if delegation else None,
            not_delegated=delegation.not_delegated if delegation else {},
            threads=asked.threads,
            machine=timing.cpu_name(),
            versions={**versions(), **own_packages},
            date=time.strftime("%Y-%m-%d"),
            notes=(*notes, *busy),
        )

    made_of = [(card_of(precision), folder) for precision, folder in folders.items()]
    for card, folder in made_of:
        for ending, content in files[card.precision].items():
            write_whole(folder / f"{STEM}{ending}", content)
        write_whole(folder / FILE, card.to_json())
    return made_of


def _writable(folder: Path) -> Path:
    """The folder, made and tried before anything takes long. Raises `CannotWrite`."""
    try:
        tempfile.TemporaryFile(dir=ensure_folder(folder)).close()
    except OSError as error:
        raise CannotWrite(f"cannot write into '{folder}': {error.strerror}") from error
    return folder


def _images(result: SearchResult, folder: Path, root: str | None) -> tuple[DataSet, tuple[str, ...]]:
    """The run's images in the run's splits, shown as its network was; none, and why, where they are not there.

    Raises `UserError` for images of other classes or on which the network was trained.
    """
    said = result.provenance
    options = (said.get("settings") or said).get("data")
    try:
        if not isinstance(options, Mapping) or "name" not in options:
            raise BadFile(f"'{folder}' does not say which images its network was trained on")
        settings: DataSettings = settings_from_file(options)
        data = load(replace(settings, root=root) if root else settings)
    except UserError as error:
        if root:
            raise
        why = f"the run's images are not at hand ({error})"
        return no_images("none", result.input), (why,)
    if data.class_names != result.input.class_names:
        raise UserError(
            f"'{folder}' was trained on the classes {_few(result.input.class_names)}; the images are of "
            f"{_few(data.class_names)}"
        )
    shown = result.input.preprocessing
    data = data.varied(
        shown.training_flip if shown else None,
        shown.training_crop if shown else None,
        result.input.mean,
        result.input.std,
    )
    before = Record.load(folder)
    if before is not None:
        data = data.divided_as(before)
        if (now := data.record) is not None:
            if met := before.met_again(now):
                raise UserError(f"the images in '{settings.root if root is None else root}' have changed: {met}")
            if changes := before.changes(now):
                return data, (f"the images have changed since the run: {changes}",)
    return data, ()


def _few(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + ", ..." * (len(names) > 3)


def _calibration(data: DataSet, pixels: int, count: int) -> Iterator[Pixels]:
    """Training images spread over the split, as evaluation shows them."""
    for images, _ in data.batches(_spread(data, count), pixels, BATCH):
        for image in as_pixels(images, data):
            yield image[None]


def _spread(data: DataSet, count: int) -> Split:
    count = min(count, len(data.train))
    return data.train.take(np.unique(np.linspace(0, len(data.train) - 1, count).round().astype(np.int64)))


def _adjusted(network: Network, data: DataSet, pixels: int) -> Network:
    """A copy whose BatchNorms have the statistics of this resolution.

    With those of another one values grow from layer to layer, and products of them overflow: ranges mean nothing then.
    """
    adjusted = copy.deepcopy(network)
    recalibrate(adjusted, data.batches(_spread(data, FOR_RANGES_TIMED), pixels, FOR_RANGES_TIMED))
    return adjusted.eval()


def as_pixels(images: Tensor, data: DataSet) -> Pixels:
    """(N, 3, R, R) normalised -> (N, R, R, 3) uint8, rounded."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True)
class _Answers:
    accuracy: Mapping[str, float]  # by 'before' and precision
    parity: Mapping[str, Parity]  # by precision
    images: int


def _asked_all(data: DataSet, pixels: int, network: Handed, sessions: Mapping[str, Session], folder: Path) -> _Answers:
    """model.onnx, every session and torch about the same test images, in one pass."""
    before: OnnxPredictor = onnx_predictor(folder / "model.onnx")
    right: dict[str, int] = dict.fromkeys(("before", *sessions), 0)
    equal: dict[str, int] = dict.fromkeys(sessions, 0)
    differences: dict[str, list[float]] = {name: [] for name in sessions}
    seen = 0

    def ask(pictures: Pixels) -> dict[str, np.ndarray]:
        return {
            name: np.concatenate([session(picture[None]).copy() for picture in pictures])
            for name, session in sessions.items()
        }

    def compare(pictures: Pixels, found: Mapping[str, np.ndarray]) -> None:
        with torch.inference_mode():
            expected = network(torch.from_numpy(pictures)).numpy()
        for name, said in found.items():
            difference = np.abs(said - expected).max(axis=1)
            differences[name].extend(np.where(np.isfinite(difference), difference, np.inf).tolist())
            equal[name] += int((said.argmax(1) == expected.argmax(1)).sum())

    for images, labels in data.batches(data.test, pixels, BATCH) if data.at_hand else ():
        left = max(COMPARED - seen, 0)
        seen += len(labels)
        right["before"] += int((before(images).argmax(1) == labels).sum())
        shown = as_pixels(images, data)
        found = ask(shown)
        for name, said in found.items():
            right[name] += int((said.argmax(1) == labels.numpy()).sum())
        if left:
            compare(shown[:left], {name: said[:left] for name, said in found.items()})
    if not seen:
        noise = np.random.default_rng(0).integers(0, 256, (COMPARED, pixels, pixels, 3), dtype=np.uint8)
        compare(noise, ask(noise))
    parity = {
        name: Parity(len(own), float(min(max(own), 1.0)), equal[name] / len(own), seen > 0)
        for name, own in differences.items()
    }
    return _Answers({name: count / seen for name, count in right.items()} if seen else {}, parity, seen)


def _timed(
    graph: Path,
    openers: Mapping[str, Callable[[], Session]],
    pixels: int,
    settings: timing.Settings,
    accept_noise: bool,
) -> tuple[Mapping[str, timing.Result], Mapping[str, Delegation | None], tuple[str, ...]]:
    """By 'before' (the graph in onnxruntime) and precision; how each was delegated; a note where none was timed.

    The protocol is that of all times of this project (`latency_models.measure.timing`).
    """
    try:
        content = graph.read_bytes()
    except OSError as error:
        raise BadFile(f"cannot read '{graph}': {error.strerror}") from error
    image = np.random.default_rng(0).integers(0, 256, (1, pixels, pixels, 3), dtype=np.uint8)
    with timing.pinned(settings.threads):
        runtime = timing.open_runtime(settings)
        sessions = {name: opener() for name, opener in openers.items()}

        runs = {name: timing.clocked(partial(session, image)) for name, session in sessions.items()}
        items = [timing.Item(name, lambda: content, ()) for name in ("before", *runs)]
        runs["before"] = runtime.load(items[0])
        records: list[timing.Record] = []
        delegations = {name: session.delegation for name, session in sessions.items()}
        try:
            reference, waited = runtime.load(reference_item()), timing.waiting()
            if not accept_noise:
                timing.check_quiet(reference, waited)
            timing.measure(
                items, lambda item: runs[item.name], reference, records, lambda: None, accept_noise, waited=waited
            )
        except timing.Refused as error:
            return {}, delegations, (f"not timed: {error}",)
    return timing.summarise(records), delegations, ()


def _bytes(files: Files) -> int:
    return sum(map(len, files.values()))


def _size(path: Path) -> int:
    return path.stat().st_size
