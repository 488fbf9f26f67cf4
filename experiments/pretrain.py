"""The supernet that ships, for `python -m nas.search init=pretrained`: its training, its gates and what it is worth.

Question   How good is a network found in seconds, for a budget and a device that the training knew nothing of, and
           which way of choosing it is best?
Data       CIFAR-10, 32 pixels: 40,000 of the train images for weights, 10,000 to choose by, the whole test set.
Method     Weights: one network a step, its latency anywhere between the space's fastest and slowest. Gates: validation
           accuracies of networks drawn in the same way, by least squares a sum over the slots; the exact choice under
           a budget is then the network of the largest predicted sum, and images compare the best few.
Command    python -m experiments.pretrain data.root=FOLDER
           cp runs/pretrain/supernet.safetensors nas/supernets/quadranet-cifar10.safetensors
           python -m experiments.pretrain show > nas/supernets/quadranet-cifar10.md
Cost       10 CPU minutes of training and 8 of measuring on an x86-64 core; --quick: digits, a CPU minute.
Expected   Nothing beforehand but that the images' choice beats the gates' alone, and both a random network.

The training resumes from its last checkpoint, in `folder`. Not for searches that train: see `nas.search`.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.command import run_experiment
from experiments.pretrain_card import render
from experiments.results import Results, Row, Value, profile_digests, take_provenance
from search_space import GatePath

if TYPE_CHECKING:
    from latency_models.options import Options
    from nas.data import DataSet
    from nas.discrete.budgeted import Budgeted
    from nas.run.checkpoint import Checkpoints
    from nas.run.plan import Plan
    from nas.supernet.network import Supernet

OPTIONS = {
    "data.root": "folder of CIFAR-10 (default: ../shared/datasets)",
    "epochs": "of the weights (default: 5)",
    "networks": "whose accuracies the gates are fitted to (default: 240)",
    "folder": "where checkpoints and the supernet go (default: runs/pretrain)",
}
LEVELS = 16  # of latency, equally wide, that networks are drawn from equally often
IMAGES = 512  # of validation, that a network is measured on for the gates
RIDGE = 1.0
TARGETS = (("vpu", 35.0), ("gpu", 0.6))
WAYS: Mapping[str, Mapping[str, Any]] = {
    "gates alone": {"rerank": 1},
    "gates, best of 12": {"rerank": 12},
    "random, best of 12": {"strategy": "random", "trials": 12, "rerank": 1},
    "evolution, 30 trials": {"strategy": "evolution", "trials": 30, "rerank": 1},
}
STORED = "float16"


def regions(plan: Plan) -> list[Budgeted]:
    """The networks of a space by latency, from the fastest to the slowest."""
    from nas.discrete.budgeted import Budgeted

    edges_ms = np.linspace(plan.table.minimum_ms, plan.table.maximum_ms, LEVELS + 1)
    return [Budgeted(plan.table, plan.limits, float(high), float(low)) for low, high in itertools.pairwise(edges_ms)]


def draw(each: Sequence[Budgeted], rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """(count, S) networks, every level of latency as often as any other, in random order."""
    per_level = -(-count // len(each))
    networks = np.concatenate([region.sample(rng, per_level) for region in each])
    return rng.permutation(networks)[:count]


def train_supernet(plan: Plan, data: DataSet, checkpoints: Checkpoints) -> Supernet:
    """Weight steps on drawn networks, one a step; resumes from the checkpoints, if any. Raises `NotFinite`."""
    from nas.strategies.untrained import new_supernet
    from nas.strategies.weights import WeightTraining

    settings, each = plan.settings, regions(plan)
    supernet = new_supernet(plan, data)
    weights = WeightTraining(plan, data, supernet)
    if saved := checkpoints.saved_in("pretraining"):
        weights.restore(saved)
    per_epoch = weights.epoch_steps
    with checkpoints.stopping_between_steps():
        for epoch in range(weights.step // per_epoch, settings.epochs):
            paths = draw(each, np.random.default_rng([settings.seed, epoch]), per_epoch).tolist()
            for images, labels in weights.batches(epoch):
                weights.train_path(images, labels, GatePath(tuple(paths[weights.step % per_epoch])), epoch)
                if weights.step % 100 == 0:
                    print(f"step {weights.step} of {weights.total}: loss {weights.loss:.3f}", flush=True)
                checkpoints.keep("pretraining", weights.step, weights.state, now=weights.step == weights.total)
    return supernet


def measured(supernet: Supernet, data: DataSet, networks: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, S) -> (N,) accuracies on the first validation images, with inherited weights."""
    from nas.training.loop import accuracy

    batches = list(itertools.islice(data.batches(data.validation, supernet.resolution, 256), IMAGES // 256))
    paths = [GatePath(tuple(row)) for row in networks.tolist()]
    return np.array([accuracy(lambda x, path=path: supernet(x, path), batches) for path in paths])  # type: ignore[misc]


def fit_scores(
    widths: Sequence[int], networks: NDArray[np.int64], accuracies: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(N, S), (N,) -> (S, candidates) points of accuracy that a candidate adds in its slot; ridge regression."""
    rows = np.concatenate([np.eye(width)[networks[:, slot]] for slot, width in enumerate(widths)], axis=1)
    centre = rows.mean(0)
    rows = rows - centre
    points = 100 * (accuracies - accuracies.mean())
    flat = np.linalg.solve(rows.T @ rows + RIDGE * np.eye(rows.shape[1]), rows.T @ points)
    scores = np.zeros((len(widths), max(widths)))
    for slot, part in enumerate(np.split(flat, np.cumsum(widths)[:-1])):
        scores[slot, : len(part)] = part
    return scores


def held_out(plan: Plan, networks: NDArray[np.int64], accuracies: NDArray[np.float64]) -> tuple[float, float]:
    """Spearman's rank correlation of scores and accuracies, five-fold: over all networks, and at equal latency.

    networks: (N, S) choices; accuracies: (N,). At equal latency: the mean over quarters of the networks, ordered by
    latency.
    """
    from scipy.stats import spearmanr

    predicted = np.empty(len(networks))
    slots = np.arange(networks.shape[1])
    widths = [len(slot.candidates) for slot in plan.space.slots]
    for fold in range(5):
        out = np.arange(len(networks)) % 5 == fold
        predicted[out] = fit_scores(widths, networks[~out], accuracies[~out])[slots, networks[out]].sum(1)
    quarters = np.array_split(np.argsort(plan.table.paths_ms(networks)), 4)
    within = [spearmanr(predicted[part], accuracies[part]).statistic for part in quarters]
    return float(spearmanr(predicted, accuracies).statistic), float(np.mean(within))


def measure(options: Options, quick: bool, command: str) -> Results:
    """Train the supernet, fit its gates, write it to `folder`, and search with it for every target in every way.

    `quick`: 600 images of digits, one epoch, 32 networks and one target. A training that was stopped resumes from its
    checkpoint in `folder`. Raises `UserError` where there are no images at data.root, `NotFinite`.
    """
    import torch

    from nas.data import load
    from nas.run.checkpoint import Checkpoints
    from nas.run.plan import plan_search
    from nas.run.settings import SearchSettings, settings_from_dict
    from nas.supernet.origin import gates_key, trained_for
    from nas.supernet.saved import load_supernet, save_supernet

    torch.set_num_threads(1)
    provenance = take_provenance(command, "cpu")
    root = options.text("data.root", "../shared/datasets")
    images = {"name": "digits", "limit": 600} if quick else {"name": "cifar10", "root": root}
    asked: dict[str, Any] = {
        "device": "vpu",
        "budget_ms": 1000.0,  # never binds
        "data": {**images, "resolution": 32, "validation_share": 0.2},
        "warmup": {"epochs": 0},
        "epochs": options.integer("epochs", 1 if quick else 5),
        "finetune": {"epochs": 0},
        "train": {"batch_size": 64, "lr": 3e-3, "share_weights": True},
    }
    plan = plan_search(settings_from_dict(SearchSettings, asked))
    data = load(plan.settings.data)
    folder = Path(options.text("folder", "runs/pretrain"))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder, resume=True, say=print)
    supernet = train_supernet(plan, data, checkpoints)
    training_s = checkpoints.seconds

    networks = draw(regions(plan), np.random.default_rng(1), options.integer("networks", 32 if quick else 240))
    accuracies = measured(supernet, data, networks)
    widths = [len(slot.candidates) for slot in plan.space.slots]
    alpha = torch.from_numpy(fit_scores(widths, networks, accuracies)).float()
    file = folder / "supernet.safetensors"
    public = replace(plan.settings, data=replace(plan.settings.data, root=None))
    purpose = trained_for(public, data.inputs, data.digest)
    save_supernet(file, supernet, {gates_key(): alpha}, purpose, getattr(torch, STORED))
    some = networks[:16]
    load_supernet(file, supernet)
    everywhere, at_equal_latency = held_out(plan, networks, accuracies)
    rows: list[Row] = [
        {
            "kind": "supernet",
            "bytes": file.stat().st_size,
            "params": sum(p.numel() for p in supernet.parameters()),
            "training_wall_s": round(training_s, 1),
            "networks": len(networks),
            "worst": float(accuracies.min()),
            "mean": float(accuracies.mean()),
            "best": float(accuracies.max()),
            "rank_correlation": everywhere,
            "rank_correlation_at_equal_latency": at_equal_latency,
            "stored_gain": float(np.mean(measured(supernet, data, some) - accuracies[:16])),
        },
        *found(file, root, quick),
    ]
    s = plan.settings
    settings: dict[str, Value] = {
        "space": s.space,
        "data": s.data.name,
        "resolution": s.data.resolution,
        "validation_share": s.data.validation_share,
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "test_images": len(data.test),
        "epochs": s.epochs,
        "seed": s.seed,
        **{name: getattr(s.train, name) for name in ("batch_size", "lr", "weight_decay", "label_smoothing")},
        "stored": STORED,
        "images_for_gates": IMAGES,
        **profile_digests(device for device, _ in TARGETS),
    }
    return Results("pretrain", provenance, settings, tuple(rows))


def found(file: Path, root: str, quick: bool) -> list[Row]:
    """Each target in every way, through the front door."""
    from nas.api import search

    rows: list[Row] = []
    for device, budget_ms in TARGETS[: 1 if quick else None]:
        for way, asked in WAYS.items():
            clock = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                result = search(
                    device=device,
                    budget_ms=budget_ms,
                    init=str(file),
                    data=None if quick else {"root": root},
                    threads=1,
                    out=str(Path(folder) / "run"),
                    progress=False,
                    **asked,
                ).result
            assert result.budget is not None and result.accuracy is not None
            rows.append({"kind": "found", "device": device, "budget_ms": budget_ms, "way": way,
                         "network": str(result.architecture), "used": result.budget.used,
                         "validation": result.accuracy.validation, "test": result.accuracy.test,
                         "cpu_s": round(time.process_time() - clock, 1)})  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main(arguments: Sequence[str]) -> int:
    """Measure, or show what was measured; the exit status: 0 done, 2 a user's error, 130 stopped."""
    return run_experiment("pretrain", OPTIONS, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
