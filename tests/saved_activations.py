"""What autograd keeps between forward and backward, counted exactly. For tests and benchmarks."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def saved_activations(*models: nn.Module) -> Iterator[dict[int, int]]:
    """Within, collects bytes by storage, each storage once, the models' weights not."""
    weights = {p.untyped_storage().data_ptr() for model in models for p in model.parameters()}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages
