"""From a device profile to predicted milliseconds, at batch 1.

Importing this package is cheap (numpy and the standard library). `fit` makes models from measurements, `measure` takes
them, `onnx` reads models of other people. What rebuilds the shipped profiles is in `experiments.profiles`.
"""

from latency_models.fuse import fuse
from latency_models.model import LatencyModel, Prediction, fit_latency_model
from latency_models.table import LatencyTable, latency_table

__all__ = [
    "LatencyModel",
    "LatencyTable",
    "Prediction",
    "fit_latency_model",
    "fuse",
    "latency_table",
]
