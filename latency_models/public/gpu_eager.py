"""Rebuilds `gpu_eager_fp32`, an A100 under eager PyTorch fp32, from single kernels. Needs scipy.

Matrix products, 3x3 convolutions and element-wise layers were measured; the other kinds are derived from them
(depthwise: from a V100). One factor on all of them is set on whole networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from device_profiles import DeviceProfile, FusionRules, Header, Interval, KernelRow, KindModel, Lanes, Source
from latency_models.assemble import Evidence, kind_model, network_interval
from latency_models.grid import grid_kernels
from latency_models.model import LatencyModel
from latency_models.public.data import A100_NETWORKS, V100_OPS
from latency_models.public.gpu_eager_evaluation import (
    COVERAGE,
    NETWORKS,
    alone,
    evaluations,
    kernels_of_networks,
    network_samples,
)
from latency_models.public.gpu_eager_fit import FORMS, Fitted, fit_kinds
from latency_models.public.gpu_eager_rows import element_wise_rows, conv_rows, linear_rows
from latency_models.public.gpu_fit import A100_GB_PER_S, V100_GB_PER_S, v100_samples
from latency_models.regression import conformal_factors, fit_coefficients, held_out_ratios, mape, summary
from search_space.space import available_spaces, load_space

__all__ = ["evaluations", "rebuild"]
