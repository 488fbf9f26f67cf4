"""Question: how many photographs do the published weights name rightly, by the size of the input, with nothing trained?

Command:  python -m tests.bench.zero_shot [efficientnet_lite0 ...] [data=FILE]
Cost:     about 2 minutes a network on one core
Expected: efficientnet_lite0 at least 86 % at 128 pixels and 90 % at 160 and 224, symmetric padding

600 validation photographs of Imagenette, every sixth, enlarged from 96 pixels as `DataSet.batches` shows the whole
picture; the answer is the largest logit of the ten classes. Imagenette's photographs are ImageNet's: the weights have
seen many of them. Normalised as the weights say, and with ImageNet's mean and deviation instead, a wrong one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from nas.data import DataSet, EncodedSource, Split
from nas.pretrained.networks import packaged
from nas.pretrained.sources import load_trained
from nas.pretrained.trained import Trained
from tests import SHARED

PHOTOGRAPHS = SHARED / "datasets" / "imagenette96_q90_val.npz"
CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)  # Imagenette's ten among ImageNet's thousand
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def photographs(path: Path = PHOTOGRAPHS, count: int = 600) -> DataSet:
    """Evenly out of a file of JPEGs whose common headers are stored once."""
    with np.load(path, allow_pickle=False) as pack:
        fields = {name: pack[name] for name in pack.files}
    heads = [fields["header_data"][a:b].tobytes() for a, b in pairwise(fields["header_offsets"])]
    chosen = np.arange(0, len(fields["labels"]), len(fields["labels"]) // count)[:count]
    files = [
        heads[fields["header_id"][i]] + fields["data"][fields["offsets"][i] : fields["offsets"][i + 1]].tobytes()
        for i in chosen
    ]
    split = Split(EncodedSource(files), np.arange(count), fields["labels"][chosen].astype(np.int64))
    return DataSet("imagenette", tuple(map(str, fields["class_names"])), split, split, split, crop="whole")


def accuracy(trained: Trained, data: DataSet, pixels: int) -> float:
    """The share of right answers among the ten classes, images normalised as the weights say."""
    network, shown = trained.network(), data.varied(None, None, trained.mean, trained.std)
    right = 0
    with torch.no_grad():
        for images, labels in shown.batches(data.test, pixels, 50):
            right += int((network(images)[:, list(CLASSES)].argmax(1) == labels).sum())
    return right / len(data.test)


def main(arguments: Sequence[str]) -> None:
    """Print a row for each network and resolution."""
    files = [Path(a.removeprefix("data=")) for a in arguments if a.startswith("data=")]
    names = [a for a in arguments if not a.startswith("data=")] or list(packaged())
    data = photographs(*files)
    print("network | pixels | % | % with ImageNet's mean and deviation")
    for name in names:
        trained = load_trained(name)
        wrong = replace(trained, mean=IMAGENET[0], std=IMAGENET[1])
        for pixels in (96, 128, 160, 224):
            found = [f"{100 * accuracy(each, data, pixels):.1f}" for each in (trained, wrong)]
            print(" | ".join([name, str(pixels), *found]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
