"""From a trained network to a result: exported, measured, written. Not for training, nor for what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nas.data import DataSet
from nas.run.chosen import Chosen
from nas.run.distributed import Place
from nas.run.export import export_network, onnx_predictor
from nas.run.result import Accuracy, SearchResult, save_result
from nas.training.loop import accuracy, recalibrate
from search_space.build import Network


def conclude(
    folder: Path,
    network: Network,
    chosen: Chosen,
    data: DataSet,
    notes: tuple[str, ...],
    provenance: Mapping[str, Any],
) -> SearchResult:
    """Export a trained network, measure it if there are images, and write architecture.json.

    Raises `ParityError` where the exported graph is not the network, `CannotWrite`.
    """
    pixels = chosen.resolution.training
    validation = None
    data = replace(data, place=Place(data.place.device))  # all images by this process
    if data.at_hand:
        recalibrate(network, data.batches(data.train, pixels, 128))
        validation = accuracy(network, data.batches(data.validation, pixels, 128))
    data, network = replace(data, place=Place()), network.cpu()
    if data.at_hand:
        sample, _ = next(data.batches(data.validation, pixels, 16))
    else:
        sample = torch.randn(16, 3, pixels, pixels, generator=torch.Generator().manual_seed(0))
    export_network(folder, network, chosen, data.inputs, sample)
    result = SearchResult(
        architecture=chosen.architecture,
        num_classes=chosen.num_classes,
        resolution=chosen.resolution,
        input=data.inputs,
        cost=chosen.cost,
        budget=chosen.budget,
        latency=chosen.latency,
        accuracy=None if validation is None else _tested(folder / "model.onnx", data, pixels, validation),
        gate_path=chosen.gate_path,
        notes=(*notes, *chosen.unpriced),
        provenance=provenance,
    )
    save_result(result, folder / "architecture.json")
    return result


def _tested(model: Path, data: DataSet, pixels: int, validation: float) -> Accuracy:
    test = accuracy(onnx_predictor(model), data.batches(data.test, pixels, 128))  # seen last, by nothing else
    return Accuracy(data.name, test, len(data.test), validation, "model.onnx in onnxruntime")
