"""What each of several processes does in `test_distributed`: gradients of a weight and an architecture step.

    torchrun --nproc-per-node=2 -m tests.nas.two_processes FILE

The first process writes them to FILE; without torchrun they are those of one process with the whole batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from nas.run.distributed import average_gradients, joined, place, together, total, with_global_norms
from nas.training.loop import recalibrate
from tests.nas.supernet.test_gates import CASES, make

BATCH = 8


def gradients() -> dict[str, Tensor]:
    here = place("cpu")
    found = {}
    with together(here, 60), joined(here):
        for space, shared in CASES:
            name = f"{space.name} {'shared' if shared else 'separate'}"
            supernet, gates, _, _ = make(space, shared)
            with_global_norms(supernet)
            draws = torch.Generator().manual_seed(1)
            images = torch.randn(BATCH, 3, 16, 16, generator=draws, dtype=torch.float64)
            labels = torch.randint(0, 5, (BATCH,), generator=draws)
            images, labels = (torch.tensor_split(v, here.ranks)[here.rank] for v in (images, labels))
            sample = gates.sample("full_v2", draws)
            loss = F.cross_entropy(supernet(images, sample.path, sample), labels)
            loss.backward()
            found[f"{name} loss"] = average_gradients([*supernet.parameters(), *gates.parameters()], loss).reshape(1)
            assert gates.alpha.grad is not None
            found[f"{name} alpha"] = gates.alpha.grad
            for key, parameter in supernet.named_parameters():
                if parameter.grad is not None:
                    found[f"{name} {key}"] = parameter.grad
            network = with_global_norms(supernet.extract(sample.path).double())
            recalibrate(network, [(images, labels)])
            found |= {f"{name} {k}": v for k, v in network.state_dict().items() if "running" in k}
        found["total"] = total(torch.ones(1))
    return found


if __name__ == "__main__":
    values = gradients()
    if place("cpu").first:
        Path(sys.argv[1]).write_bytes(save({k: v.contiguous() for k, v in values.items()}))
