"""What autograd keeps between forward and backward, counted exactly, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


@contextmanager
def saved_activations(*models: nn.Module) -> Iterator[dict[int, int]]:
    """Within, collects bytes by storage, each storage once, the models' parameters and buffers not."""
    own = {t.untyped_storage().data_ptr() for model in models for t in chain(model.parameters(), model.buffers())}
    storages: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


def saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Of one forward pass in training mode; images: (N, 3, H, W)."""
    model.train()
    with saved_activations(model) as storages:
        model(images)
    return sum(storages.values())
