"""Search for a network that keeps 30 ms on a Myriad X, load it from its folder, and classify one image with it."""

import torch

from nas.api import load_finished, search
from nas.data import DataSettings, load

folder = search(device="vpu", budget_ms=30, data="digits").folder

finished = load_finished(folder)
result, network = finished.result, finished.network()  # the torch module, with the trained weights
print(f"{result.architecture}: {result.budget.predicted_ms:.1f} ms predicted, {result.accuracy.test:.1%} accurate")

data = load(DataSettings("digits"))
images, labels = next(data.batches(data.test, result.resolution.training, batch_size=1))
with torch.no_grad():
    answer = int(network.eval()(images).argmax())
print(f"a {result.input.class_names[int(labels)]} was taken for a {result.input.class_names[answer]}")
