"""From a trained network to a result: exported, measured, written. Not for training, nor for what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.data import DataSet
from nas.run.baseline import MOST_IMAGES, Pixels, fit_baseline
from nas.run.chosen import Chosen
from nas.run.distributed import Place
from nas.run.export import export_network, onnx_predictor
from nas.run.result import BASELINE, Accuracy, SearchResult, save_result
from nas.training.loop import accuracy, recalibrate
from search_space.build import Network


def conclude(
    folder: Path,
    network: Network,
    chosen: Chosen,
    data: DataSet,
    notes: tuple[str, ...],
    provenance: Mapping[str, Any],
    keep_statistics: bool = False,
) -> SearchResult:
    """Export a trained network, measure it if there are images, and write architecture.json.

    keep_statistics: of its BatchNorms, which otherwise are measured on the training images.
    Raises `ParityError` where the exported graph is not the network, `CannotWrite`.
    """
    pixels = chosen.resolution.training
    validation, small = None, Pixels(len(data.train))
    data = replace(data, place=Place(data.place.device))  # all images by this process
    if data.at_hand:
        if not keep_statistics:
            recalibrate(network, small.passing(data.batches(data.train, pixels, 128)))
        if not small.passed:  # a network without BatchNorms to measure reads none
            small = Pixels(min(MOST_IMAGES, len(data.train)))
            some = data.train.take(np.flatnonzero(Pixels(len(data.train)).kept))
            for _ in small.passing(data.batches(some, pixels, 128)):
                pass
        network.eval()
        validation = accuracy(network, data.batches(data.validation, pixels, 128))
    data, network = replace(data, place=Place()), network.cpu()
    if data.at_hand:
        sample, _ = next(data.batches(data.validation, pixels, 16))
    else:
        sample = torch.randn(16, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    export_network(folder, network, chosen, data.inputs, sample)
    measured: Accuracy | None = None
    without: tuple[str, ...] = ()
    if validation is not None:
        measured, without = _tested(folder / "model.onnx", data, pixels, validation, small)
    result = SearchResult(
        architecture=chosen.architecture,
        num_classes=chosen.num_classes,
        resolution=chosen.resolution,
        input=data.inputs,
        cost=chosen.cost,
        budget=chosen.budget,
        latency=chosen.latency,
        accuracy=measured,
        gate_path=chosen.gate_path,
        notes=(*notes, *chosen.unpriced, *without),
        provenance=provenance,
    )
    save_result(result, folder / "architecture.json")
    return result


def _tested(
    model: Path, data: DataSet, pixels: int, validation: float, small: Pixels
) -> tuple[Accuracy, tuple[str, ...]]:
    """Network and baseline on the test images, in one pass: seen last, by nothing else; and notes.

    small: training images for the baseline.
    """
    network = onnx_predictor(model)
    baseline, why_not = fit_baseline(small, data.num_classes)
    images_of, right_of = np.zeros(data.num_classes, np.int64), np.zeros(data.num_classes, np.int64)
    right_by_baseline = 0
    for images, labels in data.batches(data.test, pixels, 128):
        right = network(images).argmax(1) == labels
        images_of += np.bincount(labels.numpy(), minlength=data.num_classes)
        right_of += np.bincount(labels[right].numpy(), minlength=data.num_classes)
        if baseline is not None:
            right_by_baseline += int((baseline(images) == labels).sum())
    seen = int(images_of.sum())
    by_class = {
        _name(data.class_names, number): int(right_of[number]) / int(images_of[number])
        for number in np.flatnonzero(images_of).tolist()
    }
    found = Accuracy(
        data=data.name,
        test=int(right_of.sum()) / seen,
        test_images=seen,
        validation=validation,
        measured_on="model.onnx in onnxruntime",
        largest_class=int(images_of.max()) / seen,
        by_class=by_class,
        balanced=sum(by_class.values()) / len(by_class),
        baseline=None if baseline is None else right_by_baseline / seen,
    )
    note = f"The accuracy of {BASELINE}, to compare with, is not known: {why_not}"
    return found, (note,) if why_not else ()


def _name(names: tuple[str, ...], number: int) -> str:
    """A class' name, with its number where another has the same."""
    return names[number] if names.count(names[number]) == 1 else f"{names[number]} ({number})"
