"""The command `python -m nas.train ARCHITECTURE.json data=...`: train a found network in full, export it again.

Recipes: `recipe=small` for small data, `recipe=imagenet` for 300 epochs on ImageNet. Any resolution.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.door import run_command
from nas.settings import DataSettings, settings_from_dict
from search_space import UserError


def main() -> None:
    # a bare path stands for architecture=PATH
    sys.argv[1:] = [f"architecture={a}" if a.endswith(".json") and "=" not in a else a for a in sys.argv[1:]]
    run_command("train", _train)


def _train(values: dict[str, Any]) -> None:
    if not values["architecture"]:
        raise UserError("which network? python -m nas.train runs/RUN/architecture.json data=... recipe=...")
    values["data"].pop("epochs")
    data_settings = settings_from_dict(DataSettings, values["data"], "data.")

    from nas.training import Recipe

    folder = full_training(
        Path(values["architecture"]),
        data_settings,
        settings_from_dict(Recipe, values["recipe"], "recipe."),
        resolution=values["resolution"],
        weights=Path(values["weights"]) if values["weights"] else None,
        seed=values["seed"],
        threads=values["threads"],
        out=values["out"],
        command=" ".join(["python -m nas.train", *sys.argv[1:]]),
    )
    print(f"-> {folder}")


def full_training(
    architecture: Path,
    data_settings: DataSettings,
    recipe: Any,
    resolution: int,
    weights: Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    out: str | None = None,
    command: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Train the network of an architecture.json at `resolution` pixels with a `nas.training.Recipe`.

    Writes architecture.json, weights.safetensors, model.onnx and latency_<R>.onnx into a new folder
    and returns it. Raises `UserError` for anything that cannot be done.
    """
    import torch

    from nas.api import git_commit, latency_everywhere, load_data, make_folder, versions
    from nas.export import export_network, load_weights
    from nas.progress import SearchProgress
    from nas.result import Accuracy, InputFormat, Resolution, SearchResult, load_result, save_result
    from nas.training import accuracy, recalibrate, train_network
    from search_space import cost_of, lower
    from search_space.build import Network, to_channels_last

    started, clock = datetime.now(UTC), time.monotonic()
    if threads:
        torch.set_num_threads(threads)
    found = load_result(architecture)
    data = load_data(data_settings)
    torch.manual_seed(seed)
    segments = lower(found.architecture, resolution, data.num_classes)
    network = Network(segments, recipe.layer_scale, recipe.drop_path, paper_init=recipe.layer_scale < 0.01)
    if weights is not None:
        load_weights(network, weights)
    to_channels_last(network)
    folder = make_folder(out, f"{started:%Y%m%d-%H%M%S}-train-{found.architecture.space.name}")
    per_epoch = max(1, data.steps(data.train, recipe.batch_size) // recipe.accumulate)
    validation = 0.0
    with SearchProgress(recipe.epochs * per_epoch, progress) as bar:
        train_network(
            network,
            data,
            data.train,
            resolution,
            recipe,
            seed,
            lambda step, epoch, loss: bar.advance(f"epoch {epoch + 1}", loss=loss),
        )
    recalibrate(network, data.batches(data.train, resolution, 128))
    validation = accuracy(network, data.batches(data.validation, resolution, 128))
    deployed = found.resolution.deployment
    inputs = InputFormat(data.mean, data.std, data.class_names)
    test = export_network(
        folder,
        network,
        found.architecture,
        data.num_classes,
        resolution,
        deployed,
        inputs,
        data.batches(data.test, resolution, 128),
    )
    first = [found.budget.device] if found.budget else []
    result = SearchResult(
        architecture=found.architecture,
        num_classes=data.num_classes,
        resolution=Resolution(deployed, resolution),
        input=inputs,
        cost=cost_of(lower(found.architecture, deployed, data.num_classes)),
        budget=None,
        latency=latency_everywhere(found.architecture, deployed, data.num_classes, *first),
        accuracy=Accuracy(data.name, test, len(data.test), validation, "model.onnx in onnxruntime"),
        gate_path=found.gate_path,
        notes=(f"Trained in full at {resolution} pixels for {recipe.epochs} epochs; architecture from a search",),
        provenance={
            "seed": seed,
            "recipe": dict(vars(recipe)),
            "versions": versions(),
            "git_commit": git_commit(),
            "command": command,
            "started": started.isoformat(timespec="seconds"),
            "wall_time_s": round(time.monotonic() - clock, 1),
        },
    )
    save_result(result, folder / "architecture.json")
    print(
        f"{data.name} test accuracy {test:.1%} (model.onnx at {resolution} pixels, {len(data.test)} images), "
        f"validation {validation:.1%}"
    )
    return folder


if __name__ == "__main__":
    main()
