"""A state dict out of a file that other people wrote: .pth and .pt of torch, or .safetensors, told apart by content.

Nothing is unpickled but tensors and plain containers (`weights_only`). Not for what the names mean, nor for the files
that this project writes (`nas.run.export`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from search_space.errors import BadFile, one_line

WRAPPERS = ("state_dict", "model")  # keys that training scripts put a state dict under
PREFIXES = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU, wrappers and prefixes taken off. Raises `BadFile`.

    A state dict stands alone or under one of `WRAPPERS`; what else the file holds beside such a key is ignored.
    """
    state = _unwrapped(_content(path))
    if not isinstance(state, Mapping) or not state:
        raise BadFile(f"'{path}' holds no state dict, alone or under {_or(WRAPPERS)}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadFile(
                f"'{path}' holds no state dict, alone or under {_or(WRAPPERS)}: "
                f"'{name}' is {'a tensor' if isinstance(value, Tensor) else type(value).__name__}"
            )
        if value.layout is not torch.strided or value.is_quantized:
            raise BadFile(f"'{path}' holds no plain tensors: '{name}' is quantized or sparse")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return {name: value.detach() for name, value in state.items()}


def _content(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if not start:
            raise BadFile(f"'{path}' is empty")
        if start[8:9] == b"{":  # after the length of its header
            return load_safetensors(path.read_bytes())
        return torch.load(path, "cpu", weights_only=True)
    except BadFile:
        raise
    except FileNotFoundError as error:
        raise BadFile(f"no file '{path}'") from error
    except IsADirectoryError as error:
        raise BadFile(f"'{path}' is a folder; name the file of weights in it") from error
    except PermissionError as error:
        raise BadFile(f"cannot read '{path}': {error.strerror}") from error
    except Exception as error:  # torch and safetensors raise many kinds, pickle's among them
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise BadFile(
                f"'{path}' holds Python objects beside tensors ({code[1]}), and to read them is to run code; where you "
                "trust it, load it in the program that wrote it and save the tensors alone: "
                "torch.save(model.state_dict(), FILE)"
            ) from error
        raise BadFile(
            f"'{path}' is truncated, or neither weights alone in torch's format nor .safetensors: {_reason(error)}"
        ) from error


def _unwrapped(content: Any) -> Any:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return content[key]
    return content


def _reason(error: Exception) -> str:
    first = re.sub(r"\x1b\[\d*m", "", one_line(error)).split(". ")[0]
    return first if len(first) > 10 else type(error).__name__


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(f"'{name}'" for name in names)
