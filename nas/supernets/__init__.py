"""The supernets that ship, each a weight source: a function that gives the path of its file."""

from importlib import resources
from pathlib import Path


def quadranet_cifar10() -> Path:
    """`init=pretrained`: space quadranet, trained on CIFAR-10 (quadranet-cifar10.md is its card)."""
    return Path(str(resources.files(__name__) / "quadranet-cifar10.safetensors"))
