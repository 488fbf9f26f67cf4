"""Rebuilds `cpu_int8`, the Cortex-A76 core of `cpu` under TFLite int8, from the same networks. Needs scipy."""

from __future__ import annotations

from pathlib import Path

from device_profiles import Header, KernelRow
from experiments.profiles.cpu import profile as cpu
from experiments.profiles.cpu.evaluation import variant_evaluations
from experiments.profiles.cpu.networks import INT8
from latency_models.scores import Evaluation


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    return cpu.rebuild(folder, INT8)


def evaluations(folder: Path) -> list[Evaluation]:
    """Every held-out set."""
    return variant_evaluations(folder, INT8)
