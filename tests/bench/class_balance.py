"""Question: where classes are uneven, what does balance= (of train, finetune and recipe) gain, and what does it cost?

Command:  python -m tests.bench.class_balance [CASE ...]
Cost:     about 4 minutes of one core
Expected: the mean accuracy of the classes rises with balance, most where the rare class is one in twenty; the accuracy
          on images drawn as the training images are falls by less

scikit-learn's digits, of which so many are left for training as a case says; the test images are a fifth of every
class. `by_class` is the mean of the classes' accuracies, `rarest` that of the classes with fewest
training images, `as_trained` weighs the classes as the training images do. Means over seeds, of weights and of which
images are left, with the deviation of the differences to balance 0 of the same seed.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import numpy as np

SEEDS = 5
BALANCES = (0.0, 0.5, 1.0)
EPOCHS = 40
SPACE = "experiments/spaces/ground_truth.yaml"
RESOLUTION = 16
CASES = {  # training images of every class, which takes its digits: one each, or of two classes '8' and all others
    "long_tail": [100, 77, 60, 46, 36, 28, 22, 17, 13, 10],
    "one_in_twenty": [190, 10],
}


def measure(counts: list[int], balance: float, seed: int) -> dict[str, float]:
    """The accuracies of a network that is trained on so many images of every class."""
    import torch

    from nas.data import DataSet, Split, load
    from nas.data.settings import DataSettings
    from nas.training.loop import recalibrate, train_network
    from nas.training.recipes import Recipe
    from search_space import lower
    from search_space.build import Network
    from search_space.space import BlockChoice, GatePath
    from search_space.space_file import load_space

    data = load(DataSettings("digits"))
    rng = np.random.default_rng(seed)

    def classes(split: Split) -> Split:
        labels = split.labels if len(counts) == 10 else (split.labels == 8).astype(np.int64)
        return Split(split.source, split.indices, labels)

    everything, test = classes(data.train), classes(data.test)
    left = [rng.permutation(np.flatnonzero(everything.labels == label))[:n] for label, n in enumerate(counts)]
    train = everything.take(np.sort(np.concatenate(left)))
    data = DataSet("uneven", tuple(map(str, range(len(counts)))), train, test, test, flip=False)
    torch.manual_seed(seed)
    space = load_space(SPACE)
    path = GatePath(tuple(slot.candidates.index(BlockChoice(7, 6)) for slot in space.slots))
    network = Network(lower(space.architecture(path), RESOLUTION, data.num_classes))
    recipe = Recipe(epochs=EPOCHS, batch_size=32, balance=balance)
    train_network(network, data, train, RESOLUTION, recipe, seed)
    recalibrate(network, data.batches(train, RESOLUTION, 128))
    right = np.zeros(len(counts))
    with torch.no_grad():
        for images, labels in data.batches(test, RESOLUTION, 128):
            np.add.at(right, labels.numpy(), (network(images).argmax(1) == labels).numpy())
    shares = right / np.bincount(test.labels)
    rare = np.array(counts) <= 2 * min(counts)
    return {
        "by_class": float(shares.mean()),
        "rarest": float(shares[rare].mean()),
        "as_trained": float(np.average(shares, weights=counts)),
    }


def main() -> None:
    """Print a line of JSON for every case and balance."""
    import torch

    torch.set_num_threads(1)
    for name in sys.argv[1:] or CASES:
        before: list[dict[str, float]] = []
        for balance in BALANCES:
            found = [measure(CASES[name], balance, seed) for seed in range(SEEDS)]
            before = before or found
            line: dict[str, Any] = {"case": name, "balance": balance}
            for key in found[0]:
                gained = [one[key] - other[key] for one, other in zip(found, before, strict=True)]
                line[key] = round(statistics.mean(one[key] for one in found), 3)
                if balance:
                    line[f"{key}_gained"] = [round(statistics.mean(gained), 3), round(statistics.stdev(gained), 3)]
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
