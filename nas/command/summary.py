"""What a person reads at the end of a run, from its results. Not the report (`nas.report`)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from latency_models.support import RESTS_ON_LITTLE, derived_words, remedy
from nas.data.registry import DATA_SETS, option_defaults
from nas.run.result import BASELINE, Accuracy, SearchResult, scale_note
from nas.training.recipes import Recipe

if TYPE_CHECKING:
    from nas.run.finished import Finished


def summary(finished: Finished) -> str:
    """A line or more for every target, then where the page about several is."""
    lines = [one_network(target.result, target.folder) for target in finished.targets]
    if len(finished.targets) > 1:
        lines.append(f"{len(finished.targets)} targets -> {finished.folder / 'report.html'}")
    lines += [line for target in finished.targets if (line := next_step(target.result, target.folder))][:1]
    return "\n".join(lines)


def one_network(result: SearchResult, folder: Path) -> str:
    """The network, what it uses of the budget, its size and accuracy.

    Ahead of them a note where the interval reaches above the budget.
    """
    budget = result.budget
    assert budget is not None
    on_device = result.latency[budget.device]
    interval = f"{on_device.coverage:.0%} interval {on_device.low_ms:.3g}..{on_device.high_ms:.3g} ms"
    if budget.confidence:
        interval += f", its upper end kept at confidence {budget.confidence:g}"
    if derived := derived_words(on_device.derived):
        interval += f"; {derived}"
    scale = scale_note(budget.calibration)
    lines = []
    if on_device.high_ms > budget.budget_ms * (1 + 1e-9) and not scale:
        lines.append(
            f"note: the prediction keeps the budget, but its {on_device.coverage:.0%} interval reaches "
            f"{on_device.high_ms:.3g} ms: time {folder / f'latency_{result.resolution.deployment}.onnx'} on the "
            "device, or ask for confidence=0.9"
        )
    lines.append(str(result.architecture))
    if (thin := result.thin_words) and not scale:
        lines.insert(0, f"note: of the predicted time, {RESTS_ON_LITTLE}: {thin}")
    if on_device.support and not scale and (wide := on_device.support.width_words):
        lines.insert(0, f"note: {wide}; {remedy(budget.device, shlex.quote(str(folder / 'architecture.json')))}")
    if published := result.published_words:
        lines.append(published)
    limits = "".join(f", limits.{name}={most:g} kept" for name, most in budget.limits.items())
    lines.append(
        f"{budget.device}: predicted {budget.predicted_ms:.4g} ms of {budget.budget_ms:g} ms ({budget.used:.1%} used; "
        f"{interval}{scale}), {result.cost.macs / 1e6:.0f}M MACs, {result.cost.params / 1e6:.2f}M params{limits}, "
        f"{_accuracy(result.accuracy)} -> {folder}"
    )
    return "\n".join(lines)


def _accuracy(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "accuracy not measured: no images at hand"
    return f"{accuracy.data} test accuracy {accuracy.test:.1%} (model.onnx, {compared(accuracy)})"


def compared(accuracy: Accuracy) -> str:
    """'359 images; largest class 10.3%; a logistic regression on 16x16 pixels reaches 96.9%'."""
    words = [f"{accuracy.test_images} images"]
    if accuracy.largest_class is not None:
        words.append(f"largest class {accuracy.largest_class:.1%}")
    if accuracy.baseline is not None:
        words.append(f"{BASELINE} reaches {accuracy.baseline:.1%}")
    return "; ".join(words)


def one_training(result: SearchResult, folder: Path) -> str:
    """What `nas.train` ends with: the accuracy and the folder; below them what to do where that is not enough."""
    accuracy = result.accuracy
    assert accuracy is not None  # it was trained on images
    line = (
        f"{accuracy.data} test accuracy {accuracy.test:.1%} (model.onnx at {result.resolution.training} pixels, "
        f"{compared(accuracy)}), validation {accuracy.validation:.1%} -> {folder}"
    )
    return "\n".join([line, *([after] if (after := next_step(result, folder)) else [])])


LEAST_EPOCHS = 50  # of the training that is proposed
UNEVEN = 1.5  # times its part of equal classes that the largest one has, from which classes are weighed alike


def next_step(result: SearchResult, folder: Path) -> str | None:
    """A line with the command that may help a network that does not beat the simplest; None for one that does."""
    if result.accuracy is None or not result.accuracy.doubts:
        return None
    settings = result.provenance.get("settings")  # of a search; a training has data and recipe alone
    options = settings if isinstance(settings, Mapping) else result.provenance
    recipe = options.get("recipe")
    recipe = recipe if isinstance(recipe, Mapping) else {}
    before = recipe.get("epochs")
    epochs = max(LEAST_EPOCHS, 2 * before if isinstance(before, int) else 0)
    largest, shown = result.accuracy.largest_class, result.input.preprocessing
    uneven = largest is not None and result.accuracy.test <= largest and largest > UNEVEN / result.num_classes
    recipe = {**recipe, "balance": 1} if uneven else recipe
    mirrored = ", with data.flip=false if a mirror changes a class" * (shown is not None and shown.training_flip)
    words = [
        "python -m nas.train",
        shlex.quote(str(folder / "architecture.json")),
        *_images(options.get("data"), result.accuracy.data),
        f"resolution={result.resolution.training}",
        *_changed("recipe", {**recipe, "epochs": None}, asdict(Recipe())),
        f"recipe.epochs={epochs}",
    ]
    return f"next: the network is {' and '.join(result.accuracy.doubts)}; train it longer{mirrored}: {' '.join(words)}"


def _images(data: object, measured_on: str) -> list[str]:
    """The options that name the same images again; measured_on: the name of those the network was measured on."""
    if not isinstance(data, Mapping) or not (data.get("root") or data.get("file") or data.get("name") == measured_on):
        return ["data=NAME", "data.root=PATH"]  # images that Python code gave
    name = str(data["name"])
    defaults = option_defaults(name) if name in DATA_SETS else {}  # no module is imported that a file names
    return [shlex.quote(f"data={name}"), *_changed("data", {**data, "name": None, "resolution": None}, defaults)]


def _changed(group: str, values: Mapping[str, object], defaults: Mapping[str, object]) -> list[str]:
    """Options with other values than their defaults; None: left out."""
    return [
        shlex.quote(f"{group}.{name}={str(value).lower() if isinstance(value, bool) else value}")
        for name, value in values.items()
        if value is not None and value != defaults.get(name)
    ]
