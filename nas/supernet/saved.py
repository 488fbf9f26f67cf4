"""A supernet's file, checkpoint.safetensors: its weights, its gates, and what it was trained for. Not for resuming."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from nas.run.checkpoint import digest_of, load_tensors, part, under
from nas.supernet.gates import Gates
from nas.supernet.network import Supernet
from nas.supernet.origin import DIGEST, TRAINED_FOR
from search_space.errors import BadFile
from search_space.files import write_whole
from search_space.sums import require_sum

SUPERNET_FORMAT = 2  # a new number when names or meanings change


def save_supernet(
    checkpoint: Path,
    supernet: Supernet,
    alphas: Mapping[str, Tensor],
    purpose: bytes,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a supernet and its gates; alphas: by `nas.supernet.origin.gates_key`; purpose: `trained_for` there.

    dtype: of the stored weights.

    Raises `CannotWrite`.
    """
    state = under("supernet", {name: v.to("cpu", dtype).contiguous() for name, v in supernet.state_dict().items()})
    state |= {key: alpha.detach().cpu() for key, alpha in alphas.items()}
    state[TRAINED_FOR] = torch.frombuffer(bytearray(purpose), dtype=torch.uint8)
    state[DIGEST] = torch.frombuffer(bytearray(digest_of(state).encode()), dtype=torch.uint8)
    write_whole(checkpoint, save(state, {"format": str(SUPERNET_FORMAT)}))


def load_supernet(checkpoint: Path, supernet: Supernet, but: str | None = None) -> None:
    """Fill a supernet from what a search left; but: the beginning of names that stay as they are. Raises `BadFile`."""
    with _reading(checkpoint) as state:
        saved = part(state, "supernet")
        if but is not None:
            kept = {name: value for name, value in supernet.state_dict().items() if name.startswith(but)}
            saved |= kept
        supernet.load_state_dict(saved)


def load_gates(checkpoint: Path, gates: Gates, key: str) -> None:
    """Fill gates, by their name there, from what a search left. Raises `BadFile`."""
    with _reading(checkpoint) as state:
        gates.alpha.data.copy_(state[key])


@contextmanager
def _reading(checkpoint: Path) -> Iterator[dict[str, Tensor]]:
    if not checkpoint.is_file():
        raise BadFile(f"no file '{checkpoint}'; a search leaves it at the end of its search phase")
    require_sum(checkpoint)
    state, _ = load_tensors(checkpoint, SUPERNET_FORMAT)
    if DIGEST in state and state.pop(DIGEST).numpy().tobytes() != digest_of(state).encode():
        raise BadFile(f"'{checkpoint}' is damaged: its content is not what was written")
    try:
        yield state
    except (RuntimeError, KeyError) as error:
        raise BadFile(f"'{checkpoint}' is not of this search: {' '.join(str(error).split())[:160]}") from error
