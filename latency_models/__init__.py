"""From a device profile to predicted milliseconds, at batch 1.

Importing this package is cheap (numpy and the standard library). `python -m latency_models.fit`
rebuilds the shipped profiles and is the only part that reads public measurements.
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
