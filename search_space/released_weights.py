"""Weights of the author's released code, by name, for a `Network` of the same architecture.

Two ways of writing one network: there Linear layers over NHWC and names such as stages.2.5.QuadraConv.conv1,
here 1x1 convolutions and stage3_block6.quad_a. Not for weights that this project wrote (`nas.run.export`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from search_space.build import Network
from search_space.errors import BadFile, UserError
from search_space.family import NUM_CLASSES, RESOLUTION
from search_space.lower import lower
from search_space.space import Architecture
from search_space.weight_files import read_state_dict

_NORMS = {"norm1": "norm1", "norm2": "norm2"}
_QUADRATIC = {f"quad_{part}": f"QuadraConv.conv{i}" for i, part in enumerate("abc", start=1)}


def _dense(layer: str, released: str) -> dict[str, str]:
    return {layer: released}


def _quadratic_dense(layer: str, released: str) -> dict[str, str]:
    return {f"{layer}_{part}": f"{released}.linear{i}" for i, part in enumerate("abc", start=1)}


BLOCKS: dict[str, dict[str, str]] = {  # family -> layer here -> module there, of what a block's weights stand in
    "quadra": _QUADRATIC | _dense("expand", "pwconv1") | _dense("project", "pwconv2"),
    "quadra_fc1": _QUADRATIC | _quadratic_dense("expand", "pwconv1") | _dense("project", "pwconv2"),
    "quadra_fc12": _QUADRATIC | _quadratic_dense("expand", "pwconv1") | _quadratic_dense("project", "pwconv2"),
    "linear_dw": {"depthwise": "QuadraConv"} | _dense("expand", "pwconv1") | _dense("project", "pwconv2"),
}


def released_names(architecture: Architecture) -> dict[str, str]:
    """Name in a `Network`'s state dict -> name in the released code's. Raises `UserError` for other families."""
    family = architecture.space.family
    if family not in BLOCKS:
        raise UserError(f"the released code has no blocks of family '{family}'; it has {', '.join(BLOCKS)}")
    return dict(_names([len(blocks) for blocks in architecture.stages], _NORMS | BLOCKS[family]))


def _names(depths: Sequence[int], block: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    modules = {"stem.conv": "downsample_layers.0.0", "stem.norm": "downsample_layers.0.1"}
    for stage in range(1, len(depths)):
        modules[f"down{stage + 1}.norm"] = f"downsample_layers.{stage}.0"
        modules[f"down{stage + 1}.conv"] = f"downsample_layers.{stage}.1"
    modules |= {"head.norm": "norm", "head.classifier": "head"}
    for stage, depth in enumerate(depths):
        for index in range(depth):
            ours, theirs = f"stage{stage + 1}_block{index + 1}", f"stages.{stage}.{index}"
            modules |= {f"{ours}.{layer}": f"{theirs}.{module}" for layer, module in block.items()}
            for i in (1, 2):
                yield f"{ours}.scale{i}.weight", f"{theirs}.gamma{i}"
    for ours, theirs in modules.items():
        for part in ("weight", "bias"):
            yield f"{ours}.{part}", f"{theirs}.{part}"


def released_state(
    architecture: Architecture, state: Mapping[str, Tensor], num_classes: int = NUM_CLASSES
) -> dict[str, Tensor]:
    """The state dict of a `Network` of `architecture` that computes what the released code computes with `state`.

    Linear weights (out, in) of an FFN become those of 1x1 convolutions (out, in, 1, 1). Raises `BadFile` naming
    what is unknown, missing or of another shape; nothing is skipped.
    """
    with torch.device("meta"):
        wanted = Network(lower(architecture, RESOLUTION, num_classes)).state_dict()
    names = released_names(architecture)
    assert names.keys() == wanted.keys()
    where = f"weights for '{architecture.space.name}'"
    if unknown := sorted(state.keys() - set(names.values())):
        raise BadFile(f"{where}: unknown {_few(unknown)}")
    if missing := sorted(set(names.values()) - state.keys()):
        raise BadFile(f"{where}: missing {_few(missing)}")
    found: dict[str, Tensor] = {}
    misshapen = []
    for ours, theirs in names.items():
        tensor, shape = state[theirs], tuple(wanted[ours].shape)
        linear = ".pwconv" in theirs and theirs.endswith(".weight")
        if tuple(tensor.shape) != (shape[:2] if linear else shape):
            misshapen.append(f"{theirs} {tuple(tensor.shape)} instead of {shape[:2] if linear else shape}")
        else:
            found[ours] = tensor.reshape(shape)
    if misshapen:
        raise BadFile(f"{where}: of another shape {_few(misshapen)}")
    return found


def _few(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest


def load_released(path: Path, architecture: Architecture, num_classes: int = NUM_CLASSES) -> Network:
    """The network with weights from a file of the released code.

    path: of a file as `read_state_dict` takes it; the released training script saves its state dict under 'model'.
    Raises `BadFile`.
    """
    network = Network(lower(architecture, RESOLUTION, num_classes))
    network.load_state_dict(released_state(architecture, read_state_dict(path), num_classes))
    return network.eval()
