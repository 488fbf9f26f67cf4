"""From a trained network to a result: exported, measured, written. Not for training, nor for what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas.data import DataSet
from nas.run.baseline import MOST_IMAGES, Pixels, fit_baseline
from nas.run.chosen import Chosen
from nas.run.confusion import Answers, Confusion
from nas.run.distributed import Place
from nas.run.export import export_network, onnx_predictor
from nas.run.result import BASELINE, Accuracy, SearchResult, class_name, save_result
from nas.training.loop import accuracy, recalibrate
from search_space.build import Network
from search_space.reading import to_plain

TEST_BATCH = 128  # images


def conclude(
    folder: Path,
    network: Network,
    chosen: Chosen,
    data: DataSet,
    notes: tuple[str, ...],
    provenance: Mapping[str, Any],
    keep_statistics: bool = False,
) -> SearchResult:
    """Export a trained network, measure it if there are images, and write architecture.json and confusion.json.

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
        measured, confusion, without = _tested(folder / "model.onnx", data, pixels, validation, small)
        confusion.save(folder)
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
        provenance=to_plain(provenance),  # as it is read back
    )
    save_result(result, folder / "architecture.json")
    return result


def _tested(
    model: Path, data: DataSet, pixels: int, validation: float, small: Pixels
) -> tuple[Accuracy, Confusion, tuple[str, ...]]:
    """Network and baseline on the test images, in one pass: seen last, by nothing else; and notes.

    small: training images for the baseline.
    """
    network = onnx_predictor(model)
    baseline, why_not = fit_baseline(small, data.num_classes)
    answers, right_by_baseline = Answers(data.class_names, data.mean, data.std), 0
    names = iter(data.names_in_order(data.test, TEST_BATCH))
    for images, labels in data.batches(data.test, pixels, TEST_BATCH):
        answers.add(images, labels, network(images), list(islice(names, len(labels))))
        if baseline is not None:
            right_by_baseline += int((baseline(images) == labels).sum())
    confusion = answers.confusion()
    images_of = confusion.images_of()
    seen = sum(images_of.values())
    by_class = {
        class_name(data.class_names, label): answers.counts.get((label, label), 0) / images
        for label, images in sorted(images_of.items())
    }
    found = Accuracy(
        data=data.name,
        test=sum(images for (label, answer), images in answers.counts.items() if label == answer) / seen,
        test_images=seen,
        validation=validation,
        measured_on="model.onnx in onnxruntime",
        largest_class=max(images_of.values()) / seen,
        by_class=by_class,
        balanced=sum(by_class.values()) / len(by_class),
        baseline=None if baseline is None else right_by_baseline / seen,
    )
    note = f"The accuracy of {BASELINE}, to compare with, is not known: {why_not}"
    return found, confusion, (note,) if why_not else ()
