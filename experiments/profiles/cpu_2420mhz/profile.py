"""Rebuilds `cpu_2420mhz`, the Cortex-A76 core of `cpu` at 2.42 GHz, from the same networks. Needs scipy."""

from __future__ import annotations

from pathlib import Path

from device_profiles import Header, KernelRow
from experiments.profiles.cpu import profile as cpu
from experiments.profiles.cpu.evaluation import variant_evaluations
from experiments.profiles.cpu.networks import FP32_2420MHZ
from latency_models.scores import Evaluation


def rebuild(folder: Path) -> tuple[Header, list[KernelRow]]:
    """Header and rows of the shipped profile."""
    return cpu.rebuild(folder, FP32_2420MHZ)


def evaluations(folder: Path) -> list[Evaluation]:
    """Every held-out set."""
    return variant_evaluations(folder, FP32_2420MHZ)
